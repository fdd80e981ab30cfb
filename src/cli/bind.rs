//! Listens on the configured addresses, and retries those whose interface or name does not exist yet.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use smol::net::TcpListener;
use smol::{Executor, Task};

use super::activation::Passed;
use crate::address::Address;
use crate::config::ListenerConfig;
use crate::node::{Listener, ListenerSettings, Node};
use crate::route::Access;
use crate::transport::tls::Acceptor;

/// The first and the longest wait between attempts to bind an address that is not available yet.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Attempts to find a port that is free on all addresses of a name.
const PORT_ATTEMPTS: usize = 8;

/// The configured addresses and the sockets bound to them.
pub(super) struct Binder {
    endpoints: Vec<Endpoint>,
    access: Arc<Access>,
    /// The configuration file, which an error message tells the user to edit.
    file: Option<PathBuf>,
    passed: Arc<Passed>,
    back_off: Duration,
}

/// One configured address, which may be a name that resolves to several.
struct Endpoint {
    listen: ListenerConfig,
    tls: Option<Acceptor>,
    address: Address,
    bound: Vec<SocketAddr>,
    /// Those on which the node accepts connections. Dropping them closes their sockets.
    open: Vec<(Arc<ListenerSettings>, Task<()>)>,
    /// Its place in the binder that it continues.
    earlier: Option<usize>,
    /// At least one socket is not bound yet and may be later.
    is_pending: bool,
    /// The reason logged last.
    logged_reason: Option<String>,
}

/// A listener and its local address.
pub(super) type Bound = (Listener, SocketAddr);

/// Why an address could not be bound.
enum BindError {
    /// A later attempt may succeed: for example, the interface or the name does not exist yet.
    Transient(String),
    /// No later attempt can succeed.
    Permanent(String),
}

impl Binder {
    pub(super) fn new(
        listens: &[ListenerConfig],
        tls: Vec<Option<Acceptor>>,
        access: &Arc<Access>,
        file: Option<PathBuf>,
        passed: &Arc<Passed>,
    ) -> Result<Self, String> {
        let endpoint = |(listen, tls): (&ListenerConfig, _)| {
            let address = listen
                .address
                .parse()
                .map_err(|error| format!("cannot listen on {}: an address is {error}", listen.address))?;
            Ok(Endpoint {
                listen: listen.clone(),
                tls,
                address,
                bound: Vec::new(),
                open: Vec::new(),
                earlier: None,
                is_pending: true,
                logged_reason: None,
            })
        };
        let endpoints = listens.iter().zip(tls).map(endpoint).collect::<Result<_, String>>()?;
        Ok(Self { endpoints, access: access.clone(), file, passed: passed.clone(), back_off: BACKOFF.0 })
    }

    /// Continues the sockets of an earlier binder, which [`replace`](Self::replace) takes from it: only the other addresses
    /// are to be bound.
    pub(super) fn following(mut self, earlier: &Self) -> Self {
        let mut taken = vec![false; earlier.endpoints.len()];
        for endpoint in &mut self.endpoints {
            let is_same = |(at, other): &(usize, &Endpoint)| {
                !taken[*at] && other.listen.address == endpoint.listen.address
            };
            if let Some((at, _)) = earlier.endpoints.iter().enumerate().find(is_same) {
                (taken[at], endpoint.earlier, endpoint.is_pending) = (true, Some(at), false);
            }
        }
        self
    }

    /// Lets another binder take the place of this one, and returns what has changed, for people.
    pub(super) fn replace(&mut self, mut next: Self) -> Vec<String> {
        let mut changes = Vec::new();
        for endpoint in &mut next.endpoints {
            let Some(at) = endpoint.earlier.take() else { continue };
            let earlier = &mut self.endpoints[at];
            endpoint.bound = std::mem::take(&mut earlier.bound);
            endpoint.open = std::mem::take(&mut earlier.open);
            endpoint.is_pending = earlier.is_pending;
            endpoint.logged_reason = earlier.logged_reason.take();
            let listen = &endpoint.listen;
            let mut is_renewed = false;
            for (settings, _) in &endpoint.open {
                is_renewed |= settings.replace(listen, &next.access, endpoint.tls.clone());
            }
            if is_renewed {
                changes.push(format!("listener {} has another certificate", listen.address));
            }
            if *listen != earlier.listen {
                changes.push(format!("listener {} has changed", listen.address));
            }
        }
        let closed = std::mem::replace(self, next);
        changes.extend(closed.bound().map(|address| format!("no longer listening on {address}")));
        changes
    }

    /// Accepts connections at sockets that this binder has bound.
    pub(super) fn accept(&mut self, bound: Vec<Bound>, node: &Node, executor: &Executor<'static>) {
        for (listener, address) in bound {
            let endpoint = self.endpoints.iter_mut().find(|endpoint| endpoint.bound.contains(&address));
            let Some(endpoint) = endpoint else { continue };
            let (settings, node) = (listener.settings().clone(), node.clone());
            endpoint.open.push((settings, executor.spawn(async move { node.accept(listener).await })));
        }
    }

    /// Binds all addresses that are available.
    ///
    /// # Errors
    /// Fails if an address is in use, not permitted, or reachable from other machines without an access rule.
    pub(super) async fn bind(&mut self) -> Result<Vec<Bound>, String> {
        let mut all = Vec::new();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.is_pending) {
            let (bound, error) = endpoint.bind(&self.access, self.file.as_deref(), &self.passed).await;
            match error {
                Some(BindError::Permanent(reason)) => return Err(reason),
                Some(BindError::Transient(reason)) => endpoint.log_once(&reason),
                None => {}
            }
            all.extend(bound);
        }
        Ok(all)
    }

    /// Returns how long to wait before addresses that were not available are tried again, if there are any.
    pub(super) fn back_off(&self) -> Option<Duration> {
        (!self.is_complete()).then_some(self.back_off)
    }

    /// Binds the addresses that have become available. Logs errors instead of returning them, because the node already
    /// serves other addresses.
    pub(super) async fn bind_pending(&mut self) -> Vec<Bound> {
        let mut all = Vec::new();
        self.back_off = (self.back_off * 2).min(BACKOFF.1);
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.is_pending) {
            let (bound, error) = endpoint.bind(&self.access, self.file.as_deref(), &self.passed).await;
            if let Some(BindError::Transient(reason) | BindError::Permanent(reason)) = error {
                endpoint.log_once(&reason);
            }
            all.extend(bound);
        }
        all
    }

    /// Returns `true` if every address is bound.
    pub(super) fn is_complete(&self) -> bool {
        self.endpoints.iter().all(|endpoint| !endpoint.is_pending)
    }

    /// Returns a text about the bound addresses.
    pub(super) fn status(&self) -> String {
        let waiting = if self.is_complete() { "" } else { "; an address is not available yet" };
        // Shown as by `Display`.
        format!("listening on {:?}{waiting}", self.bound().collect::<Vec<_>>())
    }

    /// Returns the bound addresses in the order of the configuration.
    pub(super) fn bound(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.bound.iter().copied())
    }
}

impl Endpoint {
    async fn bind(
        &mut self,
        access: &Arc<Access>,
        file: Option<&Path>,
        passed: &Passed,
    ) -> (Vec<Bound>, Option<BindError>) {
        let (sockets, error) = match self.address.resolve().await {
            Ok(found) if access.has_rule_for(&self.listen.address) => self.bind_each(&found, passed).await,
            // A name may resolve to more than loopback addresses.
            Ok(found) if found.iter().any(|found| !found.ip().to_canonical().is_loopback()) => {
                (Vec::new(), Some(BindError::Permanent(missing_rule(&self.listen.address, file))))
            }
            Ok(found) => self.bind_each(&found, passed).await,
            Err(error) => {
                let reason = format!("cannot listen on {}: {error}", self.listen.address);
                (Vec::new(), Some(BindError::Transient(reason)))
            }
        };
        self.is_pending = error.is_some();
        let mut all = Vec::new();
        for socket in sockets {
            // A bound socket has an address.
            let Ok(address) = socket.local_addr() else { continue };
            if !address.ip().to_canonical().is_loopback()
                && let Some(rule) = access.public_rule(&self.listen.address)
            {
                log::warn!(
                    "{address} is reachable from other machines, and anyone may call any function ({})",
                    rule.location
                );
            }
            self.bound.push(address);
            all.push((Listener::with_tls(socket, &self.listen, access, self.tls.clone()), address));
        }
        (all, error)
    }

    /// Binds the addresses that are not bound yet, all to the same port. Those that were passed are bound already.
    async fn bind_each(
        &self,
        found: &[SocketAddr],
        passed: &Passed,
    ) -> (Vec<TcpListener>, Option<BindError>) {
        let mut tries = 1..=PORT_ATTEMPTS;
        'again: loop {
            let is_last = tries.next().is_none_or(|count| count == PORT_ATTEMPTS);
            let mut port = self.bound.first().map_or(self.address.port(), SocketAddr::port);
            let (mut sockets, mut failure) = (Vec::new(), None);
            for &(mut address) in found {
                address.set_port(port);
                if self.bound.contains(&address) {
                    continue;
                }
                let bound = match passed.socket(address) {
                    Some(socket) => socket.try_clone().and_then(TcpListener::try_from),
                    None => TcpListener::bind(address).await,
                };
                match bound {
                    Ok(socket) => {
                        port = socket.local_addr().map_or(port, |address| address.port());
                        sockets.push(socket);
                    }
                    Err(error) => {
                        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                        if is_taken && self.address.port() == 0 && self.bound.is_empty() && !is_last {
                            continue 'again;
                        }
                        let has_others = !self.bound.is_empty() || !sockets.is_empty();
                        if has_others && address.ip().is_loopback() && !is_permanent(&error) {
                            // For example ::1 on a machine without IPv6, where it never becomes available.
                            log::info!("not listening on {address}: {error}");
                            continue;
                        }
                        let reason = self.reason(address, &error);
                        if is_permanent(&error) {
                            let advice =
                                "--listen ADDR selects another address; port 0 selects any free port";
                            return (Vec::new(), Some(BindError::Permanent(format!("{reason}; {advice}"))));
                        }
                        failure = Some(BindError::Transient(reason));
                    }
                }
            }
            return (sockets, failure);
        }
    }
}

impl Endpoint {
    fn reason(&self, address: SocketAddr, error: &io::Error) -> String {
        let configured = &self.listen.address;
        let resolved =
            if *configured == address.to_string() { String::new() } else { format!(" ({address})") };
        format!("cannot listen on {configured}{resolved}: {error}")
    }

    /// Logs why an address is not bound yet, once per reason rather than once per attempt.
    fn log_once(&mut self, reason: &str) {
        if self.logged_reason.as_deref() != Some(reason) {
            log::warn!("{reason}; retrying");
            self.logged_reason = Some(reason.to_owned());
        }
    }
}

/// Returns `true` if a retry cannot succeed. All other errors may depend on when an interface or the name service comes
/// up.
fn is_permanent(error: &io::Error) -> bool {
    // `InvalidInput` is a link-local address without its zone.
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
    )
}

/// Returns the error for an address that other machines can reach and no access rule applies to.
pub(super) fn missing_rule(address: &str, file: Option<&Path>) -> String {
    let target = match file {
        Some(file) => format!("to {}", file.display()),
        None => "to a FILE and pass it with --config FILE".to_owned(),
    };
    format!(
        "{address} is reachable from other machines, and no access rule applies to it.\n\
         To let anyone call any function, add these two lines {target}:\n\n\
         [[access]]\nfunctions = [\"*\"]\n\n\
         To require a token instead, add the rule that `chanrpc token` prints."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn address_that_becomes_available_later_is_bound_then() {
        let access = Arc::new(Access::new(&Config::default()));
        let listens = [ListenerConfig::new("127.0.0.1:0"), ListenerConfig::new("a.localhost:0")];
        let mut binder = Binder::new(&listens, vec![None, None], &access, None, &Arc::default()).unwrap();
        // No host name has two dots in a row.
        binder.endpoints[1].address = "nowhere..invalid:0".parse().unwrap();
        smol::block_on(async {
            assert_eq!(binder.bind().await.unwrap().len(), 1);
            assert!(!binder.is_complete() && binder.bound().count() == 1);
            assert!(binder.back_off().is_some(), "waits between attempts");
            assert!(binder.bind_pending().await.is_empty());

            binder.endpoints[1].address = "127.0.0.1:0".parse().unwrap();
            let bound = binder.bind_pending().await;
            assert_eq!((bound.len(), binder.is_complete(), binder.bound().count()), (1, true, 2));
            assert!(binder.bind_pending().await.is_empty());
        });
    }

    #[test]
    fn name_reachable_from_other_machines_is_not_bound_without_a_rule() {
        let access = Arc::new(Access::new(&Config::default()));
        let mut binder =
            Binder::new(&[ListenerConfig::new("a.localhost:0")], vec![None], &access, None, &Arc::default())
                .unwrap();
        binder.endpoints[0].address = "0.0.0.0:0".parse().unwrap();
        let refused = smol::block_on(binder.bind()).err().unwrap();
        assert!(refused.contains("no access rule applies"), "{refused}");
    }
}
