//! The connections to one node, shared by all callers.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Executor, Task, Timer};

use super::connection::{Connection, ConnectionLease};
use super::driver;
use super::error::RemoteError;
use super::target::Target;
use crate::metrics::TargetState;

/// The maximum number of connections to one node.
const MAX_CONNECTIONS: usize = 4;

/// One persistent connection, and further ones while it has too many calls in flight.
#[derive(Debug)]
pub(super) struct Pool {
    /// Not kept alive: its tasks hold clients.
    executor: Weak<Executor<'static>>,
    target: Arc<Target>,
    connections: Mutex<Vec<PooledConnection>>,
}

/// A connection and its task. Dropping the task closes the connection.
#[derive(Debug)]
struct PooledConnection {
    connection: Arc<Connection>,
    task: Task<()>,
    /// Re-established when it is lost.
    persistent: bool,
}

impl PooledConnection {
    fn start(executor: &Executor<'static>, target: &Arc<Target>, persistent: bool) -> Self {
        let connection = Connection::new(target.clone());
        let task = executor.spawn(driver::run(connection.clone(), persistent));
        Self { connection, task, persistent }
    }
}

impl Pool {
    /// Creates a pool, and starts to connect.
    pub(super) fn new(executor: &Arc<Executor<'static>>, target: Target) -> Self {
        let target = Arc::new(target);
        let first = PooledConnection::start(executor, &target, true);
        Self { executor: Arc::downgrade(executor), target, connections: Mutex::new(vec![first]) }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    fn connections(&self) -> MutexGuard<'_, Vec<PooledConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if the persistent connection is established.
    pub(super) fn is_connected(&self) -> bool {
        self.connections().first().is_some_and(|first| first.connection.is_connected())
    }

    /// Returns the state of the persistent connection.
    pub(super) fn health(&self) -> Option<(TargetState, Instant, Option<String>)> {
        self.connections().first().map(|first| first.connection.health())
    }

    /// Returns the executor that runs the connections.
    ///
    /// # Errors
    /// [`RemoteError::Unreachable`] if it was dropped.
    pub(super) fn executor(&self) -> Result<Arc<Executor<'static>>, RemoteError> {
        self.executor.upgrade().ok_or_else(|| self.unreachable("the client's executor was dropped"))
    }

    fn unreachable(&self, reason: &str) -> RemoteError {
        RemoteError::Unreachable { address: self.target.address.clone(), reason: reason.to_owned() }
    }

    /// Leases the first connection with capacity for a call, a new one if necessary.
    ///
    /// # Errors
    /// [`RemoteError::Unreachable`] after [`close`](Self::close), or without an executor.
    pub(super) fn lease(&self) -> Result<ConnectionLease, RemoteError> {
        let mut pool = self.connections();
        let in_flight = self.target.limits.in_flight;
        match &pool[..] {
            [] => return Err(self.unreachable("the client was closed")),
            [only] if only.connection.has_capacity(in_flight) => return Ok(only.connection.lease()),
            _ => {}
        }
        pool.retain(|pooled| {
            // A connection to a node that stops may have calls in flight.
            let is_used = !pooled.connection.is_disconnected() || pooled.connection.leases() > 0;
            !pooled.task.is_finished() && (pooled.persistent || is_used)
        });
        // The one that takes the node's place may listen already.
        if let Some(first) = pool.first_mut().filter(|first| first.connection.replace()) {
            first.persistent = false;
            pool.insert(0, PooledConnection::start(&*self.executor()?, &self.target, true));
        }
        if let Some(pooled) = pool.iter().find(|pooled| pooled.connection.has_capacity(in_flight)) {
            return Ok(pooled.connection.lease());
        }
        // If one connection is lost, a new one would most likely fail too.
        if pool.len() < MAX_CONNECTIONS && !pool.iter().any(|pooled| pooled.connection.is_disconnected()) {
            pool.push(PooledConnection::start(&*self.executor()?, &self.target, false));
        }
        let load =
            |pooled: &&PooledConnection| (pooled.connection.is_disconnected(), pooled.connection.leases());
        match pool.iter().min_by_key(load) {
            Some(pooled) => Ok(pooled.connection.lease()),
            None => unreachable!("the pool keeps its persistent connection"),
        }
    }

    /// Closes all connections at once, unless any has calls in flight.
    pub(super) fn close_unused(&self) -> bool {
        let mut pool = self.connections();
        if pool.iter().any(|pooled| pooled.connection.leases() > 0) {
            return false;
        }
        let closed = mem::take(&mut *pool);
        drop(pool);
        drop(closed);
        true
    }

    /// Closes all connections after their requests are written, and waits up to `timeout`.
    pub(super) async fn close(&self, timeout: Duration) {
        let pool = mem::take(&mut *self.connections());
        let closed = async {
            for PooledConnection { connection, task, .. } in pool {
                if connection.is_connected() {
                    connection.close();
                    task.await;
                }
            }
        };
        let timeout = async {
            Timer::after(timeout).await;
        };
        closed.or(timeout).await;
    }
}
