//! Where the calls of a client go.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Executor;

use super::error::RemoteError;
use crate::chan::BoxFuture;
use crate::message::RawJson;

/// A node, a gRPC service or a subject of NATS; or several of them, one of which answers each call.
pub(super) trait Endpoint: Send + Sync {
    /// Returns the address or addresses, for errors.
    fn address(&self) -> String;

    /// Returns the time after which a call ends that has no deadline.
    fn default_timeout(&self) -> Duration;

    /// Returns the executor that runs the connections.
    ///
    /// # Errors
    /// [`RemoteError::Unreachable`] if it was dropped.
    fn executor(&self) -> Result<Arc<Executor<'static>>, RemoteError>;

    /// Sends a call, and waits for its answer.
    fn send(
        self: Arc<Self>,
        request: Request,
        deadline: Instant,
        hops: u32,
    ) -> BoxFuture<'static, Result<RawJson<'static>, RemoteError>>;
}

/// A call to send.
pub(super) struct Request {
    pub(super) method: Cow<'static, str>,
    pub(super) params: Option<RawJson<'static>>,
    pub(super) mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Call,
    /// Ends when the call is queued for sending.
    Go,
}
