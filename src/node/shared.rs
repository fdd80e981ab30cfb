//! The state that the connections of a node share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use smol::{Executor, Task, Timer};

use super::DRAIN_POLL_INTERVAL;
use super::listener::{Listener, ListenerSettings};
#[cfg(feature = "grpc")]
use super::services::Services;
use super::sessions::Observer;
use crate::codec::Dialect;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::route::{Grants, Registry, Shutdown};
use crate::session::Session;
use crate::web;

/// The state of a node, shared by its handles and the tasks of its connections.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) executor: Arc<Executor<'static>>,
    pub(super) registry: Arc<Registry>,
    limits: Mutex<Arc<Limits>>,
    pub(super) shutdown: Shutdown,
    /// The servers that are told of connections.
    pub(super) observers: Arc<[Observer]>,
    /// The files for browsers, with their paths. The node's own if there are none.
    pub(super) pages: Vec<(&'static str, web::File)>,
    /// The gRPC services besides the node's own.
    #[cfg(feature = "grpc")]
    services: Mutex<Arc<Services>>,
    connections: Mutex<Connections>,
    /// Cloned for each connection of which the first bytes have not arrived.
    pub(super) silent: Arc<()>,
    /// The listeners on which connections are accepted.
    listeners: Mutex<Vec<Weak<ListenerSettings>>>,
    /// The connections over which functions are offered at other nodes.
    offers: Mutex<Vec<Task<()>>>,
}

/// The open connections. Dropping a task closes its connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) last_key: u64,
    pub(super) tasks: HashMap<u64, Task<()>>,
    /// The number of connections of each host.
    pub(super) hosts: HashMap<IpAddr, usize>,
}

impl Connections {
    /// Removes a connection, and returns its task.
    pub(super) fn remove(&mut self, key: u64, host: IpAddr) -> Option<Task<()>> {
        if let Entry::Occupied(mut count) = self.hosts.entry(host) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.tasks.remove(&key)
    }
}

impl Shared {
    pub(super) fn new(executor: Arc<Executor<'static>>, registry: Arc<Registry>, limits: Limits) -> Self {
        let (shutdown, connections) = (Shutdown::new(), Mutex::default());
        let limits = Arc::new(limits);
        registry.topics().set_limits(&limits);
        let observers = Vec::new().into();
        Self {
            executor,
            registry,
            limits: Mutex::new(limits),
            shutdown,
            observers,
            pages: Vec::new(),
            #[cfg(feature = "grpc")]
            services: Mutex::default(),
            connections,
            silent: Arc::default(),
            listeners: Mutex::default(),
            offers: Mutex::default(),
        }
    }

    /// Returns the limits of connections that open now.
    pub(super) fn limits(&self) -> Arc<Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the limits of connections that open from now on.
    pub(super) fn set_limits(&self, limits: &Arc<Limits>) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits.clone();
    }

    /// Returns the gRPC services besides the node's own.
    #[cfg(feature = "grpc")]
    pub(super) fn services(&self) -> Arc<Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg(feature = "grpc")]
    pub(super) fn set_services(&self, services: Services) {
        *self.services.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(services);
    }

    pub(super) fn metrics(&self) -> &Metrics {
        self.registry.metrics()
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the file for browsers at a path.
    pub(super) fn file(&self, path: &str) -> Option<web::File> {
        if self.pages.is_empty() {
            return web::file(path);
        }
        self.pages.iter().find(|(at, _)| *at == path).map(|(_, file)| *file)
    }

    /// Notes that connections are accepted on a listener, as long as it exists.
    pub(super) fn add_listener(&self, listener: &Listener) {
        self.listeners().push(Arc::downgrade(listener.settings()));
    }

    /// Returns the listeners with a certificate by their configured addresses, and when it expires.
    pub(super) fn certificates(&self) -> Vec<(String, SystemTime)> {
        self.listeners().iter().filter_map(|listener| listener.upgrade()?.expiry()).collect()
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Weak<ListenerSettings>>> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners
    }

    pub(super) fn offers(&self) -> MutexGuard<'_, Vec<Task<()>>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all connections over which functions are offered have ended.
    pub(super) async fn offers_ended(&self) {
        let offers = std::mem::take(&mut *self.offers());
        for offer in offers {
            offer.await;
        }
    }

    /// Waits until the first bytes of all connections have arrived.
    pub(super) async fn all_heard(&self) {
        while Arc::strong_count(&self.silent) > 1 {
            Timer::after(DRAIN_POLL_INTERVAL).await;
        }
    }

    /// Waits until no connection is open.
    pub(super) async fn connections_closed(&self) {
        while self.metrics().connections.get() > 0 {
            self.shutdown.wait_ended().await;
        }
    }

    /// Creates the session of a connection that functions can reach.
    pub(super) fn connection(&self, limits: &Arc<Limits>, dialect: Dialect, grants: Grants) -> Session {
        self.session(limits, dialect, grants).reachable()
    }

    /// Creates a session.
    pub(super) fn session(&self, limits: &Arc<Limits>, dialect: Dialect, mut grants: Grants) -> Session {
        grants.set_dialect(dialect.name());
        Session::new(self.registry.clone(), limits.clone(), dialect, grants, Instant::now())
    }
}
