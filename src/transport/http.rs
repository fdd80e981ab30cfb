//! HTTP/1.1, and its upgrade to WebSocket. hyper reads and writes it.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::{Method, StatusCode};
use smol::Timer;
use smol::future::FutureExt;
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::Stream;

/// Bytes of a head at most, and of what hyper buffers of a body.
const BUFFER: usize = 16 * 1024;
const JSON: &str = "application/json";

/// Bounds on one connection and its requests.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a body.
    pub body: usize,
    /// Time for a head to come.
    pub head_timeout: Duration,
    /// Time for a body to come.
    pub body_timeout: Duration,
}

/// A request, its body read.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `POST` and so on.
    pub method: Method,
    /// The path, without a query.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    content_type: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
}

impl Reply {
    /// A JSON text.
    pub fn json(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, content_type: JSON, headers: &[], body }
    }

    /// A plain text.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        Self { status, content_type, headers: &[], body: body.into() }
    }

    /// A text of another type.
    pub fn typed(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: StatusCode::OK, content_type, headers: &[], body: body.into() }
    }

    /// Taken, and nothing to say: 202 without a body.
    pub fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, content_type: JSON, headers: &[], body: Vec::new() }
    }

    /// Another status than 200.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).unwrap_or(self.status);
        self
    }

    /// More headers; their names are in lower case.
    #[must_use]
    pub fn with_headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }
}

/// Answers the requests of connections.
pub trait Service: Clone + Send + Sync + Unpin {
    /// Answers one. Dropped when the peer goes away before.
    fn answer(&self, request: Request) -> impl Future<Output = Reply> + Send;

    /// Answers one whose body is over the limit.
    fn too_large(&self) -> Reply;
}

/// Serves one connection until it ends, or `stop` is there and the request in progress is answered.
///
/// If the peer upgrades it to WebSocket, the stream comes back, with what was read of it beyond the head.
///
/// # Errors
/// What hyper met: a broken stream, a head that is none or did not come in time.
pub async fn serve<T: Stream>(
    stream: T,
    service: impl Service,
    bounds: Bounds,
    stop: impl Future<Output = ()> + Send,
) -> Result<Option<(T, Vec<u8>)>, hyper::Error> {
    let upgraded = AtomicBool::new(false);
    let handler = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let reply = if wants_websocket(&request) { upgrade(&request) } else { None };
        if reply.as_ref().is_some_and(|reply| reply.status() == StatusCode::SWITCHING_PROTOCOLS) {
            upgraded.store(true, Ordering::Relaxed);
        }
        let service = service.clone();
        Box::pin(async move {
            Ok::<_, Infallible>(match reply {
                Some(reply) => reply,
                None => answer(request, service, bounds).await,
            })
        })
    });
    let mut builder = http1::Builder::new();
    builder.timer(SmolTimer::new()).header_read_timeout(bounds.head_timeout).max_buf_size(BUFFER);
    let mut connection = builder.serve_connection(FuturesIo::new(stream), handler);
    let mut stop = std::pin::pin!(stop);
    let mut stopping = false;
    poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await?;
    let parts = connection.into_parts();
    let (mut stream, first) = (parts.io.into_inner(), parts.read_buf);
    if upgraded.load(Ordering::Relaxed) {
        return Ok(Some((stream, first.to_vec())));
    }
    // The peer may be gone already.
    let _ = poll_fn(|cx| Pin::new(&mut stream).poll_close(cx)).await;
    Ok(None)
}

async fn answer(
    request: hyper::Request<Incoming>,
    service: impl Service,
    bounds: Bounds,
) -> hyper::Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if !same_origin(&head.headers) {
        let text = "a page of another origin may not call this node\n";
        return respond(Reply::text(403, text), true);
    }
    let late = async {
        Timer::after(bounds.body_timeout).await;
        None
    };
    let body = async { Some(Limited::new(body, bounds.body).collect().await) }.or(late).await;
    // Whoever did not send all of a body cannot be told where the next request begins, so we close.
    let (reply, close) = match body {
        None => (Reply::text(408, "the body did not come in time (limits.deadline)\n"), true),
        Some(Err(error)) if is_too_large(&*error) => (service.too_large(), true),
        Some(Err(error)) => (Reply::text(400, format!("the body is broken: {error}\n")), true),
        Some(Ok(body)) => {
            let (method, path) = (head.method, head.uri.path().to_owned());
            (service.answer(Request { method, path, body: body.to_bytes().to_vec() }).await, false)
        }
    };
    respond(reply, close)
}

fn respond(reply: Reply, close: bool) -> hyper::Response<Full<Bytes>> {
    let empty = reply.body.is_empty();
    let mut response = hyper::Response::new(Full::new(reply.body.into()));
    *response.status_mut() = reply.status;
    if !empty {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    }
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for &(name, value) in reply.headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

fn is_too_large(error: &(dyn Error + 'static)) -> bool {
    error.is::<http_body_util::LengthLimitError>()
}

/// Browsers say of which page a request is. One from elsewhere must not reach a node through its user.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.is_some() && authority == host
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    })
}

fn wants_websocket<B>(request: &hyper::Request<B>) -> bool {
    has_token(request.headers(), header::UPGRADE, "websocket")
}

/// Answers a WebSocket handshake (RFC 6455, section 4.2).
fn upgrade<B>(request: &hyper::Request<B>) -> Option<hyper::Response<Full<Bytes>>> {
    let headers = request.headers();
    let refuse = |status, text: &str| Some(respond(Reply::text(status, text), true));
    if request.method() != Method::GET || !has_token(headers, header::CONNECTION, "upgrade") {
        return refuse(400, "a WebSocket handshake is a GET with \"Connection: Upgrade\"\n");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response = respond(Reply::text(426, "this node speaks WebSocket version 13\n"), true);
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Some(response);
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return refuse(400, "a WebSocket handshake has a Sec-WebSocket-Key\n");
    };
    if !same_origin(headers) {
        return refuse(403, "a page of another origin may not call this node\n");
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    let mut response = hyper::Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Some(response)
}
