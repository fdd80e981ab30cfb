//! One async call of a loop, from its start until its callback can run.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::error::CallError;
use super::id::FunctionId;
use super::kind::Kind;
use super::panic;
use super::queue::KEEP;
use super::reply::{Sink, register};
use super::sync::{AtomicBool, Mutex, Ordering};
use super::target::{Counter, Target};

/// The deadline of a call, and a number that makes the key unique.
pub(super) type DeadlineKey = (Instant, u64);

/// A callback whose answer has arrived, for its loop to [`run`](Self::run).
#[must_use = "the callback has not run yet"]
pub struct Callback<C> {
    callback: Box<dyn Answered<C>>,
    pub(super) deadline_key: Option<DeadlineKey>,
}

trait Answered<C>: Send {
    fn run(self: Box<Self>, state: &mut C);
}

impl<C> Callback<C> {
    /// Runs the callback.
    pub fn run(self, state: &mut C) {
        self.callback.run(state);
    }
}

impl<C> fmt::Debug for Callback<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// An async call that is ready to be submitted.
pub(crate) enum Prepared<C, F, R> {
    Plain(Pending<C, F, R>),
    Timed(TimedSink<C, F, R>),
}

impl<C, F, R> Prepared<C, F, R>
where
    C: 'static,
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    pub(super) fn plain(completions: Arc<CompletionQueue<C>>, callback: F) -> Self {
        Self::Plain(Pending { completions: Some(completions), callback, result: None })
    }

    /// Creates a call that its loop can cancel at its deadline.
    pub(super) fn timed(
        completions: Arc<CompletionQueue<C>>,
        counter: Option<Counter>,
        deadline_key: DeadlineKey,
        callback: F,
    ) -> (Self, Weak<dyn Cancel<C>>) {
        let state = Mutex::new(TimedState { callback: Some(callback), worker: None });
        let call: Arc<Timed<C, F, R>> =
            Arc::new(Timed { completions, counter, deadline_key, state, result: PhantomData });
        let weak: Weak<Timed<C, F, R>> = Arc::downgrade(&call);
        (Self::Timed(TimedSink(call)), weak)
    }

    /// Like [`submit`](Self::submit), but if the queue is full, arguments and callback are returned and the loop has to
    /// [take the call back](super::Callbacks::take_back).
    pub(crate) fn try_submit<A>(
        self,
        target: &impl Target<A, R>,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
    ) -> Result<(), (A, Option<F>)> {
        match self {
            Self::Plain(call) => target
                .try_submit(id, kind, arguments, None, call)
                .map_err(|(arguments, call)| (arguments, Some(call.callback))),
            Self::Timed(call) => {
                let deadline = Some(call.0.deadline_key.0);
                target.try_submit(id, kind, arguments, deadline, call).map_err(|(arguments, call)| {
                    // Without a callback, its deadline has no effect.
                    let callback = call.0.state.lock().callback.take();
                    (arguments, callback)
                })
            }
        }
    }

    pub(crate) fn submit<A>(self, target: &impl Target<A, R>, id: &FunctionId, kind: Kind, arguments: A) {
        match self {
            Self::Plain(call) => target.submit(id, kind, arguments, None, call),
            Self::Timed(call) => {
                let deadline = Some(call.0.deadline_key.0);
                target.submit(id, kind, arguments, deadline, call);
            }
        }
    }
}

/// The completed calls of one loop.
pub(super) struct CompletionQueue<C> {
    inner: Mutex<Ready<C>>,
    /// The loop is gone. Written under the lock; read before each call begins.
    closed: AtomicBool,
}

struct Ready<C> {
    ready: VecDeque<Callback<C>>,
    sleeper: Option<Waker>,
    /// By the address of a pending call: the task that works on it, to be woken when the call is abandoned.
    workers: FxHashMap<usize, Waker>,
}

impl<C> Default for CompletionQueue<C> {
    fn default() -> Self {
        let inner = Ready { ready: VecDeque::new(), sleeper: None, workers: FxHashMap::default() };
        Self { inner: Mutex::new(inner), closed: AtomicBool::new(false) }
    }
}

impl<C> CompletionQueue<C> {
    fn push(&self, callback: Callback<C>, worker: Option<usize>) {
        let mut inner = self.inner.lock();
        let _worker = worker.and_then(|worker| inner.workers.remove(&worker));
        if self.is_closed() {
            drop(inner);
            return panic::drop_quietly(callback);
        }
        inner.ready.push_back(callback);
        let sleeper = inner.sleeper.take();
        drop(inner);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Moves the callbacks into `ready`, which is empty. Registers the loop if there is none.
    pub(super) fn take(&self, cx: &Context<'_>, ready: &mut VecDeque<Callback<C>>) {
        let mut inner = self.inner.lock();
        if inner.ready.is_empty() {
            let old = register(&mut inner.sleeper, cx);
            // After a burst an idle loop releases its memory.
            let large = [release(&mut inner.ready), release(ready)];
            drop(inner);
            drop((old, large));
        } else {
            mem::swap(&mut inner.ready, ready);
        }
    }

    /// Wakes the loop after a deadline was added.
    pub(super) fn wake_loop(&self) {
        let sleeper = self.inner.lock().sleeper.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        self.closed.store(true, Ordering::Relaxed);
        let sleeper = inner.sleeper.take();
        let ready = mem::take(&mut inner.ready);
        let workers = mem::take(&mut inner.workers);
        drop(inner);
        drop(sleeper);
        workers.into_values().for_each(Waker::wake);
        ready.into_iter().for_each(panic::drop_quietly);
    }
}

/// Returns the buffer of an empty list that has grown large.
fn release<T>(list: &mut VecDeque<T>) -> Option<VecDeque<T>> {
    (list.is_empty() && list.capacity() * size_of::<T>() > KEEP).then(|| mem::take(list))
}

/// A call without a deadline. It becomes its own callback when its answer arrives.
pub(crate) struct Pending<C, F, R> {
    /// Taken when the call is answered.
    completions: Option<Arc<CompletionQueue<C>>>,
    callback: F,
    result: Option<Result<R, CallError>>,
}

impl<C, F, R> Pending<C, F, R> {
    /// Returns a key that is unique among pending calls.
    fn worker(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<C, F, R> Sink<R> for Pending<C, F, R>
where
    C: 'static,
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    fn answer(mut self: Box<Self>, result: Result<R, CallError>) {
        self.result = Some(result);
        let worker = self.worker();
        if let Some(completions) = self.completions.take() {
            completions.push(Callback { callback: self, deadline_key: None }, Some(worker));
        }
    }

    fn is_abandoned(&self) -> bool {
        self.completions.as_ref().is_none_or(|completions| completions.is_closed())
    }

    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(completions) = &self.completions else { return Poll::Ready(()) };
        let mut inner = completions.inner.lock();
        if completions.is_closed() {
            return Poll::Ready(());
        }
        let old = inner.workers.insert(self.worker(), cx.waker().clone());
        drop(inner);
        drop(old);
        Poll::Pending
    }
}

impl<C, F, R> Answered<C> for Pending<C, F, R>
where
    F: FnOnce(&mut C, Result<R, CallError>) + Send,
    R: Send,
{
    fn run(self: Box<Self>, state: &mut C) {
        let Self { callback, result, .. } = *self;
        if let Some(result) = result {
            callback(state, result);
        }
    }
}

/// A call with a deadline, which both its loop and its server can end.
struct Timed<C, F, R> {
    completions: Arc<CompletionQueue<C>>,
    counter: Option<Counter>,
    deadline_key: DeadlineKey,
    state: Mutex<TimedState<F>>,
    result: PhantomData<fn(R)>,
}

struct TimedState<F> {
    /// Taken when the call ends.
    callback: Option<F>,
    worker: Option<Waker>,
}

impl<C, F, R> Timed<C, F, R>
where
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    /// Ends the call unless it has ended.
    fn end(&self, result: Result<R, CallError>) -> Option<Callback<C>> {
        let TimedState { callback, worker } =
            mem::replace(&mut *self.state.lock(), TimedState { callback: None, worker: None });
        if let Some(worker) = worker {
            worker.wake();
        }
        let callback = Box::new(Done { callback: callback?, result });
        Some(Callback { callback, deadline_key: Some(self.deadline_key) })
    }
}

pub(crate) struct TimedSink<C, F, R>(Arc<Timed<C, F, R>>);

impl<C, F, R> Sink<R> for TimedSink<C, F, R>
where
    C: 'static,
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    fn answer(self: Box<Self>, result: Result<R, CallError>) {
        if let Some(callback) = self.0.end(result) {
            self.0.completions.push(callback, None);
        }
    }

    fn is_abandoned(&self) -> bool {
        self.0.state.lock().callback.is_none() || self.0.completions.is_closed()
    }

    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.state.lock();
        if state.callback.is_none() {
            return Poll::Ready(());
        }
        let old = register(&mut state.worker, cx);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

/// A call that its loop can cancel.
pub(super) trait Cancel<C>: Send + Sync {
    fn cancel(&self, error: CallError) -> Option<Callback<C>>;
}

impl<C, F, R> Cancel<C> for Timed<C, F, R>
where
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    fn cancel(&self, error: CallError) -> Option<Callback<C>> {
        let late = matches!(error, CallError::Deadline);
        let callback = self.end(Err(error))?;
        if late && let Some(counter) = &self.counter {
            counter.timed_out();
        }
        Some(callback)
    }
}

struct Done<F, R> {
    callback: F,
    result: Result<R, CallError>,
}

impl<C, F, R> Answered<C> for Done<F, R>
where
    F: FnOnce(&mut C, Result<R, CallError>) + Send,
    R: Send,
{
    fn run(self: Box<Self>, state: &mut C) {
        (self.callback)(state, self.result);
    }
}
