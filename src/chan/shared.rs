//! What a server and its clients share: the queue, and the state while its loop sleeps.
//!
//! One short lock guards it all. The *holder* of the state runs functions on it: the server's loop, or a sync caller
//! who found the loop asleep and the queue empty and runs its function in place, which saves both ways through the
//! queue. As long as a call is queued nobody else becomes the holder than the loop, so that calls run in the order in
//! which they came. Nothing of the user's runs under the lock.

use std::any::Any;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::CallError;
use super::function::Body;
use super::functions::{Found, FunctionTable};
use super::lot::{Call, Post};
use super::panic::{self, Panic};
use super::patience::{Hint, Patience};
use super::queue::Queue;
use super::reply::{ReplyTo, Responder, Sink, register};
use super::stats::{Counters, Stats};
use super::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering};
use super::waits::{self, Node};

/// What functions panic with is logged under this target, which a log can limit.
const PANIC: &str = "chanrpc::panic";

/// A state that may be run by any thread.
pub(super) type State = Box<dyn Any + Send>;

/// What a server and its clients share, whatever the state.
pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) table: Arc<FunctionTable>,
    pub(super) counters: Counters,
    pub(super) backtrace_limit: usize,
    capacity: usize,
    /// Calls that the loop has taken from the queue and not yet begun. Only the loop writes it.
    taken: AtomicUsize,
    patience: Patience,
    /// Tells the loop to answer what it has taken instead of running it.
    aborted: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    queue: Queue,
    holder: Holder,
    phase: Phase,
    /// Wakes the loop. There only while it sleeps.
    sleeper: Option<Waker>,
    /// Wakes the loop while it awaits an async function, which only a close can end before its time.
    suspended: Option<Waker>,
    /// Something was left undone, so a drain must not report that everything was run.
    cut: bool,
    /// Callers that wait for room in the queue, in their order.
    waiting: BTreeMap<Place, Arc<dyn Waiting>>,
    next_place: u64,
    /// Those who want to know when the loop has ended.
    watchers: Vec<Waker>,
    high_water: usize,
}

/// Who has the state.
enum Holder {
    /// The server's owner: its loop is at work, or never lends the state.
    Owner,
    /// Nobody: the loop sleeps, and callers may borrow the state.
    Free(State),
    /// A caller that runs a function in place.
    Caller,
    /// A caller that runs a function in place, and drops the state afterwards: the loop has ended meanwhile.
    LastCaller,
    /// The server is gone.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no more calls, and ends when it has run those it has.
    Draining,
    Closed,
    /// The loop has ended.
    Ended,
}

/// A caller's place among those that wait for room in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// A caller that waits for room in the queue.
pub(super) trait Waiting: Send + Sync {
    /// Puts the call into the queue, unless it was given up.
    fn enter(&self, queue: &mut Queue);
    /// Does what is to be done after that, without the lock.
    fn entered(&self);
    /// Answers the call with an error.
    fn fail(&self, error: &CallError);
}

/// What is run, for the log.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// The function of this number.
    Function(usize),
    /// Something else: "a timer", for instance.
    Task(&'static str),
}

/// Why a call was not queued, with what goes with it.
pub(super) enum NotQueued<T> {
    Full(T),
    Closed(T),
}

impl Shared {
    pub(super) fn new(
        node: Node,
        table: Arc<FunctionTable>,
        capacity: usize,
        backtrace_limit: usize,
    ) -> Self {
        let inner = Inner {
            queue: Queue::default(),
            holder: Holder::Owner,
            phase: Phase::Open,
            sleeper: None,
            suspended: None,
            cut: false,
            waiting: BTreeMap::new(),
            next_place: 0,
            watchers: Vec::new(),
            high_water: 0,
        };
        Self {
            node,
            table,
            counters: Counters::default(),
            backtrace_limit,
            capacity: capacity.max(1),
            taken: AtomicUsize::new(0),
            patience: Patience::new(),
            aborted: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// Queues a call.
    pub(super) fn call<A: Send + 'static, R: Send + 'static>(
        &self,
        function: usize,
        call: Call<A, R>,
    ) -> Result<(), NotQueued<Call<A, R>>> {
        self.enter(call, |queue, call| queue.push_call(function, call))
    }

    /// Queues a call whose answer goes to `sink`, which gets its box only if there is room.
    pub(super) fn call_with_sink<A: Send + 'static, R: Send + 'static, K: Sink<R> + 'static>(
        &self,
        function: usize,
        arguments: A,
        sink: K,
    ) -> Result<(), NotQueued<(A, K)>> {
        self.enter((arguments, sink), |queue, (arguments, sink)| {
            let responder = Responder::new(ReplyTo::Sink(Box::new(sink)));
            queue.push_call(function, Call { arguments, responder });
        })
    }

    /// Queues a call in go mode.
    pub(super) fn post<A: Send + 'static>(
        &self,
        function: usize,
        post: Post<A>,
    ) -> Result<(), NotQueued<Post<A>>> {
        self.enter(post, |queue, post| queue.push_post(function, post))
    }

    fn enter<T>(&self, item: T, push: impl FnOnce(&mut Queue, T)) -> Result<(), NotQueued<T>> {
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Err(NotQueued::Closed(item));
        }
        if !self.has_room(&inner) {
            return Err(NotQueued::Full(item));
        }
        push(&mut inner.queue, item);
        self.patience.hint(Hint::Free);
        self.mark(&mut inner);
        let sleeper = inner.rouse();
        drop(inner);
        wake(sleeper);
        Ok(())
    }

    /// Has a caller wait for room, unless there is some by now. Returns its place, by which it can leave.
    pub(super) fn wait_for_room(&self, caller: &Arc<impl Waiting + 'static>) -> Result<Place, CallError> {
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Err(CallError::Closed);
        }
        let place = Place(inner.next_place);
        inner.next_place += 1;
        let entered = self.has_room(&inner);
        if entered {
            caller.enter(&mut inner.queue);
            self.mark(&mut inner);
        } else {
            inner.waiting.insert(place, caller.clone());
        }
        let sleeper = inner.rouse();
        drop(inner);
        wake(sleeper);
        if entered {
            caller.entered();
        }
        Ok(place)
    }

    /// Forgets a caller that waits for room no longer.
    pub(super) fn leave(&self, place: Place) {
        let left = self.inner.lock().waiting.remove(&place);
        drop(left);
    }

    fn has_room(&self, inner: &Inner) -> bool {
        // Nobody overtakes those who wait for room.
        inner.waiting.is_empty() && self.queued(inner) < self.capacity
    }

    fn queued(&self, inner: &Inner) -> usize {
        inner.queue.len() + self.taken.load(Ordering::Relaxed)
    }

    fn mark(&self, inner: &mut Inner) {
        inner.high_water = inner.high_water.max(self.queued(inner));
    }

    /// Runs a plain function on this thread, if nobody has the state and no call is queued; otherwise gives back
    /// the arguments.
    pub(super) fn run_in_place<A, R>(
        &self,
        found: &Found<'_, A, R>,
        arguments: A,
    ) -> Result<Result<R, CallError>, A> {
        let Body::Now(function) = &found.function.body else { return Err(arguments) };
        if panic::depth() >= DEEPEST {
            return Err(arguments);
        }
        let Some(mut borrowed) = self.borrow() else { return Err(arguments) };
        Ok(self
            .guard(What::Function(found.number), || function(borrowed.state(), arguments))
            .and_then(|result| result))
    }

    /// Lends the state to a caller, if nobody has it and no call is queued.
    fn borrow(&self) -> Option<Borrowed<'_>> {
        let mut wait = self.patience.begin();
        while wait.spin() {
            let mut inner = self.inner.lock();
            if !inner.queue.is_empty() || inner.phase != Phase::Open {
                return None;
            }
            match mem::replace(&mut inner.holder, Holder::Caller) {
                Holder::Free(state) => {
                    self.patience.hint(Hint::Busy);
                    self.counters.executed_in_place();
                    drop(inner);
                    wait.paid();
                    return Some(Borrowed { shared: self, state: Some(state) });
                }
                holder => inner.holder = holder,
            }
            if !self.patience.is_busy() {
                return None;
            }
        }
        None
    }

    /// Takes all queued calls into `batch`, which is empty, for the loop to run; `Ready(false)` when there will be
    /// no more. While the loop sleeps, the state is lent to callers if it is in `lend`; the loop only gets calls
    /// while it has the state.
    pub(super) fn poll_take(
        &self,
        cx: &Context<'_>,
        batch: &mut Queue,
        lend: Option<&mut Option<State>>,
    ) -> Poll<bool> {
        let mut inner = self.inner.lock();
        let mut admitted = Vec::new();
        let taken = self.take(&mut inner, batch, lend, &mut admitted);
        let (old, large) = match taken {
            Poll::Ready(_) => (None, [None, None]),
            // After a burst an idle server gives its memory back.
            Poll::Pending => (register(&mut inner.sleeper, cx), [inner.queue.release(), batch.release()]),
        };
        drop(inner);
        drop((old, large));
        for caller in admitted {
            caller.entered();
        }
        taken
    }

    fn take(
        &self,
        inner: &mut Inner,
        batch: &mut Queue,
        lend: Option<&mut Option<State>>,
        admitted: &mut Vec<Arc<dyn Waiting>>,
    ) -> Poll<bool> {
        let lend = match lend {
            Some(lent @ None) => match mem::replace(&mut inner.holder, Holder::Owner) {
                Holder::Free(state) => {
                    *lent = Some(state);
                    Some(lent)
                }
                holder => {
                    inner.holder = holder;
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
                self.patience.hint(Hint::Busy);
            }
            return Poll::Ready(true);
        }
        if inner.phase != Phase::Open {
            return Poll::Ready(false);
        }
        if let Some(state) = lend.and_then(Option::take) {
            inner.holder = Holder::Free(state);
            self.patience.hint(Hint::Free);
        }
        Poll::Pending
    }

    /// Lets those who wait for room into the queue, as far as there is some.
    fn admit(&self, inner: &mut Inner, admitted: &mut Vec<Arc<dyn Waiting>>) {
        while self.queued(inner) < self.capacity {
            let Some((_, caller)) = inner.waiting.pop_first() else { break };
            caller.enter(&mut inner.queue);
            admitted.push(caller);
        }
        self.mark(inner);
    }

    /// The loop makes a pause while it has the state: nobody is to wait for it.
    pub(super) fn pause(&self) {
        self.patience.hint(Hint::Free);
    }

    /// Tells how many taken calls have not begun.
    pub(super) fn set_taken(&self, calls: usize) {
        self.taken.store(calls, Ordering::Relaxed);
    }

    /// The loop answers the calls that it has taken instead of running them.
    pub(super) fn leave_taken(&self) {
        self.set_taken(0);
        self.inner.lock().cut = true;
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.lock().phase != Phase::Open
    }

    /// Takes no more calls; those that are queued or wait for room are run.
    pub(super) fn drain(&self) {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Draining;
        }
        let sleeper = inner.rouse();
        drop(inner);
        wake(sleeper);
    }

    /// Takes no more calls, and answers those that have not begun.
    pub(super) fn close(&self) {
        self.shut(Phase::Closed, false);
    }

    /// Like [`close`](Self::close), by an owner that leaves other things than calls undone.
    pub(super) fn cut(&self) {
        self.shut(Phase::Closed, true);
    }

    /// Waits until it is closed.
    pub(super) fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if self.is_aborted() {
            return Poll::Ready(());
        }
        let old = register(&mut inner.suspended, cx);
        drop(inner);
        drop(old);
        Poll::Pending
    }

    /// No async function is under way any longer.
    pub(super) fn resume(&self) {
        let suspended = self.inner.lock().suspended.take();
        drop(suspended);
    }

    /// An async function was dropped before its end. Before a drain or a close that is its owner's affair.
    pub(super) fn broke_off(&self) {
        let mut inner = self.inner.lock();
        inner.cut |= inner.phase != Phase::Open;
        let suspended = inner.suspended.take();
        drop(inner);
        drop(suspended);
    }

    /// The loop has ended. `left` says whether it leaves calls that it has taken.
    pub(super) fn end(&self, left: bool) {
        self.shut(Phase::Ended, left);
    }

    /// Every end comes here, so here it is decided whether something is left undone.
    fn shut(&self, phase: Phase, left: bool) {
        self.aborted.store(true, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let mut state = None;
        let mut watchers = Vec::new();
        if inner.phase != Phase::Ended {
            // What the loop has taken or is awaiting it reports itself: it may end before it sees that it is closed.
            inner.cut |= left || !inner.queue.is_empty() || !inner.waiting.is_empty();
            inner.phase = phase;
        }
        if phase == Phase::Ended {
            match mem::replace(&mut inner.holder, Holder::Nobody) {
                Holder::Caller => inner.holder = Holder::LastCaller,
                Holder::Free(left) => state = Some(left),
                Holder::LastCaller | Holder::Owner | Holder::Nobody => {}
            }
            if inner.is_over() {
                watchers = mem::take(&mut inner.watchers);
            }
        }
        let mut queue = mem::take(&mut inner.queue);
        let waiting = mem::take(&mut inner.waiting);
        let sleeper = inner.rouse();
        let suspended = inner.suspended.take();
        self.patience.hint(Hint::Free);
        drop(inner);

        wake(sleeper);
        wake(suspended);
        queue.fail(&CallError::Closed);
        for caller in waiting.into_values() {
            caller.fail(&CallError::Closed);
        }
        watchers.into_iter().for_each(Waker::wake);
        panic::drop_quietly(state);
    }

    /// Waits until the server is gone. Returns `true` if it had done all it had.
    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut inner = self.inner.lock();
        if inner.is_over() {
            return Poll::Ready(!inner.cut);
        }
        if !inner.watchers.iter().any(|watcher| watcher.will_wake(cx.waker())) {
            inner.watchers.push(cx.waker().clone());
        }
        Poll::Pending
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
        stats.waiting = inner.waiting.len();
        stats
    }

    /// Runs something on the state, as the server's function of this moment; its panic becomes an error.
    pub(super) fn guard<T>(&self, what: What, f: impl FnOnce() -> T) -> Result<T, CallError> {
        waits::Function::new(&self.node).within(|| self.watch(what, f))
    }

    /// Runs something beside the state; its panic becomes an error.
    pub(super) fn watch<T>(&self, what: What, f: impl FnOnce() -> T) -> Result<T, CallError> {
        panic::watch(self.backtrace_limit, || self.catch(what, f)).map_err(CallError::Panicked)
    }

    /// Like [`guard`](Self::guard), for one who sees to the rest.
    pub(super) fn catch<T>(&self, what: What, f: impl FnOnce() -> T) -> Result<T, Panic> {
        panic::catch_with(f, |panic| self.report(what, panic))
    }

    /// Counts a panic and tells of it. Not generic, as it would else be there once for each function's types.
    #[cold]
    fn report(&self, what: What, panic: &Panic) {
        self.counters.panicked();
        let (server, message) = (self.node.name(), panic.message());
        match what {
            What::Function(number) => {
                let function = self.table.id(number);
                log::error!(target: PANIC, "{server}: function {function} panicked: {message}");
            }
            What::Task(task) => log::error!(target: PANIC, "{server}: {task} panicked: {message}"),
        }
        log::debug!(target: PANIC, "{}", panic.backtrace());
    }

    /// Says why a call was not queued, and counts it.
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
        self.phase == Phase::Ended && !matches!(self.holder, Holder::LastCaller)
    }

    /// Returns what wakes the loop, if it sleeps and can have the state.
    fn rouse(&mut self) -> Option<Waker> {
        match self.holder {
            // A caller that has the state looks at the queue when it gives it back.
            Holder::Caller => None,
            _ => self.sleeper.take(),
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Most functions that run on one thread one inside the other. Deeper calls are queued, so that no chain of servers uses
/// up the stack of the thread that calls the first.
const DEEPEST: u32 = 64;

/// The state in the hands of a caller, who gives it back by dropping this.
struct Borrowed<'a> {
    shared: &'a Shared,
    state: Option<State>,
}

impl Borrowed<'_> {
    fn state(&mut self) -> &mut dyn Any {
        match &mut self.state {
            Some(state) => &mut **state,
            None => unreachable!("the state is there until it is given back"),
        }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut inner: MutexGuard<'_, Inner> = self.shared.inner.lock();
        if matches!(inner.holder, Holder::LastCaller) {
            inner.holder = Holder::Nobody;
            let watchers = mem::take(&mut inner.watchers);
            drop(inner);
            watchers.into_iter().for_each(Waker::wake);
            return panic::drop_quietly(self.state.take());
        }
        self.shared.patience.hint(Hint::Free);
        if let Some(state) = self.state.take() {
            inner.holder = Holder::Free(state);
        }
        if !inner.queue.is_empty() || inner.phase != Phase::Open {
            let sleeper = inner.rouse();
            drop(inner);
            wake(sleeper);
        }
    }
}
