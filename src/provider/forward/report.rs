//! What other nodes tell of the functions that are forwarded to them, and in what state they are.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::Inner;
#[cfg(feature = "grpc")]
use super::MethodName;
use crate::config::Limits;
use crate::message::{Object, RawJson, Signature, code};
use crate::metrics::{Metrics, TargetStats};
use crate::remote::{Mode, Remote, RemoteError};
use crate::route::{OtherNodes, Report, Reported, is_valid};

/// How old a report may be when it is read. An older one is returned too, and asked for again.
const MAX_AGE: Duration = Duration::from_secs(2);
/// How long a node has to tell of its functions.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum length of what a node tells of one function, in bytes of JSON. Of a longer one, only the name is kept.
const MAX_FUNCTION: usize = 5 * 1024;

/// What all forwards of a node may remember together.
#[derive(Debug)]
pub(crate) struct ReportLimit {
    left: Mutex<Room>,
    metrics: Arc<Metrics>,
}

/// A number of functions, and the bytes of their descriptions.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    functions: usize,
    bytes: usize,
}

impl ReportLimit {
    pub(crate) fn new(limits: &Limits, metrics: &Arc<Metrics>) -> Arc<Self> {
        // So that a list of all fits into a message.
        let left = Room { functions: limits.forward_functions, bytes: limits.message / 4 };
        Arc::new(Self { left: Mutex::new(left), metrics: metrics.clone() })
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    fn left(&self) -> MutexGuard<'_, Room> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, room: Room) {
        let mut left = self.left();
        left.functions += room.functions;
        left.bytes += room.bytes;
    }
}

/// Asks the nodes of one forward for their functions: when they are found, and again when somebody reads an old report.
/// Readers never wait.
pub(super) struct Reporter {
    this: Weak<Self>,
    inner: Arc<Inner>,
    /// The function or family.
    name: String,
    limit: Arc<ReportLimit>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    functions: Arc<[Reported]>,
    /// What they take of the limit.
    room: Room,
    /// The node that has told.
    source: Option<usize>,
    /// The nodes that have answered a ping. Other servers are not asked.
    found: Vec<usize>,
    is_asking: bool,
    /// Another node was found meanwhile.
    is_outdated: bool,
    asked: Option<Instant>,
    /// It was logged that not all functions are remembered.
    is_logged: bool,
}

impl Reporter {
    pub(super) fn new(inner: &Arc<Inner>, name: &str, limit: &Arc<ReportLimit>) -> Arc<Self> {
        let reporter = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            inner: inner.clone(),
            name: name.to_owned(),
            limit: limit.clone(),
            state: Mutex::default(),
        });
        for (index, remote) in inner.balancer.remotes().enumerate() {
            let reporter = Arc::downgrade(&reporter);
            remote.when_node_found(move || match reporter.upgrade() {
                Some(reporter) => {
                    reporter.note_found(index);
                    true
                }
                None => false,
            });
        }
        reporter
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self, index: usize) -> bool {
        self.inner.balancer.remote(index).is_connected()
    }

    /// Notes that a node answers, and asks it unless one that comes before it has told.
    fn note_found(&self, index: usize) {
        let mut state = self.state();
        if !state.found.contains(&index) {
            let at = state.found.partition_point(|earlier| *earlier < index);
            state.found.insert(at, index);
        }
        if state.source.is_none_or(|source| source >= index || !self.is_connected(source)) {
            self.ask(index, &mut state);
        }
    }

    fn ask(&self, index: usize, state: &mut State) {
        if std::mem::replace(&mut state.is_asking, true) {
            state.is_outdated = true;
            return;
        }
        let (remote, reporter) = (self.inner.balancer.remote(index).clone(), self.this.clone());
        let pattern = self.name.clone();
        #[cfg(feature = "grpc")]
        let pattern = self.inner.settings.method.as_ref().map_or(pattern, MethodName::pattern);
        let params = RawJson::of(&(pattern, true)).ok();
        let deadline = Instant::now() + TIMEOUT;
        let ask = async move {
            let told = remote.send("rpc.list".into(), params, deadline, 1, Mode::Call).await;
            if let Some(reporter) = reporter.upgrade() {
                reporter.note_report(index, told);
            }
        };
        self.inner.executor.spawn(ask).detach();
    }

    fn note_report(&self, index: usize, told: Result<RawJson<'static>, RemoteError>) {
        let functions = match told {
            Ok(json) => Some(self.read(&json)),
            // What it told before is no longer so.
            Err(RemoteError::Fault(fault)) if matches!(fault.code, code::UNKNOWN_FUNCTION | code::DENIED) => {
                log::debug!("{} does not describe {}: {fault}", self.address(index), self.name);
                Some(Vec::new())
            }
            Err(error) => {
                log::debug!("{} did not describe {}: {error}", self.address(index), self.name);
                None
            }
        };
        let mut state = self.state();
        state.is_asking = false;
        state.asked = Some(Instant::now());
        if let Some(functions) = functions {
            state.source = Some(index);
            self.keep(functions, index, &mut state);
        }
        if std::mem::take(&mut state.is_outdated) {
            self.ask_first(&mut state);
        }
    }

    /// Keeps as many functions as the limit allows.
    fn keep(&self, functions: Vec<(Reported, usize)>, index: usize, state: &mut State) {
        self.limit.give_back(std::mem::take(&mut state.room));
        let mut left = self.limit.left();
        let before = *left;
        let (mut kept, mut undescribed) = (Vec::new(), 0);
        let number = functions.len();
        for (mut function, bytes) in functions.into_iter().take(left.functions) {
            match left.bytes.checked_sub(bytes) {
                Some(rest) => left.bytes = rest,
                None => {
                    function.signature = Signature::default();
                    undescribed += 1;
                }
            }
            kept.push(function);
        }
        left.functions -= kept.len();
        state.room = Room { functions: kept.len(), bytes: before.bytes - left.bytes };
        drop(left);
        let omitted = number - kept.len();
        self.limit.metrics.forward_functions_omitted.add(omitted as u64);
        if omitted + undescribed > 0 {
            let level = if state.is_logged { log::Level::Debug } else { log::Level::Warn };
            let (name, address) = (&self.name, self.address(index));
            log::log!(
                level,
                "of the functions {name} of {address}, {omitted} are not listed (limits.forward_functions) and \
                 {undescribed} not described (a quarter of limits.message); they can be called"
            );
            state.is_logged = true;
        }
        state.functions = kept.into();
    }

    /// Asks the first node that is connected, if it has answered a ping.
    fn ask_first(&self, state: &mut State) {
        if let Some(index) = state.found.iter().copied().find(|index| self.is_connected(*index)) {
            self.ask(index, state);
        }
    }

    fn address(&self, index: usize) -> &str {
        self.inner.balancer.remote(index).address()
    }

    /// Reads what a node lists. Ignores what is not understood, or is behind too many nodes: in a circle of nodes, what
    /// nobody provides any longer would stay for ever.
    fn read(&self, json: &RawJson<'_>) -> Vec<(Reported, usize)> {
        let listed: Vec<&RawValue> = serde_json::from_str(json.get()).unwrap_or_default();
        let mut functions: Vec<_> =
            listed.into_iter().filter_map(|json| self.read_function(json.get())).collect();
        functions.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        functions.dedup_by(|(one, _), (other, _)| one.name == other.name);
        functions
    }

    /// Also returns the size of its description.
    fn read_function(&self, json: &str) -> Option<(Reported, usize)> {
        let function: Object<'_> = serde_json::from_str(json).ok()?;
        let name = function.required("name").ok()?;
        #[cfg(feature = "grpc")]
        let name = match &self.inner.settings.method {
            Some(method) => method.function(&name, &self.name)?,
            None => name,
        };
        let is_asked_for = match self.name.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix) && is_valid(&name),
            None => name == self.name,
        };
        let behind: u32 = function.get("hops").map_or(Ok(0), str::parse).ok()?;
        let hops = behind.saturating_add(1);
        if !is_asked_for || hops > self.inner.settings.max_hops {
            return None;
        }
        let signature = if json.len() > MAX_FUNCTION { None } else { Signature::read(&function).ok() };
        let bytes = if signature.is_some() { json.len() } else { 0 };
        let reported = Reported {
            name: name.into(),
            signature: signature.unwrap_or_default(),
            hops,
            is_stale: function.get("stale") == Some("true"),
        };
        Some((reported, bytes))
    }
}

impl OtherNodes for Reporter {
    fn report(&self) -> Report {
        let mut state = self.state();
        if !state.is_asking && state.asked.is_none_or(|asked| asked.elapsed() >= MAX_AGE) {
            self.ask_first(&mut state);
        }
        let is_stale = !self.inner.balancer.remotes().any(Remote::is_connected);
        Report { functions: state.functions.clone(), is_stale }
    }

    fn targets(&self) -> Vec<TargetStats> {
        self.inner.balancer.targets()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.limit.give_back(self.state().room);
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("name", &self.name).finish_non_exhaustive()
    }
}
