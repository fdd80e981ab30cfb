//! The state of one connection to another node, which its callers share with the task that drives it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use event_listener::Event;

use super::error::RemoteError;
use super::target::Target;
use crate::metrics::TargetState;
use crate::route::{Peer, PeerError};

/// The state that callers share with the task that drives the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    target: Arc<Target>,
    status: Mutex<Status>,
    health: Mutex<Health>,
    /// Notified when the status changes.
    changed: Event,
    /// Calls that use this connection.
    leases: AtomicUsize,
}

#[derive(Debug)]
pub(super) enum Status {
    Connecting,
    Connected(Peer),
    /// Not connected, with the reason. No attempt to connect is under way.
    Disconnected(String),
    /// Not connected, since the node was silent. It is tried again.
    Silent(String),
    /// The node answers what it has, and takes no further call.
    Stopping,
    /// Another connection has taken the place of one to a node that was stopping.
    Replaced,
    /// The connection is to be closed.
    Closed,
}

/// What is reported of a connection.
#[derive(Debug)]
struct Health {
    state: TargetState,
    since: Instant,
    /// Why it is not established.
    reason: Option<String>,
}

impl Health {
    fn note(&mut self, status: &Status) {
        let (state, reason) = match status {
            Status::Connected(_) => (TargetState::Up, None),
            // The reason of the last attempt stays.
            Status::Connecting => (TargetState::Connecting, self.reason.take()),
            Status::Disconnected(reason) => (TargetState::Connecting, Some(reason.clone())),
            Status::Silent(reason) => (TargetState::Silent, Some(reason.clone())),
            Status::Stopping | Status::Replaced | Status::Closed => (TargetState::Closing, None),
        };
        if state != self.state {
            self.since = Instant::now();
        }
        (self.state, self.reason) = (state, reason);
    }
}

/// The use of a connection by one call.
#[derive(Debug)]
pub(crate) struct ConnectionLease(Arc<Connection>);

impl ConnectionLease {
    pub(crate) fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Creates the state of a connection that is about to be established.
    pub(super) fn new(target: Arc<Target>) -> Arc<Self> {
        let (changed, leases) = (Event::new(), AtomicUsize::new(0));
        let health = Health { state: TargetState::Connecting, since: Instant::now(), reason: None };
        let (status, health) = (Mutex::new(Status::Connecting), Mutex::new(health));
        Arc::new(Self { target, status, health, changed, leases })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Counts one more call until the lease is dropped.
    pub(super) fn lease(self: &Arc<Self>) -> ConnectionLease {
        self.leases.fetch_add(1, Ordering::Relaxed);
        ConnectionLease(self.clone())
    }

    /// Returns the number of calls that use this connection.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection after everything posted is written. It is not established again.
    pub(super) fn close(&self) {
        if let Status::Connected(peer) = std::mem::replace(&mut *self.lock(), Status::Closed) {
            peer.close();
        }
        self.changed.notify(usize::MAX);
    }

    /// If the node is stopping, leaves its place to another connection, and returns `true`.
    pub(super) fn replace(&self) -> bool {
        let mut status = self.lock();
        let is_stopping = matches!(*status, Status::Stopping);
        if is_stopping {
            *status = Status::Replaced;
        }
        is_stopping
    }

    /// Returns `true` if another connection has its place.
    pub(super) fn is_replaced(&self) -> bool {
        matches!(*self.lock(), Status::Replaced)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.lock(), Status::Closed)
    }

    /// Returns `true` if the connection is not established, and no attempt to connect is under way.
    pub(super) fn is_disconnected(&self) -> bool {
        !matches!(*self.lock(), Status::Connecting | Status::Connected(_))
    }

    /// Returns `true` if one more call may use the connection, which then has up to `in_flight`.
    pub(super) fn has_capacity(&self, in_flight: usize) -> bool {
        self.leases() < in_flight && !self.is_disconnected()
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(*self.lock(), Status::Connected(_))
    }

    /// Returns the other node, or `None` while an attempt to connect is under way.
    pub(crate) fn peer(&self) -> Result<Option<Peer>, RemoteError> {
        match &*self.lock() {
            Status::Connected(peer) => Ok(Some(peer.clone())),
            Status::Connecting => Ok(None),
            Status::Disconnected(reason) | Status::Silent(reason) => {
                Err(self.error(PeerError::Unsent(reason.clone().into())))
            }
            Status::Stopping | Status::Replaced => {
                Err(self.error(PeerError::Unsent("the node is stopping".into())))
            }
            Status::Closed => Err(self.error(PeerError::Unsent("the client was closed".into()))),
        }
    }

    /// Waits for an attempt to connect that is under way.
    pub(crate) async fn connected(&self) -> Result<Peer, RemoteError> {
        loop {
            let changed = self.changed.listen();
            if let Some(peer) = self.peer()? {
                return Ok(peer);
            }
            changed.await;
        }
    }

    /// Waits until the connection is established, however often that fails.
    ///
    /// # Errors
    /// If the client was closed.
    pub(crate) async fn reconnected(&self) -> Result<Peer, RemoteError> {
        loop {
            let changed = self.changed.listen();
            match self.peer() {
                Ok(Some(peer)) => return Ok(peer),
                Err(error) if self.is_closed() => return Err(error),
                _ => changed.await,
            }
        }
    }

    /// Waits until the connection is lost.
    pub(crate) async fn lost(&self) {
        while self.is_connected() {
            let changed = self.changed.listen();
            if self.is_connected() {
                changed.await;
            }
        }
    }

    /// Returns the state, since when it has been in it, and why it is not established.
    pub(super) fn health(&self) -> (TargetState, Instant, Option<String>) {
        let Health { state, since, reason } = &*self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (*state, *since, reason.clone())
    }

    /// Sets the status, unless the connection is to be closed.
    pub(super) fn set_status(&self, status: Status) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).note(&status);
        let mut current = self.lock();
        match (&*current, &status) {
            (Status::Closed, Status::Connected(peer)) => peer.close(),
            (Status::Closed, _) => {}
            _ => *current = status,
        }
        drop(current);
        self.changed.notify(usize::MAX);
    }

    /// Adds the address to an error.
    pub(crate) fn error(&self, error: PeerError) -> RemoteError {
        let address = self.target.address.clone();
        match error {
            PeerError::Unsent(reason) => RemoteError::Unreachable { address, reason: reason.into_owned() },
            PeerError::Lost(reason) => RemoteError::Lost { address, reason: reason.into_owned() },
            PeerError::Busy => RemoteError::Busy { address },
            PeerError::Deadline => RemoteError::Deadline,
            PeerError::Fault(fault) => RemoteError::Fault(fault),
        }
    }
}
