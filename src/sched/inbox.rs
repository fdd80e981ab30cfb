//! A queue from which a loop takes all items at once.

use crate::chan::sync::{AtomicUsize, Mutex, Ordering};
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::sources::{ReadySet, Source};

/// An empty queue keeps capacity for this many items. A burst's further memory is released.
const KEPT: usize = 64;

/// A bounded queue with one reader, the loop, whose [`ReadySet`] it marks for new items.
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    /// Items that the reader has taken in bulk and not yet processed. Only the reader writes it.
    taken: AtomicUsize,
    ready_set: Arc<ReadySet>,
    source: Source,
}

struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// The number of the last item.
    serial: u64,
    shut: bool,
}

/// The reason why an item was rejected.
pub(super) enum PushError {
    Full,
    Closed,
}

impl<T> Inbox<T> {
    pub(super) fn new(capacity: usize, ready_set: &Arc<ReadySet>, source: Source) -> Self {
        let state = State { items: VecDeque::new(), capacity, serial: 0, shut: false };
        Self { state: Mutex::new(state), taken: AtomicUsize::new(0), ready_set: ready_set.clone(), source }
    }

    /// Adds an item and returns its number. Items are read in the order of their numbers.
    pub(super) fn push(&self, item: T) -> Result<u64, (PushError, T)> {
        let mut state = self.state.lock();
        if state.shut {
            return Err((PushError::Closed, item));
        }
        if state.items.len() + self.taken.load(Ordering::Relaxed) >= state.capacity {
            return Err((PushError::Full, item));
        }
        state.items.push_back(item);
        state.serial += 1;
        let serial = state.serial;
        drop(state);
        self.ready_set.mark(self.source);
        Ok(serial)
    }

    /// Takes the next item from `taken`, which is refilled with all queued items when empty. Also returns whether
    /// `taken` has more; later items mark the source again.
    pub(super) fn next(&self, taken: &mut VecDeque<T>) -> Option<(T, bool)> {
        if taken.is_empty() {
            mem::swap(&mut self.state.lock().items, taken);
        }
        let item = taken.pop_front()?;
        let left = taken.len();
        self.taken.store(left, Ordering::Relaxed);
        if left == 0 && taken.capacity() > KEPT {
            *taken = VecDeque::new();
        }
        Some((item, left > 0))
    }

    /// Rejects further items. Queued items stay.
    pub(super) fn shut(&self) {
        self.state.lock().shut = true;
    }

    /// Returns `true` if the reader has processed all items.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().items.is_empty() && self.taken.load(Ordering::Relaxed) == 0
    }

    /// Rejects further items, and returns those that the reader has not taken.
    pub(super) fn close(&self) -> VecDeque<T> {
        let mut state = self.state.lock();
        state.shut = true;
        mem::take(&mut state.items)
    }
}

#[cfg(all(test, not(chanrpc_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_no_large_buffers() {
        let inbox = Inbox::new(usize::MAX, &Arc::default(), Source::Posts);
        let mut taken = VecDeque::new();
        for _ in 0..2 {
            for item in 0..10_000 {
                assert!(inbox.push(item).is_ok());
            }
            let mut read = 0;
            while inbox.next(&mut taken).is_some() {
                read += 1;
            }
            assert_eq!(read, 10_000);
        }
        let kept = taken.capacity() + inbox.state.lock().items.capacity();
        assert!(kept <= 2 * KEPT, "room for {kept} items is kept");
    }
}
