//! Services that start and end together.

use std::any::Any;
use std::fmt;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Executor, Task, Timer};

use super::scheduler::Scheduler;

/// The services of a program: created in order, run together, ended in reverse order.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use chanrpc::chan::Functions;
/// use chanrpc::sched::{Modules, Scheduler};
///
/// let executor = Arc::new(smol::Executor::new());
/// let mut modules = Modules::new(&executor);
/// for name in ["storage", "game"] {
///     let executor = executor.clone();
///     modules.add(
///         name,
///         move || Ok(Scheduler::new(&executor, Functions::new(), |_| name)),
///         |name| println!("{name} has ended"),
///     );
/// }
/// let shutdown = smol::Timer::after(Duration::from_millis(1)); // Ctrl-C, usually
/// smol::block_on(executor.run(modules.run(async { drop(shutdown.await) }, Duration::from_secs(5))))?;
/// # Ok::<(), chanrpc::sched::ModuleError>(())
/// ```
#[must_use = "nothing runs before `run`"]
pub struct Modules {
    executor: Arc<Executor<'static>>,
    modules: Vec<(String, Init)>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Init = Box<dyn FnOnce() -> Result<Box<dyn Made>, Failure> + Send>;

/// The reason why the modules did not run to a clean end. Modules that had been created were ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModuleError {
    /// A module could not be created; no module has run.
    Init {
        /// Its name.
        module: String,
        /// The reason.
        reason: Failure,
    },
    /// A module panicked while it was created; no module has run.
    Panicked {
        /// Its name.
        module: String,
        /// The panic's message.
        message: String,
    },
    /// Some modules did not end within the timeout and were closed: part of their work was not done, or their `stop`
    /// did not return.
    Late {
        /// Their names.
        modules: Vec<String>,
    },
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init { module, reason } => write!(f, "module {module} could not be made: {reason}"),
            Self::Panicked { module, message } => {
                write!(f, "module {module} panicked while it was made: {message}")
            }
            Self::Late { modules } => {
                write!(f, "these modules did not end in time and were cut off: {}", modules.join(", "))
            }
        }
    }
}

impl std::error::Error for ModuleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Init { reason, .. } => Some(&**reason),
            _ => None,
        }
    }
}

impl Modules {
    /// Creates an empty list. Its modules will run on `executor`.
    pub fn new(executor: &Arc<Executor<'static>>) -> Self {
        Self { executor: executor.clone(), modules: Vec::new() }
    }

    /// Adds a module. `init` creates its scheduler, before any module runs; `stop` gets its state when it has ended.
    pub fn add<S: Send + 'static>(
        &mut self,
        name: impl Into<String>,
        init: impl FnOnce() -> Result<Scheduler<S>, Failure> + Send + 'static,
        stop: impl FnOnce(S) + Send + 'static,
    ) -> &mut Self {
        let name = name.into();
        let stop = guarded(name.clone(), stop);
        let init: Init = Box::new(move || Ok(Box::new(Module { scheduler: init()?, stop })));
        self.modules.push((name, init));
        self
    }

    /// Creates all modules in order, runs them until `shutdown`, and ends them in reverse order, each within `timeout`:
    /// it runs calls, posts and what they wait for, then its `stop`. A module that takes longer is closed and named in
    /// the error. If a module ends by itself, the others continue.
    ///
    /// Dropping the future closes all modules.
    ///
    /// # Errors
    /// [`ModuleError`] if a module was not created, or did not end in time.
    pub async fn run(self, shutdown: impl Future<Output = ()>, timeout: Duration) -> Result<(), ModuleError> {
        let mut made = Vec::new();
        let mut failed = None;
        for (module, init) in self.modules {
            match catch_unwind(AssertUnwindSafe(init)) {
                Ok(Ok(scheduler)) => made.push((module, scheduler)),
                Ok(Err(reason)) => failed = Some(ModuleError::Init { module, reason }),
                Err(payload) => {
                    let message = message(&*payload);
                    failed = Some(ModuleError::Panicked { module, message });
                }
            }
            if failed.is_some() {
                break;
            }
        }
        if let Some(error) = failed {
            for (_, module) in made.into_iter().rev() {
                module.stop();
            }
            return Err(error);
        }

        let running: Vec<_> =
            made.into_iter().map(|(name, module)| (name, module.start(&self.executor))).collect();
        shutdown.await;
        let mut late = Vec::new();
        for (name, Started { drain, ended }) in running.into_iter().rev() {
            if ended.is_finished() {
                continue;
            }
            let until = Instant::now().checked_add(timeout);
            let drained = drain(timeout).await;
            // The functions have run; the remaining time is for `stop`.
            let done = async {
                ended.await;
                true
            };
            let out_of_time = async {
                match until {
                    Some(until) => Timer::at(until.max(Instant::now() + GRACE)).await,
                    None => pending().await,
                };
                false
            };
            if !done.or(out_of_time).await || !drained {
                late.push(name);
            }
        }
        if late.is_empty() { Ok(()) } else { Err(ModuleError::Late { modules: late }) }
    }
}

/// The time for `stop` after a drain that took the whole timeout.
const GRACE: Duration = Duration::from_millis(100);

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.modules.iter().map(|(name, _)| name)).finish()
    }
}

/// A module that was created and does not run yet.
trait Made: Send {
    fn start(self: Box<Self>, executor: &Executor<'static>) -> Started;
    /// Ends the module without running it.
    fn stop(self: Box<Self>);
}

struct Module<S: 'static, F> {
    scheduler: Scheduler<S>,
    stop: F,
}

/// A running module.
struct Started {
    drain: Drain,
    ended: Task<()>,
}

type Drain = Box<dyn FnOnce(Duration) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send>;

impl<S: Send + 'static, F: FnOnce(S) + Send + 'static> Made for Module<S, F> {
    fn start(self: Box<Self>, executor: &Executor<'static>) -> Started {
        let Self { scheduler, stop } = *self;
        let handle = scheduler.handle();
        let ended = executor.spawn(async move { stop(scheduler.run().await) });
        let drain = move |timeout| async move { handle.drain(timeout).await }.boxed();
        Started { drain: Box::new(drain), ended }
    }

    fn stop(self: Box<Self>) {
        let Self { scheduler, stop } = *self;
        stop(scheduler.into_state());
    }
}

/// Wraps `stop` so that a panic in it is only logged.
fn guarded<S>(name: String, stop: impl FnOnce(S) + Send) -> impl FnOnce(S) + Send {
    move |state| {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| stop(state))) {
            log::error!("module {name} panicked at its end: {}", message(&*payload));
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
