//! The forward provider: functions of other nodes.

mod balance;
mod hedge;
mod report;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::config::Balance;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;
#[cfg(feature = "nats")]
use crate::provider::nats::Naming;
use crate::remote::{ConnectionLease, Remote, RemoteError};
use crate::route::{Call, Description, OtherNodes, Peer, PeerError, Provider, ProviderKind, Responder};
use balance::{Candidate, Readiness, choose, hash};
pub(crate) use report::ReportLimit;
use report::Reporter;

/// First calls for which one may be made in addition.
const CALLS_PER_RETRY: u32 = 5;
/// Calls that may be made in addition at once.
const MAX_RETRIES: u32 = 10;

/// How long a node is passed over after it has refused a call, and at most after many in a row.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Forwards calls to other nodes, under the same name.
#[derive(Clone, Debug)]
pub struct Forward(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    executor: Arc<Executor<'static>>,
    /// At least one.
    nodes: Vec<Node>,
    settings: ForwardSettings,
    /// The number of calls so far.
    turn: AtomicUsize,
    /// First calls since additional ones, up to a limit.
    credit: AtomicU32,
}

/// How calls are forwarded.
#[derive(Clone, Debug, Default)]
pub struct ForwardSettings {
    /// This node's name, for the path in a fault.
    pub node: Arc<str>,
    /// How many nodes may forward one call.
    pub max_hops: u32,
    /// A call ends after this time or at its own deadline, whichever is earlier.
    pub timeout: Option<Duration>,
    /// Which of several nodes is asked.
    pub balance: Balance,
    /// The parameter by which calls are distributed, in place of `balance`.
    pub key: Option<String>,
    /// A call may run twice: it is repeated even if it was lost.
    pub repeatable: bool,
    /// How long a node has to answer before another one is asked too.
    pub hedge: Option<Duration>,
    /// The counters of the node.
    pub metrics: Arc<Metrics>,
    /// Set if calls go to NATS.
    #[cfg(feature = "nats")]
    pub nats: Option<Naming>,
    /// What the function is called there, if it has another name.
    #[cfg(feature = "grpc")]
    pub method: Option<MethodName>,
}

/// What functions are called by a gRPC server.
#[cfg(feature = "grpc")]
#[derive(Clone, Debug)]
pub enum MethodName {
    /// The method `package.Service/Method`.
    One(String),
    /// The methods of a service, for a family of functions.
    Family {
        /// `package.Service`.
        service: String,
        /// What the names of the functions begin with.
        prefix: String,
    },
}

#[cfg(feature = "grpc")]
impl MethodName {
    /// Returns the method of a function.
    fn of(&self, function: &str) -> String {
        match self {
            Self::One(method) => method.clone(),
            Self::Family { service, prefix } => {
                format!("{service}/{}", function.strip_prefix(&**prefix).unwrap_or(function))
            }
        }
    }

    /// Returns the pattern of the methods.
    fn pattern(&self) -> String {
        match self {
            Self::One(method) => method.clone(),
            Self::Family { service, .. } => format!("{service}/*"),
        }
    }

    /// Returns the function of a method; `name` is that of the only one.
    fn function(&self, method: &str, name: &str) -> Option<String> {
        match self {
            Self::One(only) => (method == only).then(|| name.to_owned()),
            Self::Family { service, prefix } => {
                let name = method.strip_prefix(&**service)?.strip_prefix('/')?;
                let (first, rest) = name.split_at_checked(1)?;
                Some(format!("{prefix}{}{rest}", first.to_ascii_lowercase()))
            }
        }
    }
}

/// One of the nodes.
#[derive(Debug)]
struct Node {
    remote: Remote,
    /// Calls without an answer.
    in_flight: AtomicUsize,
    /// How long an answer takes, as a moving mean in microseconds; 0 if unknown.
    mean: AtomicU64,
    refusals: Mutex<Refusals>,
}

/// That a node has refused calls since its last answer.
#[derive(Debug, Default)]
struct Refusals {
    /// It is passed over until then.
    until: Option<Instant>,
    pause: Duration,
}

/// A call to forward.
#[derive(Clone)]
struct Request {
    method: String,
    params: Option<RawJson<'static>>,
    deadline: Instant,
    hops: u32,
}

/// A call, and which nodes did not take it.
struct Attempt {
    request: Request,
    responder: Responder,
    key: Option<u64>,
    /// Why nodes did not take the call, which are not asked again.
    failures: Vec<(usize, RemoteError)>,
}

impl Forward {
    /// Creates a provider that forwards calls through `remotes`, of which there must be at least one.
    pub fn new(
        executor: Arc<Executor<'static>>,
        remotes: impl IntoIterator<Item = Remote>,
        settings: ForwardSettings,
    ) -> Self {
        let nodes = remotes.into_iter().map(Node::new).collect();
        let (turn, credit) = (AtomicUsize::new(0), AtomicU32::new(CALLS_PER_RETRY * MAX_RETRIES));
        Self(Arc::new(Inner { executor, nodes, settings, turn, credit }))
    }

    /// Describes the function, with its timeout.
    pub fn describe(&self) -> Description {
        let addresses: Vec<_> = self.0.nodes.iter().map(|node| node.remote.address()).collect();
        Description {
            provider: ProviderKind::Forward,
            target: Some(addresses.join(" ")),
            timeout: self.0.settings.timeout,
            ..Description::default()
        }
    }

    /// Has the nodes asked what they tell of the function or family `name`, for its description.
    pub(crate) fn other_nodes(&self, name: &str, limit: &Arc<ReportLimit>) -> Arc<dyn OtherNodes> {
        Reporter::new(&self.0, name, limit)
    }

    /// Sends a call to the next node, or answers it if there is none.
    fn attempt(self, mut attempt: Attempt) {
        while let Some(index) = self.0.choose(attempt.key, &mut attempt.failures) {
            let lease = self.0.nodes[index].remote.lease();
            match lease.and_then(|lease| Ok((lease.connection().peer()?, lease))) {
                Ok((Some(peer), lease)) => return self.send(&peer, lease, index, attempt),
                Ok((None, lease)) => {
                    let executor = self.0.executor.clone();
                    return executor.spawn(self.send_when_connected(lease, index, attempt)).detach();
                }
                Err(error) => attempt.failures.push((index, error)),
            }
        }
        attempt.responder.send(Err(self.0.fault(&self.0.nobody(attempt.failures))));
    }

    /// Sends a call over a connection that is established.
    fn send(self, peer: &Peer, lease: ConnectionLease, index: usize, attempt: Attempt) {
        let (id, is_notification) = (peer.reserve(), !attempt.responder.expects_reply());
        if !is_notification && !attempt.responder.on_cancel(&peer.canceller(id)) {
            return attempt.responder.send(Err(cancelled()));
        }
        let Attempt { request, responder, key, mut failures } = attempt;
        let count = self.0.nodes.len();
        // For another attempt.
        let kept = (failures.len() + 1 < count).then(|| request.clone());
        let Request { method, params, deadline, hops } = request;
        self.0.nodes[index].in_flight.fetch_add(1, Ordering::Relaxed);
        // What is known of a node matters only beside others.
        let began = (count > 1 && !is_notification).then(Instant::now);
        let answer = move |result: Result<_, PeerError>| {
            let node = &self.0.nodes[index];
            node.in_flight.fetch_sub(1, Ordering::Relaxed);
            let result = result.map_err(|error| lease.connection().error(error));
            if let Some(began) = began {
                node.note_answer(began.elapsed(), result.as_ref().err());
            }
            match (result, kept) {
                (Err(error), Some(request)) if self.0.may_repeat(&error, deadline) => {
                    drop(lease);
                    failures.push((index, error));
                    self.attempt(Attempt { request, responder, key, failures });
                }
                (result, _) => responder.send(self.0.result(result)),
            }
        };
        let deadline = (!is_notification).then_some(deadline);
        peer.call(id, method.into(), params, deadline, hops, is_notification, answer);
    }

    /// Sends a call once the connection is established, unless it is cancelled or late before.
    async fn send_when_connected(self, lease: ConnectionLease, index: usize, mut attempt: Attempt) {
        let connected = async { lease.connection().connected().await.map_err(Some) };
        let cancelled = async {
            attempt.responder.cancelled().await;
            Err(None)
        };
        let timeout = async {
            Timer::at(attempt.request.deadline).await;
            Err(Some(RemoteError::Deadline))
        };
        match connected.or(cancelled).or(timeout).await {
            Ok(peer) => self.send(&peer, lease, index, attempt),
            Err(None) => attempt.responder.send(Err(self::cancelled())),
            Err(Some(error)) if error.is_unsent() => {
                attempt.failures.push((index, error));
                self.attempt(attempt);
            }
            Err(Some(error)) => attempt.responder.send(Err(self.0.fault(&error))),
        }
    }
}

impl Inner {
    /// Chooses a node that has not failed. Notes those without a connection as failures.
    fn choose(&self, key: Option<u64>, failures: &mut Vec<(usize, RemoteError)>) -> Option<usize> {
        if self.nodes.len() == 1 {
            return failures.is_empty().then_some(0);
        }
        let mut candidates = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            if failures.iter().any(|(failed, _)| *failed == index) {
                continue;
            }
            match node.remote.lease().and_then(|lease| lease.connection().peer()) {
                Ok(peer) => candidates.push(Candidate {
                    index,
                    readiness: match peer {
                        _ if node.is_refusing() => Readiness::Refusing,
                        None => Readiness::Connecting,
                        Some(_) => Readiness::Connected,
                    },
                    in_flight: node.in_flight.load(Ordering::Relaxed),
                    mean: node.mean.load(Ordering::Relaxed),
                }),
                Err(error) => failures.push((index, error)),
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        choose(self.settings.balance, turn, key, &candidates)
    }

    /// Returns `true` if a call that ended with `error` has not run, or may run twice, and another node may be asked.
    fn may_repeat(&self, error: &RemoteError, deadline: Instant) -> bool {
        let is_lost = matches!(error, RemoteError::Lost { .. });
        if !(error.is_unsent() || (is_lost && self.settings.repeatable)) || Instant::now() >= deadline {
            return false;
        }
        self.spend_credit()
    }

    /// Returns `true` if one more call may be made than callers make.
    fn spend_credit(&self) -> bool {
        let spend = |credit: u32| credit.checked_sub(CALLS_PER_RETRY);
        let is_left = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok();
        self.settings.metrics.forward_retries.add(u64::from(is_left));
        is_left
    }

    /// Returns the error if no node is left: that of a node which answered, or the reasons of all.
    fn nobody(&self, mut failures: Vec<(usize, RemoteError)>) -> RemoteError {
        #[derive(Serialize)]
        struct Data {
            sent: bool,
            targets: Vec<Target>,
        }
        #[derive(Serialize)]
        struct Target {
            to: String,
            reason: String,
        }
        let is_answer = |(_, error): &(usize, RemoteError)| !matches!(error, RemoteError::Unreachable { .. });
        if let Some(at) = failures.iter().rposition(is_answer).or((self.nodes.len() == 1).then_some(0)) {
            return failures.swap_remove(at).1;
        }
        let reason = |error| match error {
            RemoteError::Unreachable { reason, .. } => reason,
            error => error.to_string(),
        };
        let to = |index: usize| self.nodes[index].remote.address().to_owned();
        let target = |(index, error)| Target { to: to(index), reason: reason(error) };
        let targets = failures.into_iter().map(target).collect();
        let message = format!("none of {} nodes took the call", self.nodes.len());
        let data = Data { sent: false, targets };
        RemoteError::Fault(Fault::new(code::NO_PROVIDER, message).with_data(&data))
    }

    /// Returns what the caller receives for the answer of a node.
    fn result(&self, answer: Result<RawJson<'static>, RemoteError>) -> Result<RawJson<'static>, Fault> {
        let result = answer.map_err(|error| self.fault(&error));
        #[cfg(feature = "nats")]
        if let Some(naming) = &self.settings.nats {
            return naming.result(result);
        }
        result
    }

    fn fault(&self, error: &RemoteError) -> Fault {
        let message = || error.to_string();
        let fault = match error {
            RemoteError::Fault(fault) => fault.clone(),
            RemoteError::Unreachable { .. } => Fault::not_sent(message()),
            RemoteError::Lost { .. } => Fault::lost(message()),
            RemoteError::Busy { .. } => Fault::new(code::BUSY, message()).unsent(),
            RemoteError::Deadline => Fault::new(code::DEADLINE, message()),
        };
        fault.through(&self.settings.node)
    }
}

impl Node {
    fn new(remote: Remote) -> Self {
        let (in_flight, mean, refusals) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Self { remote, in_flight, mean, refusals }
    }

    /// Notes how long the answer to a call took, or that the node has refused it, which another call would be too.
    fn note_answer(&self, time: Duration, error: Option<&RemoteError>) {
        let is_refusal = |error: &RemoteError| {
            matches!(error, RemoteError::Fault(fault) if fault.code != code::BUSY) && error.is_unsent()
        };
        let mut refusals = self.refusals();
        if error.is_some_and(is_refusal) {
            refusals.pause = (refusals.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
            refusals.until = Some(Instant::now() + refusals.pause);
        } else if error.is_none() {
            *refusals = Refusals::default();
            drop(refusals);
            self.note_time(time);
        }
    }

    fn is_refusing(&self) -> bool {
        self.refusals().until.is_some_and(|until| until > Instant::now())
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_time(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean = self.mean.load(Ordering::Relaxed);
        let next = if mean == 0 { time } else { mean - mean / 8 + time / 8 };
        // A time that is lost to another thread does not matter.
        self.mean.store(next.max(1), Ordering::Relaxed);
    }
}

impl Provider for Forward {
    fn retire(&self) -> bool {
        let mut has_ended = true;
        for node in &self.0.nodes {
            has_ended &= node.remote.retire();
        }
        has_ended
    }

    fn call(&self, mut call: Call<'_>) {
        let ForwardSettings { node, max_hops, timeout, key, .. } = &self.0.settings;
        let hops = call.hops() + 1;
        if hops > *max_hops {
            let message = format!("the call was forwarded {max_hops} times already (limits.hops)");
            return call.reply(Err(Fault::new(code::HOP_LIMIT, message).through(node)));
        }
        let key = key.as_ref().and_then(|key| key_of(key, call.params()?.get()));
        let method = call.method().to_owned();
        #[cfg(feature = "grpc")]
        let method = self.0.settings.method.as_ref().map_or(method, |name| name.of(call.method()));
        #[cfg(feature = "nats")]
        let method = match self.0.settings.nats.as_ref().map(|naming| naming.subject(&method)) {
            None => method,
            Some(Ok(subject)) => subject,
            Some(Err(fault)) => return call.reply(Err(fault.through(node))),
        };
        let params = call.take_params().map(RawJson::into_owned);
        let own = timeout.map(|timeout| Instant::now() + timeout);
        let deadline = own.map_or(call.deadline(), |own| own.min(call.deadline()));
        let earn = |credit: u32| Some((credit + 1).min(CALLS_PER_RETRY * MAX_RETRIES));
        if self.0.nodes.len() > 1 {
            let _ = self.0.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
        }
        let request = Request { method, params, deadline, hops };
        let (responder, failures) = (call.defer(), Vec::new());
        let attempt = Attempt { request, responder, key, failures };
        match self.0.settings.hedge {
            Some(delay) if attempt.responder.expects_reply() => {
                self.0.executor.spawn(self.clone().hedge(attempt, delay)).detach();
            }
            _ => self.clone().attempt(attempt),
        }
    }
}

/// Returns a number for the value of a parameter: a member of an object, or the element of an array at a position.
fn key_of(key: &str, params: &str) -> Option<u64> {
    let params: serde_json::Value = serde_json::from_str(params).ok()?;
    let value = match key.parse::<usize>() {
        Ok(position) => params.get(position)?,
        Err(_) => params.get(key)?,
    };
    Some(hash(&value.to_string()))
}

fn cancelled() -> Fault {
    Fault::new(code::CANCELLED, "cancelled by the caller")
}
