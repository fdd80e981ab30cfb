//! The scheduler and its loop.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll};

use smol::Executor;

use super::handle::Handle;
use super::settings::SchedulerSettings;
use super::shared::{Action, Phase, Shared};
use super::sources::{Source, Sources};
use super::timers::Due;
use crate::chan::budget::Budget;
use crate::chan::panic::drop_each_quietly;
use crate::chan::{self, Callback, Client, Functions, Reach, Server, Stats};

/// The maximum number of events before the loop yields to other tasks of the executor.
const EVENT_BUDGET: u32 = 64;

/// A loop that owns a state and handles one event at a time. See the [module](super).
///
/// An async function blocks the whole loop until it ends, which is rarely wanted. Instead, register a
/// [deferred](Functions::register_deferred) function that starts an async call or a waterfall, and answers in the
/// callback.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use chanrpc::{Functions, Scheduler};
/// let executor = Arc::new(smol::Executor::new());
/// let scheduler = Scheduler::new(&executor, Functions::new(), |_| vec!["created"]);
/// let handle = scheduler.handle();
/// handle.post(|log| log.push("posted"))?;
/// let owner = executor.spawn(scheduler.run());
/// smol::block_on(executor.run(handle.drain(Duration::from_secs(20))));
/// assert_eq!(smol::block_on(executor.run(owner)), ["created", "posted"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it closes it"]
pub struct Scheduler<S: 'static> {
    /// Dropped before the server, whose end completes drains.
    shared: Owned<S>,
    server: Server<S>,
    sources: Sources,
}

enum Event<S> {
    Call,
    Post(Action<S>),
    Callback(Callback<S>),
    Completion(Action<S>),
    Timer(Due<S>),
    End,
}

impl<S: 'static> Scheduler<S> {
    /// Creates a scheduler with the default [`SchedulerSettings`]. Its tasks run on `executor`. `state` creates the state, which
    /// may keep the handle.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Handle, Id0, Scheduler};
    /// # const FLASH: Id0<Duration> = Id0::new("flash");
    /// # let executor = Arc::new(smol::Executor::new());
    /// struct Lamp { me: Handle<Lamp>, on: bool }
    ///
    /// let mut functions = Functions::new();
    /// functions.register(FLASH, |lamp: &mut Lamp, time| {
    ///     lamp.on = true;
    ///     lamp.me.after(time, |lamp| lamp.on = false).unwrap();
    /// })?;
    /// let scheduler = Scheduler::new(&executor, functions, |me| Lamp { me: me.clone(), on: false });
    /// # assert!(!scheduler.state().on);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new<P: Reach>(
        executor: &Arc<Executor<'static>>,
        functions: impl Into<Arc<Functions<S, P>>>,
        state: impl FnOnce(&Handle<S>) -> S,
    ) -> Self {
        Self::with_settings(executor, functions, SchedulerSettings::default(), state)
    }

    /// Creates a scheduler. See [`new`](Self::new).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler, SchedulerSettings};
    /// # let executor = Arc::new(smol::Executor::new());
    /// let settings = SchedulerSettings::default().name("clock").timers(1);
    /// let clock = Scheduler::with_settings(&executor, Functions::new(), settings, |_| ());
    /// clock.handle().after(Duration::from_secs(1), |_| ())?;
    /// assert!(clock.handle().after(Duration::from_secs(1), |_| ()).is_err_and(|error| error.is_full()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_settings<P: Reach>(
        executor: &Arc<Executor<'static>>,
        functions: impl Into<Arc<Functions<S, P>>>,
        settings: SchedulerSettings,
        state: impl FnOnce(&Handle<S>) -> S,
    ) -> Self {
        let server = chan::ServerSettings {
            name: settings.name.clone(),
            capacity: settings.capacity,
            backtrace_limit: settings.backtrace_limit,
        };
        // The state needs the handle, the handle the client, and the client the server.
        let mut shared = None;
        let server = Server::create(functions, server, |client, closer| {
            let owned = Owned::new(Shared::new(executor, client, closer, settings));
            let state = state(&Handle::new(owned.shared.clone()));
            shared = Some(owned);
            state
        });
        let Some(shared) = shared else { unreachable!("the server was created with a state") };
        let sources = Sources::new(&shared.ready_set);
        Self { shared, server, sources }
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
    /// let scheduler = Scheduler::new(&executor, functions, |_| 0);
    /// let client = scheduler.client();
    /// let owner = executor.spawn(scheduler.run());
    /// assert_eq!(smol::block_on(executor.run(client.call(ADD, 5)))?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client(&self) -> Client {
        self.server.client()
    }

    /// Returns a handle to the loop.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// let handle = scheduler.handle();
    /// let owner = executor.spawn(scheduler.run());
    /// let posted = handle.post(|state| { *state += 5; *state })?;
    /// assert_eq!(smol::block_on(executor.run(posted))?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle(&self) -> Handle<S> {
        Handle::new(self.shared.shared.clone())
    }

    /// Returns the state.
    pub fn state(&self) -> &S {
        self.server.state()
    }

    /// Returns the state, for changes before the loop runs.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// let mut scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// *scheduler.state_mut() += 5;
    /// assert_eq!(*scheduler.state(), 5);
    /// ```
    pub fn state_mut(&mut self) -> &mut S {
        self.server.state_mut()
    }

    /// Returns the counters of calls.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Id1, Scheduler};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, functions, |_| 0);
    /// scheduler.client().go(ADD, 5)?;
    /// let stats = scheduler.stats();
    /// assert_eq!((stats.queued, stats.capacity, stats.executed), (1, 256, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.server.stats()
    }

    /// Runs the loop until it is [closed](Handle::close) or [drained](Handle::drain), and returns the state.
    ///
    /// A panic in code that it runs is logged and passed to the waiter for its result; the loop continues. The loop
    /// yields to other tasks of its executor periodically. Dropping the future closes the scheduler.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// let handle = scheduler.handle();
    /// handle.post(|state| *state += 5)?;
    /// // A program usually spawns the loop on its executor.
    /// let both = smol::future::zip(scheduler.run(), handle.drain(Duration::from_secs(20)));
    /// assert_eq!(smol::block_on(executor.run(both)), (5, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn run(mut self) -> S {
        self.serve().await;
        self.into_state()
    }

    /// Closes the scheduler and returns the state.
    pub(super) fn into_state(self) -> S {
        let Self { shared, server, .. } = self;
        drop(shared);
        server.into_state()
    }

    async fn serve(&mut self) {
        let mut budget = Budget::new(EVENT_BUDGET);
        loop {
            let event = budget.run(poll_fn(|cx| self.poll_event(cx))).await;
            budget.begin_call();
            match event {
                Event::Call => drop(budget.run(self.server.exec()).await),
                Event::Post(action) => self.act("a posted task", action),
                Event::Completion(action) => self.act("a callback", action),
                Event::Callback(callback) => self.act("a callback", |state| callback.run(state)),
                Event::Timer(due) => self.fire(due),
                Event::End => return,
            }
            if budget.end_call() {
                if budget.is_slow() {
                    self.sources.end_share();
                }
                budget.yield_now().await;
            }
        }
    }

    /// Waits for the next event.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event<S>> {
        self.server.record_poll();
        let Self { server, shared: Owned { shared, posts, completions }, sources } = self;
        loop {
            let before = shared.phase();
            if before == Phase::Closed {
                return Poll::Ready(Event::End);
            }
            let event = sources.poll(cx, |source, cx| match source {
                Source::Calls => match server.poll_ready(cx) {
                    Poll::Ready(true) => Poll::Ready((Event::Call, true)),
                    // No more calls will come; other sources may still have events.
                    Poll::Ready(false) | Poll::Pending => Poll::Pending,
                },
                Source::Posts => taken(shared.posts.next(posts), Event::Post),
                Source::Callbacks => {
                    shared.callbacks().poll_next(cx).map(|next| (Event::Callback(next), true))
                }
                Source::Completions => taken(shared.completions.next(completions), Event::Completion),
                Source::Timers => shared.timers().poll_due(cx).map(|due| (Event::Timer(due), true)),
            });
            if event.is_ready() {
                return event;
            }
            // A change of phase meanwhile may have been missed.
            if shared.phase() == before {
                let done = before == Phase::Draining && shared.is_idle();
                return if done { Poll::Ready(Event::End) } else { Poll::Pending };
            }
        }
    }

    /// Runs an action on the state.
    fn act(&mut self, what: &'static str, action: impl FnOnce(&mut S)) {
        // A panic is logged and passed to the waiter for its result.
        let _ = self.server.run_as(what, action);
    }

    fn fire(&mut self, due: Due<S>) {
        let mut again = match due {
            Due::Once(action) => return self.act("a timer", action),
            Due::Repeated(again) => again,
        };
        if let Some(action) = again.action() {
            self.act("a timer", action);
        }
        let ended = self.shared.timers().put_back(again);
        drop_each_quietly(ended);
    }
}

/// Converts an item of an inbox to an event.
fn taken<S>(next: Option<(Action<S>, bool)>, event: fn(Action<S>) -> Event<S>) -> Poll<(Event<S>, bool)> {
    match next {
        Some((action, more)) => Poll::Ready((event(action), more)),
        None => Poll::Pending,
    }
}

/// The shared part of a scheduler, with the items that the loop has taken from its inboxes. Dropping it closes the
/// scheduler, even if the loop never ran.
struct Owned<S: 'static> {
    shared: Arc<Shared<S>>,
    posts: VecDeque<Action<S>>,
    completions: VecDeque<Action<S>>,
}

impl<S: 'static> Owned<S> {
    fn new(shared: Arc<Shared<S>>) -> Self {
        Self { shared, posts: VecDeque::new(), completions: VecDeque::new() }
    }
}

impl<S: 'static> Deref for Owned<S> {
    type Target = Shared<S>;

    fn deref(&self) -> &Shared<S> {
        &self.shared
    }
}

impl<S: 'static> Drop for Owned<S> {
    fn drop(&mut self) {
        self.shared.end(mem::take(&mut self.posts), mem::take(&mut self.completions));
    }
}

impl<S: 'static> fmt::Debug for Scheduler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("name", &self.shared.server.name()).finish_non_exhaustive()
    }
}
