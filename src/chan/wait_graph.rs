//! The graph of waits between servers, which refuses waits that would never end.
//!
//! While a function runs, its server is the *current* one of that thread: during a plain function, or each poll of an
//! async function's future. A call that a function waits for makes an edge from the current server to the called one,
//! until the wait or the function ends. An edge that would close a cycle is refused with
//! [`CallError::WouldDeadlock`]. Calls from outside of functions, the usual case, only read one thread-local.
//!
//! Not everything that is polled on a function's thread is part of the function: it may drive an executor on which
//! others have tasks. The function certainly waits if it blocks its thread, or if the call is polled with the waker of
//! the function's own future. All other edges are *uncertain*. A cycle with an uncertain edge is refused only if it
//! persists for [`CONFIRM_AFTER`].
//!
//! Threads can deadlock too: a function blocks the thread that last polled the loop of the called server, or a thread
//! that is itself blocked by such a wait. If no other thread polls that loop within [`CONFIRM_AFTER`], none will.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustc_hash::FxHashMap;
use smol::Timer;

use super::error::CallError;
#[cfg(chanrpc_loom)]
use super::sync::LocalCell as _;
use super::sync::thread_cell;

/// How long a suspected deadlock must persist before it is refused.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);

/// A server or lane in the graph.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: u64,
    name: Arc<str>,
    loop_thread: Arc<LoopThread>,
}

/// The thread of a server's loop.
#[derive(Debug, Default)]
struct LoopThread {
    /// The thread that polled the loop last; 0 before the first poll.
    thread: AtomicU64,
    /// The number of polls.
    polls: AtomicU64,
}

impl Waiter {
    /// Creates a waiter with an id that is unique in this process.
    pub(crate) fn new(name: Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(NO_SERVER + 1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        graph().names.insert(id, name.clone());
        Self { id, name, loop_thread: Arc::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Records that the server's loop is polled on this thread.
    pub(super) fn record_poll(&self) {
        let LoopThread { thread, polls } = &*self.loop_thread;
        thread.store(this_thread(), Ordering::Relaxed);
        // Only the loop writes it.
        polls.store(polls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl LoopThread {
    fn thread(&self) -> u64 {
        self.thread.load(Ordering::Relaxed)
    }

    fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        graph().names.remove(&self.id);
    }
}

/// Returns the number of this thread, which is never 0.
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_cell!(NUMBER: u64 = 0);
    let number = match NUMBER.get() {
        0 => NEXT.fetch_add(1, Ordering::Relaxed),
        number => return number,
    };
    NUMBER.set(number);
    number
}

/// The server outside of functions.
const NO_SERVER: u64 = 0;

/// The function that runs on this thread. Flags instead of `bool`s, whose values a thread-local checks at each access.
#[derive(Clone, Copy)]
struct Current {
    server: u64,
    /// The task that polls an async function's future.
    task: Task,
    /// [`WAITED`](Self::WAITED) and [`BLOCKING`](Self::BLOCKING).
    flags: u32,
}

impl Current {
    const NONE: Self = Self { server: NO_SERVER, task: Task::NONE, flags: 0 };
    /// The function has waited for something.
    const WAITED: u32 = 1;
    /// The function blocks its thread.
    const BLOCKING: u32 = 2;

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Identifies the task of a waker: equal for all wakers of one task, and almost never for those of two. Combines data
/// and vtable in one word, since every call copies it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Task(usize);

impl Task {
    const NONE: Self = Self(0);

    /// Never [`NONE`](Self::NONE).
    fn of(waker: &Waker) -> Self {
        let vtable = std::ptr::from_ref(waker.vtable()).addr();
        Self(1 | (waker.data().addr().rotate_left(1) ^ vtable))
    }
}

thread_cell!(CURRENT: Current = Current::NONE);

/// Returns the function that runs on this thread, and records that it waits.
fn begin_waiting() -> Option<Current> {
    let current = CURRENT.get();
    if current.server == NO_SERVER {
        return None;
    }
    CURRENT.set(Current { flags: current.flags | Current::WAITED, ..current });
    Some(current)
}

/// Blocks this thread until the future completes. A function that runs on it certainly waits.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Leave(bool);
    impl Drop for Leave {
        fn drop(&mut self) {
            set_blocking(self.0);
        }
    }

    let _leave = Leave(set_blocking(true));
    smol::future::block_on(future)
}

fn set_blocking(blocking: bool) -> bool {
    let current = CURRENT.get();
    if current.server == NO_SERVER {
        return false;
    }
    let flag = if blocking { Current::BLOCKING } else { 0 };
    CURRENT.set(Current { flags: current.flags & !Current::BLOCKING | flag, ..current });
    current.has(Current::BLOCKING)
}

/// A function that runs, in one or more polls.
pub(crate) struct RunningFunction {
    server: u64,
    waited: bool,
}

impl RunningFunction {
    pub(crate) fn new(node: &Waiter) -> Self {
        Self { server: node.id, waited: false }
    }

    /// Makes the function's server the current one of this thread while `f` runs.
    pub(crate) fn within<T>(&mut self, f: impl FnOnce() -> T) -> T {
        self.within_task(Task::NONE, f)
    }

    /// Like [`within`](Self::within), for a poll of the function's future with this context.
    pub(crate) fn poll<T>(&mut self, cx: &mut Context<'_>, f: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.within_task(Task::of(cx.waker()), || f(cx))
    }

    fn within_task<T>(&mut self, task: Task, f: impl FnOnce() -> T) -> T {
        struct Leave<'a> {
            function: &'a mut RunningFunction,
            outer: Current,
        }
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.function.waited |= CURRENT.replace(self.outer).has(Current::WAITED);
            }
        }

        let server = self.server;
        // A function that runs another server's function waits for that server meanwhile.
        let _edge = begin_waiting().map(|outer| graph().insert(outer.server, server, true));
        let outer = CURRENT.replace(Current { server, task, flags: 0 });
        let _leave = Leave { function: self, outer };
        f()
    }
}

impl Drop for RunningFunction {
    fn drop(&mut self) {
        if self.waited {
            forget(self.server);
        }
    }
}

/// Records that the current function has ended, and another one of the same server follows.
pub(super) fn function_ended() {
    let current = CURRENT.get();
    if current.has(Current::WAITED) {
        CURRENT.set(Current { flags: current.flags & !Current::WAITED, ..current });
        forget(current.server);
    }
}

/// Removes the waits of a function that has ended: a call that outlives it is awaited elsewhere.
fn forget(server: u64) {
    graph().forget(server);
}

/// A wait for a server, for as long as this value lives.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    /// Set if a function waits.
    edge: Option<Edge>,
    /// Set if the wait blocks its thread, or is a suspected deadlock.
    details: Option<Box<Details>>,
}

#[derive(Debug)]
struct Details {
    _blocked: Option<Blocked>,
    suspicion: Option<Suspicion>,
}

/// A suspected deadlock.
#[derive(Debug)]
struct Suspicion {
    timer: Timer,
    /// The number of polls of the called server's loop when the threads began to wait for each other.
    polls: Option<u64>,
}

impl Wait {
    /// Begins a wait for `to`, in a future that is polled with `cx`. Outside of functions nothing is recorded.
    pub(crate) fn begin(to: &Waiter, cx: &Context<'_>) -> Result<Self, CallError> {
        let Some(current) = begin_waiting() else { return Ok(Self::default()) };
        let (from, blocking) = (current.server, current.has(Current::BLOCKING));
        let certain = blocking || current.task == Task::of(cx.waker());
        let mut graph = graph();
        if certain && let Some(path) = graph.path(to.id, from, false) {
            return Err(graph.deadlock_error(from, &path));
        }
        let circle = (graph.uncertain > 0 || !certain) && graph.path(to.id, from, true).is_some();
        let edge = graph.insert(from, to.id, certain);
        let blocked = blocking.then(|| graph.block(to.loop_thread.clone()));
        let polls = (blocking && graph.is_deadlocked(this_thread())).then(|| to.loop_thread.polls());
        drop(graph);
        let suspicion =
            (circle || polls.is_some()).then(|| Suspicion { timer: Timer::after(CONFIRM_AFTER), polls });
        let details = blocked.is_some() || suspicion.is_some();
        let details = details.then(|| Box::new(Details { _blocked: blocked, suspicion }));
        Ok(Self { edge: Some(edge), details })
    }

    /// Waits until the wait for `to` is known to be a deadlock.
    pub(crate) fn poll_deadlock(&mut self, to: &Waiter, cx: &mut Context<'_>) -> Poll<CallError> {
        let (Some(edge), Some(details)) = (&self.edge, &mut self.details) else { return Poll::Pending };
        let Some(suspicion) = &mut details.suspicion else { return Poll::Pending };
        if Pin::new(&mut suspicion.timer).poll(cx).is_pending() {
            return Poll::Pending;
        }
        let (from, polls) = (edge.from, suspicion.polls);
        details.suspicion = None;
        let graph = graph();
        let stuck = polls == Some(to.loop_thread.polls()) && graph.is_deadlocked(this_thread());
        let path = graph.path(to.id, from, true).or(stuck.then(|| vec![to.id, from]));
        path.map_or(Poll::Pending, |path| Poll::Ready(graph.deadlock_error(from, &path)))
    }
}

/// One edge of the graph, for as long as this value lives.
#[derive(Debug)]
struct Edge {
    from: u64,
    serial: u64,
}

impl Drop for Edge {
    fn drop(&mut self) {
        graph().remove(self.from, self.serial);
    }
}

/// A blocked thread, for as long as this value lives.
#[derive(Debug)]
struct Blocked {
    thread: u64,
    /// The loop for which the thread was blocked before.
    before: Option<Arc<LoopThread>>,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let mut graph = graph();
        match self.before.take() {
            Some(loop_thread) => drop(graph.blocked.insert(self.thread, loop_thread)),
            None => drop(graph.blocked.remove(&self.thread)),
        }
    }
}

/// By the ids of a server and of an edge: the server at the other end, and whether the edge is certain.
type Edges = BTreeMap<(u64, u64), (u64, bool)>;

struct Graph {
    names: BTreeMap<u64, Arc<str>>,
    /// The servers for which a server's running function waits.
    outgoing: Edges,
    /// The servers whose functions wait for a server.
    incoming: Edges,
    /// The number of uncertain edges.
    uncertain: usize,
    /// By thread: the loop for which a function on it blocks it.
    blocked: BTreeMap<u64, Arc<LoopThread>>,
    serial: u64,
}

static GRAPH: Mutex<Graph> = Mutex::new(Graph {
    names: BTreeMap::new(),
    outgoing: BTreeMap::new(),
    incoming: BTreeMap::new(),
    uncertain: 0,
    blocked: BTreeMap::new(),
    serial: 0,
});

fn graph() -> MutexGuard<'static, Graph> {
    GRAPH.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Graph {
    fn insert(&mut self, from: u64, to: u64, certain: bool) -> Edge {
        self.serial += 1;
        let serial = self.serial;
        self.outgoing.insert((from, serial), (to, certain));
        self.incoming.insert((to, serial), (from, certain));
        self.uncertain += usize::from(!certain);
        Edge { from, serial }
    }

    /// Removes an edge, unless it was removed with its function.
    fn remove(&mut self, from: u64, serial: u64) {
        if let Some((to, certain)) = self.outgoing.remove(&(from, serial)) {
            self.incoming.remove(&(to, serial));
            self.uncertain -= usize::from(!certain);
        }
    }

    fn forget(&mut self, from: u64) {
        while let Some((&(_, serial), _)) = self.outgoing.range((from, 0)..=(from, u64::MAX)).next() {
            self.remove(from, serial);
        }
    }

    /// Records that this thread is blocked for a server's loop.
    fn block(&mut self, loop_thread: Arc<LoopThread>) -> Blocked {
        let thread = this_thread();
        Blocked { thread, before: self.blocked.insert(thread, loop_thread) }
    }

    /// Returns `true` if the loop for which a thread is blocked needs a blocked thread, and so on, in a cycle.
    fn is_deadlocked(&self, thread: u64) -> bool {
        let mut at = thread;
        for _ in 0..=self.blocked.len() {
            let Some(loop_thread) = self.blocked.get(&at) else { return false };
            at = loop_thread.thread();
            if at == thread {
                return true;
            }
        }
        false
    }

    fn deadlock_error(&self, from: u64, path: &[u64]) -> CallError {
        let name = |id: &u64| self.names.get(id).cloned().unwrap_or_else(|| Arc::from("?"));
        CallError::WouldDeadlock { chain: [from].iter().chain(path).map(name).collect() }
    }

    /// Returns a path from `start` to `goal` over certain edges, or over all edges.
    ///
    /// Searches from both ends in turn until one is exhausted: most called servers wait for no other, and few servers
    /// wait for the calling one.
    fn path(&self, start: u64, goal: u64, all: bool) -> Option<Vec<u64>> {
        if start == goal {
            return Some(vec![start]);
        }
        let none = |edges: &Edges, at: u64| edges.range((at, 0)..=(at, u64::MAX)).next().is_none();
        if none(&self.outgoing, start) || none(&self.incoming, goal) {
            return None;
        }
        let (mut outgoing, mut incoming) = (Search::from(start), Search::from(goal));
        let meeting = loop {
            if let Some(met) = outgoing.step(&self.outgoing, all, &incoming)? {
                break met;
            }
            if let Some(met) = incoming.step(&self.incoming, all, &outgoing)? {
                break met;
            }
        };
        let mut path = outgoing.path_to_start(meeting);
        path.reverse();
        path.extend(incoming.path_to_start(meeting).into_iter().skip(1));
        Some(path)
    }
}

/// A search from one end.
struct Search {
    /// By reached server: its predecessor. The first is its own.
    reached: FxHashMap<u64, u64>,
    queue: VecDeque<u64>,
    /// The current server, and its first edge that has not been followed.
    at: (u64, u64),
}

impl Search {
    fn from(start: u64) -> Self {
        Self { reached: FxHashMap::from_iter([(start, start)]), queue: VecDeque::new(), at: (start, 0) }
    }

    /// Follows one more edge. Returns a server that the other search has also reached, or `None` after the last edge.
    fn step(&mut self, edges: &Edges, all: bool, other: &Self) -> Option<Option<u64>> {
        let (server, serial) = self.at;
        let Some((&(_, serial), &(next, certain))) =
            edges.range((server, serial)..=(server, u64::MAX)).next()
        else {
            self.at = (self.queue.pop_front()?, 0);
            return Some(None);
        };
        self.at = (server, serial + 1);
        if (all || certain) && !self.reached.contains_key(&next) {
            self.reached.insert(next, server);
            if other.reached.contains_key(&next) {
                return Some(Some(next));
            }
            self.queue.push_back(next);
        }
        Some(None)
    }

    /// Returns the servers from `at` back to the start.
    fn path_to_start(&self, mut at: u64) -> Vec<u64> {
        let mut path = vec![at];
        while let Some(&before) = self.reached.get(&at)
            && before != at
        {
            path.push(before);
            at = before;
        }
        path
    }
}
