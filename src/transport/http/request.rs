//! Checks the head of a request, and has the request answered.

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header;
use hyper::http::request::Parts;

use super::bearer::bearer_token;
use super::body::{BodyError, read_body};
use super::handshake::{is_websocket_upgrade, upgrade_response};
use super::message::{HttpRequest, HttpResponse};
use super::service::{HttpService, RequestLimits};

/// How to continue after a valid request head.
pub(super) enum HeadAction<G> {
    Handle(G),
    Upgrade(hyper::Response<Full<Bytes>>, G),
    Preflight(HttpResponse),
}

/// Checks the head of a request before its body is read.
///
/// # Errors
/// The response to send instead. The connection must end with it.
pub(super) fn check_head<S: HttpService>(
    head: &Parts,
    service: &S,
) -> Result<HeadAction<S::Grants>, HttpResponse> {
    if let Err(response) = service.host_policy().check_host_and_origin(head) {
        service.on_misdirected();
        return Err(response);
    }
    let headers = &head.headers;
    if is_websocket_upgrade(headers) {
        let response = upgrade_response(head)?;
        return Ok(HeadAction::Upgrade(response, service.authenticate(bearer_token(headers))?));
    }
    if let Some(response) = service.host_policy().preflight(head) {
        return Ok(HeadAction::Preflight(response));
    }
    Ok(HeadAction::Handle(service.authenticate(bearer_token(headers))?))
}

/// Reads the body of a request and handles the request. Also returns `true` if the connection must end with the
/// response.
pub(super) async fn respond<S: HttpService>(
    head: &Parts,
    body: Incoming,
    service: &S,
    grants: S::Grants,
    limits: RequestLimits,
) -> (HttpResponse, bool) {
    // Do not even begin to read: that would send "100 Continue" to a peer that waits for it (RFC 9110, section 10.1.1).
    if body.size_hint().lower() > limits.body as u64 && head.headers.contains_key(header::EXPECT) {
        return (service.payload_too_large(&[]), true);
    }
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        && !body.is_end_stream()
    {
        let text = "no Content-Encoding but identity is supported: send the body uncompressed\n";
        return (HttpResponse::text(415, text).with_headers(&[("accept-encoding", "identity")]), true);
    }
    // After an incomplete body, the beginning of the next request is unknown, so the connection ends.
    match read_body(body, limits).await {
        Err(BodyError::Timeout) => {
            service.on_slow_body();
            let text =
                "the body was not received in time (limits.stall_timeout, or less than 1 KiB a second)\n";
            (HttpResponse::text(408, text), true)
        }
        Err(BodyError::TooLarge(prefix)) => (service.payload_too_large(&prefix), true),
        Err(BodyError::Http(error)) => {
            (HttpResponse::text(400, format!("cannot read the body: {error}\n")), true)
        }
        Ok(body) => {
            let request = HttpRequest { method: &head.method, path: head.uri.path(), body };
            (service.handle(request, grants).await, false)
        }
    }
}
