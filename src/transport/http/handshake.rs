//! The server's side of the WebSocket handshake (RFC 6455, section 4.2).

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::response::HttpResponse;

/// Returns `true` if the headers request an upgrade to WebSocket.
pub(super) fn is_websocket_upgrade(headers: &HeaderMap) -> bool {
    list_contains(headers, header::UPGRADE, "websocket")
}

/// Returns the subprotocols that the client offers.
pub(super) fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',').map(str::trim))
}

fn list_contains(headers: &HeaderMap, name: HeaderName, item: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|list| list.split(',').any(|found| found.trim().eq_ignore_ascii_case(item)))
    })
}

/// Returns the 101 response to a handshake, which selects `protocol` if the client offers it.
///
/// # Errors
/// The error response if the handshake is invalid.
pub(super) fn accept(
    method: &Method,
    headers: &HeaderMap,
    protocol: &'static str,
) -> Result<HttpResponse, HttpResponse> {
    if *method != Method::GET || !list_contains(headers, header::CONNECTION, "upgrade") {
        let text = "a WebSocket handshake must be a GET with \"Connection: Upgrade\"\n";
        return Err(HttpResponse::text(400, text));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let response = HttpResponse::text(426, "only WebSocket version 13 is supported\n");
        return Err(response.with_headers(&[("sec-websocket-version", "13")]));
    }
    let accept = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok())
        .ok_or_else(|| HttpResponse::text(400, "a WebSocket handshake must have a Sec-WebSocket-Key\n"))?;
    let is_offered = offered_protocols(headers).any(|offered| offered == protocol);
    let mut response =
        HttpResponse::empty(101).with_headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
    response.set_header(header::SEC_WEBSOCKET_ACCEPT, accept);
    if is_offered {
        response.set_header(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}
