//! The node to connect to.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "nats")]
use super::nats::NatsClient;
use super::offering::Offering;
#[cfg(feature = "grpc")]
use super::protocol::Protocol;
use crate::config::Limits;
use crate::route::Registry;
use crate::transport::tls::Connector;

/// The other node's address, and the settings of connections to it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: String,
    pub(super) limits: Arc<Limits>,
    /// Presented first on each connection.
    pub(super) token: Option<Secret>,
    pub(super) tls: Option<Connector>,
    /// A node that is silent while it has calls to answer is asked for a sign of life.
    pub(super) is_watched: bool,
    /// It has answered a ping.
    pub(super) answers_pings: Arc<AtomicBool>,
    /// Called when the other node has answered a ping, each until it returns `false`.
    pub(super) watchers: Watchers,
    /// What the other node may call.
    pub(super) registry: Arc<Registry>,
    /// What is offered on each connection.
    pub(super) offering: Option<Offering>,
    /// What carries calls in place of a session.
    #[cfg(feature = "grpc")]
    pub(super) protocol: Option<Arc<dyn Protocol>>,
    /// Set if it is no node, but servers of NATS.
    #[cfg(feature = "nats")]
    pub(super) nats: Option<Arc<NatsClient>>,
}

impl Target {
    /// Returns the same node, which may call the functions of `registry`.
    pub(super) fn with_registry(&self, registry: Arc<Registry>) -> Self {
        let Self { address, limits, token, tls, answers_pings, .. } = self;
        Self {
            address: address.clone(),
            limits: limits.clone(),
            token: token.clone(),
            tls: tls.clone(),
            is_watched: false,
            answers_pings: answers_pings.clone(),
            watchers: Watchers::default(),
            registry,
            offering: None,
            #[cfg(feature = "grpc")]
            protocol: None,
            #[cfg(feature = "nats")]
            nats: None,
        }
    }

    /// Returns what is to be called when the other node has answered a ping.
    pub(super) fn watchers(&self) -> MutexGuard<'_, Vec<Box<dyn Fn() -> bool + Send + Sync>>> {
        self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be called at an event.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Box<dyn Fn() -> bool + Send + Sync>>>);

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchers")
    }
}

/// A token, which `Debug` does not print.
#[derive(Clone)]
pub(super) struct Secret(pub(super) Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
