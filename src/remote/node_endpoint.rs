//! The connections of one client: to a node, a gRPC server, or servers of NATS.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::endpoint::{Endpoint, Mode, Request};
use super::error::RemoteError;
use super::io_thread::IoThread;
#[cfg(feature = "nats")]
use super::nats::{NatsClient, Survey};
use super::pool::Pool;
use crate::chan::BoxFuture;
#[cfg(feature = "nats")]
use crate::codec::nats::FLUSH;
use crate::message::RawJson;
#[cfg(feature = "nats")]
use crate::message::{Fault, code};
use crate::route::{CallId, LAST_CALLS, Peer, PeerError};
#[cfg(feature = "nats")]
use crate::route::{PEER, PING};

/// The function that lists the functions of a node; over NATS, those of all services.
#[cfg(feature = "nats")]
const LIST: &str = "rpc.list";

/// Where the calls of a client of one node go.
pub(super) struct NodeEndpoint {
    pub(super) pool: Pool,
    /// When the configuration ceased to have it.
    withdrawn: OnceLock<Instant>,
    _thread: Option<IoThread>,
}

impl NodeEndpoint {
    /// The thread, if there is one, runs the connections.
    pub(super) fn new(pool: Pool, thread: Option<IoThread>) -> Self {
        Self { pool, withdrawn: OnceLock::new(), _thread: thread }
    }

    /// Notes that nobody calls any longer.
    pub(super) fn withdraw(&self) {
        let _ = self.withdrawn.set(Instant::now());
    }

    /// Closes the connections if nobody calls any longer. Returns `false` while calls are in flight.
    pub(super) fn retire(&self) -> bool {
        // A thread that has found the function before may still call.
        let Some(withdrawn) = self.withdrawn.get() else { return true };
        withdrawn.elapsed() >= LAST_CALLS && self.pool.close_unused()
    }

    /// Calls a function by its name, or a subject.
    #[cfg(feature = "nats")]
    pub(super) async fn call(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        let Some(client) = &self.pool.target().nats else {
            return self.exchange(method, params, deadline, hops, mode).await;
        };
        if method == LIST {
            let survey = self.survey(client, params.as_ref(), deadline).await?;
            if let Some(lacks) = survey.lacks {
                log::warn!(target: PEER, "{}: {lacks}", client.address());
            }
            return Ok(survey.functions);
        }
        let Some(naming) = client.naming() else {
            return self.exchange(method, params, deadline, hops, mode).await;
        };
        if method == PING {
            // Answered when the server has taken everything that was sent before.
            self.exchange(FLUSH.into(), None, deadline, hops, mode).await?;
            return Ok(RawJson::checked("\"pong\""));
        }
        if method.starts_with("rpc.") {
            let message =
                format!("servers of NATS have no {method}; they have functions, rpc.list and rpc.ping");
            return Err(RemoteError::Fault(Fault::new(code::UNKNOWN_FUNCTION, message)));
        }
        let subject = naming.subject(&method).map_err(RemoteError::Fault)?;
        match self.exchange(subject.into(), params, deadline, hops, mode).await {
            Err(RemoteError::Fault(fault)) => naming.result(Err(fault)).map_err(RemoteError::Fault),
            answer => answer,
        }
    }

    /// Asks the services of NATS for their functions.
    #[cfg(feature = "nats")]
    pub(super) async fn survey(
        &self,
        client: &NatsClient,
        params: Option<&RawJson<'_>>,
        deadline: Instant,
    ) -> Result<Survey, RemoteError> {
        let lease = self.pool.lease()?;
        let timeout = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        let peer = lease.connection().connected().or(timeout).await?;
        client.survey(&peer, params, self.pool.target().limits.message, deadline).await
    }

    #[cfg(not(feature = "nats"))]
    pub(super) async fn call(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        self.exchange(method, params, deadline, hops, mode).await
    }

    async fn exchange(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        let lease = self.pool.lease()?;
        let call = async {
            let connection = lease.connection();
            let peer = connection.connected().await?;
            let (reply, replied) = async_channel::bounded(1);
            let id = peer.reserve();
            // A call in go mode is sent even if nobody waits for that.
            let call = (mode == Mode::Call).then_some(id);
            let mut cancel = CancelOnDrop { peer: &peer, call };
            let (is_notification, deadline) = match mode {
                Mode::Call => (false, Some(deadline)),
                Mode::Go => (true, None),
            };
            peer.call(id, method, params, deadline, hops, is_notification, move |result| {
                let _ = reply.try_send(result);
            });
            let result = replied.recv().await;
            cancel.call = None;
            let dropped = |_| Err(PeerError::Lost("the client was dropped".into()));
            result.unwrap_or_else(dropped).map_err(|error| connection.error(error))
        };
        // The connection's own deadline needs an executor that runs.
        let timeout = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        call.or(timeout).await
    }
}

impl Endpoint for NodeEndpoint {
    fn address(&self) -> String {
        self.pool.target().address.clone()
    }

    fn default_timeout(&self) -> Duration {
        self.pool.target().limits.deadline
    }

    fn executor(&self) -> Result<Arc<Executor<'static>>, RemoteError> {
        self.pool.executor()
    }

    fn send(
        self: Arc<Self>,
        Request { method, params, mode }: Request,
        deadline: Instant,
        hops: u32,
    ) -> BoxFuture<'static, Result<RawJson<'static>, RemoteError>> {
        Box::pin(async move { self.call(method, params, deadline, hops, mode).await })
    }
}

/// Cancels a call at the other node when dropped before its reply.
struct CancelOnDrop<'a> {
    peer: &'a Peer,
    /// `None` after the reply.
    call: Option<CallId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.peer.cancel(call);
        }
    }
}
