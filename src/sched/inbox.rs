//! A queue that a loop empties all at once.

use crate::chan::sync::{AtomicUsize, Mutex, Ordering};
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::sources::{ReadySet, Source};

/// An empty queue keeps room for this many items. What a burst has needed beyond that is given back.
const KEPT: usize = 64;

/// A bounded queue with one reader, the loop, which is told of new items by its [`ReadySet`].
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    /// Items that the reader has taken and not got yet. Only the reader writes it.
    taken: AtomicUsize,
    ready_set: Arc<ReadySet>,
    source: Source,
}

struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// How many items there were.
    serial: u64,
    shut: bool,
}

/// Why something was not taken.
pub(super) enum PushError {
    Full,
    Closed,
}

impl<T> Inbox<T> {
    pub(super) fn new(capacity: usize, ready_set: &Arc<ReadySet>, source: Source) -> Self {
        let state = State { items: VecDeque::new(), capacity, serial: 0, shut: false };
        Self { state: Mutex::new(state), taken: AtomicUsize::new(0), ready_set: ready_set.clone(), source }
    }

    /// Adds an item, and completions its number; items are read in the order of their numbers.
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

    /// Takes the next item, by way of `taken`, into which the reader takes all there are at once. Also returns
    /// whether there may be more. Of what comes after that the reader is told again.
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

    /// Takes no more; what is there stays.
    pub(super) fn shut(&self) {
        self.state.lock().shut = true;
    }

    /// Completions `true` if the reader has got all there was.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().items.is_empty() && self.taken.load(Ordering::Relaxed) == 0
    }

    /// Takes no more, and gives away what the reader has not taken.
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
