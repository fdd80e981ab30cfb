//! What reaches a loop, from anywhere.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
#[cfg(feature = "cron")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use smol::stream::{Stream, StreamExt};

#[cfg(feature = "cron")]
use super::calendar::Calendar;
use super::call::HandleCall;
#[cfg(feature = "cron")]
use super::cron::Cron;
use super::error::ScheduleError;
use super::service::{Phase, Service};
use super::sources::Source;
use super::timers::{Action, Rule, TimerId};
use super::waterfall::Waterfall;
use crate::chan::{Answer, CallError, Client, Drained, FunctionId, Id, Kind, KindMarker, Results, Target};

/// Reaches the loop of one [`Scheduler`](super::Scheduler). Cheap to clone, and safe to share between threads.
///
/// No method waits, and none runs what it is given: that is done by the loop, later, with the state. So all of them
/// may be used by the loop's own functions and callbacks.
pub struct Handle<S: 'static>(Arc<Service<S>>);

impl<S: 'static> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: 'static> Handle<S> {
    pub(super) fn new(service: Arc<Service<S>>) -> Self {
        Self(service)
    }

    /// Returns a client of the scheduler's functions.
    pub fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// Has the loop do something, after what was posted before. [`Posted`] can be waited for.
    ///
    /// # Errors
    /// [`ScheduleError`]: too many posted tasks wait, or the loop ends.
    pub fn post<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<Posted<R>, ScheduleError> {
        let (responder, answer) = Answer::from(self.0.host.clone());
        let serial = self.0.post(Box::new(move |state| responder.reply(task(state))))?;
        Ok(Posted { serial, answer })
    }

    /// Starts an async call of the function of a typed id: `me.call(&cards, DRAW, ()).then(|me, card| …)?`. `target` is
    /// a [`Client`] or a `Remote`.
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
    pub fn call0<'h, T: Target<A, ()>, A>(
        &'h self,
        target: &'h T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, ()> {
        HandleCall::new(&self.0, target, id.into(), Kind::Zero, arguments)
    }

    /// Starts an async call of a function with one result by its text, number or type.
    pub fn call1<'h, T: Target<A, R>, A, R>(
        &'h self,
        target: &'h T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, R> {
        HandleCall::new(&self.0, target, id.into(), Kind::One, arguments)
    }

    /// Starts an async call of a function with several results by its text, number or type.
    pub fn call_n<'h, T: Target<A, R>, A, R: Results>(
        &'h self,
        target: &'h T,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> HandleCall<'h, S, T, A, R> {
        HandleCall::new(&self.0, target, id.into(), Kind::Many, arguments)
    }

    /// Does something once, after this time.
    ///
    /// # Errors
    /// [`ScheduleError`]: too many timers are set, or the loop ends.
    pub fn after(
        &self,
        time: Duration,
        action: impl FnOnce(&mut S) + Send + 'static,
    ) -> Result<TimerId, ScheduleError> {
        self.set(time, Action::Once(Box::new(action)))
    }

    /// Does something again and again, first after one period. A loop that is late leaves out the ticks that it missed
    /// and goes on with the next one; so all ticks are whole periods away from the first, as far as the loop is in
    /// time. A period of zero is over each time the loop has done something else.
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

    /// Does something at every moment that a [`Cron`] names. The calendar's clock may be set meanwhile:
    ///
    /// - If it is set ahead, what was jumped over happens once, late: within half a minute.
    /// - If it is set back, an expression that is about what the clock shows goes on by it. (It is one if its second,
    ///   minute or hour begins with `*`; see [`Cron`].) Other times are fixed: those that have come already do not come
    ///   again, unless the clock was set back by three hours or more, and so was wrong before.
    /// - If it is adjusted by less than a minute, no moment comes twice in a row.
    ///
    /// # Errors
    /// As [`after`](Self::after).
    #[cfg(feature = "cron")]
    pub fn cron(
        &self,
        cron: Cron,
        action: impl FnMut(&mut S) + Send + 'static,
    ) -> Result<TimerId, ScheduleError> {
        match Calendar::new(cron, SystemTime::now(), Instant::now()) {
            Some((calendar, at)) => self.set_at(at, Action::repeated(Rule::Cron(calendar), action)),
            // It has no moment before the end of the calendar.
            None => self.set(Duration::MAX, Action::Once(Box::new(|_| {}))),
        }
    }

    /// Cancels a timer: also one that is due already, unless it has run. Tells whether it was still set.
    pub fn cancel(&self, timer: TimerId) -> bool {
        let removed = self.0.timers().remove(timer);
        removed.is_some()
    }

    /// Runs something that blocks on another thread, and gives its result to `callback`: the panic, if it panics.
    ///
    /// # Errors
    /// [`ScheduleError`]: too many jobs wait or are open, or the scheduler is closed.
    pub fn job<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        callback: impl FnOnce(&mut S, Result<T, CallError>) + Send + 'static,
    ) -> Result<(), ScheduleError> {
        let service = &self.0;
        let permit = service.permit()?;
        let done = service.clone();
        let parts = (permit, work, callback);
        let taken = service.jobs.run(parts, |(permit, work, callback)| {
            Box::new(move || {
                let result = done.host.watch("a job", work);
                done.give_back(Box::new(move |state| {
                    permit.redeem();
                    callback(state, result);
                }));
            })
        });
        taken.map_err(|(permit, _work, _callback)| {
            permit.redeem();
            ScheduleError::Full { setting: "jobs", limit: service.settings.jobs }
        })
    }

    /// Awaits a future on the executor, and gives its output to `callback`: the panic, if it panics.
    ///
    /// # Errors
    /// [`ScheduleError`]: too many are open, or the scheduler is closed.
    pub fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        callback: impl FnOnce(&mut S, Result<T, CallError>) + Send + 'static,
    ) -> Result<(), ScheduleError> {
        let permit = self.0.permit()?;
        let Some(executor) = self.0.executor() else {
            permit.redeem();
            return Err(ScheduleError::Closed);
        };
        let service = self.0.clone();
        self.0.spawn(&executor, async move {
            let result = service.host.watch_future("a future", future).await;
            service.give_back(Box::new(move |state| {
                permit.redeem();
                callback(state, result);
            }));
        });
        Ok(())
    }

    /// Gives every item of a stream, a channel's receiver for instance, to `callback`. The next item is taken when
    /// the callback has run, so a stream cannot flood the loop. Ends with the stream, or if the callback panics.
    ///
    /// # Errors
    /// [`ScheduleError`]: too many streams are attached, or the loop ends.
    pub fn attach<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = T> + Send + 'static,
        mut callback: impl FnMut(&mut S, T) + Send + 'static,
    ) -> Result<Attached<S>, ScheduleError> {
        let service = self.0.clone();
        let feed = async move {
            let mut stream = pin!(stream);
            while let Ok(Some(item)) = service.host.watch_future("a stream", stream.next()).await {
                let (responder, answer) = Answer::from(service.host.clone());
                service.give_back(Box::new(move |state| {
                    callback(state, item);
                    responder.reply(callback);
                }));
                match answer.await {
                    Ok(again) => callback = again,
                    Err(_) => break,
                }
            }
        };
        let number = self.0.spawn_stream(feed)?;
        Ok(Attached { number, service: self.0.clone() })
    }

    /// Begins a chain of async steps. See [`Waterfall`].
    pub fn waterfall<E: From<CallError> + Send + 'static>(&self) -> Waterfall<S, (), E> {
        self.waterfall_with(())
    }

    /// Begins a chain of async steps whose first one is fed with `value`.
    pub fn waterfall_with<T, E>(&self, value: T) -> Waterfall<S, T, E>
    where
        T: Send + 'static,
        E: From<CallError> + Send + 'static,
    {
        Waterfall::new(self.0.clone(), value)
    }

    /// Closes the scheduler: nothing more is run, whoever waits for something gets [`CallError::Closed`] or
    /// [`CallError::Unanswered`], and the loop ends. Closing again does nothing.
    pub fn close(&self) {
        self.0.close();
    }

    /// Closes the scheduler for calls, posts, streams and timers, has the loop run what it has, timers that are due
    /// included, and waits until all async calls, jobs, futures and waterfalls have had their callbacks, also those
    /// that callbacks start. After `patience` it is [closed](Self::close).
    ///
    /// Returns `true` if all of that was run, and `false` if any of it never was, whatever ended the loop: a close, the
    /// end of the patience, or a drop of its future or its executor. Dropping the future of the drain leaves the
    /// scheduler as it is, without a limit in time.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.0.begin_drain();
        let drained = self.0.closer.drained(patience).await;
        if drained == Drained::Cut {
            self.0.close();
        }
        drained == Drained::All && !self.0.was_cut()
    }

    /// Tells whether the scheduler takes no more calls, posts, streams and timers.
    pub fn is_closed(&self) -> bool {
        self.0.phase() != Phase::Open
    }

    fn set(&self, time: Duration, action: Action<S>) -> Result<TimerId, ScheduleError> {
        let now = Instant::now();
        // Beyond what a clock can say is never.
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
                    self.0.noted.note(Source::Timers);
                }
                Ok(id)
            }
            // It may have begun to end meanwhile.
            Err(_) if self.is_closed() => Err(ScheduleError::Closed),
            Err(_) => Err(ScheduleError::Full { setting: "timers", limit }),
        }
    }
}

impl<S: 'static> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("scheduler", &self.0.host.name()).finish_non_exhaustive()
    }
}

/// A posted task: a future of its result. Dropped, the task runs all the same.
#[derive(Debug)]
pub struct Posted<R> {
    serial: u64,
    answer: Answer<R>,
}

impl<R> Posted<R> {
    /// Returns the task's number; later tasks of the same scheduler have greater ones.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Ends the wait with [`CallError::Deadline`] unless the task has run within this time from now.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.answer.set_timeout(time);
        self
    }

    /// Blocks this thread until the task has run. For plain threads; tasks of an executor `.await`.
    ///
    /// # Errors
    /// [`CallError`]: `Panicked`, `Closed` or `Unanswered` if the loop ended before, `Deadline`, or `WouldDeadlock`
    /// from inside what the loop itself runs.
    pub fn wait(self) -> Result<R, CallError> {
        crate::chan::waits::block_on(self)
    }
}

impl<R> Future for Posted<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx)
    }
}

/// A stream that is attached to a loop, for as long as it goes on. Dropping this changes nothing.
pub struct Attached<S: 'static> {
    number: u64,
    service: Arc<Service<S>>,
}

impl<S: 'static> Attached<S> {
    /// Detaches the stream, which is dropped. Of an item that was taken already the callback may still run.
    pub fn detach(self) {
        let task = self.service.stop_stream(self.number);
        drop(task);
    }
}

impl<S: 'static> fmt::Debug for Attached<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("number", &self.number).finish_non_exhaustive()
    }
}
