//! Where the answer to one call goes. Each call has a place of its own, so no answer can reach another's.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::error::CallError;
use super::panic;

/// The right to answer one call, once, now or later and from any thread.
///
/// Dropped unanswered, it answers with [`CallError::Unanswered`], or with [`CallError::Panicked`] if a panic
/// is what drops it, so no caller waits in vain.
pub struct Responder<R> {
    to: ReplyTo<R>,
}

/// Where an answer goes. Whoever takes it out of a [`Responder`] must answer.
pub(super) enum ReplyTo<R> {
    /// To a waiting [`Call`](super::Call).
    Slot(Arc<Slot<R>>),
    /// To whoever passes it on.
    Sink(Box<dyn Sink<R>>),
    /// To nobody: go mode, or answered already.
    Nobody,
}

/// Passes an answer on.
pub(crate) trait Sink<R>: Send {
    /// Takes the answer, on whichever thread it comes from; must be quick.
    fn answer(self: Box<Self>, result: Result<R, CallError>);

    /// Tells whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        false
    }
}

impl<R, F: FnOnce(Result<R, CallError>) + Send> Sink<R> for F {
    fn answer(self: Box<Self>, result: Result<R, CallError>) {
        self(result);
    }
}

impl<R> Responder<R> {
    pub(super) fn new(to: ReplyTo<R>) -> Self {
        Self { to }
    }

    /// Answers the call.
    ///
    /// If the caller has stopped waiting, the result is dropped.
    pub fn reply(self, result: R) {
        self.finish(Ok(result));
    }

    /// Tells whether nobody waits for the answer any more: go mode, a deadline that passed, a dropped call.
    pub fn is_abandoned(&self) -> bool {
        match &self.to {
            ReplyTo::Slot(slot) => slot.is_abandoned(),
            ReplyTo::Sink(sink) => sink.is_abandoned(),
            ReplyTo::Nobody => true,
        }
    }

    /// Like [`is_abandoned`](Self::is_abandoned), but false in go mode, where nobody ever waited.
    pub(super) fn is_cancelled(&self) -> bool {
        !matches!(self.to, ReplyTo::Nobody) && self.is_abandoned()
    }

    pub(super) fn finish(mut self, result: Result<R, CallError>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<R, CallError>) {
        match mem::replace(&mut self.to, ReplyTo::Nobody) {
            ReplyTo::Slot(slot) => slot.answer(result),
            ReplyTo::Sink(sink) => sink.answer(result),
            ReplyTo::Nobody => {}
        }
    }
}

impl<R> Drop for Responder<R> {
    fn drop(&mut self) {
        if !matches!(self.to, ReplyTo::Nobody) {
            self.send(Err(panic::current().map_or(CallError::Unanswered, CallError::Panicked)));
        }
    }
}

impl<R> fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("abandoned", &self.is_abandoned()).finish()
    }
}

/// The place where a [`Call`](super::Call) finds its answer.
pub(super) struct Slot<R>(Mutex<State<R>>);

enum State<R> {
    Waiting(Option<Waker>),
    Answered(Result<R, CallError>),
    /// Nobody waits: the answer was taken, or the caller gave up.
    Abandoned,
}

impl<R> Slot<R> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Waiting(None)))
    }

    /// Takes the answer if it is there; otherwise has the task woken when it is.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<R, CallError>> {
        let mut state = self.lock();
        match &mut *state {
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting(waker) => {
                let old = waker.replace(cx.waker().clone());
                drop(state);
                drop(old);
                Poll::Pending
            }
            State::Answered(_) => match mem::replace(&mut *state, State::Abandoned) {
                State::Answered(result) => Poll::Ready(result),
                _ => unreachable!("the state was looked at under this lock"),
            },
            State::Abandoned => Poll::Pending,
        }
    }

    /// Gives up the answer, which is dropped when it comes, or now if it is there.
    pub(super) fn abandon(&self) {
        // The old state, with the user's value or waker in it, is dropped after the lock.
        let _old = mem::replace(&mut *self.lock(), State::Abandoned);
    }

    fn is_abandoned(&self) -> bool {
        matches!(*self.lock(), State::Abandoned)
    }

    fn answer(&self, result: Result<R, CallError>) {
        let mut state = self.lock();
        if let State::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Answered(result);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // Nothing of the user's is run or dropped under the lock but a waker's clone.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
