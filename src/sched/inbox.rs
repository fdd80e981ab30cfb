//! A queue that a loop empties all at once.

use crate::chan::sync::{AtomicUsize, Mutex, Ordering};
use std::collections::VecDeque;
use std::mem;
use std::task::{Context, Poll, Waker};

/// A bounded queue with one reader.
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    /// Items that the reader has taken and not got yet. Only the reader writes it.
    taken: AtomicUsize,
}

struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// How many there were.
    serial: u64,
    sleeper: Option<Waker>,
    shut: bool,
}

/// Why something was not taken.
pub(super) enum Refused {
    Full,
    Shut,
}

impl<T> Inbox<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { items: VecDeque::new(), capacity, serial: 0, sleeper: None, shut: false };
        Self { state: Mutex::new(state), taken: AtomicUsize::new(0) }
    }

    /// Adds an item, and returns its number; items are read in the order of their numbers.
    pub(super) fn push(&self, item: T) -> Result<u64, (Refused, T)> {
        let mut state = self.state.lock();
        if state.shut {
            return Err((Refused::Shut, item));
        }
        if state.items.len() + self.taken.load(Ordering::Relaxed) >= state.capacity {
            return Err((Refused::Full, item));
        }
        state.items.push_back(item);
        state.serial += 1;
        let serial = state.serial;
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(serial)
    }

    /// Takes the next item, by way of `taken`, into which the reader takes all there are at once.
    pub(super) fn poll_next(&self, cx: &Context<'_>, taken: &mut VecDeque<T>) -> Poll<T> {
        if let Some(item) = taken.pop_front() {
            self.taken.store(taken.len(), Ordering::Relaxed);
            return Poll::Ready(item);
        }
        let mut state = self.state.lock();
        mem::swap(&mut state.items, taken);
        match taken.pop_front() {
            Some(item) => {
                self.taken.store(taken.len(), Ordering::Relaxed);
                Poll::Ready(item)
            }
            None => {
                let old = state.sleeper.replace(cx.waker().clone());
                drop(state);
                drop(old);
                Poll::Pending
            }
        }
    }

    /// Takes no more; what is there stays. The reader is woken.
    pub(super) fn shut(&self) {
        self.state.lock().shut = true;
        self.rouse();
    }

    /// Has the reader look again.
    pub(super) fn rouse(&self) {
        let sleeper = self.state.lock().sleeper.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Tells whether the reader has got all there was.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().items.is_empty() && self.taken.load(Ordering::Relaxed) == 0
    }

    /// Takes no more, and gives away what is there.
    pub(super) fn close(&self) -> VecDeque<T> {
        self.shut();
        mem::take(&mut self.state.lock().items)
    }
}
