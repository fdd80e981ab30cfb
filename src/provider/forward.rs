//! The forward provider: functions of another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Executor;
use smol::future::FutureExt;

use crate::message::{Fault, Outcome, RawJson, code};
use crate::remote::{Remote, RemoteError};
use crate::route::{Call, Description, Provider, ProviderKind};

/// Forwards calls to another node, under the same name.
#[derive(Clone, Debug)]
pub struct Forward {
    executor: Arc<Executor<'static>>,
    remote: Remote,
    /// This node's name, for the path in a fault.
    node: Arc<str>,
    max_hops: u32,
    timeout: Option<Duration>,
}

impl Forward {
    /// Creates a provider that forwards calls through `remote` on behalf of `node`, at most `max_hops` times for one
    /// call. A call ends after `timeout` or at its own deadline, whichever is earlier.
    pub fn new(
        executor: Arc<Executor<'static>>,
        remote: Remote,
        node: Arc<str>,
        max_hops: u32,
        timeout: Option<Duration>,
    ) -> Self {
        Self { executor, remote, node, max_hops, timeout }
    }

    /// Describes the function, with its timeout.
    pub fn describe(&self) -> Description {
        Description {
            provider: ProviderKind::Forward,
            target: Some(self.remote.address().to_owned()),
            timeout: self.timeout,
            ..Description::default()
        }
    }

    async fn forward(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        deadline: Instant,
        hops: u32,
    ) -> Outcome {
        self.remote.forward(method, params, deadline, hops).await.map_err(|error| self.fault(error))
    }

    fn fault(&self, error: RemoteError) -> Fault {
        let message = error.to_string();
        let fault = match error {
            RemoteError::Fault(fault) => fault,
            RemoteError::Unreachable { .. } => Fault::not_sent(message),
            RemoteError::Lost { .. } => Fault::lost(message),
            RemoteError::Busy { .. } => Fault::new(code::BUSY, message),
            RemoteError::Deadline => Fault::new(code::DEADLINE, message),
        };
        fault.through(&self.node)
    }
}

impl Provider for Forward {
    fn call(&self, mut call: Call<'_>) {
        let hops = call.hops() + 1;
        if hops > self.max_hops {
            let message = format!("the call was forwarded {} times already (limits.hops)", self.max_hops);
            return call.reply(Err(Fault::new(code::HOP_LIMIT, message).through(&self.node)));
        }
        let (this, method, params) =
            (self.clone(), call.method().to_owned(), call.take_params().map(RawJson::into_owned));
        let own = self.timeout.map(|timeout| Instant::now() + timeout);
        let deadline = own.map_or(call.deadline(), |own| own.min(call.deadline()));
        let responder = call.defer();
        let task = async move {
            if !responder.expects_reply() {
                let sent = this.remote.forward_go(&method, params, deadline, hops).await;
                return responder.send(sent.map(|()| RawJson::NULL).map_err(|error| this.fault(error)));
            }
            let answer = async { this.forward(&method, params, deadline, hops).await };
            let cancelled = async {
                responder.cancelled().await;
                Err(Fault::new(code::CANCELLED, "cancelled by the caller"))
            };
            let outcome = answer.or(cancelled).await;
            responder.send(outcome);
        };
        self.executor.spawn(task).detach();
    }
}
