//! One async call of a loop: from when it is made until its callback can run.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::error::CallError;
use super::id::FunctionId;
use super::kind::Kind;
use super::panic;
use super::queue::KEEP;
use super::reply::{Sink, register};
use super::sync::{AtomicBool, Mutex, Ordering};
use super::target::{Counter, Target};

/// When a call ends, and a number that tells it from others of that time.
pub(super) type Expiry = (Instant, u64);

/// A callback whose answer is there, for its loop to [`run`](Self::run). Dropped, it is never run.
#[must_use = "the callback has not run yet"]
pub struct Callback<C> {
    callback: Box<dyn Answered<C>>,
    pub(super) expiry: Option<Expiry>,
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

/// An async call that only has to be made.
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
    pub(super) fn plain(answers: Arc<Answers<C>>, callback: F) -> Self {
        Self::Plain(Pending { answers: Some(answers), callback, result: None })
    }

    /// A call that its loop can give up when its time is over.
    pub(super) fn timed(
        answers: Arc<Answers<C>>,
        counter: Option<Counter>,
        expiry: Expiry,
        callback: F,
    ) -> (Self, Weak<dyn GiveUp<C>>) {
        let open = Mutex::new(Open { callback: Some(callback), worker: None });
        let call: Arc<Timed<C, F, R>> =
            Arc::new(Timed { answers, counter, expiry, open, result: PhantomData });
        let weak: Weak<Timed<C, F, R>> = Arc::downgrade(&call);
        (Self::Timed(TimedSink(call)), weak)
    }

    /// Like [`submit`](Self::submit), but if the queue is full arguments and callback are returned, and the loop has to
    /// take the call back.
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
                let deadline = Some(call.0.expiry.0);
                target.try_submit(id, kind, arguments, deadline, call).map_err(|(arguments, call)| {
                    // Without a callback it is of no use to anyone when its deadline passes.
                    let callback = call.0.open.lock().callback.take();
                    (arguments, callback)
                })
            }
        }
    }

    pub(crate) fn submit<A>(self, target: &impl Target<A, R>, id: &FunctionId, kind: Kind, arguments: A) {
        match self {
            Self::Plain(call) => target.submit(id, kind, arguments, None, call),
            Self::Timed(call) => {
                let deadline = Some(call.0.expiry.0);
                target.submit(id, kind, arguments, deadline, call);
            }
        }
    }
}

/// Where the answers to one loop's calls gather.
pub(super) struct Answers<C> {
    gathered: Mutex<Gathered<C>>,
    /// The loop is gone. Written under the lock; every call looks at it before it begins.
    closed: AtomicBool,
}

struct Gathered<C> {
    ready: VecDeque<Callback<C>>,
    sleeper: Option<Waker>,
    /// By the address of a pending call: who works on it and wants to know when nobody waits any more.
    workers: BTreeMap<usize, Waker>,
}

impl<C> Default for Answers<C> {
    fn default() -> Self {
        let gathered = Gathered { ready: VecDeque::new(), sleeper: None, workers: BTreeMap::new() };
        Self { gathered: Mutex::new(gathered), closed: AtomicBool::new(false) }
    }
}

impl<C> Answers<C> {
    fn push(&self, callback: Callback<C>, worker: Option<usize>) {
        let mut gathered = self.gathered.lock();
        let _worker = worker.and_then(|worker| gathered.workers.remove(&worker));
        if self.is_closed() {
            drop(gathered);
            return panic::drop_quietly(callback);
        }
        gathered.ready.push_back(callback);
        let sleeper = gathered.sleeper.take();
        drop(gathered);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Moves what is there into `ready`, which is empty; otherwise has the loop woken when something comes.
    pub(super) fn take(&self, cx: &Context<'_>, ready: &mut VecDeque<Callback<C>>) {
        let mut gathered = self.gathered.lock();
        if gathered.ready.is_empty() {
            let old = register(&mut gathered.sleeper, cx);
            // After a burst an idle loop gives its memory back.
            let large = [release(&mut gathered.ready), release(ready)];
            drop(gathered);
            drop((old, large));
        } else {
            mem::swap(&mut gathered.ready, ready);
        }
    }

    /// Has the loop look again: there is a new deadline.
    pub(super) fn rouse(&self) {
        let sleeper = self.gathered.lock().sleeper.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        let mut gathered = self.gathered.lock();
        self.closed.store(true, Ordering::Relaxed);
        let sleeper = gathered.sleeper.take();
        let ready = mem::take(&mut gathered.ready);
        let workers = mem::take(&mut gathered.workers);
        drop(gathered);
        drop(sleeper);
        workers.into_values().for_each(Waker::wake);
        ready.into_iter().for_each(panic::drop_quietly);
    }
}

/// Returns the buffer of an empty list that has grown large.
fn release<T>(list: &mut VecDeque<T>) -> Option<VecDeque<T>> {
    (list.is_empty() && list.capacity() * size_of::<T>() > KEEP).then(|| mem::take(list))
}

/// A call without a deadline. It becomes its own callback when its answer is there.
pub(crate) struct Pending<C, F, R> {
    /// There until it is answered.
    answers: Option<Arc<Answers<C>>>,
    callback: F,
    result: Option<Result<R, CallError>>,
}

impl<C, F, R> Pending<C, F, R> {
    /// Tells it from all others that are pending.
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
        if let Some(answers) = self.answers.take() {
            answers.push(Callback { callback: self, expiry: None }, Some(worker));
        }
    }

    fn is_abandoned(&self) -> bool {
        self.answers.as_ref().is_none_or(|answers| answers.is_closed())
    }

    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(answers) = &self.answers else { return Poll::Ready(()) };
        let mut gathered = answers.gathered.lock();
        if answers.is_closed() {
            return Poll::Ready(());
        }
        let old = gathered.workers.insert(self.worker(), cx.waker().clone());
        drop(gathered);
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

/// A call with a deadline, which its loop and its server may both end.
struct Timed<C, F, R> {
    answers: Arc<Answers<C>>,
    counter: Option<Counter>,
    expiry: Expiry,
    open: Mutex<Open<F>>,
    result: PhantomData<fn(R)>,
}

struct Open<F> {
    /// Taken by whoever ends the call.
    callback: Option<F>,
    worker: Option<Waker>,
}

impl<C, F, R> Timed<C, F, R>
where
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    /// Ends the call, unless it has ended.
    fn end(&self, result: Result<R, CallError>) -> Option<Callback<C>> {
        let Open { callback, worker } =
            mem::replace(&mut *self.open.lock(), Open { callback: None, worker: None });
        if let Some(worker) = worker {
            worker.wake();
        }
        let callback = Box::new(Done { callback: callback?, result });
        Some(Callback { callback, expiry: Some(self.expiry) })
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
            self.0.answers.push(callback, None);
        }
    }

    fn is_abandoned(&self) -> bool {
        self.0.open.lock().callback.is_none() || self.0.answers.is_closed()
    }

    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let mut open = self.0.open.lock();
        if open.callback.is_none() {
            return Poll::Ready(());
        }
        let old = register(&mut open.worker, cx);
        drop(open);
        drop(old);
        Poll::Pending
    }
}

/// A call that its loop can end.
pub(super) trait GiveUp<C>: Send + Sync {
    fn give_up(&self, error: CallError) -> Option<Callback<C>>;
}

impl<C, F, R> GiveUp<C> for Timed<C, F, R>
where
    F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    R: Send + 'static,
{
    fn give_up(&self, error: CallError) -> Option<Callback<C>> {
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
