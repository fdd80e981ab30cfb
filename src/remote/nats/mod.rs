//! Connections to servers of NATS, through which others are called, and call this node.
//!
//! Each is a session whose peer is the server. Unlike one to a node, it may move to another server while it is used, so
//! that one which is about to stop loses nothing.

mod address;
mod credentials;
mod fleet;
mod handshake;
mod inquiry;
mod naming;
mod nkey;
mod servers;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::codec::nats::{ERROR, INFO, REFUSED, ServerInfo};
use crate::config::NatsServer;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;
use crate::route::{Call, PEER, PING, Peer, Provider, Registry, RegistryBuilder, SendError, ShutdownSignal};
use crate::transport::tls::Connector;
pub(crate) use address::NatsAddress;
pub(crate) use credentials::NatsCredentials;
pub(crate) use fleet::Survey;
pub(super) use handshake::{Established, establish};
use inquiry::Answers;
pub use naming::Naming;
use nkey::Nkey;
use servers::Servers;

/// How to reach the servers, and what connections to them are for.
pub(crate) struct NatsSettings {
    pub(crate) servers: Vec<NatsServer>,
    pub(crate) tls: Option<Connector>,
    pub(crate) credentials: NatsCredentials,
    /// The node's name.
    pub(crate) name: String,
    /// In front of the names of functions, in subjects.
    pub(crate) prefix: String,
    /// Methods are names of functions, not subjects.
    pub(crate) are_names: bool,
    /// Replies arrive below this subject.
    pub(crate) inbox: String,
    /// How many nodes may forward a call.
    pub(crate) max_hops: u32,
    /// The maximum number of calls of others that are answered at a time.
    pub(crate) in_flight: usize,
    /// Where calls of others are counted.
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) role: Arc<dyn NatsRole>,
}

/// What a connection subscribes to.
pub(crate) trait NatsRole: Send + Sync {
    /// Subscribes on a new connection.
    fn subscribe(&self, peer: &Peer);

    /// Ends the subscriptions on a connection.
    fn unsubscribe(&self, peer: &Peer);

    /// Returns `true` if two connections may be subscribed at a time, since each message arrives at one of them only.
    fn may_overlap(&self) -> bool {
        false
    }

    /// Notes that a connection was lost, and that messages may be missed until the next one.
    fn lost(&self) {}

    /// Handles a message that has arrived at a subscription. The method is its subject.
    fn message(&self, call: Call<'_>) {
        call.reply(Err(Fault::new(code::UNKNOWN_FUNCTION, "nothing is subscribed to here")));
    }

    /// Returns the signals to end the connection when all calls are answered, and to answer those that are left.
    fn stop(&self) -> Option<(ShutdownSignal, ShutdownSignal)> {
        None
    }
}

/// The servers, as far as all connections to them share it.
pub(super) struct NatsClient {
    pub(super) settings: NatsSettings,
    servers: Mutex<Servers>,
    /// The answers to what is asked of all services, by their subjects.
    inquiries: Mutex<FxHashMap<String, Arc<Answers>>>,
}

impl NatsClient {
    pub(super) fn new(settings: NatsSettings) -> Arc<Self> {
        let servers = Mutex::new(Servers::new(&settings.servers));
        Arc::new(Self { settings, servers, inquiries: Mutex::default() })
    }

    /// Returns the servers' addresses, for people.
    pub(super) fn address(&self) -> String {
        let shown: Vec<_> = self.settings.servers.iter().map(ToString::to_string).collect();
        shown.join(" ")
    }

    /// Returns what handles the messages of connections.
    pub(super) fn registry(self: &Arc<Self>) -> Arc<Registry> {
        RegistryBuilder::new(self.settings.name.as_str().into(), &[])
            .max_hops(self.settings.max_hops)
            .counted_in(&self.settings.metrics)
            .fallback(Arc::new(Inbound(self.clone())))
            .build()
    }

    /// Returns how functions are called, if methods are their names.
    pub(super) fn naming(&self) -> Option<Naming> {
        let NatsSettings { prefix, are_names, .. } = &self.settings;
        are_names.then(|| Naming { prefix: prefix.clone(), subject: None, is_text: false })
    }

    fn inquiries(&self) -> MutexGuard<'_, FxHashMap<String, Arc<Answers>>> {
        self.inquiries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handles what the server sends.
struct Inbound(Arc<NatsClient>);

impl Provider for Inbound {
    fn call(&self, call: Call<'_>) {
        match call.method() {
            PING => call.reply(Ok(RawJson::checked("\"pong\""))),
            INFO => {
                if let Some(info) = call.params().and_then(|json| ServerInfo::read(json.get())) {
                    self.0.servers().note(&info);
                }
                call.reply(Ok(RawJson::NULL));
            }
            ERROR => {
                log::warn!(target: PEER, "NATS: {}", call.params().map_or("", RawJson::get));
                call.reply(Ok(RawJson::NULL));
            }
            notice if notice.starts_with(REFUSED) => {
                let subject = notice.split_once(' ').map_or("", |(_, subject)| subject);
                log::warn!(target: PEER, "NATS: this node may not publish to {subject:?} (permissions violation)");
                self.0.inquiries().values().for_each(|answers| answers.refuse(subject));
                call.reply(Ok(RawJson::NULL));
            }
            subject => match self.0.inquiries().get(subject).cloned() {
                Some(answers) => {
                    answers.push(call.params());
                    call.reply(Ok(RawJson::NULL));
                }
                None => self.0.settings.role.message(call),
            },
        }
    }
}

impl fmt::Debug for NatsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsClient").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl fmt::Debug for NatsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSettings").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// A connection that only calls others.
pub(super) struct CallsOnly;

impl NatsRole for CallsOnly {
    fn subscribe(&self, _: &Peer) {}

    fn unsubscribe(&self, _: &Peer) {}
}

/// Sends control lines to the server.
pub(crate) fn control(peer: &Peer, lines: &[String]) {
    let lines = lines.join("\r\n");
    if lines.is_empty() {
        return;
    }
    match peer.notify(&lines, &RawJson::NULL) {
        // The next connection subscribes again.
        Ok(()) | Err(SendError::Closed) => {}
        Err(error) => log::warn!("NATS: {} bytes of subscriptions were not sent: {error}", lines.len()),
    }
}
