//! The counters of a server.

use super::sync::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Counters {
    /// Only the owner of the state writes the first three.
    executed: AtomicU64,
    in_place: AtomicU64,
    cancelled: AtomicU64,
    panicked: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
}

/// Counters of a server, and the state of its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "node", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Calls in the queue.
    pub queued: usize,
    /// The capacity of the queue.
    pub capacity: usize,
    /// The maximum number of calls that were in the queue.
    pub high_water: usize,
    /// Callers that wait for room in the queue.
    pub waiting: usize,
    /// Calls whose function has begun.
    pub executed: u64,
    /// Calls among those that their callers ran in place, while the server was idle.
    pub in_place: u64,
    /// Calls whose function panicked.
    pub panicked: u64,
    /// Calls that were cancelled before the function began.
    pub cancelled: u64,
    /// Calls refused because the queue was full.
    pub refused: u64,
    /// Calls whose deadline passed before their answer arrived.
    pub timed_out: u64,
}

/// Increments a counter that only one thread at a time writes.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counters {
    /// Counts a function that is about to begin. For the owner of the state, as are the next two.
    pub(super) fn executed(&self) {
        count(&self.executed);
    }

    /// Like [`executed`](Self::executed), for a caller that runs it in place.
    pub(super) fn executed_in_place(&self) {
        count(&self.executed);
        count(&self.in_place);
    }

    /// Corrects the count for a call that was cancelled and thus not executed.
    pub(super) fn cancelled(&self) {
        count(&self.cancelled);
        self.executed.store(self.executed.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    pub(super) fn panicked(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn timed_out(&self) {
        self.timed_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counters; the other fields are 0.
    pub(super) fn stats(&self) -> Stats {
        let Self { executed, in_place, cancelled, panicked, refused, timed_out } = self;
        Stats {
            executed: executed.load(Ordering::Relaxed),
            in_place: in_place.load(Ordering::Relaxed),
            cancelled: cancelled.load(Ordering::Relaxed),
            panicked: panicked.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            timed_out: timed_out.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}
