//! The owner of a state, and the loop that runs functions on it.

use std::any::{Any, type_name};
use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smol::Timer;
use smol::future::FutureExt;

use super::budget::Budget;
use super::client::{Client, ClientGuard};
use super::error::CallError;
use super::function::RunningFuture;
use super::functions::Functions;
use super::panic;
use super::queue::Queue;
use super::scope::Reach;
use super::settings::ServerSettings;
use super::shared::{Origin, Shared, State};
use super::stats::Stats;
use super::wait_graph::{self, Wait, Waiter};

/// The maximum number of calls that a server runs before it yields to other tasks of its executor.
const CALL_BUDGET: u32 = 64;

/// Owns a state, a table of functions and one bounded queue of calls.
///
/// The functions run one at a time, in the order in which their calls entered the queue. [`run`](Self::run) is its
/// loop; [`run_pinned`](Self::run_pinned) uses one thread only; [`ready`](Self::ready) and [`exec`](Self::exec) are for
/// a loop of your own. Dropping a server closes it.
#[must_use = "dropping it closes it"]
pub struct Server<S> {
    state: S,
    runner: Runner,
    /// Mints clients. Given up by [`run`](Self::run), so that the server ends with its last client.
    guard: Arc<ClientGuard>,
}

impl<S: 'static> Server<S> {
    /// Creates a server with the default [`ServerSettings`].
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// let mut functions = Functions::new();
    /// functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// let server = Server::new(0, functions);
    /// assert_eq!(*server.state(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new<P: Reach>(state: S, functions: impl Into<Arc<Functions<S, P>>>) -> Self {
        Self::with_settings(state, functions, ServerSettings::default())
    }

    /// Creates a server.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # use chanrpc::ServerSettings;
    /// let settings = ServerSettings::default().name("totals").capacity(16);
    /// let server = Server::with_settings(0, functions, settings);
    /// assert_eq!(server.client().server_name(), "totals");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_settings<P: Reach>(
        state: S,
        functions: impl Into<Arc<Functions<S, P>>>,
        settings: ServerSettings,
    ) -> Self {
        Self::create(functions, settings, |_, _| state)
    }

    /// Creates a server whose state is made with a client of it.
    pub(crate) fn create<P: Reach>(
        functions: impl Into<Arc<Functions<S, P>>>,
        settings: ServerSettings,
        state: impl FnOnce(Client, Closer) -> S,
    ) -> Self {
        panic::install_hook();
        let table = functions.into().table().clone();
        let name = settings.name.unwrap_or_else(|| Cow::Borrowed(short_name(type_name::<S>())));
        let waiter = Waiter::new(Arc::from(name));
        let shared = Arc::new(Shared::new(waiter, table, settings.capacity, settings.backtrace_limit));
        let guard = Arc::new(ClientGuard(shared.clone()));
        let state = state(Client::new(guard.clone()), Closer(shared.clone()));
        Self { state, guard, runner: Runner { shared, batch: Queue::default(), awaiting: false } }
    }

    pub(crate) fn into_state(self) -> S {
        self.state
    }

    /// Returns a client of this server.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// let (client, other) = (server.client(), server.client());
    /// assert!(client.same_server(&other));
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// client.call(ADD, 5).wait()?;
    /// assert_eq!(other.call(ADD, 2).wait()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client(&self) -> Client {
        Client::new(self.guard.clone())
    }

    /// Returns a handle that closes this server from elsewhere.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # use chanrpc::CallError;
    /// let closer = server.closer();
    /// closer.close();
    /// assert_eq!(client.call(ADD, 1).wait(), Err(CallError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn closer(&self) -> Closer {
        Closer(self.runner.shared.clone())
    }

    /// Closes the server: calls in the queue, callers that wait for room in it and all later calls get
    /// [`CallError::Closed`]. A function that is running runs to its end, but an async one only to its next `await`,
    /// and its caller gets [`CallError::Unanswered`]. Closing again does nothing.
    ///
    /// ```
    /// # use chanrpc::{CallError, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// client.go(ADD, 5)?;
    /// server.close();
    /// assert_eq!(client.call(ADD, 2).wait(), Err(CallError::Closed));
    /// assert_eq!(smol::block_on(server.run()), 0, "the queued call has not run");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.runner.shared.close();
    }

    /// Waits until a call is ready to run. Returns `false` once the server is closed.
    ///
    /// Cancel safe: dropping the future loses no call.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let mut server = Server::new(0, functions);
    /// # let client = server.client();
    /// client.go(ADD, 5)?;
    /// assert!(smol::block_on(server.ready()));
    /// smol::block_on(server.exec());
    /// assert_eq!(*server.state(), 5);
    ///
    /// server.close();
    /// assert!(!smol::block_on(server.ready()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn ready(&mut self) -> bool {
        self.runner.ready().await
    }

    /// Like [`ready`](Self::ready), for a loop that polls its sources itself.
    ///
    /// ```
    /// # use std::task::{Context, Poll, Waker};
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let mut server = Server::new(0, functions);
    /// # let client = server.client();
    /// let mut cx = Context::from_waker(Waker::noop());
    /// assert!(server.poll_ready(&mut cx).is_pending());
    /// client.go(ADD, 5)?;
    /// assert_eq!(server.poll_ready(&mut cx), Poll::Ready(true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.runner.poll_ready(cx, None)
    }

    /// Runs `f` on the state between two calls, like a function of this server: a panic becomes an error and a line in
    /// the log, and a sync call that would wait for this server is refused.
    ///
    /// ```
    /// # use chanrpc::{CallError, Functions, Server};
    /// let mut server = Server::new(5, Functions::new());
    /// let doubled = server.enter(|total| { *total *= 2; *total })?;
    /// assert_eq!(doubled, 10);
    /// let panicked = server.enter(|total| assert!(*total < 0, "the total is {total}"));
    /// assert!(matches!(panicked, Err(CallError::Panicked(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError::Panicked`].
    pub fn enter<T>(&mut self, f: impl FnOnce(&mut S) -> T) -> Result<T, CallError> {
        self.run_as("a task", f)
    }

    /// Records that the loop around this server is polled on this thread.
    pub(crate) fn record_poll(&self) {
        self.runner.shared.waiter.record_poll();
    }

    /// Like [`enter`](Self::enter), with a name for the log.
    pub(crate) fn run_as<T>(
        &mut self,
        what: &'static str,
        f: impl FnOnce(&mut S) -> T,
    ) -> Result<T, CallError> {
        let Self { state, runner, .. } = self;
        runner.shared.run_as_function(Origin::Task(what), || f(state)).map_err(CallError::Panicked)
    }

    /// Runs the next call on this thread to its end. Returns `false` if no call is queued.
    ///
    /// The future is ready immediately unless the function is async. A panic in the function becomes its caller's
    /// [`CallError::Panicked`] and a line in the log. A cancelled call is dropped without being run.
    ///
    /// A sync call from inside the function that would wait for this server is refused. A sync call from the loop
    /// around `exec` is not detected, and never ends unless it has a deadline.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let mut server = Server::new(0, functions);
    /// # let client = server.client();
    /// client.go(ADD, 5)?;
    /// // A loop of your own, which ends here instead of waiting.
    /// while smol::block_on(server.exec()) {}
    /// assert_eq!(*server.state(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn exec(&mut self) -> bool {
        if self.runner.batch.is_empty() {
            let there = smol::future::poll_once(self.runner.ready()).await;
            if there != Some(true) {
                return false;
            }
        }
        if !self.runner.work(&mut self.state, &mut Budget::new(1))
            && let Some((number, future)) = self.runner.begin(&mut self.state)
        {
            self.runner.finish(number, future).await;
        }
        true
    }

    /// Runs calls until the server is closed or its last client is gone, and returns the state.
    ///
    /// While the server is idle, sync callers run plain functions in place, on their own threads, one at a time: that
    /// is many times quicker than waking this task and being woken by it. Calls with a deadline run on this task.
    ///
    /// So a plain function must not depend on its thread: it runs on this task's thread or on any caller's, inside or
    /// outside of a runtime (`tokio::spawn` needs a `Handle` in the state), on the remaining stack of that thread,
    /// which it blocks. Functions that block, or whose state belongs to a thread or runtime, need
    /// [`run_pinned`](Self::run_pinned). Functions in place that wait for others in place nest at most 64 deep; a
    /// deeper call is queued, and needs another thread to run the loop.
    ///
    /// Arguments and results are moved several times: box large ones.
    ///
    /// The loop yields to other tasks of its executor after 64 calls or a millisecond. Dropping the future drops the
    /// server.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// client.go(ADD, 5)?;
    /// drop(client);
    /// assert_eq!(smol::block_on(server.run()), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn run(self) -> S
    where
        S: Send,
    {
        let Self { state, mut runner, guard } = self;
        drop(guard);
        let mut state: Option<State> = Some(Box::new(state));
        let mut budget = Budget::new(CALL_BUDGET);
        while runner.next(Some(&mut state), &mut budget).await {
            let Some(state) = &mut state else { unreachable!("a loop that is ready has the state") };
            runner.run(&mut **state, |state| state, &mut budget).await;
        }
        match state.map(|state| (state as Box<dyn Any>).downcast()) {
            Some(Ok(state)) => *state,
            _ => unreachable!("the state comes back before the end, and its type does not change"),
        }
    }

    /// Like [`run`](Self::run), but all functions run where this future is polled.
    ///
    /// ```
    /// # use std::{cell::Cell, rc::Rc};
    /// # use chanrpc::{Functions, Id0, Server};
    /// # const SET: Id0<u32> = Id0::new("set");
    /// # let mut functions = Functions::new();
    /// # functions.register(SET, |cell: &mut Rc<Cell<u32>>, n| cell.set(n))?;
    /// // The state never leaves this thread.
    /// let server = Server::new(Rc::new(Cell::new(0)), functions);
    /// let client = server.client();
    /// std::thread::spawn(move || client.go(SET, 5));
    /// assert_eq!(smol::block_on(server.run_pinned()).get(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn run_pinned(self) -> S {
        let Self { mut state, mut runner, guard } = self;
        drop(guard);
        let mut budget = Budget::new(CALL_BUDGET);
        while runner.next(None, &mut budget).await {
            runner.run(&mut state, |state| state, &mut budget).await;
        }
        state
    }

    /// Returns the state.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Returns the state, for changes between calls.
    ///
    /// ```
    /// # use chanrpc::{Functions, Server};
    /// let mut server = Server::new(0, Functions::new());
    /// *server.state_mut() += 5;
    /// assert_eq!(*server.state(), 5);
    /// ```
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// Returns the counters of the server.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// client.go(ADD, 5)?;
    /// let stats = server.stats();
    /// assert_eq!((stats.queued, stats.capacity, stats.executed), (1, 256, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.runner.shared.stats()
    }
}

impl<S: fmt::Debug> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.runner.shared.waiter.name())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Takes calls from the queue and runs them. Dropping it closes the queue and answers the calls in it.
struct Runner {
    shared: Arc<Shared>,
    /// Calls that were taken together and run one after the other without the lock.
    batch: Queue,
    /// [`run`](Self::run) is awaiting an async function.
    awaiting: bool,
}

impl Runner {
    /// Waits until the batch holds a call. Returns `false` when no more will come.
    async fn ready(&mut self) -> bool {
        poll_fn(|cx| self.poll_ready(cx, None)).await
    }

    /// Like [`ready`](Self::ready). While it waits, other tasks run.
    async fn next(&mut self, mut lend: Option<&mut Option<State>>, budget: &mut Budget) -> bool {
        poll_fn(|cx| {
            let ready = self.poll_ready(cx, lend.as_deref_mut());
            if ready.is_pending() {
                budget.reset();
            }
            ready
        })
        .await
    }

    fn poll_ready(&mut self, cx: &Context<'_>, lend: Option<&mut Option<State>>) -> Poll<bool> {
        self.shared.waiter.record_poll();
        match self.batch.is_empty() {
            true => self.shared.poll_take(cx, &mut self.batch, lend),
            false => Poll::Ready(true),
        }
    }

    /// Runs all calls of the batch.
    async fn run<T: ?Sized>(&mut self, state: &mut T, any: fn(&mut T) -> &mut dyn Any, budget: &mut Budget) {
        while !self.batch.is_empty() {
            let mut over = self.work(any(state), budget);
            if !over && let Some((number, future)) = self.begin(any(state)) {
                self.shared.yield_state();
                self.awaiting = true;
                budget.begin_call();
                self.finish(number, future).await;
                self.awaiting = false;
                over = budget.end_call();
            }
            if over {
                budget.reset();
                self.shared.yield_state();
                smol::future::yield_now().await;
            }
        }
    }

    /// Runs calls of the batch until the turn is over, and returns `true` then. Stops before an async one.
    fn work(&mut self, state: &mut dyn Any, budget: &mut Budget) -> bool {
        let Self { shared, batch, .. } = self;
        let mut over = false;
        // Set once for all functions that run here.
        let mut current = wait_graph::RunningFunction::new(&shared.waiter);
        current.within(|| {
            panic::with_capture(shared.backtrace_limit, || {
                while !over && let Some(number) = batch.front() {
                    if shared.is_aborted() {
                        shared.discard_taken();
                        return batch.fail(&CallError::Closed);
                    }
                    let function = shared.table.function(number);
                    if function.is_async() {
                        return;
                    }
                    budget.begin_call();
                    shared.set_taken(batch.len() - 1);
                    shared.counters.executed();
                    if let Ok(false) =
                        shared.catch(Origin::Function(number), || batch.run_front(function, state))
                    {
                        shared.counters.cancelled();
                    }
                    wait_graph::function_ended();
                    over = budget.end_call();
                }
            });
        });
        over
    }

    /// Begins the next call of the batch if it is for an async function.
    fn begin<'s>(&mut self, state: &'s mut dyn Any) -> Option<(usize, RunningFuture<'s>)> {
        let Self { shared, batch, .. } = self;
        let number = batch.front()?;
        let function = shared.table.function(number);
        if !function.is_async() || shared.is_aborted() {
            return None;
        }
        shared.set_taken(batch.len() - 1);
        shared.counters.executed();
        let begun = shared.run_as_function(Origin::Function(number), || batch.begin_front(function, state));
        if let Ok(None) = begun {
            shared.counters.cancelled();
        }
        Some((number, begun.ok()??))
    }

    /// Runs an async function to its end.
    async fn finish(&mut self, number: usize, mut future: RunningFuture<'_>) {
        let shared = &self.shared;
        let mut async_guard = AsyncGuard { shared, ended: false };
        let mut function = wait_graph::RunningFunction::new(&shared.waiter);
        let ended = poll_fn(|cx| {
            shared.waiter.record_poll();
            let polled = function.poll(cx, |cx| {
                let part = || shared.catch(Origin::Function(number), || future.as_mut().poll(cx));
                panic::with_capture(shared.backtrace_limit, part)
            });
            match polled {
                // A function that never ends must not keep a closed server from ending.
                Ok(Poll::Pending) => shared.poll_aborted(cx).map(|()| false),
                Ok(Poll::Ready(())) | Err(_) => Poll::Ready(true),
            }
        })
        .await;
        async_guard.ended = ended;
        drop(async_guard);
        panic::drop_quietly(future);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let incomplete = self.awaiting || !self.batch.is_empty();
        self.shared.end(incomplete);
        self.batch.fail(&CallError::Closed);
    }
}

/// Reports whether an async function has ended or was dropped before its end.
struct AsyncGuard<'a> {
    shared: &'a Shared,
    ended: bool,
}

impl Drop for AsyncGuard<'_> {
    fn drop(&mut self) {
        match self.ended {
            true => self.shared.async_finished(),
            false => self.shared.async_dropped(),
        }
    }
}

/// The outcome of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainOutcome {
    /// All work was done.
    Complete,
    /// The server ended before all work was done.
    Incomplete,
    /// A function of the server would wait for its own end.
    WouldDeadlock,
}

/// Closes a server from anywhere.
#[derive(Clone)]
pub struct Closer(Arc<Shared>);

// As for `Client`.
impl UnwindSafe for Closer {}
impl RefUnwindSafe for Closer {}

impl Closer {
    /// Closes the server immediately. See [`Server::close`].
    pub fn close(&self) {
        self.0.close();
    }

    /// Like [`close`](Self::close), for an owner that leaves work other than calls undone.
    pub(crate) fn close_incomplete(&self) {
        self.0.close_incomplete();
    }

    /// Closes the server for new calls only.
    pub(crate) fn begin_drain(&self) {
        self.0.drain();
    }

    /// Closes the server for new calls, lets it run the calls it has, including those that wait for room in its queue,
    /// and waits until it has ended. After `timeout` the remaining calls get [`CallError::Closed`].
    ///
    /// Returns `true` if all calls have run, and `false` if the server ended before: it was closed or dropped, or its
    /// task or executor was. Also returns `false`, and only closes the server for new calls, if one of the server's own
    /// functions would wait for itself. Dropping the future leaves the server draining, without a timeout.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # use std::time::Duration;
    /// client.go(ADD, 5)?;
    /// let drain = server.closer();
    /// let both = smol::future::zip(server.run(), drain.drain(Duration::from_secs(5)));
    /// assert_eq!(smol::block_on(both), (5, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.drain_outcome(timeout).await == DrainOutcome::Complete
    }

    pub(crate) async fn drain_outcome(&self, timeout: Duration) -> DrainOutcome {
        self.0.drain();
        let waiter = &self.0.waiter;
        let Ok(mut wait) = poll_fn(|cx| Poll::Ready(Wait::begin(waiter, cx))).await else {
            return DrainOutcome::WouldDeadlock;
        };
        let deadlock = async {
            let _ = poll_fn(|cx| wait.poll_deadlock(waiter, cx)).await;
            DrainOutcome::WouldDeadlock
        };
        let ended = async {
            match poll_fn(|cx| self.0.poll_ended(cx)).await {
                true => DrainOutcome::Complete,
                false => DrainOutcome::Incomplete,
            }
        };
        let late = async {
            Timer::after(timeout).await;
            self.0.close_incomplete();
            DrainOutcome::Incomplete
        };
        ended.or(deadlock).or(late).await
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").field("closed", &self.0.is_closed()).finish()
    }
}

/// `some::path::Name<T>` → `Name`.
fn short_name(name: &'static str) -> &'static str {
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn an_idle_server_keeps_no_large_buffers() {
        let mut functions = Functions::new();
        functions.register0("take", |_: &mut (), _: [u8; 1024]| ()).unwrap();
        let mut server = Server::new((), functions);
        let client = server.client();
        for _ in 0..2 {
            for _ in 0..100 {
                client.go("take", [0_u8; 1024]).unwrap();
            }
            while smol::block_on(server.exec()) {}
            assert!(server.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
            assert!(server.runner.batch.release().is_none() && server.runner.shared.release().is_none());
        }
    }
}
