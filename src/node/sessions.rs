//! Tells servers of connections: when one opens, and when it has ended.

use std::sync::Arc;

use crate::chan::{CallError, Client, FunctionId, Queued};
use crate::route::{Caller, SESSION};
use crate::session::Session;

/// A server that is told of connections.
#[derive(Debug)]
pub(super) struct Observer {
    client: Client,
    opened: FunctionId,
    closed: FunctionId,
}

impl Observer {
    pub(super) fn new(client: Client, opened: FunctionId, closed: FunctionId) -> Self {
        Self { client, opened, closed }
    }

    /// Checks that the server has both functions.
    pub(super) fn check(&self) -> Result<(), CallError> {
        self.client.check::<Caller>(&self.opened)?;
        self.client.check::<Caller>(&self.closed)
    }
}

/// Tells all observers that a connection has opened, and that it has closed when its session is dropped. Returns what to
/// wait for before the first message of the connection is read: the observers whose queues are full. As long as it
/// waits, the connection is open, so that no more calls wait for room than there may be connections.
pub(super) fn open(observers: &Arc<[Observer]>, session: &Session) -> Vec<Queued> {
    let Some(peer) = session.caller().peer().filter(|_| !observers.is_empty()) else { return Vec::new() };
    let caller = session.caller().clone();
    let told = observers.iter().map(|observer| observer.client.go_in_turn(&observer.opened, caller.clone()));
    let waiting = told.flatten().collect();
    let closing = Closing { observers: observers.clone(), caller: caller.clone() };
    drop(peer.hold((SESSION, "".into()), Box::new(closing)));
    waiting
}

/// Tells all observers that a connection has closed, when it is dropped. They were told before that it has opened: the
/// call for that is queued, or waits for room before this one.
struct Closing {
    observers: Arc<[Observer]>,
    caller: Caller,
}

impl Drop for Closing {
    fn drop(&mut self) {
        for observer in &*self.observers {
            // It waits for room by itself.
            drop(observer.client.go_in_turn(&observer.closed, self.caller.clone()));
        }
    }
}
