//! The interface to the code that answers requests.

use std::future::Future;

use super::request::HttpRequest;
use super::response::HttpResponse;

/// Answers the requests of one connection.
pub trait HttpService: Sync {
    /// Answers one request. The future is dropped if the peer disconnects first.
    ///
    /// If a part of the body is left unread, the connection ends after the response.
    fn respond(&self, request: &mut HttpRequest) -> impl Future<Output = HttpResponse> + Send;

    /// Returns `true` if the peer may do nothing without a token, and has presented none.
    #[cfg(feature = "grpc")]
    fn awaits_token(&self) -> bool {
        false
    }

    /// Notes a response over HTTP/2 that was given up, since the peer did not read it.
    #[cfg(feature = "grpc")]
    fn record_stalled(&self) {}
}
