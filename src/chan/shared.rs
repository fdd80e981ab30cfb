//! What a server and its clients share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::envelope::Envelope;
use super::functions::Directory;
use super::waits::Node;

/// What a server and its clients share, whatever the state.
pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) directory: Arc<Directory>,
    pub(super) counters: Counters,
    pub(super) backtrace_limit: usize,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) executed: AtomicU64,
    pub(super) panicked: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// What a server has done so far, and how full its queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls in the queue now.
    pub queued: usize,
    /// Calls that the queue can hold.
    pub capacity: usize,
    /// Calls whose function ran, to its end or to a panic.
    pub executed: u64,
    /// Calls whose function panicked.
    pub panicked: u64,
    /// Calls whose caller gave up before the function began.
    pub cancelled: u64,
    /// Calls refused because the queue was full.
    pub refused: u64,
}

impl Shared {
    pub(super) fn stats(&self, queued: usize, capacity: Option<usize>) -> Stats {
        Stats {
            queued,
            capacity: capacity.unwrap_or(usize::MAX),
            executed: self.counters.executed.load(Ordering::Relaxed),
            panicked: self.counters.panicked.load(Ordering::Relaxed),
            cancelled: self.counters.cancelled.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
        }
    }
}

/// A call taken from a server's queue, to be run by [`Server::exec`](super::Server::exec). Dropped, it answers with an error.
pub struct QueuedCall {
    pub(super) server: u64,
    pub(super) function: usize,
    pub(super) envelope: Box<dyn Envelope>,
}

impl fmt::Debug for QueuedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedCall").finish_non_exhaustive()
    }
}
