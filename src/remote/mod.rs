//! The network client: calls the functions of another node over connections that all callers share.

mod connection;
mod dial;
mod driver;
mod error;
mod lanes;
mod pool;
mod target;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::config::Limits;
use crate::message::RawJson;
use crate::transport::tls::Connector;
use connection::CancelOnDrop;
pub use error::RemoteError;
use pool::Pool;
use target::{Secret, Target};

/// A client of another node.
///
/// One connection multiplexes all calls. The client connects at once, and reconnects with exponential backoff when the
/// connection is lost. Calls wait while an attempt to connect is under way; between attempts they fail at once with
/// [`RemoteError::Unreachable`]. Dropping the client closes the connection and fails its calls.
///
/// A node stops reading a connection with [`Limits::in_flight`] calls in flight. So that slow calls do not delay all
/// others, calls beyond that number use further connections, up to 4 in total, which are not re-established when lost.
/// Calls on one connection arrive in order.
#[derive(Debug)]
pub struct Remote {
    pool: Pool,
}

impl Remote {
    /// Starts to connect to `address`, a `host:port`.
    pub fn new(executor: &Arc<Executor<'static>>, address: impl Into<String>, limits: Limits) -> Self {
        Self::with_token(executor, address, limits, None)
    }

    /// Starts to connect to `address`, and presents `token`, if given, first on each connection. If the other node
    /// rejects the token, calls fail with its error.
    pub fn with_token(
        executor: &Arc<Executor<'static>>,
        address: impl Into<String>,
        limits: Limits,
        token: Option<String>,
    ) -> Self {
        Self::over_tls(executor, address, limits, token, None)
    }

    /// [`with_token`](Self::with_token), over TLS if `tls` is given. The other node must present a certificate for the
    /// host of `address` that `tls` trusts.
    pub fn over_tls(
        executor: &Arc<Executor<'static>>,
        address: impl Into<String>,
        limits: Limits,
        token: Option<String>,
        tls: Option<Connector>,
    ) -> Self {
        let token = token.map(|token| Secret(token.into()));
        let target = Target { address: address.into(), limits, token, tls };
        Self { pool: Pool::new(executor.clone(), target) }
    }

    /// Returns the other node's address, as given.
    pub fn address(&self) -> &str {
        &self.pool.target().address
    }

    /// Waits for an attempt to connect that is under way. Calls do so themselves.
    ///
    /// # Errors
    /// Returns [`RemoteError::Unreachable`] if the attempt fails, or none is under way.
    pub async fn connected(&self) -> Result<(), RemoteError> {
        let lease = self.pool.lease();
        lease.connection().wait_connected().await
    }

    /// Returns `true` if the persistent connection is established.
    fn is_connected(&self) -> bool {
        self.pool.is_connected()
    }

    /// Calls a function and waits for its result until `deadline`. The other node receives the remaining time, and the
    /// number of nodes that have forwarded the call, `hops`.
    ///
    /// Dropping the future cancels the call, also at the other node.
    ///
    /// # Errors
    /// Returns a [`RemoteError`] if the call was not sent, was lost, passed its deadline, or was answered with an
    /// error.
    pub async fn call(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) -> Result<RawJson<'static>, RemoteError> {
        self.forward(method, params.map(RawJson::from), deadline, hops).await
    }

    /// [`call`](Self::call), with parameters in the form in which a request had them.
    pub(crate) async fn forward(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        deadline: Instant,
        hops: u32,
    ) -> Result<RawJson<'static>, RemoteError> {
        let lease = self.pool.lease();
        let connection = lease.connection();
        let call = async {
            connection.wait_connected().await?;
            let (reply, replied) = async_channel::bounded(1);
            let id = connection.send(method, params, Some(reply), Some(deadline), hops)?;
            let mut cancel = CancelOnDrop { connection, id };
            let result = replied.recv().await.unwrap_or_else(|_| Err(connection.client_dropped()));
            cancel.id = None;
            result
        };
        let timeout = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        call.or(timeout).await
    }

    /// Calls a function in go mode: returns when the call is queued for sending, and never learns its outcome.
    ///
    /// # Errors
    /// Returns a [`RemoteError`] if the call could not be sent.
    pub async fn go(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) -> Result<(), RemoteError> {
        self.forward_go(method, params.map(RawJson::from), deadline, hops).await
    }

    /// [`go`](Self::go), with parameters in the form in which a request had them.
    pub(crate) async fn forward_go(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        deadline: Instant,
        hops: u32,
    ) -> Result<(), RemoteError> {
        let lease = self.pool.lease();
        let go = async {
            lease.connection().wait_connected().await?;
            lease.connection().send(method, params, None, None, hops).map(drop)
        };
        let timeout = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        go.or(timeout).await
    }

    /// Closes the connections after everything is written, or after `timeout`. Calls cancelled just before are thus
    /// cancelled at the other node too.
    pub async fn close(self, timeout: Duration) {
        self.pool.close(timeout).await;
    }
}
