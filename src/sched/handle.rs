//! The handle to a loop.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
#[cfg(feature = "cron")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use smol::stream::{Stream, StreamExt};

use super::call::HandleCall;
#[cfg(feature = "cron")]
use super::cron::Cron;
#[cfg(feature = "cron")]
use super::cron::CronSchedule;
use super::error::ScheduleError;
use super::shared::{Phase, Shared};
use super::sources::Source;
use super::timers::{Action, Rule, TimerId};
use super::waterfall::Waterfall;
use crate::chan::{
    CallError, Client, DrainOutcome, FunctionId, Id, Kind, KindMarker, Reply, Results, Target, oneshot,
};

/// A handle to the loop of one [`Scheduler`](super::Scheduler). Cheap to clone, and safe to share between threads.
///
/// No method waits, and none runs its closure: the loop does so later, with the state. So the loop's own functions and
/// callbacks can use all of them.
pub struct Handle<S: 'static>(Arc<Shared<S>>);

impl<S: 'static> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: 'static> Handle<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self(shared)
    }

    /// Returns a client of the scheduler's functions.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Id1, Scheduler};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, functions, |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let client = handle.client();
    /// assert_eq!(smol::block_on(executor.run(client.call(ADD, 5)))?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// Queues a task for the loop. Tasks run in order; [`PostHandle`] is a future of the result.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let posted = handle.post(|state| { *state += 1; *state })?;
    /// assert_eq!(smol::block_on(executor.run(posted))?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScheduleError`] if too many posted tasks wait, or the scheduler is closed or drains.
    pub fn post<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<PostHandle<R>, ScheduleError> {
        let (responder, reply) = oneshot(self.0.server.clone());
        let serial = self.0.post(Box::new(move |state| responder.reply(task(state))))?;
        Ok(PostHandle { serial, reply })
    }

    /// Starts an async call of the function of a typed id: `me.call(&cards, DRAW, ()).then(|me, card| …)?`. `target` is
    /// a [`Client`] or a `Remote`.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::Scheduler;
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let call = handle.call(&client, ADD, 5).timeout(Duration::from_secs(20));
    /// call.then(|state, sum| *state = sum.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call<'h, T, K, A, R>(
        &'h self,
        target: &'h T,
        id: Id<K, A, R>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, R>
    where
        T: Target<A, R>,
        K: KindMarker<R>,
    {
        HandleCall::new(&self.0, target, id.into_untyped(), K::KIND, arguments)
    }

    /// Starts an async call of a function without a result by its text, number or type.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler, Server};
    /// # let mut functions = Functions::new();
    /// functions.register0("reset", |total: &mut i64, ()| *total = 0)?;
    /// # let server = Server::new(5, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| false);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle.call0(&client, "reset", ()).then(|done, result| *done = result.is_ok())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert!(smol::block_on(executor.run(owner)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call0<'h, T: Target<A, ()>, A>(
        &'h self,
        target: &'h T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, ()> {
        HandleCall::new(&self.0, target, id.into(), Kind::Zero, arguments)
    }

    /// Starts an async call of a function with one result by its text, number or type.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Id1, Scheduler, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle.call1(&client, "add", 5_i64).then(|last: &mut i64, sum| *last = sum.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call1<'h, T: Target<A, R>, A, R>(
        &'h self,
        target: &'h T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, R> {
        HandleCall::new(&self.0, target, id.into(), Kind::One, arguments)
    }

    /// Starts an async call of a function with several results by its text, number or type.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler, Server};
    /// # let mut functions = Functions::new();
    /// functions.register_n("divide", |_: &mut (), (a, b): (u64, u64)| (a / b, a % b))?;
    /// # let server = Server::new((), functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| (0, 0));
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let call = handle.call_n(&client, "divide", (17_u64, 5_u64));
    /// call.then(|last: &mut (u64, u64), result| *last = result.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_n<'h, T: Target<A, R>, A, R: Results>(
        &'h self,
        target: &'h T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, R> {
        HandleCall::new(&self.0, target, id.into(), Kind::Many, arguments)
    }

    /// Runs `action` once, after `time`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let me = handle.clone();
    /// handle.after(Duration::from_millis(1), move |state| { *state += 1; me.close(); })?;
    /// assert_eq!(smol::block_on(executor.run(owner)), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScheduleError`] if too many timers are set, or the scheduler is closed or drains.
    pub fn after(
        &self,
        time: Duration,
        action: impl FnOnce(&mut S) + Send + 'static,
    ) -> Result<TimerId, ScheduleError> {
        self.set(time, Action::Once(Box::new(action)))
    }

    /// Runs `action` periodically, first after one period. A late loop skips the ticks that it missed and continues
    /// with the next one, so that ticks stay whole periods away from the first. A period of zero elapses each time the
    /// loop has handled other events.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let me = handle.clone();
    /// handle.every(Duration::from_millis(1), move |ticks| {
    ///     *ticks += 1;
    ///     if *ticks == 3 { me.close(); }
    /// })?;
    /// assert_eq!(smol::block_on(executor.run(owner)), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`after`](Self::after).
    pub fn every(
        &self,
        period: Duration,
        action: impl FnMut(&mut S) + Send + 'static,
    ) -> Result<TimerId, ScheduleError> {
        self.set(period, Action::repeated(Rule::Every(period), action))
    }

    /// Runs `action` at every time of a [`Cron`] expression. If the system's clock is changed meanwhile:
    ///
    /// - Set ahead: the skipped times fire once, late, within half a minute.
    /// - Set back: a wildcard expression, whose second, minute or hour begins with `*` (see [`Cron`]), follows the clock.
    ///   Other times are fixed: times that have fired do not recur, unless the clock was set back by three hours or more,
    ///   and so was wrong before.
    /// - Adjusted by less than a minute: no time fires twice in a row.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// # use chanrpc::sched::{Cron, Zone};
    /// # handle.post(|days: &mut i32| *days)?;
    /// let morning = Cron::parse("30 9 * * mon-fri", Zone::named("Europe/Berlin"))?;
    /// let timer = handle.cron(morning, |days| *days += 1)?;
    /// assert!(handle.cancel(timer));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`after`](Self::after).
    #[cfg(feature = "cron")]
    pub fn cron(
        &self,
        cron: Cron,
        action: impl FnMut(&mut S) + Send + 'static,
    ) -> Result<TimerId, ScheduleError> {
        match CronSchedule::new(cron, SystemTime::now(), Instant::now()) {
            Some((schedule, at)) => self.set_at(at, Action::repeated(Rule::Cron(schedule), action)),
            // No time is left before the end of the calendar.
            None => self.set(Duration::MAX, Action::Once(Box::new(|_| {}))),
        }
    }

    /// Cancels a timer, even one that is due but has not run. Returns `true` if it was set.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// let timer = handle.after(Duration::from_secs(60), |state| *state += 1)?;
    /// assert!(handle.cancel(timer));
    /// assert!(!handle.cancel(timer), "it is no longer set");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(&self, timer: TimerId) -> bool {
        let removed = self.0.timers().remove(timer);
        removed.is_some()
    }

    /// Runs blocking work on another thread, and passes its result, or its panic, to `callback`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let work = || std::fs::read("Cargo.toml").map_or(0, |text| text.len());
    /// handle.spawn_blocking(work, |state, length| *state = length.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert!(smol::block_on(executor.run(owner)) > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScheduleError`] if too many jobs wait or are open, or the scheduler is closed.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        callback: impl FnOnce(&mut S, Result<T, CallError>) + Send + 'static,
    ) -> Result<(), ScheduleError> {
        let shared = &self.0;
        let guard = shared.open_guard()?;
        let done = shared.clone();
        let parts = (guard, work, callback);
        let taken = shared.jobs.run(parts, |(guard, work, callback)| {
            Box::new(move || {
                let result = done.server.catch_panic("a job", work);
                done.push_completion(Box::new(move |state| {
                    guard.complete();
                    callback(state, result);
                }));
            })
        });
        taken.map_err(|(guard, _work, _callback)| {
            guard.complete();
            ScheduleError::Full { setting: "jobs", limit: shared.settings.jobs }
        })
    }

    /// Spawns a future on the executor, and passes its output, or its panic, to `callback`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle.spawn(async { 42 }, |state, output| *state = output.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScheduleError`] if too many are open, or the scheduler is closed.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        callback: impl FnOnce(&mut S, Result<T, CallError>) + Send + 'static,
    ) -> Result<(), ScheduleError> {
        let guard = self.0.open_guard()?;
        let Some(executor) = self.0.executor() else {
            guard.complete();
            return Err(ScheduleError::Closed);
        };
        let shared = self.0.clone();
        self.0.spawn(&executor, async move {
            let result = shared.server.catch_panic_future("a future", future).await;
            shared.push_completion(Box::new(move |state| {
                guard.complete();
                callback(state, result);
            }));
        });
        Ok(())
    }

    /// Passes every item of a stream, such as the receiver of a channel, to `callback`. The next item is taken after
    /// the callback, so a stream cannot flood the loop. Ends with the stream, or if the callback panics.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let me = handle.clone();
    /// handle.attach_stream(smol::stream::iter([40, 2]), move |sum, n| {
    ///     *sum += n;
    ///     if *sum == 42 { me.close(); }
    /// })?;
    /// assert_eq!(smol::block_on(executor.run(owner)), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScheduleError`] if too many streams are attached, or the scheduler is closed or drains.
    pub fn attach_stream<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = T> + Send + 'static,
        mut callback: impl FnMut(&mut S, T) + Send + 'static,
    ) -> Result<StreamHandle<S>, ScheduleError> {
        let shared = self.0.clone();
        let feed = async move {
            let mut stream = pin!(stream);
            while let Ok(Some(item)) = shared.server.catch_panic_future("a stream", stream.next()).await {
                let (responder, reply) = oneshot(shared.server.clone());
                shared.push_completion(Box::new(move |state| {
                    callback(state, item);
                    responder.reply(callback);
                }));
                match reply.await {
                    Ok(again) => callback = again,
                    Err(_) => break,
                }
            }
        };
        let number = self.0.spawn_stream(feed)?;
        Ok(StreamHandle { number, shared: self.0.clone() })
    }

    /// Begins a chain of async steps. See [`Waterfall`].
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{CallError, Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle
    ///     .waterfall::<CallError>()
    ///     .spawn_blocking(|()| 42)
    ///     .step(|state, n| Ok(*state + n))
    ///     .finish(|state, sum| *state = sum.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn waterfall<E: From<CallError> + Send + 'static>(&self) -> Waterfall<S, (), E> {
        self.waterfall_with(())
    }

    /// Begins a chain of async steps, the first of which gets `value`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// # use chanrpc::CallError;
    /// handle
    ///     .waterfall_with::<_, CallError>("cheese")
    ///     .spawn_blocking(|article| article.len())
    ///     .step(|state, length| { *state += length; Ok(*state) })
    ///     .finish(|state, sum| assert_eq!(sum, Ok(*state)))?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn waterfall_with<T, E>(&self, value: T) -> Waterfall<S, T, E>
    where
        T: Send + 'static,
        E: From<CallError> + Send + 'static,
    {
        Waterfall::new(self.0.clone(), value)
    }

    /// Closes the scheduler: nothing further runs, all waits end with [`CallError::Closed`] or
    /// [`CallError::Unanswered`], and the loop ends. Closing again does nothing.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle.close();
    /// assert!(handle.post(|state| *state += 1).is_err_and(|error| error.is_closed()));
    /// assert_eq!(smol::block_on(executor.run(owner)), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.0.close();
    }

    /// Closes the scheduler for calls, posts, streams and timers, lets the loop run the accepted ones and the due
    /// timers, and waits until all async calls, jobs, futures and waterfalls have had their callbacks, including those
    /// that callbacks start. After `timeout` it is [closed](Self::close).
    ///
    /// Returns `true` if all of that has run, and `false` if the loop ended before: by a close, the timeout, or a drop
    /// of its future or executor. Dropping the future of the drain leaves the scheduler draining, without a timeout.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle.spawn(async { 42 }, |state, output| *state = output.unwrap())?;
    /// assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.0.begin_drain();
        let drained = self.0.closer.drain_outcome(timeout).await;
        if drained == DrainOutcome::Incomplete {
            self.0.close();
        }
        drained == DrainOutcome::Complete && !self.0.is_incomplete()
    }

    /// Returns `true` if the scheduler accepts no more calls, posts, streams and timers.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// assert!(!handle.is_closed());
    /// handle.close();
    /// assert!(handle.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.0.phase() != Phase::Open
    }

    fn set(&self, time: Duration, action: Action<S>) -> Result<TimerId, ScheduleError> {
        let now = Instant::now();
        // A time that an `Instant` cannot represent is never.
        let at = now.checked_add(time).unwrap_or(now + Duration::from_secs(u64::from(u32::MAX)));
        self.set_at(at, action)
    }

    fn set_at(&self, at: Instant, action: Action<S>) -> Result<TimerId, ScheduleError> {
        if self.is_closed() {
            return Err(ScheduleError::Closed);
        }
        let mut timers = self.0.timers();
        let added = timers.add(at, action);
        let limit = timers.limit();
        drop(timers);
        match added {
            Ok((id, is_next)) => {
                if is_next {
                    self.0.ready_set.mark(Source::Timers);
                }
                Ok(id)
            }
            // It may have been closed meanwhile.
            Err(_) if self.is_closed() => Err(ScheduleError::Closed),
            Err(_) => Err(ScheduleError::Full { setting: "timers", limit }),
        }
    }
}

impl<S: 'static> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("scheduler", &self.0.server.name()).finish_non_exhaustive()
    }
}

/// A future of the result of a posted task. Dropping it does not cancel the task.
#[derive(Debug)]
pub struct PostHandle<R> {
    serial: u64,
    reply: Reply<R>,
}

impl<R> PostHandle<R> {
    /// Returns the task's number. Later tasks of the same scheduler have greater numbers.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// let (first, second) = (handle.post(|_: &mut i32| ())?, handle.post(|_| ())?);
    /// assert!(first.serial() < second.serial());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Ends the wait with [`CallError::Deadline`] unless the task has run within this time from now.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{CallError, Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// // Nothing runs the loop.
    /// let posted = handle.post(|state| *state += 5)?.timeout(Duration::from_millis(1));
    /// assert_eq!(posted.wait(), Err(CallError::Deadline));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(mut self, time: Duration) -> Self {
        self.reply.set_timeout(time);
        self
    }

    /// Blocks this thread until the task has run. For plain threads; tasks of an executor `.await`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// std::thread::spawn(move || smol::block_on(executor.run(scheduler.run())));
    /// assert_eq!(handle.post(|state| *state + 5)?.wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`]: `Panicked`, `Closed` or `Unanswered` if the loop ended before, `Deadline`, or `WouldDeadlock`
    /// in code that the loop itself runs.
    pub fn wait(self) -> Result<R, CallError> {
        crate::chan::wait_graph::block_on(self)
    }
}

impl<R> Future for PostHandle<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(cx)
    }
}

/// A handle to a stream that is attached to a loop. Dropping it does not detach the stream.
pub struct StreamHandle<S: 'static> {
    number: u64,
    shared: Arc<Shared<S>>,
}

impl<S: 'static> StreamHandle<S> {
    /// Detaches and drops the stream. The callback may still run for an item that was already taken.
    pub fn detach(self) {
        let task = self.shared.stop_stream(self.number);
        drop(task);
    }
}

impl<S: 'static> fmt::Debug for StreamHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle").field("number", &self.number).finish_non_exhaustive()
    }
}
