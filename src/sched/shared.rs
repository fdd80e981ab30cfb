//! The part of a scheduler that its loop and its handles share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{future::Future, mem};

use smol::{Executor, Task};

use super::blocking_pool::BlockingPool;
use super::error::ScheduleError;
use super::inbox::{Inbox, PushError};
use super::settings::SchedulerSettings;
use super::sources::{ReadySet, Source};
use super::timers::Timers;
use crate::chan::panic::{drop_each_quietly, drop_quietly};
use crate::chan::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};
use crate::chan::{CallError, Callbacks, Client, Closer, FunctionId, Kind, ServerRef, Target};

/// A closure that the loop runs on the state.
pub(super) type Action<S> = Box<dyn FnOnce(&mut S) + Send>;

/// The part of a scheduler that its loop and its handles share.
pub(super) struct Shared<S> {
    pub(super) server: ServerRef,
    pub(super) client: Client,
    pub(super) closer: Closer,
    pub(super) settings: SchedulerSettings,
    /// Posted tasks.
    pub(super) posts: Inbox<Action<S>>,
    /// Results of jobs, futures and streams. Unbounded, since these are bounded themselves.
    pub(super) completions: Inbox<Action<S>>,
    pub(super) callbacks: Mutex<Callbacks<S>>,
    pub(super) timers: Mutex<Timers<S>>,
    pub(super) jobs: Arc<BlockingPool>,
    /// The sources that may have an event.
    pub(super) ready_set: Arc<ReadySet>,
    /// Weak, since the executor owns the loop and all tasks, which own this.
    executor: Weak<Executor<'static>>,
    tasks: Mutex<Tasks>,
    /// The phase is `Open`. The loop reads this for each event.
    open_phase: AtomicBool,
    serial: AtomicU64,
    /// The number of jobs, futures and waterfalls without a result.
    open: AtomicUsize,
    /// Accepted work never runs.
    incomplete: AtomicBool,
}

#[derive(Default)]
struct Tasks {
    phase: Phase,
    /// The tasks on the executor, by number.
    running: BTreeMap<u64, Task<()>>,
    /// The number of tasks that are streams.
    streams: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Open,
    /// Rejects work from outside. The loop ends when nothing is open.
    Draining,
    Closed,
}

impl<S: 'static> Shared<S> {
    pub(super) fn new(
        executor: &Arc<Executor<'static>>,
        client: Client,
        closer: Closer,
        settings: SchedulerSettings,
    ) -> Arc<Self> {
        let ready_set = Arc::default();
        Arc::new(Self {
            server: ServerRef::of(&client),
            client,
            closer,
            posts: Inbox::new(settings.posts.max(1), &ready_set, Source::Posts),
            completions: Inbox::new(usize::MAX, &ready_set, Source::Completions),
            callbacks: Mutex::new(Callbacks::new(settings.calls)),
            timers: Mutex::new(Timers::new(settings.timers)),
            jobs: BlockingPool::new(settings.workers, settings.jobs),
            ready_set,
            executor: Arc::downgrade(executor),
            tasks: Mutex::default(),
            open_phase: AtomicBool::new(true),
            serial: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            incomplete: AtomicBool::new(false),
            settings,
        })
    }

    /// Returns the next number of a task.
    fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn phase(&self) -> Phase {
        if self.open_phase.load(Ordering::Relaxed) { Phase::Open } else { self.tasks().phase }
    }

    /// Posts a task and returns its number.
    pub(super) fn post(&self, action: Action<S>) -> Result<u64, ScheduleError> {
        self.posts.push(action).map_err(|(refused, _action)| match refused {
            PushError::Closed => ScheduleError::Closed,
            PushError::Full => ScheduleError::Full { setting: "posts", limit: self.settings.posts.max(1) },
        })
    }

    /// Passes a result to the loop. It is dropped if the loop is gone.
    pub(super) fn push_completion(&self, action: Action<S>) {
        drop_quietly(self.completions.push(action));
    }

    /// Makes an async call. If too many are pending or the queue is full, returns arguments and callback.
    pub(super) fn call<A, R, F>(
        &self,
        target: &impl Target<A, R>,
        (id, kind): (&FunctionId, Kind),
        arguments: A,
        time: Option<Duration>,
        callback: F,
    ) -> Result<(), (A, F)>
    where
        A: Send + 'static,
        R: Send + 'static,
        F: FnOnce(&mut S, Result<R, CallError>) + Send + 'static,
    {
        // The lock is released before the call is made, which may drop values of the user's.
        let prepared = self.callbacks().prepare(|| target.counter(), time, callback);
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(callback) => return Err((arguments, callback)),
        };
        match prepared.try_submit(target, id, kind, arguments) {
            Err((arguments, Some(callback))) => {
                self.callbacks().take_back();
                Err((arguments, callback))
            }
            // A call without its callback has ended by its deadline.
            Ok(()) | Err((_, None)) => Ok(()),
        }
    }

    /// Counts work whose result the loop will get.
    pub(super) fn open_guard(self: &Arc<Self>) -> Result<OpenGuard<S>, ScheduleError> {
        let limit = self.settings.open;
        if self.phase() == Phase::Closed {
            return Err(ScheduleError::Closed);
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= limit {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(ScheduleError::Full { setting: "open", limit });
        }
        Ok(OpenGuard { shared: self.clone(), completed: false })
    }

    /// Returns `true` if no event other than calls is pending.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
            && self.callbacks().pending() == 0
            && self.posts.is_empty()
            && self.completions.is_empty()
            && self.timers().is_empty()
    }

    /// Returns `true` if accepted work never runs. Final when the server has ended.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete.load(Ordering::Relaxed)
    }

    /// Returns the executor, unless it is gone.
    pub(super) fn executor(&self) -> Option<Arc<Executor<'static>>> {
        self.executor.upgrade()
    }

    /// Runs a future on the executor until it ends or the scheduler closes.
    pub(super) fn spawn(
        self: &Arc<Self>,
        executor: &Executor<'static>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let number = self.serial();
        let shared = self.clone();
        let future = self.server.catch_panic_future("a future", future);
        // The task cannot end before it is in the list, since it takes this lock to remove itself.
        let mut tasks = self.tasks();
        if tasks.phase == Phase::Closed {
            return;
        }
        let task = executor.spawn(async move {
            let _ = future.await;
            let own = shared.tasks().running.remove(&number);
            if let Some(own) = own {
                own.detach();
            }
        });
        tasks.running.insert(number, task);
    }

    /// Runs a stream on the executor until it ends, is detached, or the scheduler drains.
    pub(super) fn spawn_stream(
        self: &Arc<Self>,
        stream: impl Future<Output = ()> + Send + 'static,
    ) -> Result<u64, ScheduleError> {
        let number = self.serial();
        let shared = self.clone();
        let stream = self.server.catch_panic_future("a stream", stream);
        let Some(executor) = self.executor() else { return Err(ScheduleError::Closed) };
        let mut tasks = self.tasks();
        if tasks.phase != Phase::Open {
            return Err(ScheduleError::Closed);
        }
        if tasks.streams >= self.settings.streams {
            return Err(ScheduleError::Full { setting: "streams", limit: self.settings.streams });
        }
        tasks.streams += 1;
        let task = executor.spawn(async move {
            let _ = stream.await;
            let own = shared.stop_stream(number);
            if let Some(own) = own {
                own.detach();
            }
        });
        tasks.running.insert(number | STREAM, task);
        Ok(number)
    }

    pub(super) fn stop_stream(&self, number: u64) -> Option<Task<()>> {
        let mut tasks = self.tasks();
        let task = tasks.running.remove(&(number | STREAM));
        tasks.streams -= usize::from(task.is_some());
        task
    }

    /// Rejects work from outside. The loop ends when it has nothing left to wait for.
    pub(super) fn begin_drain(&self) {
        self.closer.begin_drain();
        self.posts.shut();
        let mut tasks = self.tasks();
        if tasks.phase > Phase::Open {
            return;
        }
        tasks.phase = Phase::Draining;
        self.open_phase.store(false, Ordering::Relaxed);
        drop(tasks.running.split_off(&STREAM));
        tasks.streams = 0;
        drop(tasks);
        let timers = self.timers().shut();
        drop_each_quietly(timers);
        self.ready_set.mark_all();
    }

    /// Closes the scheduler at the end of the loop, with the items that the loop has taken and not run.
    pub(super) fn end(&self, posts: VecDeque<Action<S>>, completions: VecDeque<Action<S>>) {
        if !posts.is_empty() || !completions.is_empty() {
            self.incomplete.store(true, Ordering::Relaxed);
        }
        self.close();
        drop_each_quietly(posts);
        drop_each_quietly(completions);
    }

    /// Closes the scheduler immediately.
    pub(super) fn close(&self) {
        let mut tasks = self.tasks();
        tasks.phase = Phase::Closed;
        self.open_phase.store(false, Ordering::Relaxed);
        // The remaining work is taken and checked under this lock. The loop also closes at its end, so it cannot end
        // before.
        let (posts, completions) = (self.posts.close(), self.completions.close());
        let callbacks = mem::replace(&mut *self.callbacks(), Callbacks::closed(self.settings.calls));
        let mut timers = self.timers();
        let later = timers.shut();
        let due = timers.clear();
        drop(timers);
        let left = !posts.is_empty()
            || !completions.is_empty()
            || !due.is_empty()
            || callbacks.pending() > 0
            || self.open.load(Ordering::Relaxed) > 0;
        if left {
            self.incomplete.store(true, Ordering::Relaxed);
        }
        // Drops the tasks before the loop, and with it the executor, can end.
        tasks.running.clear();
        drop(tasks);
        // The server decides the same for calls.
        match left {
            true => self.closer.close_incomplete(),
            false => self.closer.close(),
        }
        self.jobs.clear();
        drop_each_quietly(later);
        drop_each_quietly(due);
        drop_each_quietly(posts);
        drop_each_quietly(completions);
        drop(callbacks);
        self.ready_set.mark_all();
    }

    pub(super) fn callbacks(&self) -> MutexGuard<'_, Callbacks<S>> {
        self.callbacks.lock()
    }

    pub(super) fn timers(&self) -> MutexGuard<'_, Timers<S>> {
        self.timers.lock()
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock()
    }
}

/// Marks the numbers of streams, so that they are contiguous.
const STREAM: u64 = 1 << 63;

/// Counts open work until it is dropped.
pub(super) struct OpenGuard<S: 'static> {
    shared: Arc<Shared<S>>,
    completed: bool,
}

impl<S: 'static> OpenGuard<S> {
    /// Marks the work as completed or rejected. If it is dropped without this, accepted work never runs.
    pub(super) fn complete(mut self) {
        self.completed = true;
    }
}

impl<S: 'static> Drop for OpenGuard<S> {
    fn drop(&mut self) {
        let Self { shared, completed } = self;
        if !*completed {
            shared.incomplete.store(true, Ordering::Relaxed);
        }
        if shared.open.fetch_sub(1, Ordering::Relaxed) == 1 && shared.phase() == Phase::Draining {
            shared.ready_set.mark(Source::Completions);
        }
    }
}
