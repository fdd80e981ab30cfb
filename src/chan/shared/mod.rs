//! The part of a server that its loop and its clients share: the queue, and the state while the loop sleeps.
//!
//! One short lock guards all of it. The *owner* of the state runs functions on it. It is the server's loop, or a sync
//! caller that found the loop asleep and the queue empty and runs its function in place, which saves both ways through
//! the queue. While a call is queued, only the loop can become the owner, so that calls run in the order in which they
//! were made. Code of the user's never runs under the lock.

mod lending;
mod lifecycle;
mod room;

use std::any::Any;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::CallError;
use super::functions::FunctionTable;
use super::panic;
use super::panic_info::Panic;
use super::queue::Queue;
use super::reply::{ReplyTo, Responder, Sink, register};
use super::spin::{AdaptiveSpin, Availability};
use super::stats::{Counters, Stats};
use super::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};
use super::typed_queue::{GoCall, QueuedCall};
use super::wait_graph::{RunningFunction, Waiter};
pub(super) use room::{BlockedSender, Place};

/// The log target of panics in functions, so that a log can limit them.
const PANIC: &str = "chanrpc::panic";

/// A state that any thread may use.
pub(super) type State = Box<dyn Any + Send>;

/// The part of a server that does not depend on the type of the state.
pub(super) struct Shared {
    pub(super) waiter: Waiter,
    pub(super) table: Arc<FunctionTable>,
    pub(super) counters: Counters,
    pub(super) backtrace_limit: usize,
    capacity: usize,
    /// Calls that the loop has taken from the queue and not yet begun. Only the loop writes it.
    taken: AtomicUsize,
    spin: AdaptiveSpin,
    /// Set when the loop is to answer the calls that it has taken instead of running them.
    aborted: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    queue: Queue,
    owner: StateOwner,
    phase: Phase,
    /// Wakes the loop. Set only while the loop sleeps.
    sleeper: Option<Waker>,
    /// Wakes the loop while it awaits an async function, which only a close can end early.
    suspended: Option<Waker>,
    /// Work was left undone, so a drain must not report that everything was run.
    incomplete: bool,
    /// Callers that wait for room in the queue, in order.
    blocked: BTreeMap<Place, Arc<dyn BlockedSender>>,
    next_place: u64,
    /// Tasks that wait for the end of the loop.
    watchers: Vec<Waker>,
    high_water: usize,
}

/// The owner of the state.
enum StateOwner {
    /// The server: its loop is at work, or never lends the state.
    Loop,
    /// None: the loop sleeps, and callers may borrow the state.
    Free(State),
    /// A caller that runs a function in place.
    Caller,
    /// A caller that runs a function in place and then drops the state: the loop has ended meanwhile.
    LastCaller,
    /// None: the server has ended.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The server refuses further calls, and ends when it has run those it has.
    Draining,
    Closed,
    /// The loop has ended.
    Ended,
}

/// The code that runs, for the log.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// The function of this number.
    Function(usize),
    /// Other code, such as `"a timer"`.
    Task(&'static str),
}

/// The reason why a call was not queued, with the call.
pub(super) enum NotQueued<T> {
    Full(T),
    Closed(T),
}

impl Shared {
    pub(super) fn new(
        waiter: Waiter,
        table: Arc<FunctionTable>,
        capacity: usize,
        backtrace_limit: usize,
    ) -> Self {
        let inner = Inner {
            queue: Queue::default(),
            owner: StateOwner::Loop,
            phase: Phase::Open,
            sleeper: None,
            suspended: None,
            incomplete: false,
            blocked: BTreeMap::new(),
            next_place: 0,
            watchers: Vec::new(),
            high_water: 0,
        };
        Self {
            waiter,
            table,
            counters: Counters::default(),
            backtrace_limit,
            capacity: capacity.max(1),
            taken: AtomicUsize::new(0),
            spin: AdaptiveSpin::new(),
            aborted: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// Queues a call.
    pub(super) fn enqueue_call<A: Send + 'static, R: Send + 'static>(
        &self,
        function: usize,
        call: QueuedCall<A, R>,
    ) -> Result<(), NotQueued<QueuedCall<A, R>>> {
        self.enqueue(call, |queue, call| queue.push_call(function, call))
    }

    /// Queues a call whose answer goes to `sink`, which is boxed only if the queue has room.
    pub(super) fn enqueue_with_sink<A: Send + 'static, R: Send + 'static, K: Sink<R> + 'static>(
        &self,
        function: usize,
        arguments: A,
        sink: K,
    ) -> Result<(), NotQueued<(A, K)>> {
        self.enqueue((arguments, sink), |queue, (arguments, sink)| {
            let responder = Responder::new(ReplyTo::Sink(Box::new(sink)));
            queue.push_call(function, QueuedCall { arguments, responder });
        })
    }

    /// Queues a call in go mode.
    pub(super) fn enqueue_go<A: Send + 'static>(
        &self,
        function: usize,
        call: GoCall<A>,
    ) -> Result<(), NotQueued<GoCall<A>>> {
        self.enqueue(call, |queue, call| queue.push_go(function, call))
    }

    fn enqueue<T>(&self, item: T, push: impl FnOnce(&mut Queue, T)) -> Result<(), NotQueued<T>> {
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Err(NotQueued::Closed(item));
        }
        let queued = self.queued(&inner);
        if !self.has_room(&inner, queued) {
            return Err(NotQueued::Full(item));
        }
        push(&mut inner.queue, item);
        inner.high_water = inner.high_water.max(queued + 1);
        self.spin.set_availability(Availability::Free);
        let sleeper = inner.take_sleeper();
        drop(inner);
        wake(sleeper);
        Ok(())
    }

    fn queued(&self, inner: &Inner) -> usize {
        inner.queue.len() + self.taken.load(Ordering::Relaxed)
    }

    fn update_high_water(&self, inner: &mut Inner) {
        inner.high_water = inner.high_water.max(self.queued(inner));
    }

    /// Moves all queued calls into `batch`, which is empty. Returns `false` when no more will come. While the loop
    /// sleeps, the state is lent to callers if `lend` holds it; the loop gets calls only while it owns the state.
    pub(super) fn poll_take(
        &self,
        cx: &Context<'_>,
        batch: &mut Queue,
        lend: Option<&mut Option<State>>,
    ) -> Poll<bool> {
        let mut inner = self.inner.lock();
        let mut admitted = Vec::new();
        let taken = self.take(&mut inner, batch, lend, &mut admitted);
        let old = match taken {
            Poll::Ready(_) => None,
            Poll::Pending => register(&mut inner.sleeper, cx),
        };
        // After a burst an idle server releases its memory.
        let large = (taken.is_pending() && (inner.queue.is_large() || batch.is_large()))
            .then(|| Box::new([inner.queue.release(), batch.release()]));
        drop(inner);
        drop((old, large));
        if !admitted.is_empty() {
            for sender in admitted {
                sender.on_enqueued();
            }
        }
        taken
    }

    fn take(
        &self,
        inner: &mut Inner,
        batch: &mut Queue,
        lend: Option<&mut Option<State>>,
        admitted: &mut Vec<Arc<dyn BlockedSender>>,
    ) -> Poll<bool> {
        let lend = match lend {
            Some(lent @ None) => match mem::replace(&mut inner.owner, StateOwner::Loop) {
                StateOwner::Free(state) => {
                    *lent = Some(state);
                    Some(lent)
                }
                owner => {
                    inner.owner = owner;
                    return Poll::Pending;
                }
            },
            lend => lend,
        };
        self.taken.store(0, Ordering::Relaxed);
        self.admit(inner, admitted);
        if !inner.queue.is_empty() {
            mem::swap(&mut inner.queue, batch);
            self.taken.store(batch.len(), Ordering::Relaxed);
            if lend.is_some() {
                self.spin.set_availability(Availability::Busy);
            }
            return Poll::Ready(true);
        }
        if inner.phase != Phase::Open {
            return Poll::Ready(false);
        }
        if let Some(state) = lend.and_then(Option::take) {
            inner.owner = StateOwner::Free(state);
            self.spin.set_availability(Availability::Free);
        }
        Poll::Pending
    }

    /// Stops callers from spinning for the state while the loop yields and keeps it.
    pub(super) fn yield_state(&self) {
        self.spin.set_availability(Availability::Free);
    }

    /// Sets the number of taken calls that have not begun.
    pub(super) fn set_taken(&self, calls: usize) {
        self.taken.store(calls, Ordering::Relaxed);
    }

    /// Records that the loop answers the calls that it has taken instead of running them.
    pub(super) fn discard_taken(&self) {
        self.set_taken(0);
        self.inner.lock().incomplete = true;
    }

    #[cfg(test)]
    pub(super) fn release(&self) -> Option<Queue> {
        self.inner.lock().queue.release()
    }

    pub(super) fn stats(&self) -> Stats {
        let inner = self.inner.lock();
        let mut stats = self.counters.stats();
        stats.queued = self.queued(&inner);
        stats.capacity = self.capacity;
        stats.high_water = inner.high_water;
        stats.waiting = inner.blocked.len();
        stats
    }

    /// Runs code on the state as the current function of the server. A panic becomes an error.
    pub(super) fn run_as_function<T>(&self, origin: Origin, f: impl FnOnce() -> T) -> Result<T, Panic> {
        RunningFunction::new(&self.waiter).within(|| self.capture(origin, f))
    }

    /// Runs code beside the state. A panic becomes an error.
    pub(super) fn catch_panic<T>(&self, origin: Origin, f: impl FnOnce() -> T) -> Result<T, CallError> {
        self.capture(origin, f).map_err(CallError::Panicked)
    }

    fn capture<T>(&self, origin: Origin, f: impl FnOnce() -> T) -> Result<T, Panic> {
        panic::with_capture(self.backtrace_limit, || self.catch(origin, f))
    }

    /// Like [`run_as_function`](Self::run_as_function), inside a `RunningFunction` and a capture of the caller's.
    pub(super) fn catch<T>(&self, origin: Origin, f: impl FnOnce() -> T) -> Result<T, Panic> {
        panic::catch_with(f, |panic| self.report(origin, panic))
    }

    /// Counts and logs a panic. Not generic, so that it is compiled once.
    #[cold]
    fn report(&self, origin: Origin, panic: &Panic) {
        self.counters.panicked();
        let (server, message) = (self.waiter.name(), panic.message());
        match origin {
            Origin::Function(number) => {
                let function = self.table.id(number);
                log::error!(target: PANIC, "{server}: function {function} panicked: {message}");
            }
            Origin::Task(task) => log::error!(target: PANIC, "{server}: {task} panicked: {message}"),
        }
        log::debug!(target: PANIC, "{}", panic.backtrace());
    }

    /// Returns the error for a call that was not queued, and counts it.
    pub(super) fn refuse<T>(&self, refused: NotQueued<T>) -> (CallError, T) {
        match refused {
            NotQueued::Full(item) => {
                self.counters.refused();
                (CallError::Full, item)
            }
            NotQueued::Closed(item) => (CallError::Closed, item),
        }
    }
}

impl Inner {
    /// Returns `true` if the loop has ended and no function is running in place.
    fn is_over(&self) -> bool {
        self.phase == Phase::Ended && !matches!(self.owner, StateOwner::LastCaller)
    }

    /// Takes the waker of the loop if the loop sleeps and can have the state.
    fn take_sleeper(&mut self) -> Option<Waker> {
        match self.owner {
            // A caller that has the state checks the queue when it returns the state.
            StateOwner::Caller => None,
            _ => self.sleeper.take(),
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
