//! Where a node listens: configured addresses become sockets, some of them only when their interface or name is there.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use smol::Timer;
use smol::net::TcpListener;

use crate::address::Address;
use crate::config::ListenerConfig;
use crate::node::Listener;
use crate::route::Access;
use crate::transport::tls::Acceptor;

/// Waits between attempts to listen on what is not there yet: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often a free port is looked for that all addresses of one name have free.
const SAME_PORT: usize = 8;

/// The configured addresses, and what of them is listened on.
pub(super) struct Binder {
    places: Vec<Place>,
    access: Arc<Access>,
    /// The configuration, for who has to write something into it.
    file: Option<PathBuf>,
    back_off: Duration,
}

/// One configured address, which may be a name for several.
struct Place {
    listen: ListenerConfig,
    tls: Option<Acceptor>,
    address: Address,
    bound: Vec<SocketAddr>,
    /// Something of it is missing and may come.
    is_waiting: bool,
    /// The reason in the log.
    told: Option<String>,
}

/// A listener, and where it listens.
pub(super) type Bound = (Listener, SocketAddr);

/// Why an address is not listened on.
enum Obstacle {
    /// The interface or the name is not there yet, say.
    Passing(String),
    /// Another attempt would change nothing.
    Lasting(String),
}

impl Binder {
    pub(super) fn new(
        listens: &[ListenerConfig],
        tls: Vec<Option<Acceptor>>,
        access: &Arc<Access>,
        file: Option<PathBuf>,
    ) -> Result<Self, String> {
        let place = |(listen, tls): (&ListenerConfig, _)| {
            let address = listen
                .address
                .parse()
                .map_err(|error| format!("cannot listen on {}: an address is {error}", listen.address))?;
            Ok(Place {
                listen: listen.clone(),
                tls,
                address,
                bound: Vec::new(),
                is_waiting: true,
                told: None,
            })
        };
        let places = listens.iter().zip(tls).map(place).collect::<Result<_, String>>()?;
        Ok(Self { places, access: access.clone(), file, back_off: BACK_OFF.0 })
    }

    /// Listens on what is there.
    ///
    /// # Errors
    /// If an address is taken, not allowed, or could be reached by everybody without a rule.
    pub(super) async fn bind(&mut self) -> Result<Vec<Bound>, String> {
        let mut all = Vec::new();
        for place in &mut self.places {
            let (bound, obstacle) = place.bind(&self.access, self.file.as_deref()).await;
            match obstacle {
                Some(Obstacle::Lasting(reason)) => return Err(reason),
                Some(Obstacle::Passing(reason)) => place.tell(&reason),
                None => {}
            }
            all.extend(bound);
        }
        Ok(all)
    }

    /// Waits, and listens on what has come since. What stands against the rest is logged: a node that serves is worth
    /// more than one that ends.
    pub(super) async fn bind_late(&mut self) -> Vec<Bound> {
        let mut all = Vec::new();
        while all.is_empty() && !self.is_complete() {
            Timer::after(self.back_off).await;
            self.back_off = (self.back_off * 2).min(BACK_OFF.1);
            for place in self.places.iter_mut().filter(|place| place.is_waiting) {
                let (bound, obstacle) = place.bind(&self.access, self.file.as_deref()).await;
                if let Some(Obstacle::Passing(reason) | Obstacle::Lasting(reason)) = obstacle {
                    place.tell(&reason);
                }
                all.extend(bound);
            }
        }
        all
    }

    /// Returns `true` if every address is listened on.
    pub(super) fn is_complete(&self) -> bool {
        self.places.iter().all(|place| !place.is_waiting)
    }

    /// Returns what is listened on, in the order of the configuration.
    pub(super) fn bound(&self) -> impl Iterator<Item = SocketAddr> {
        self.places.iter().flat_map(|place| place.bound.iter().copied())
    }
}

impl Place {
    async fn bind(&mut self, access: &Arc<Access>, file: Option<&Path>) -> (Vec<Bound>, Option<Obstacle>) {
        let (sockets, obstacle) = match self.address.resolve().await {
            Ok(found) if access.has_rule_for(&self.listen.address) => self.bind_each(&found).await,
            // A name may stand for more than it says.
            Ok(found) if found.iter().any(|found| !found.ip().to_canonical().is_loopback()) => {
                (Vec::new(), Some(Obstacle::Lasting(unguarded(&self.listen.address, file))))
            }
            Ok(found) => self.bind_each(&found).await,
            Err(error) => {
                let reason = format!("cannot listen on {}: {error}", self.listen.address);
                (Vec::new(), Some(Obstacle::Passing(reason)))
            }
        };
        self.is_waiting = obstacle.is_some();
        let mut all = Vec::new();
        for socket in sockets {
            // A socket that is bound has an address.
            let Ok(address) = socket.local_addr() else { continue };
            if !address.ip().to_canonical().is_loopback()
                && let Some(rule) = access.public_rule(&self.listen.address)
            {
                log::warn!(
                    "{address} can be reached from other machines, and everybody may call everything ({})",
                    rule.location
                );
            }
            self.bound.push(address);
            all.push((Listener::new(socket, &self.listen, access).with_tls(self.tls.clone()), address));
        }
        (all, obstacle)
    }

    /// Binds those of the addresses that are not bound yet, all to one port.
    async fn bind_each(&self, found: &[SocketAddr]) -> (Vec<TcpListener>, Option<Obstacle>) {
        let mut tries = 1..=SAME_PORT;
        'again: loop {
            let is_last = tries.next().is_none_or(|count| count == SAME_PORT);
            let mut port = self.bound.first().map_or(self.address.port(), SocketAddr::port);
            let (mut sockets, mut obstacle) = (Vec::new(), None);
            for &(mut address) in found {
                address.set_port(port);
                if self.bound.contains(&address) {
                    continue;
                }
                match TcpListener::bind(address).await {
                    Ok(socket) => {
                        port = socket.local_addr().map_or(port, |address| address.port());
                        sockets.push(socket);
                    }
                    Err(error) => {
                        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                        if is_taken && self.address.port() == 0 && self.bound.is_empty() && !is_last {
                            continue 'again;
                        }
                        let others = !self.bound.is_empty() || !sockets.is_empty();
                        if others && address.ip().is_loopback() && !is_lasting(&error) {
                            // A machine without IPv6, say, where ::1 never comes.
                            log::info!("not listening on {address}: {error}");
                            continue;
                        }
                        let reason = self.reason(address, &error);
                        if is_lasting(&error) {
                            let advice = "--listen ADDR takes another, with port 0 any free one";
                            return (Vec::new(), Some(Obstacle::Lasting(format!("{reason}; {advice}"))));
                        }
                        obstacle = Some(Obstacle::Passing(reason));
                    }
                }
            }
            return (sockets, obstacle);
        }
    }
}

impl Place {
    fn reason(&self, address: SocketAddr, error: &io::Error) -> String {
        let configured = &self.listen.address;
        let of_which =
            if *configured == address.to_string() { String::new() } else { format!(" ({address})") };
        format!("cannot listen on {configured}{of_which}: {error}")
    }

    /// Logs why an address is waited for: once, and not at each attempt.
    fn tell(&mut self, reason: &str) {
        if self.told.as_deref() != Some(reason) {
            log::warn!("{reason}; trying again until it works");
            self.told = Some(reason.to_owned());
        }
    }
}

/// Returns `true` if waiting does not help. All else can be a matter of when an interface, or what resolves names, is up.
fn is_lasting(error: &io::Error) -> bool {
    // The last one is a link-local address without its zone.
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
    )
}

/// The error that nothing says who may call what at an address that others can reach.
pub(super) fn unguarded(address: &str, file: Option<&Path>) -> String {
    let place = match file {
        Some(file) => format!("into {}", file.display()),
        None => "into a FILE, and name it by --config FILE".to_owned(),
    };
    format!(
        "{address} can be reached from other machines, and no rule says who may call what there.\n\
         To let everybody call everything, write these two lines {place}:\n\n\
         [[access]]\nfunctions = [\"*\"]\n\n\
         To let only those call who have a token, write there what `chanrpc token` prints."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_comes_later_is_listened_on_then() {
        let access = Arc::new(Access::new(&Config::default()));
        let listens = [ListenerConfig::new("127.0.0.1:0"), ListenerConfig::new("a.localhost:0")];
        let mut binder = Binder::new(&listens, vec![None, None], &access, None).unwrap();
        // No name of a machine has two dots in a row.
        binder.places[1].address = "nowhere..invalid:0".parse().unwrap();
        smol::block_on(async {
            assert_eq!(binder.bind().await.unwrap().len(), 1);
            assert!(!binder.is_complete() && binder.bound().count() == 1);
            let waiting = smol::future::poll_once(binder.bind_late()).await;
            assert!(waiting.is_none(), "it waits between attempts");

            binder.places[1].address = "127.0.0.1:0".parse().unwrap();
            let bound = binder.bind_late().await;
            assert_eq!((bound.len(), binder.is_complete(), binder.bound().count()), (1, true, 2));
            assert!(binder.bind_late().await.is_empty());
        });
    }

    #[test]
    fn a_name_that_others_can_reach_needs_a_rule_before_anything_is_bound() {
        let access = Arc::new(Access::new(&Config::default()));
        let mut binder =
            Binder::new(&[ListenerConfig::new("a.localhost:0")], vec![None], &access, None).unwrap();
        binder.places[0].address = "0.0.0.0:0".parse().unwrap();
        let refused = smol::block_on(binder.bind()).err().unwrap();
        assert!(refused.contains("no rule says who may call"), "{refused}");
    }
}
