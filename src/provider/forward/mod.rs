//! The forward provider: functions of other nodes.

mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::config::Balance;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;
#[cfg(feature = "nats")]
use crate::provider::nats::Naming;
use crate::remote::{
    BalancedRequest, Balancer, BalancerSettings, ConnectionLease, Failures, Mode, Remote, RemoteError, key_of,
};
use crate::route::{Call, Description, OtherNodes, Peer, PeerError, Provider, ProviderKind, Responder};
pub(crate) use report::ReportLimit;
use report::Reporter;

/// Forwards calls to other nodes, under the same name.
#[derive(Clone, Debug)]
pub struct Forward(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    executor: Arc<Executor<'static>>,
    balancer: Balancer,
    settings: ForwardSettings,
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

/// A call, and which nodes did not take it.
struct Attempt {
    request: BalancedRequest,
    responder: Responder,
    key: Option<u64>,
    failures: Failures,
}

impl Forward {
    /// Creates a provider that forwards calls through `remotes`, of which there must be at least one.
    pub fn new(
        executor: Arc<Executor<'static>>,
        remotes: impl IntoIterator<Item = Remote>,
        settings: ForwardSettings,
    ) -> Self {
        let ForwardSettings { balance, repeatable, metrics, .. } = &settings;
        let (balance, repeatable, metrics) = (*balance, *repeatable, metrics.clone());
        let balancer = Balancer::new(remotes, BalancerSettings { balance, repeatable, metrics });
        Self(Arc::new(Inner { executor, balancer, settings }))
    }

    /// Describes the function, with its timeout.
    pub fn describe(&self) -> Description {
        let addresses: Vec<_> = self.0.balancer.remotes().map(Remote::address).collect();
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
        match self.0.balancer.lease(attempt.key, &mut attempt.failures) {
            Some((index, lease, Some(peer))) => self.send(&peer, lease, index, attempt),
            Some((index, lease, None)) => {
                let executor = self.0.executor.clone();
                executor.spawn(self.send_when_connected(lease, index, attempt)).detach();
            }
            None => attempt.responder.send(Err(self.0.fault(&self.0.balancer.nobody(attempt.failures)))),
        }
    }

    /// Sends a call over a connection that is established.
    fn send(self, peer: &Peer, lease: ConnectionLease, index: usize, attempt: Attempt) {
        let (id, is_notification) = (peer.reserve(), !attempt.responder.expects_reply());
        if !is_notification && !attempt.responder.on_cancel(&peer.canceller(id)) {
            return attempt.responder.send(Err(cancelled()));
        }
        let Attempt { request, responder, key, mut failures } = attempt;
        let count = self.0.balancer.count();
        // For another attempt.
        let kept = (failures.len() + 1 < count).then(|| request.clone());
        let BalancedRequest { method, params, deadline, hops } = request;
        self.0.balancer.note_sent(index);
        let began = (count > 1 && !is_notification).then(Instant::now);
        let answer = move |result: Result<_, PeerError>| {
            let result = result.map_err(|error| lease.connection().error(error));
            self.0.balancer.note_answer(index, began, result.as_ref().err());
            match (result, kept) {
                (Err(error), Some(request)) if self.0.balancer.may_repeat(&error, deadline) => {
                    drop(lease);
                    failures.push((index, error));
                    self.attempt(Attempt { request, responder, key, failures });
                }
                (result, _) => responder.send(self.0.result(result)),
            }
        };
        let deadline = (!is_notification).then_some(deadline);
        peer.call(id, method, params, deadline, hops, is_notification, answer);
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

    /// Answers a call that two nodes may run. Asks one, and after `delay` another one.
    async fn hedge(self, attempt: Attempt, delay: Duration) {
        let Attempt { request, responder, .. } = attempt;
        let answered = async { Some(self.0.balancer.ask(&request, None, Mode::Call, Some(delay)).await) };
        let cancelled = async {
            responder.cancelled().await;
            None
        };
        let answer = answered.or(cancelled).await;
        responder.send(answer.map_or_else(|| Err(self::cancelled()), |answer| self.0.result(answer)));
    }
}

impl Inner {
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

impl Provider for Forward {
    fn retire(&self) -> bool {
        let mut has_ended = true;
        for remote in self.0.balancer.remotes() {
            has_ended &= remote.retire();
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
        self.0.balancer.note_first();
        let request = BalancedRequest { method: method.into(), params, deadline, hops };
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

fn cancelled() -> Fault {
    Fault::new(code::CANCELLED, "cancelled by the caller")
}
