//! The forward provider: functions of another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::message::{Fault, RawJson, code};
use crate::remote::{ConnectionLease, Remote, RemoteError};
use crate::route::{Call, Description, Peer, PeerError, Provider, ProviderKind, Responder};

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

    /// Sends a call, whose answer goes to `responder`, over a connection that is established.
    fn send(&self, peer: &Peer, lease: ConnectionLease, request: Request, responder: Responder) {
        let Request { method, params, deadline, hops } = request;
        let (id, is_notification) = (peer.reserve(), !responder.expects_reply());
        if !is_notification && !responder.on_cancel(&peer.canceller(id)) {
            return responder.send(Err(Fault::new(code::CANCELLED, "cancelled by the caller")));
        }
        let deadline = (!is_notification).then_some(deadline);
        let this = self.clone();
        let answer = move |result: Result<_, PeerError>| {
            responder.send(result.map_err(|error| this.fault(lease.connection().error(error))));
        };
        peer.call(id, method.into(), params, deadline, hops, is_notification, answer);
    }

    /// Sends a call once the connection is established, unless it is cancelled or late before.
    async fn send_when_connected(self, lease: ConnectionLease, request: Request, responder: Responder) {
        let connected = async { lease.connection().connected().await.map_err(|error| self.fault(error)) };
        let cancelled = async {
            responder.cancelled().await;
            Err(Fault::new(code::CANCELLED, "cancelled by the caller"))
        };
        let timeout = async {
            Timer::at(request.deadline).await;
            Err(self.fault(RemoteError::Deadline))
        };
        match connected.or(cancelled).or(timeout).await {
            Ok(peer) => self.send(&peer, lease, request, responder),
            Err(fault) => responder.send(Err(fault)),
        }
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
        let (method, params) = (call.method().to_owned(), call.take_params().map(RawJson::into_owned));
        let own = self.timeout.map(|timeout| Instant::now() + timeout);
        let deadline = own.map_or(call.deadline(), |own| own.min(call.deadline()));
        let responder = call.defer();
        let request = Request { method, params, deadline, hops };
        let lease = self.remote.lease();
        match lease.and_then(|lease| Ok((lease.connection().peer()?, lease))) {
            Ok((Some(peer), lease)) => self.send(&peer, lease, request, responder),
            Ok((None, lease)) => {
                let waiting = self.clone().send_when_connected(lease, request, responder);
                self.executor.spawn(waiting).detach();
            }
            Err(error) => responder.send(Err(self.fault(error))),
        }
    }
}

/// A call to forward.
struct Request {
    method: String,
    params: Option<RawJson<'static>>,
    deadline: Instant,
    hops: u32,
}
