//! Connections to servers of NATS, through which others are called, and call this node.
//!
//! Each is a session whose peer is the server. Unlike one to a node, it may move to another server while it is used, so
//! that one which is about to stop loses nothing.

mod handshake;
mod nkey;
mod servers;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::codec::nats::{Credentials, ERROR, INFO, ServerInfo};
use crate::config::NatsServer;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;
use crate::route::{Call, PEER, PING, Peer, Provider, Registry, RegistryBuilder, ShutdownSignal};
use crate::transport::tls::Connector;
pub(super) use handshake::{Established, establish};
pub(crate) use nkey::Nkey;
use servers::Servers;

/// How to reach the servers, and what connections to them are for.
pub(crate) struct NatsSettings {
    pub(crate) servers: Vec<NatsServer>,
    pub(crate) tls: Option<Connector>,
    pub(crate) credentials: Credentials,
    /// Signs in place of a password.
    pub(crate) key: Option<Arc<Nkey>>,
    /// The node's name.
    pub(crate) name: String,
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
}

impl NatsClient {
    pub(super) fn new(settings: NatsSettings) -> Arc<Self> {
        let servers = Mutex::new(Servers::new(&settings.servers));
        Arc::new(Self { settings, servers })
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
            _ => self.0.settings.role.message(call),
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
