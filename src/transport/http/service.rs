//! The interface to the code that answers requests.

use std::future::Future;
use std::time::Duration;

use super::host_policy::HostPolicy;
use super::message::{HttpRequest, HttpResponse};
use crate::transport::stream::Rewind;

/// Limits of one connection and its requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Maximum length of a body, in bytes.
    pub body: usize,
    /// Maximum time until the head of a request is complete.
    pub head_timeout: Duration,
    /// Maximum pause within a body.
    pub stall_timeout: Duration,
}

/// Answers the requests of connections.
pub trait HttpService: Clone + Send + Sync + Unpin {
    /// What the sender of a request may do, by its token or without one.
    type Grants: Send;

    /// Returns the host names and page origins that requests may have.
    fn host_policy(&self) -> &HostPolicy;

    /// Called for each request that was rejected for its `Host` or `Origin`.
    fn on_misdirected(&self);

    /// Returns how long to wait before `token` is checked, if its host has presented wrong ones. By default, no token
    /// is delayed.
    fn token_delay(&self, token: &str) -> Option<Duration> {
        let _ = token;
        None
    }

    /// Called for each body that was not received in time.
    fn on_slow_body(&self) {}

    /// Checks the token of a request.
    ///
    /// # Errors
    /// The response to send instead.
    fn authenticate(&self, token: Option<&str>) -> Result<Self::Grants, HttpResponse>;

    /// Handles one request. The future is dropped if the peer disconnects first.
    fn handle(
        &self,
        request: HttpRequest<'_>,
        grants: Self::Grants,
    ) -> impl Future<Output = HttpResponse> + Send;

    /// Returns the response to a request whose body exceeds the limit. `prefix` is the part of the body received so
    /// far.
    fn payload_too_large(&self, prefix: &[u8]) -> HttpResponse;
}

/// A connection that was upgraded to WebSocket.
#[derive(Debug)]
pub struct Upgraded<T, G> {
    /// The stream, with any bytes already read after the request head.
    pub stream: Rewind<T>,
    /// What the peer may do.
    pub grants: G,
}
