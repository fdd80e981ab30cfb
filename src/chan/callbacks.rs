//! Async calls: the caller continues, and a callback runs on the caller's own loop.

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
use smol::stream::Stream;

use super::error::CallError;
use super::id::{FunctionId, Id};
use super::kind::{Kind, KindMarker, Results};
use super::panic;
use super::pending::{Callback, Cancel, CompletionQueue, DeadlineKey, Prepared};
use super::target::{Counter, Target};

/// The async calls of one loop, whose callbacks get that loop's state `C`.
///
/// Starting a call never blocks and never runs a callback. Every outcome, a full queue and an unknown function
/// included, is queued here until the loop takes it with [`next`](Self::next) and runs it. The number of pending calls
/// is bounded.
///
/// A callback that makes a *sync* call to a server driven by its own loop would wait for itself; it makes an async call
/// instead.
///
/// ```
/// use chanrpc::chan::{Callbacks, Functions, Id1, Server};
///
/// const DOUBLE: Id1<u32, u32> = Id1::new("double");
///
/// let mut functions = Functions::new();
/// functions.register(DOUBLE, |_: &mut (), n| n * 2)?;
/// let mut server = Server::new((), functions);
/// let client = server.client();
///
/// struct Player { score: u32 }
/// let mut player = Player { score: 0 };
/// let mut callbacks = Callbacks::new(8);
/// callbacks.call(&client, DOUBLE, 21).then(|player: &mut Player, score| player.score = score.unwrap())?;
///
/// // Here one thread drives both loops; usually each has its own.
/// smol::block_on(server.exec());
/// let callback = callbacks.try_next().unwrap();
/// callback.run(&mut player);
/// assert_eq!(player.score, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It is a [`Stream`] of [`Callback`]s that never ends.
#[must_use = "the callbacks run only if their loop takes them"]
pub struct Callbacks<C> {
    completions: Arc<CompletionQueue<C>>,
    /// Callbacks taken from `completions`.
    ready: VecDeque<Callback<C>>,
    pending: usize,
    limit: usize,
    /// The pending calls with a deadline.
    deadlines: BTreeMap<DeadlineKey, Weak<dyn Cancel<C>>>,
    serial: u64,
    timer: Timer,
}

/// The error of an async call that was not made, because the limit of pending calls is reached. Run some callbacks
/// first.
#[derive(Clone, PartialEq, Eq)]
pub struct LimitError<A> {
    arguments: A,
    limit: usize,
}

impl<A> LimitError<A> {
    /// Returns the arguments, for another attempt.
    pub fn into_inner(self) -> A {
        self.arguments
    }

    /// Returns the maximum number of pending calls.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl<A> fmt::Display for LimitError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} async calls are pending, the limit given to Callbacks::new", self.limit)
    }
}

impl<A> fmt::Debug for LimitError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitError").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<A> std::error::Error for LimitError<A> {}

/// An async call to be made by [`then`](Self::then).
#[must_use = "nothing is called before `then`"]
pub struct CallbackCall<'a, C, T, A, R> {
    callbacks: &'a mut Callbacks<C>,
    target: &'a T,
    id: FunctionId,
    kind: Kind,
    arguments: A,
    timeout: Option<Duration>,
    result: PhantomData<fn() -> R>,
}

impl<C: 'static, T: Target<A, R>, A: Send + 'static, R: Send + 'static> CallbackCall<'_, C, T, A, R> {
    /// Ends the call with [`CallError::Deadline`] unless it is answered within this time from [`then`](Self::then).
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # use std::time::Duration;
    /// # use chanrpc::{CallError, Callbacks};
    /// # let mut callbacks = Callbacks::new(8);
    /// // Nothing runs the server.
    /// let call = callbacks.call(&client, ADD, 5).timeout(Duration::from_millis(1));
    /// call.then(|late: &mut bool, sum| *late = sum == Err(CallError::Deadline))?;
    /// let mut late = false;
    /// smol::block_on(callbacks.next()).run(&mut late);
    /// assert!(late);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the call. `callback` gets the loop's state and the result.
    ///
    /// ```
    /// # use chanrpc::{CallError, Callbacks, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let mut callbacks = Callbacks::new(8);
    /// callbacks.call(&client, ADD, 5).then(|log: &mut Vec<_>, sum| log.push(sum))?;
    /// callbacks.call1(&client, "subtract", 5).then(|log, difference| log.push(difference))?;
    /// # let mut log = Vec::new();
    /// # while callbacks.pending() > 0 {
    /// #     smol::block_on(callbacks.next()).run(&mut log);
    /// # }
    /// assert!(log.contains(&Ok(5)));
    /// assert!(log.contains(&Err(CallError::Unknown("subtract".into()))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LimitError`] if too many calls are pending. Every other error goes to the callback.
    pub fn then(
        self,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), LimitError<A>> {
        let Self { callbacks, target, id, kind, arguments, timeout, .. } = self;
        match callbacks.prepare(|| target.counter(), timeout, callback) {
            Ok(prepared) => prepared.submit(target, &id, kind, arguments),
            Err(_callback) => return Err(LimitError { arguments, limit: callbacks.limit }),
        }
        Ok(())
    }
}

impl<C, T, A, R> fmt::Debug for CallbackCall<'_, C, T, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackCall").field("function", &self.id).finish_non_exhaustive()
    }
}

impl<C: 'static> Callbacks<C> {
    /// Creates a queue of callbacks for up to `limit` pending calls. 0 is taken as 1.
    ///
    /// ```
    /// # use chanrpc::{Callbacks, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// let mut callbacks = Callbacks::<i64>::new(1);
    /// callbacks.call(&client, ADD, 5).then(|last, sum| *last = sum.unwrap())?;
    /// let refused = callbacks.call(&client, ADD, 2).then(|last, sum| *last = sum.unwrap());
    /// assert_eq!(refused.unwrap_err().into_inner(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(limit: usize) -> Self {
        Self {
            completions: Arc::default(),
            ready: VecDeque::new(),
            pending: 0,
            limit: limit.max(1),
            deadlines: BTreeMap::new(),
            serial: 0,
            timer: Timer::never(),
        }
    }

    /// Creates a queue whose loop is gone: no callback returns.
    pub(crate) fn closed(limit: usize) -> Self {
        let callbacks = Self::new(limit);
        callbacks.completions.close();
        callbacks
    }

    /// Starts an async call of the function of a typed id: `callbacks.call(&client, ADD, 5).then(|state, sum| …)?`.
    /// `target` is a [`Client`](super::Client) or a `Remote`.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # use chanrpc::Callbacks;
    /// let mut callbacks = Callbacks::new(8);
    /// callbacks.call(&client, ADD, 5).then(|seen: &mut Vec<i64>, sum| seen.extend(sum))?;
    /// let mut seen = Vec::new();
    /// smol::block_on(callbacks.next()).run(&mut seen);
    /// assert_eq!(seen, [5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call<'a, T, K, A, R>(
        &'a mut self,
        target: &'a T,
        id: Id<K, A, R>,
        arguments: A,
    ) -> CallbackCall<'a, C, T, A, R>
    where
        T: Target<A, R>,
        K: KindMarker<R>,
    {
        self.call_untyped(target, id.into_untyped(), K::KIND, arguments)
    }

    /// Starts an async call of a function without a result by its text, number or type.
    ///
    /// ```
    /// # use chanrpc::{Callbacks, Functions, Server};
    /// # let mut functions = Functions::new();
    /// functions.register0("reset", |total: &mut i64, ()| *total = 0)?;
    /// # let server = Server::new(5, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let mut callbacks = Callbacks::new(8);
    /// callbacks.call0(&client, "reset", ()).then(|done, result| *done = result.is_ok())?;
    /// let mut done = false;
    /// smol::block_on(callbacks.next()).run(&mut done);
    /// assert!(done);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call0<'a, T: Target<A, ()>, A>(
        &'a mut self,
        target: &'a T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> CallbackCall<'a, C, T, A, ()> {
        self.call_untyped(target, id.into(), Kind::Zero, arguments)
    }

    /// Starts an async call of a function with one result by its text, number or type.
    ///
    /// ```
    /// # use chanrpc::{Callbacks, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let mut callbacks = Callbacks::new(8);
    /// callbacks.call1(&client, "add", 5_i64).then(|last: &mut i64, sum| *last = sum.unwrap())?;
    /// let mut last = 0;
    /// smol::block_on(callbacks.next()).run(&mut last);
    /// assert_eq!(last, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call1<'a, T: Target<A, R>, A, R>(
        &'a mut self,
        target: &'a T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> CallbackCall<'a, C, T, A, R> {
        self.call_untyped(target, id.into(), Kind::One, arguments)
    }

    /// Starts an async call of a function with several results by its text, number or type.
    ///
    /// ```
    /// # use chanrpc::{Callbacks, Functions, Server};
    /// # let mut functions = Functions::new();
    /// functions.register_n("divide", |_: &mut (), (a, b): (u64, u64)| (a / b, a % b))?;
    /// # let server = Server::new((), functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let mut callbacks = Callbacks::new(8);
    /// let call = callbacks.call_n(&client, "divide", (17_u64, 5_u64));
    /// call.then(|last: &mut (u64, u64), result| *last = result.unwrap())?;
    /// let mut last = (0, 0);
    /// smol::block_on(callbacks.next()).run(&mut last);
    /// assert_eq!(last, (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_n<'a, T: Target<A, R>, A, R: Results>(
        &'a mut self,
        target: &'a T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> CallbackCall<'a, C, T, A, R> {
        self.call_untyped(target, id.into(), Kind::Many, arguments)
    }

    fn call_untyped<'a, T, A, R>(
        &'a mut self,
        target: &'a T,
        id: FunctionId,
        kind: Kind,
        arguments: A,
    ) -> CallbackCall<'a, C, T, A, R> {
        CallbackCall { callbacks: self, target, id, kind, arguments, timeout: None, result: PhantomData }
    }

    /// Waits for the next callback, in the order in which answers arrived and deadlines passed.
    ///
    /// Never completes if nothing is pending; a loop races it against its other sources. Cancel safe: dropping the
    /// future loses no callback.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # use chanrpc::Callbacks;
    /// let mut callbacks = Callbacks::new(8);
    /// for n in 1..=3 {
    ///     callbacks.call(&client, ADD, n).then(|last: &mut i64, sum| *last = sum.unwrap())?;
    /// }
    /// let mut last = 0;
    /// while callbacks.pending() > 0 {
    ///     smol::block_on(callbacks.next()).run(&mut last);
    /// }
    /// # assert_eq!(last, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn next(&mut self) -> Callback<C> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Takes the next callback if one is ready.
    ///
    /// ```
    /// # use chanrpc::{Callbacks, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let mut server = Server::new(0, functions);
    /// # let client = server.client();
    /// # let mut callbacks = Callbacks::new(8);
    /// callbacks.call(&client, ADD, 5).then(|last: &mut i64, sum| *last = sum.unwrap())?;
    /// assert!(callbacks.try_next().is_none());
    /// smol::block_on(server.exec());
    /// let mut last = 0;
    /// callbacks.try_next().unwrap().run(&mut last);
    /// assert_eq!(last, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_next(&mut self) -> Option<Callback<C>> {
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(callback) => Some(callback),
            Poll::Pending => None,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number of pending calls: those whose callbacks have not been taken.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Like [`next`](Self::next), for a loop that polls its sources itself.
    ///
    /// ```
    /// # use std::future::poll_fn;
    /// # use chanrpc::{Callbacks, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let mut callbacks = Callbacks::new(8);
    /// callbacks.call(&client, ADD, 5).then(|last: &mut i64, sum| *last = sum.unwrap())?;
    /// let mut last = 0;
    /// smol::block_on(poll_fn(|cx| callbacks.poll_next(cx))).run(&mut last);
    /// assert_eq!(last, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Callback<C>> {
        if self.ready.is_empty() {
            self.completions.take(cx, &mut self.ready);
            // Many answers must not delay the deadlines.
            while let Some(callback) = self.expired(cx) {
                self.ready.push_back(callback);
            }
        }
        let Some(callback) = self.ready.pop_front() else { return Poll::Pending };
        if let Some(deadline_key) = callback.deadline_key {
            self.deadlines.remove(&deadline_key);
        }
        self.pending -= 1;
        Poll::Ready(callback)
    }

    /// Returns the callback of a call whose deadline has passed.
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
            // If the call cannot be cancelled, its answer is about to be queued.
            if let Some(callback) = entry.remove().upgrade().and_then(|call| call.cancel(CallError::Deadline))
            {
                return Some(callback);
            }
        }
    }

    /// Releases the place of a call that could not be made.
    pub(crate) fn take_back(&mut self) {
        // A close meanwhile has already set it to 0.
        self.pending = self.pending.saturating_sub(1);
    }

    /// Reserves a place for a call. Submitting the call, which may drop values of the user's, needs no access to
    /// `self`.
    ///
    /// # Errors
    /// The callback, if the limit is reached.
    pub(crate) fn prepare<F, R>(
        &mut self,
        counter: impl FnOnce() -> Option<Counter>,
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
        let completions = self.completions.clone();
        let Some(at) = time.and_then(|time| Instant::now().checked_add(time)) else {
            return Ok(Prepared::plain(completions, callback));
        };
        if self.deadlines.len() > 2 * self.limit {
            // Remove those of calls that were not made.
            self.deadlines.retain(|_, call| call.strong_count() > 0);
        }
        self.serial += 1;
        let deadline_key = (at, self.serial);
        let (prepared, call) = Prepared::timed(completions, counter(), deadline_key, callback);
        self.deadlines.insert(deadline_key, call);
        self.completions.wake_loop();
        Ok(prepared)
    }
}

impl<C: 'static> Stream for Callbacks<C> {
    type Item = Callback<C>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Callback<C>>> {
        Callbacks::poll_next(self.get_mut(), cx).map(Some)
    }
}

impl<C> Drop for Callbacks<C> {
    fn drop(&mut self) {
        self.completions.close();
        mem::take(&mut self.ready).into_iter().for_each(panic::drop_quietly);
        for call in mem::take(&mut self.deadlines).into_values() {
            panic::drop_quietly(call.upgrade().and_then(|call| call.cancel(CallError::Unanswered)));
        }
    }
}

impl<C> fmt::Debug for Callbacks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("pending", &self.pending).field("limit", &self.limit).finish()
    }
}
