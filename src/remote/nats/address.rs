//! The address of servers of NATS, in place of that of a node.

use crate::codec::nats::subject_of;
use crate::config::NatsServer;

/// The prefix of subjects if an address has none.
const PREFIX: &str = "chanrpc";

/// Servers, and what the subjects of functions begin with: `nats://host:4222`, `nats://a:4222,b:4222/prefix`. With a `/`
/// and nothing behind it, names of functions are whole subjects. `tls://` in place of `nats://` asks for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NatsAddress {
    pub(crate) servers: Vec<NatsServer>,
    pub(crate) prefix: String,
}

impl NatsAddress {
    /// Returns `true` if an address is meant to be one of NATS.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.starts_with("nats://") || text.starts_with("tls://")
    }

    /// Parses an address. `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://").filter(|_| Self::is_meant(text))?;
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, PREFIX));
        let servers = hosts.split(',').map(|host| NatsServer::parse(&format!("{scheme}://{host}")));
        let servers = servers.collect::<Option<Vec<_>>>()?;
        let is_valid = prefix.is_empty() || subject_of("", prefix).is_some_and(|subject| subject == prefix);
        is_valid.then(|| Self { servers, prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_servers_and_a_prefix() {
        for (text, servers, prefix) in [
            ("nats://a", 1, "chanrpc"),
            ("tls://a:1,b:2", 2, "chanrpc"),
            ("nats://a/", 1, ""),
            ("nats://a:4222/acme.east", 1, "acme.east"),
        ] {
            let address = NatsAddress::parse(text).unwrap();
            assert_eq!((address.servers.len(), &*address.prefix), (servers, prefix), "{text}");
        }
        for text in
            ["a:4222", "http://a", "nats://", "nats://a,,b", "nats://a/b..c", "nats://a/b.*", "nats://u:p@a"]
        {
            assert_eq!(NatsAddress::parse(text), None, "{text}");
        }
    }
}
