//! The process provider: programs that stay and answer many calls over their stdin and stdout.

mod machine;
mod pool;
mod supervisor;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use event_listener::Event;
use rustc_hash::FxHashMap;
use smol::Executor;
use smol::future::Boxed;

use super::arguments::{complete, signature_of_process};
use super::program::{self, Environment};
use crate::config::{Limits, ParamConfig, ProcessConfig, ProcessFunctionConfig};
use crate::message::{Fault, RawJson, Signature, code};
use crate::metrics::ProcessMetrics;
use crate::route::{Call, Caller, Description, LAST_CALLS, Provider, ProviderKind, Registry};
use crate::session::{ProgramPeer, StrayOutput};
use pool::{Pool, Request};
use supervisor::{Spec, supervise};

/// No message takes this long.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The interval at which stray output is logged.
const STRAY_INTERVAL: Duration = Duration::from_secs(1);
/// The number of bytes of stray output that are logged.
const STRAY_SHOWN: usize = 200;

/// The kind of what a connection holds for its own instance.
const HELD: &str = "process";

/// A program that stays, or several instances of it. Dropping the last clone ends them.
#[derive(Clone)]
pub(crate) struct Process(Arc<Handle>);

struct Handle {
    executor: Arc<Executor<'static>>,
    config: ProcessConfig,
    spec: Arc<Spec>,
    metrics: Arc<ProcessMetrics>,
    pools: Mutex<Pools>,
    /// Notified when the task of an instance has ended.
    ended: Event,
}

#[derive(Default)]
struct Pools {
    /// By the number of the connection that has it; all connections share 0.
    open: FxHashMap<u64, Arc<Pool>>,
    /// Instances whose task has not ended.
    tasks: usize,
    is_closed: bool,
    /// When the configuration ceased to have the process.
    withdrawn: Option<Instant>,
}

impl Process {
    /// Creates a process, whose instances run in tasks on `executor`.
    pub(crate) fn new(executor: &Arc<Executor<'static>>, config: ProcessConfig, limits: &Limits) -> Self {
        let metrics = ProcessMetrics { name: config.name.clone(), ..ProcessMetrics::default() };
        Self::with_metrics(executor, config, limits, Arc::new(metrics))
    }

    /// As [`new`](Self::new), with the counters of an earlier process of that name.
    pub(crate) fn with_metrics(
        executor: &Arc<Executor<'static>>,
        config: ProcessConfig,
        limits: &Limits,
        metrics: Arc<ProcessMetrics>,
    ) -> Self {
        let (set, inherit) = (config.env.clone(), config.inherit_env.clone());
        let environment = Arc::new(Environment { set, inherit });
        // Output that is no message may end without a line feed. A silent program is judged by its calls.
        let limits = Arc::new(Limits { stall_timeout: YEAR, keepalive: Duration::ZERO, ..limits.clone() });
        let peer = ProgramPeer { has_meta: config.has_meta, stray: stray(&metrics) };
        let registry = Registry::builder("").build();
        let spec = Arc::new(Spec { environment, limits, registry, peer });
        let (executor, pools, ended) = (executor.clone(), Mutex::default(), Event::new());
        let process = Self(Arc::new(Handle { executor, config, spec, metrics, pools, ended }));
        if !process.0.config.is_per_connection {
            process.0.open(&mut process.0.lock(), SHARED);
        }
        process
    }

    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.0.config.name
    }

    /// Returns the counters.
    pub(crate) fn metrics(&self) -> &Arc<ProcessMetrics> {
        &self.0.metrics
    }

    /// Returns `true` if a process with this configuration and these limits would be the same.
    pub(crate) fn is_same(&self, config: &ProcessConfig, limits: &Limits) -> bool {
        let of_messages = |limits: &Limits| {
            let &Limits { message, depth, batch, in_flight, output, deadline, .. } = limits;
            (message, depth, batch, in_flight, output, deadline)
        };
        self.0.config == *config && of_messages(&self.0.spec.limits) == of_messages(limits)
    }

    /// Returns `true` if both are the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Notes that the configuration no longer has the process, which ends when its calls have ended.
    pub(crate) fn withdraw(&self) {
        self.0.lock().withdrawn = Some(Instant::now());
    }

    /// Returns why the program cannot run, as far as that can be determined without running it.
    pub(crate) fn preflight(&self) -> Option<String> {
        let Handle { config, spec, .. } = &*self.0;
        program::preflight(config.run.first()?, config.directory.as_deref(), &spec.environment)
    }

    /// Sets the functions that it provides, whose visibility is that of its counters.
    pub(crate) fn set_functions(&self, names: Vec<String>) {
        *self.metrics().functions.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Returns the provider of a function, or of a family of functions if `name` ends in `.*`.
    pub(crate) fn function(&self, name: &str, config: &ProcessFunctionConfig) -> ProcessFunction {
        let prefix = name.strip_suffix('*').map_or(0, str::len);
        ProcessFunction {
            process: self.clone(),
            prefix,
            method: config.method.clone(),
            params: config.params.clone(),
            signature: signature_of_process(config),
            timeout: config.timeout,
        }
    }

    /// Returns the pool for the calls of a caller.
    fn pool(&self, caller: &Caller) -> Result<Arc<Pool>, Fault> {
        let Handle { config, .. } = &*self.0;
        let name = &config.name;
        let (connection, peer) = match config.is_per_connection {
            false => (SHARED, None),
            true => match caller.peer() {
                Some(peer) => (caller.connection(), Some(peer)),
                None => {
                    let message = format!(
                        "{name} runs once for each connection (per = \"connection\"), which a single request over HTTP \
                         and a call within the node do not have: call over TCP or WebSocket"
                    );
                    return Err(Fault::not_sent(message));
                }
            },
        };
        let mut pools = self.0.lock();
        if let Some(pool) = pools.open.get(&connection) {
            return Ok(pool.clone());
        }
        if pools.is_closed {
            return Err(Fault::new(code::CLOSED, "the node is stopping"));
        }
        if pools.tasks >= config.instances {
            self.metrics().refused.inc();
            let message =
                format!("{} connections have a {name} of their own (instances of [[process]])", pools.tasks);
            return Err(Fault::new(code::BUSY, message).unsent());
        }
        let pool = self.0.open(&mut pools, connection);
        drop(pools);
        let lease = Lease { handle: Arc::downgrade(&self.0), connection };
        let held = peer.and_then(|peer| peer.hold((HELD, name.as_str().into()), Box::new(lease)));
        // If the connection has ended, this ends the instance.
        drop(held);
        Ok(pool)
    }
}

/// The connection whose pool all others share.
const SHARED: u64 = 0;

impl Handle {
    fn lock(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the pool of a connection.
    fn open(self: &Arc<Self>, pools: &mut Pools, connection: u64) -> Arc<Pool> {
        let pool = Pool::new(self.config.clone(), self.metrics.clone());
        for index in 0..pool.instances() {
            let (instance, handle) =
                (supervise(pool.clone(), self.spec.clone(), index), Arc::downgrade(self));
            let task = async move {
                instance.await;
                if let Some(handle) = handle.upgrade() {
                    handle.lock().tasks -= 1;
                    handle.ended.notify(usize::MAX);
                }
            };
            pools.tasks += 1;
            self.executor.spawn(task).detach();
        }
        pools.open.insert(connection, pool.clone());
        pool
    }

    fn close(&self) {
        let (open, is_withdrawn) = {
            let mut pools = self.lock();
            pools.is_closed = true;
            (std::mem::take(&mut pools.open), pools.withdrawn.is_some())
        };
        let reason = if is_withdrawn { "the process was withdrawn" } else { "the node is stopping" };
        open.values().for_each(|pool| pool.close(reason));
    }

    /// Closes a process that was withdrawn, once it has no calls. Returns `true` if it has ended.
    fn retire(&self) -> bool {
        let pools = self.lock();
        let Some(withdrawn) = pools.withdrawn else { return true };
        let may_close = withdrawn.elapsed() >= LAST_CALLS && pools.open.values().all(|pool| pool.is_idle());
        let has_ended = may_close && pools.tasks == 0;
        drop(pools);
        if may_close {
            self.close();
        }
        has_ended
    }

    async fn wait_ended(&self) {
        loop {
            let ended = self.ended.listen();
            if self.lock().tasks == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection's right to its own instance. Dropped, it ends the instance.
struct Lease {
    handle: Weak<Handle>,
    connection: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(handle) = self.handle.upgrade() else { return };
        let pool = handle.lock().open.remove(&self.connection);
        if let Some(pool) = pool {
            pool.close("the connection has ended");
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.name()).finish()
    }
}

/// Returns what counts and logs output that is no message.
fn stray(metrics: &Arc<ProcessMetrics>) -> StrayOutput {
    let (metrics, logged) = (metrics.clone(), Mutex::new(None::<Instant>));
    Arc::new(move |output| {
        metrics.stray.inc();
        let now = Instant::now();
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| now >= at + STRAY_INTERVAL) {
            *logged = Some(now);
            let shown = String::from_utf8_lossy(&output[..output.len().min(STRAY_SHOWN)]);
            let (name, count) = (&metrics.name, metrics.stray.get());
            log::warn!("{name} wrote what is no message to its stdout, {count} times so far: {shown:?}");
        }
    })
}

/// Calls a function of a process.
#[derive(Debug)]
pub(crate) struct ProcessFunction {
    process: Process,
    /// The length of the family's prefix.
    prefix: usize,
    /// What the process is asked for; the function's own name if `None`.
    method: Option<String>,
    /// The declared parameters; `None`: any.
    params: Option<Vec<ParamConfig>>,
    signature: Signature,
    timeout: Option<Duration>,
}

impl ProcessFunction {
    /// Describes the function, with its timeout.
    pub(crate) fn describe(&self) -> Description {
        Description {
            provider: ProviderKind::Process,
            signature: self.signature.clone(),
            target: Some(self.process.name().to_owned()),
            timeout: self.timeout,
            ..Description::default()
        }
    }

    /// Returns the parameters for the process.
    fn params(&self, given: Option<RawJson<'_>>) -> Result<Option<RawJson<'static>>, Fault> {
        match &self.params {
            None => Ok(given.map(RawJson::into_owned)),
            Some(declared) => complete(declared, &self.signature, given.as_ref()).map(Some),
        }
    }
}

impl Provider for ProcessFunction {
    fn call(&self, mut call: Call<'_>) {
        let tail = call.method().get(self.prefix..).unwrap_or_default();
        let method = match &self.method {
            Some(method) => method.replace("{tail}", tail),
            None => call.method().to_owned(),
        };
        let params = match self.params(call.take_params()) {
            Ok(params) => params,
            Err(fault) => return call.reply(Err(fault)),
        };
        let (deadline, hops) = (call.deadline(), call.hops());
        let timeout = self.timeout.map(|timeout| Instant::now() + timeout).filter(|own| *own < deadline);
        let deadline = timeout.unwrap_or(deadline);
        match self.process.pool(call.caller()) {
            Ok(pool) => pool.call(Request { method, params, deadline, hops, timeout }, call.defer()),
            Err(fault) => call.reply(Err(fault)),
        }
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        match &self.params {
            None => Ok(()),
            Some(declared) => complete(declared, &self.signature, params).map(|_| ()),
        }
    }

    fn retire(&self) -> bool {
        self.process.0.retire()
    }

    fn stop(&self) -> Boxed<()> {
        let handle = self.process.0.clone();
        // At once, so that all processes end at the same time.
        handle.close();
        Box::pin(async move { handle.wait_ended().await })
    }
}
