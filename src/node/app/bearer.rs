//! The bearer token of a request.

use hyper::header;

use crate::transport::http::HttpRequest;

/// Prefix of the WebSocket subprotocol that carries a token, for pages, which cannot set headers.
const BEARER_PROTOCOL: &str = "chanrpc.bearer.";

/// Returns the token that a request presents, in its `Authorization` header or, for a WebSocket handshake, as a
/// subprotocol.
pub(super) fn bearer_token(request: &HttpRequest) -> Option<&str> {
    authorization(request).or_else(|| {
        let mut tokens =
            request.offered_protocols().filter_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL));
        tokens.next().filter(|_| request.is_websocket_upgrade())
    })
}

/// Returns the token of `Authorization: Bearer` (RFC 6750, section 2.1).
fn authorization(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
