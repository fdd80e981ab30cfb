//! The servers that may be connected to.

use crate::codec::nats::ServerInfo;
use crate::config::NatsServer;

/// Maximum number of servers that others have told of.
const MAX_TOLD: usize = 256;

/// All servers that are known.
#[derive(Debug)]
pub(in crate::remote) struct Servers {
    configured: Vec<NatsServer>,
    /// Those that servers have told of.
    told: Vec<NatsServer>,
    /// The id of the server that has last said that it stops.
    pub(in crate::remote) stopping: Option<String>,
}

impl Servers {
    pub(super) fn new(configured: &[NatsServer]) -> Self {
        Self { configured: configured.to_vec(), told: Vec::new(), stopping: None }
    }

    /// Notes what a server tells.
    pub(super) fn note(&mut self, info: &ServerInfo) {
        if info.is_stopping {
            self.stopping = Some(info.id.clone());
        }
        if info.others.is_empty() {
            return;
        }
        // They are encrypted if all that are configured are.
        let is_encrypted = self.configured.iter().all(|server| server.is_encrypted);
        let others = info.others.iter().take(MAX_TOLD).filter_map(|text| NatsServer::parse(text));
        self.told = others.map(|server| NatsServer { is_encrypted, ..server }).collect();
    }

    /// Returns the servers in the order in which to try them: at random, so that many clients spread.
    pub(super) fn candidates(&self) -> Vec<NatsServer> {
        let mut all = self.configured.clone();
        let is_new = |told: &&NatsServer| !self.configured.iter().any(|known| known.address == told.address);
        all.extend(self.told.iter().filter(is_new).cloned());
        fastrand::shuffle(&mut all);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_others_tell_of_are_tried_too() {
        let mut servers = Servers::new(&[NatsServer::parse("a").unwrap()]);
        let others = vec!["a:4222".to_owned(), "10.0.0.2:4222".to_owned(), "not an address".to_owned()];
        servers.note(&ServerInfo { others, ..ServerInfo::default() });
        let mut found: Vec<_> = servers.candidates().iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(found, ["nats://10.0.0.2:4222", "nats://a:4222"]);
    }
}
