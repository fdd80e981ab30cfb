//! Async calls: the caller goes on, and a callback comes back on the caller's own loop.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smol::Timer;

use super::client::Client;
use super::error::CallError;
use super::id::{FunctionId, Names};
use super::kind::{Kind, Many, One, Results, Zero};
use super::panic;
use super::reply::{Sink, register};
use super::shared::Shared;
use super::sync::{AtomicBool, Mutex, Ordering};

/// The async calls of one loop, whose callbacks get that loop's state `C`.
///
/// Starting a call never blocks and never runs a callback: whatever becomes of the call, also if the queue is
/// full or the function unknown, its callback waits here until the loop takes it with [`next`](Self::next)
/// and runs it. How many calls may be pending at a time is bounded.
///
/// A callback that makes a *sync* call to a server which its own loop drives would wait for itself; it makes an
/// async call instead.
///
/// ```
/// use chanrpc::chan::{Callbacks, Functions, Server};
///
/// let mut functions = Functions::new();
/// functions.register1("double", |_: &mut (), n: u32| n * 2)?;
/// let mut server = Server::new((), functions);
/// let client = server.client();
///
/// struct Player { score: u32 }
/// let mut player = Player { score: 0 };
/// let mut callbacks = Callbacks::new(8);
/// callbacks.call1(&client, "double", 21_u32, |player: &mut Player, score| player.score = score.unwrap())?;
///
/// // Here one thread plays both loops; usually each has its own.
/// smol::block_on(server.exec());
/// let callback = callbacks.try_next().unwrap();
/// callback.run(&mut player);
/// assert_eq!(player.score, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Callbacks<C> {
    answers: Arc<Answers<C>>,
    /// Callbacks that were taken from there all at once.
    ready: VecDeque<Callback<C>>,
    pending: usize,
    limit: usize,
    /// For the next call.
    time: Option<Duration>,
    /// The pending calls that have a deadline.
    deadlines: BTreeMap<Deadline, Weak<dyn GiveUp<C>>>,
    serial: u64,
    timer: Timer,
}

/// When a call ends, and a number that tells it from others of that time.
type Deadline = (Instant, u64);

/// A callback whose answer is there, for its loop to [`run`](Self::run). Dropped, it is never run.
#[must_use = "the callback has not run yet"]
pub struct Callback<C> {
    callback: Box<dyn Answered<C>>,
    deadline: Option<Deadline>,
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

/// The call was not made, since as many as allowed are pending. Run some callbacks first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyPending<A> {
    /// The arguments, to try again.
    pub arguments: A,
    /// How many may be pending.
    pub limit: usize,
}

impl<A> fmt::Display for TooManyPending<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} async calls are pending already, which is the limit given to Callbacks::new",
            self.limit
        )
    }
}

impl<A: fmt::Debug> std::error::Error for TooManyPending<A> {}

impl<C: 'static> Callbacks<C> {
    /// Creates a place for up to `limit` pending calls. 0 is taken as 1.
    pub fn new(limit: usize) -> Self {
        Self {
            answers: Arc::default(),
            ready: VecDeque::new(),
            pending: 0,
            limit: limit.max(1),
            time: None,
            deadlines: BTreeMap::new(),
            serial: 0,
            timer: Timer::never(),
        }
    }

    /// Ends the next call, and no further one, with [`CallError::Deadline`] unless it is answered within this time
    /// from when it is made: `callbacks.within(second).call1(…)`.
    pub fn within(&mut self, time: Duration) -> &mut Self {
        self.time = Some(time);
        self
    }

    /// Calls a function of no result; `callback` gets to know when it has run.
    ///
    /// # Errors
    /// [`TooManyPending`] if the limit is reached. Everything else goes to the callback.
    pub fn call0<A: Send + 'static>(
        &mut self,
        client: &Client,
        id: impl Names<Zero, A, ()>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<(), CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::Zero, arguments, callback)
    }

    /// Calls a function of one result; `callback` gets it.
    ///
    /// # Errors
    /// As [`call0`](Self::call0).
    pub fn call1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        client: &Client,
        id: impl Names<One, A, R>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::One, arguments, callback)
    }

    /// Calls a function of several results; `callback` gets them.
    ///
    /// # Errors
    /// As [`call0`](Self::call0).
    pub fn call_n<A: Send + 'static, R: Results>(
        &mut self,
        client: &Client,
        id: impl Names<Many, A, R>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::Many, arguments, callback)
    }

    /// Waits for the next callback to run, in the order in which the answers came and deadlines passed.
    ///
    /// Waits for ever if nothing is pending; a loop selects it against its other sources. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Callback<C> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Takes the next callback if one is there.
    pub fn try_next(&mut self) -> Option<Callback<C>> {
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(callback) => Some(callback),
            Poll::Pending => None,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many calls are pending: their callbacks have not been taken yet.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Like [`next`](Self::next), for a loop that polls its sources itself.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Callback<C>> {
        if self.ready.is_empty() {
            self.answers.take(cx, &mut self.ready);
        }
        let callback = match self.ready.pop_front() {
            Some(callback) => callback,
            None => match self.expired(cx) {
                Some(callback) => callback,
                None => return Poll::Pending,
            },
        };
        if let Some(deadline) = callback.deadline {
            self.deadlines.remove(&deadline);
        }
        self.pending -= 1;
        Poll::Ready(callback)
    }

    /// The callback of a call whose deadline has passed.
    fn expired(&mut self, cx: &mut Context<'_>) -> Option<Callback<C>> {
        loop {
            let entry = self.deadlines.first_entry()?;
            let (at, _) = *entry.key();
            if Instant::now() < at {
                self.timer.set_at(at);
                if Pin::new(&mut self.timer).poll(cx).is_pending() {
                    return None;
                }
                continue;
            }
            // An answer that came in this moment is on its way to the others.
            if let Some(callback) =
                entry.remove().upgrade().and_then(|call| call.give_up(CallError::Deadline))
            {
                return Some(callback);
            }
        }
    }

    fn call<A: Send + 'static, R: Send + 'static>(
        &mut self,
        client: &Client,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        let time = self.time.take();
        match self.prepare(client, time, callback) {
            Ok(prepared) => prepared.submit(client, id, kind, arguments),
            Err(_) => return Err(TooManyPending { arguments, limit: self.limit }),
        }
        Ok(())
    }

    /// Forgets a call that could not be made.
    pub(crate) fn take_back(&mut self) {
        self.pending -= 1;
    }

    /// Makes room for a call. The second half of it, which may drop values of the user's, needs no access to this.
    ///
    /// # Errors
    /// The callback, if the limit is reached.
    pub(crate) fn prepare<F, R>(
        &mut self,
        client: &Client,
        time: Option<Duration>,
        callback: F,
    ) -> Result<Prepared<C, F, R>, F>
    where
        F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
        R: Send + 'static,
    {
        if self.pending == self.limit {
            return Err(callback);
        }
        self.pending += 1;
        let answers = self.answers.clone();
        let Some(at) = time.and_then(|time| Instant::now().checked_add(time)) else {
            return Ok(Prepared::Plain(Pending { answers: Some(answers), callback, result: None }));
        };
        if self.deadlines.len() > 2 * self.limit {
            // Those of calls that were taken back.
            self.deadlines.retain(|_, call| call.strong_count() > 0);
        }
        self.serial += 1;
        let deadline = (at, self.serial);
        let call = Arc::new(Timed {
            answers,
            server: client.shared().clone(),
            deadline,
            open: Mutex::new(Open { callback: Some(callback), worker: None }),
            result: PhantomData,
        });
        let weak: Weak<Timed<_, _, R>> = Arc::downgrade(&call);
        self.deadlines.insert(deadline, weak);
        self.answers.rouse();
        Ok(Prepared::Timed(TimedSink(call)))
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
    /// Like [`submit`](Self::submit), but if the queue is full arguments and callback come back, and the call has
    /// to be [taken back](Callbacks::take_back).
    pub(crate) fn try_submit<A: Send + 'static>(
        self,
        client: &Client,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
    ) -> Result<(), (A, Option<F>)> {
        match self {
            Self::Plain(call) => client
                .try_submit(id, kind, arguments, call)
                .map_err(|(arguments, call)| (arguments, Some(call.callback))),
            Self::Timed(call) => client.try_submit(id, kind, arguments, call).map_err(|(arguments, call)| {
                // Without a callback it is of no use to anyone when its deadline passes.
                let callback = call.0.open.lock().callback.take();
                (arguments, callback)
            }),
        }
    }

    pub(crate) fn submit<A: Send + 'static>(
        self,
        client: &Client,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
    ) {
        match self {
            Self::Plain(call) => client.submit(id, kind, arguments, call),
            Self::Timed(call) => client.submit(id, kind, arguments, call),
        }
    }
}

impl<C> Drop for Callbacks<C> {
    fn drop(&mut self) {
        self.answers.close();
        for call in mem::take(&mut self.deadlines).into_values() {
            panic::drop_quietly(call.upgrade().and_then(|call| call.give_up(CallError::Unanswered)));
        }
    }
}

impl<C> fmt::Debug for Callbacks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("pending", &self.pending).field("limit", &self.limit).finish()
    }
}

/// Where the answers to one loop's calls gather.
struct Answers<C> {
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
    fn take(&self, cx: &Context<'_>, ready: &mut VecDeque<Callback<C>>) {
        let mut gathered = self.gathered.lock();
        if gathered.ready.is_empty() {
            let old = register(&mut gathered.sleeper, cx);
            drop(gathered);
            drop(old);
        } else {
            mem::swap(&mut gathered.ready, ready);
        }
    }

    /// Has the loop look again: there is a new deadline.
    fn rouse(&self) {
        let sleeper = self.gathered.lock().sleeper.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
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
            answers.push(Callback { callback: self, deadline: None }, Some(worker));
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
    server: Arc<Shared>,
    deadline: Deadline,
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
        Some(Callback { callback, deadline: Some(self.deadline) })
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
trait GiveUp<C>: Send + Sync {
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
        if late {
            self.server.counters.timed_out();
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
