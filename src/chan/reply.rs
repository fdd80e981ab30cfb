//! The receivers of answers. Each call has its own, so no answer can reach another call.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::{CallError, FunctionError};
use super::panic;
use super::sync::Mutex;

/// The right to answer one call, once, now or later and from any thread.
///
/// If it is dropped without an answer, the caller receives [`CallError::Unanswered`], or [`CallError::Panicked`] if a
/// panic drops it. In the latter case the answer is sent when the function has ended, since the panic is not known
/// before.
///
/// ```
/// # use chanrpc::{Functions, Id1, Responder};
/// const NEXT: Id1<(), u32> = Id1::new("next");
///
/// let mut functions = Functions::new();
/// functions.register_deferred(NEXT, |waiting: &mut Vec<Responder<u32>>, (), responder| waiting.push(responder))?;
/// // Later, from any thread:
/// fn publish(waiting: &mut Vec<Responder<u32>>, news: u32) {
///     waiting.drain(..).for_each(|responder| responder.reply(news));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Responder<R> {
    to: ReplyTo<R>,
    /// Answers when the responder is dropped. A pointer, since `R` is known to be `'static` only in the constructor.
    drop: fn(ReplyTo<R>),
}

/// The receiver of an answer. Code that takes it out of a [`Responder`] must answer.
pub(super) enum ReplyTo<R> {
    /// A waiting [`Call`](super::Call).
    Slot(Arc<Slot<R>>),
    /// A sink that forwards the answer.
    Sink(Box<dyn Sink<R>>),
    /// None: go mode, or already answered.
    Nobody,
}

/// Receives an answer.
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub trait Sink<R>: Send {
    /// Takes the answer, on the thread that produces it. Must be quick.
    fn answer(self: Box<Self>, result: Result<R, CallError>);

    /// Returns `true` if the answer is no longer wanted.
    fn is_abandoned(&self) -> bool;

    /// Waits until the answer is no longer wanted.
    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()>;
}

impl<R> Responder<R> {
    pub(super) fn new(to: ReplyTo<R>) -> Self
    where
        R: 'static,
    {
        Self { to, drop: |to| panic::answer_dropped(|error| to.answer(Err(error))) }
    }

    /// Answers the call.
    ///
    /// If the caller has stopped waiting, the result is dropped.
    pub fn reply(self, result: R) {
        self.finish(Ok(result));
    }

    /// Answers the call with an error, which its caller receives as [`CallError::Failed`].
    pub fn fail(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.finish(Err(CallError::Failed(FunctionError::new(error))));
    }

    /// Returns `true` if nobody waits for the answer: in go mode, after the deadline, or if the call was dropped.
    pub fn is_abandoned(&self) -> bool {
        match &self.to {
            ReplyTo::Slot(slot) => slot.is_abandoned(),
            ReplyTo::Sink(sink) => sink.is_abandoned(),
            ReplyTo::Nobody => true,
        }
    }

    /// Waits until the answer is no longer wanted, so that work for it can stop.
    ///
    /// Takes the responder as `&mut`, so that a task of an executor may await it: it is `Send`, but not `Sync`.
    pub async fn abandoned(&mut self) {
        poll_fn(|cx| self.poll_abandoned(cx)).await;
    }

    pub(super) fn poll_abandoned(&mut self, cx: &Context<'_>) -> Poll<()> {
        match &self.to {
            ReplyTo::Slot(slot) => slot.poll_abandoned(cx),
            ReplyTo::Sink(sink) => sink.poll_abandoned(cx),
            ReplyTo::Nobody => Poll::Ready(()),
        }
    }

    /// Like [`is_abandoned`](Self::is_abandoned), but `false` in go mode.
    pub(super) fn is_cancelled(&self) -> bool {
        !matches!(self.to, ReplyTo::Nobody) && self.is_abandoned()
    }

    pub(super) fn finish(mut self, result: Result<R, CallError>) {
        mem::replace(&mut self.to, ReplyTo::Nobody).answer(result);
    }
}

impl<R> ReplyTo<R> {
    fn answer(self, result: Result<R, CallError>) {
        match self {
            Self::Slot(slot) => slot.answer(result),
            Self::Sink(sink) => sink.answer(result),
            Self::Nobody => {}
        }
    }
}

impl<R> Drop for Responder<R> {
    fn drop(&mut self) {
        if !matches!(self.to, ReplyTo::Nobody) {
            let to = mem::replace(&mut self.to, ReplyTo::Nobody);
            (self.drop)(to);
        }
    }
}

impl<R> fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("abandoned", &self.is_abandoned()).finish()
    }
}

/// The slot where a [`Call`](super::Call) receives its answer.
pub(super) struct Slot<R>(Mutex<State<R>>);

enum State<R> {
    Waiting {
        caller: Option<Waker>,
        /// The task that works on the answer, to be woken when the answer is abandoned.
        worker: Option<Waker>,
    },
    Answered(Result<R, CallError>),
    /// The answer was taken, or the caller cancelled the call.
    Abandoned,
}

impl<R> Slot<R> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State::Waiting { caller: None, worker: None }))
    }

    /// Takes the answer, or registers the task to be woken when it arrives.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<R, CallError>> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Waiting { caller, .. } => {
                let old = register(caller, cx);
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

    /// Abandons the answer, which is dropped when it arrives. Returns it if it has arrived.
    pub(super) fn abandon(&self) -> Option<Result<R, CallError>> {
        // The old state, with the user's value or waker in it, outlives the lock.
        let old = mem::replace(&mut *self.0.lock(), State::Abandoned);
        match old {
            State::Answered(result) => return Some(result),
            State::Waiting { worker: Some(worker), .. } => worker.wake(),
            State::Waiting { .. } | State::Abandoned => {}
        }
        None
    }

    /// Takes the answer if it has arrived.
    pub(super) fn take(&self) -> Option<Result<R, CallError>> {
        let mut state = self.0.lock();
        match &*state {
            State::Answered(_) => match mem::replace(&mut *state, State::Abandoned) {
                State::Answered(result) => Some(result),
                _ => unreachable!("the state was looked at under this lock"),
            },
            State::Waiting { .. } | State::Abandoned => None,
        }
    }

    fn is_abandoned(&self) -> bool {
        matches!(*self.0.lock(), State::Abandoned)
    }

    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Waiting { worker, .. } => {
                let old = register(worker, cx);
                drop(state);
                drop(old);
                Poll::Pending
            }
            State::Answered(_) | State::Abandoned => Poll::Ready(()),
        }
    }

    pub(super) fn answer(&self, result: Result<R, CallError>) {
        let mut state = self.0.lock();
        if let State::Waiting { caller, .. } = &mut *state {
            let caller = caller.take();
            let _worker = mem::replace(&mut *state, State::Answered(result));
            drop(state);
            if let Some(caller) = caller {
                caller.wake();
            }
        }
    }
}

/// Registers the task's waker. Returns the previous one, to be dropped outside of the lock.
pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => place.replace(cx.waker().clone()),
    }
}
