//! A queue that a loop empties all at once.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A bounded queue with one reader.
pub(super) struct Inbox<T>(Mutex<State<T>>);

struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
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
        Self(Mutex::new(State { items: VecDeque::new(), capacity, sleeper: None, shut: false }))
    }

    /// Adds an item.
    pub(super) fn push(&self, item: T) -> Result<(), (Refused, T)> {
        let mut state = self.lock();
        if state.shut {
            return Err((Refused::Shut, item));
        }
        if state.items.len() >= state.capacity {
            return Err((Refused::Full, item));
        }
        state.items.push_back(item);
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Takes the next item, by way of `taken`, into which the reader takes all there are at once.
    pub(super) fn poll_next(&self, cx: &Context<'_>, taken: &mut VecDeque<T>) -> Poll<T> {
        if let Some(item) = taken.pop_front() {
            return Poll::Ready(item);
        }
        let mut state = self.lock();
        mem::swap(&mut state.items, taken);
        match taken.pop_front() {
            Some(item) => Poll::Ready(item),
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
        let mut state = self.lock();
        state.shut = true;
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Takes no more, and gives away what is there.
    pub(super) fn close(&self) -> VecDeque<T> {
        self.shut();
        mem::take(&mut self.lock().items)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
