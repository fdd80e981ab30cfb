//! What a server counts.

use super::sync::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Counters {
    /// The first three are written only by the holder of the state, one at a time.
    executed: AtomicU64,
    in_place: AtomicU64,
    cancelled: AtomicU64,
    panicked: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
}

/// What a server has done so far, and how full its queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls in the queue now.
    pub queued: usize,
    /// Calls that the queue can hold.
    pub capacity: usize,
    /// The most calls that were ever in the queue.
    pub high_water: usize,
    /// Callers that wait now for room in the queue.
    pub waiting: usize,
    /// Calls whose function was begun.
    pub executed: u64,
    /// Those of them that their callers ran in place, since the server had nothing else to do.
    pub in_place: u64,
    /// Calls whose function panicked.
    pub panicked: u64,
    /// Calls whose caller gave up before the function began.
    pub cancelled: u64,
    /// Calls refused because the queue was full.
    pub refused: u64,
    /// Calls whose deadline passed before their answer came.
    pub timed_out: u64,
}

/// Adds one to a counter that one thread at a time writes.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counters {
    /// A function is about to begin. Said by the holder of the state, as are the next two.
    pub(super) fn executed(&self) {
        count(&self.executed);
    }

    /// Like [`executed`](Self::executed), by a caller.
    pub(super) fn executed_in_place(&self) {
        count(&self.executed);
        count(&self.in_place);
    }

    /// What was counted as executed was not, since its caller has given up.
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

    /// What was counted; the rest is left at 0.
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
