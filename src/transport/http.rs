//! HTTP/1.1, and its upgrade to WebSocket. hyper reads and writes it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::{Method, StatusCode};
use smol::Timer;
use smol::future::FutureExt;

use super::cork::Cork;
use super::heads::{Progress, Rested, Wait};
use super::linger::{farewell, last_words};
use super::{Peeked, Site, Stream};
use crate::pace::Pace;

/// Bytes of a head at most, and of what hyper buffers of a body.
const BUFFER: usize = 16 * 1024;
/// hyper pauses after 16 requests of a row. It has to go on so often before their answers go out, and others have their
/// turn.
const PAUSES: u32 = 3;
/// Requests, and time that they take, after which others have their turn before more is read.
const TURN: (u64, Duration) = (64, Duration::from_millis(10));
static JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The WebSocket subprotocol.
const PROTOCOL: &str = "chanrpc";
/// What a token follows among the subprotocols that a page offers, since it cannot set headers.
const BEARER_PROTOCOL: &str = "chanrpc.bearer.";

/// Bounds on one connection and its requests.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a body.
    pub body: usize,
    /// Time for a head to come.
    pub head_timeout: Duration,
    /// The longest pause in a body.
    pub stall_timeout: Duration,
}

/// A request, its body read.
#[derive(Debug)]
pub struct Request<'a> {
    /// `GET`, `POST` and so on.
    pub method: &'a Method,
    /// The path, without a query.
    pub path: &'a str,
    /// The body.
    pub body: Vec<u8>,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    content_type: HeaderValue,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
}

impl Reply {
    /// A JSON text.
    pub fn json(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, content_type: JSON.clone(), headers: &[], body }
    }

    /// A plain text.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { status, content_type, headers: &[], body: body.into() }
    }

    /// A text of another type.
    pub fn typed(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        Self { status: StatusCode::OK, content_type, headers: &[], body: body.into() }
    }

    /// Taken, and nothing to say: 202 without a body.
    pub fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, content_type: JSON.clone(), headers: &[], body: Vec::new() }
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
    /// What whoever has presented a token, or none, may do.
    type Pass: Send;

    /// Says how the node may be addressed.
    fn site(&self) -> &Site;

    /// Gets to know of a request that was refused for its `Host` or `Origin`.
    fn misdirected(&self);

    /// Returns how long a token waits until it is judged, if others were wrong before. By default none waits.
    fn token_delay(&self, token: &str) -> Option<Duration> {
        let _ = token;
        None
    }

    /// Gets to know of a body that did not come in time.
    fn slow_body(&self) {}

    /// Judges the token that a request presents.
    ///
    /// # Errors
    /// What to answer instead.
    fn admit(&self, token: Option<&str>) -> Result<Self::Pass, Reply>;

    /// Answers one. Dropped when the peer goes away before.
    fn answer(&self, request: Request<'_>, pass: Self::Pass) -> impl Future<Output = Reply> + Send;

    /// Answers one whose body is over the limit, of which only the beginning is known.
    fn too_large(&self, beginning: &[u8]) -> Reply;
}

/// A connection that has become one of WebSocket.
#[derive(Debug)]
pub struct Upgraded<T, P> {
    /// The stream, with what was read of it beyond the head.
    pub stream: Peeked<T>,
    /// What its peer may do.
    pub pass: P,
}

/// What the requests of a connection, and whoever sees to it, know of each other.
#[derive(Debug, Default)]
struct Course {
    progress: Progress,
    /// The node stops.
    stopping: AtomicBool,
    /// The peer may still be sending when it is told the last.
    unread: AtomicBool,
}

/// Serves one connection until it ends, or `stop` is there and the request in progress is answered.
///
/// If the peer upgrades it to WebSocket, the stream comes back. Between requests it has buffers for a moment only.
///
/// # Errors
/// [`ServeError`]: a broken stream, a head that is none or did not come in time.
pub async fn serve<T: Stream, S: Service>(
    mut stream: Peeked<T>,
    service: S,
    bounds: Bounds,
    stop: impl Future<Output = ()> + Send,
) -> Result<Option<Upgraded<T, S::Pass>>, ServeError> {
    let upgraded = Mutex::new(None);
    let course = Course::default();
    let handler = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let (service, upgraded, course) = (service.clone(), &upgraded, &course);
        let under_way = course.progress.begin();
        async move {
            let _under_way = under_way;
            let (head, body) = request.into_parts();
            let origin = head.headers.get(header::ORIGIN).cloned();
            if let Some(delay) = token(&head.headers).and_then(|token| service.token_delay(token)) {
                Timer::after(delay).await;
            }
            let (mut response, close) = match begin(&head, &service) {
                Ok(Begun::Request(pass)) => {
                    let (reply, close) = answer(&head, body, &service, pass, bounds).await;
                    (respond(reply, close), close)
                }
                Ok(Begun::Upgrade(response, pass)) => {
                    *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(pass);
                    (response, false)
                }
                Ok(Begun::Preflight(reply)) => {
                    let close = !body.is_end_stream();
                    (respond(reply, close), close)
                }
                Err(reply) => (respond(reply, true), true),
            };
            service.site().share(origin.as_ref(), response.headers_mut());
            if close || course.stopping.load(Ordering::Relaxed) {
                course.unread.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut stop = std::pin::pin!(stop);
    let mut wait = Wait::new(bounds.head_timeout);
    let served = loop {
        // In a box, which is gone while the connection rests.
        let exchanged = Box::pin(exchange(stream, &handler, &course, &mut wait, stop.as_mut())).await?;
        stream = exchanged.stream;
        if let Some(served) = exchanged.served {
            break served;
        }
        if course.stopping.load(Ordering::Relaxed) {
            break Ok(());
        }
        match wait.rest(&mut stream, stop.as_mut()).await.map_err(ServeError::Stream)? {
            Rested::More => {}
            Rested::Late => return Err(ServeError::SlowHead),
            Rested::Over => break Ok(()),
        }
    };
    if let Some(pass) = upgraded.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Ok(Some(Upgraded { stream, pass }));
    }
    farewell(&mut stream, served.is_err() || course.unread.into_inner()).await;
    served.map(|()| None)
}

/// Requests and their answers, until there are no more for now.
struct Exchanged<T> {
    stream: Peeked<T>,
    /// How the connection ended. `None` if it rests.
    served: Option<Result<(), ServeError>>,
}

/// Has hyper read requests and write answers, until the connection ends or rests. An error with which the stream is given
/// back is one that hyper has told the peer.
async fn exchange<T: Stream, H>(
    stream: Peeked<T>,
    handler: &H,
    course: &Course,
    wait: &mut Wait,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Exchanged<T>, ServeError>
where
    H: hyper::service::Service<
            hyper::Request<Incoming>,
            Response = hyper::Response<Full<Bytes>>,
            Error = Infallible,
        >,
{
    let Course { progress, stopping, .. } = course;
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(BUFFER);
    let (cork, stream) = Cork::new(stream);
    let mut connection = builder.serve_connection(stream, handler);
    let mut served = None;
    let served = poll_fn(|cx| {
        if !stopping.load(Ordering::Relaxed) && stop.as_mut().poll(cx).is_ready() {
            stopping.store(true, Ordering::Relaxed);
            Pin::new(&mut connection).graceful_shutdown();
        }
        let (before, begun) = (progress.heads(), Instant::now());
        let is_over = || progress.heads() - before >= TURN.0 || begun.elapsed() > TURN.1;
        let mut pauses = 0;
        loop {
            if served.is_none()
                && let Poll::Ready(result) = Pin::new(&mut connection).poll(cx)
            {
                served = Some(result.map_err(ServeError::Http));
            }
            let paused = served.is_none() && !cork.take_blocked() && progress.is_settled();
            if paused && pauses < PAUSES && !is_over() {
                pauses += 1;
                continue;
            }
            // Answers to requests that came together go out together, and before more is read.
            let out = cork.poll_out(cx);
            if served.is_some() {
                ready!(out);
            } else if cork.resume() {
                if !is_over() {
                    continue;
                }
                cx.waker().wake_by_ref();
            } else if wait.poll(cx, progress, out.is_ready() && !cork.is_held_up()).is_ready() {
                return Poll::Ready(None);
            }
            return served.take().map_or(Poll::Pending, |served| Poll::Ready(Some(served)));
        }
    })
    .await;
    let served = match served {
        Some(Err(error)) if !error.is_garbled() => return Err(error),
        served => served,
    };
    let parts = connection.into_parts();
    let stream = cork.into_inner(parts.io).ok_or(ServeError::Stream(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Exchanged { stream: stream.preceded_by(&parts.read_buf), served })
}

/// Says why a connection ended before its time.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The stream broke, or brought what is no HTTP.
    Http(hyper::Error),
    /// The stream broke while a head was coming.
    Stream(io::Error),
    /// No request came, or not all of its head, within [`Bounds::head_timeout`].
    SlowHead,
}

impl ServeError {
    fn is_garbled(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_parse())
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::Stream(error) => error.fmt(f),
            Self::SlowHead => f.write_str("the head of a request did not come in time (limits.head_timeout)"),
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Http(error) => error.source(),
            Self::Stream(error) => Some(error),
            Self::SlowHead => None,
        }
    }
}

/// Answers a peer that does not speak HTTP where and as it should, and ends.
pub async fn refuse(stream: &mut impl Stream, text: &str) {
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    // Whoever does not take it has gone.
    let _ = last_words(stream, answer.as_bytes()).await;
}

/// What becomes of a request whose head is acceptable.
enum Begun<P> {
    Request(P),
    Upgrade(hyper::Response<Full<Bytes>>, P),
    Preflight(Reply),
}

/// Judges the head of a request, before its body is read. After an error the connection ends.
fn begin<S: Service>(head: &Parts, service: &S) -> Result<Begun<S::Pass>, Reply> {
    if let Err(reply) = service.site().screen(head) {
        service.misdirected();
        return Err(reply);
    }
    let headers = &head.headers;
    if has_token(headers, header::UPGRADE, "websocket") {
        let response = upgrade(head)?;
        return Ok(Begun::Upgrade(response, service.admit(token(headers))?));
    }
    if let Some(reply) = service.site().preflight(head) {
        return Ok(Begun::Preflight(reply));
    }
    Ok(Begun::Request(service.admit(token(headers))?))
}

/// Reads the body of a request and has it answered. Tells whether the connection ends with the answer.
async fn answer<S: Service>(
    head: &Parts,
    body: Incoming,
    service: &S,
    pass: S::Pass,
    bounds: Bounds,
) -> (Reply, bool) {
    // Not even begun to read, since a peer that waits for leave to send it would get that (RFC 9110, section 10.1.1).
    if body.size_hint().lower() > bounds.body as u64 && head.headers.contains_key(header::EXPECT) {
        return (service.too_large(&[]), true);
    }
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        && !body.is_end_stream()
    {
        let text = "a body is taken as it is: no Content-Encoding but identity\n";
        return (Reply::text(415, text).with_headers(&[("accept-encoding", "identity")]), true);
    }
    // Whoever did not send all of a body cannot be told where the next request begins, so we close.
    match read_body(body, bounds).await {
        Err(BodyError::Late) => {
            service.slow_body();
            let text = "the body did not come in time (limits.stall_timeout, or less than 1 KiB a second)\n";
            (Reply::text(408, text), true)
        }
        Err(BodyError::TooLarge(beginning)) => (service.too_large(&beginning), true),
        Err(BodyError::Broken(error)) => (Reply::text(400, format!("the body is broken: {error}\n")), true),
        Ok(body) => {
            let request = Request { method: &head.method, path: head.uri.path(), body };
            (service.answer(request, pass).await, false)
        }
    }
}

/// Why a body cannot be had.
enum BodyError {
    Late,
    /// With what comes before it is too large.
    TooLarge(Vec<u8>),
    Broken(hyper::Error),
}

/// Reads a body. One that is there at once costs no timer.
async fn read_body(mut body: Incoming, bounds: Bounds) -> Result<Vec<u8>, BodyError> {
    let mut whole = Vec::new();
    let mut pace: Option<Pace> = None;
    loop {
        let frame = match smol::future::poll_once(body.frame()).await {
            Some(frame) => frame,
            None => {
                let pace = pace.get_or_insert_with(|| {
                    let mut pace = Pace::new(Instant::now());
                    pace.progress(whole.len(), Instant::now());
                    pace
                });
                let deadline = pace.deadline(bounds.stall_timeout, bounds.body);
                let late = async {
                    Timer::at(deadline).await;
                    Err(BodyError::Late)
                };
                async { Ok(body.frame().await) }.or(late).await?
            }
        };
        let Some(frame) = frame else { return Ok(whole) };
        let Ok(data) = frame.map_err(BodyError::Broken)?.into_data() else { continue };
        let room = bounds.body - whole.len();
        if data.len() > room {
            whole.extend_from_slice(&data[..room]);
            return Err(BodyError::TooLarge(whole));
        }
        if let Some(pace) = &mut pace {
            pace.progress(data.len(), Instant::now());
        }
        // Most come in one piece, which need not be copied.
        if whole.is_empty() {
            whole = data.into();
        } else {
            whole.extend_from_slice(&data);
        }
    }
}

fn respond(reply: Reply, close: bool) -> hyper::Response<Full<Bytes>> {
    let empty = reply.body.is_empty();
    let mut response = hyper::Response::new(Full::new(reply.body.into()));
    *response.status_mut() = reply.status;
    if !empty {
        response.headers_mut().insert(header::CONTENT_TYPE, reply.content_type);
    }
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for &(name, value) in reply.headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let about_status = match reply.status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::UPGRADE_REQUIRED => Some((header::SEC_WEBSOCKET_VERSION, "13")),
        _ => None,
    };
    if let Some((name, value)) = about_status {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The token that a request presents.
fn token(headers: &HeaderMap) -> Option<&str> {
    let is_upgrade = || has_token(headers, header::UPGRADE, "websocket");
    bearer(headers).or_else(|| {
        let mut offered = offered(headers).filter_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL));
        offered.next().filter(|_| is_upgrade())
    })
}

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The WebSocket subprotocols that the peer would speak.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',').map(str::trim))
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    })
}

/// Answers a WebSocket handshake (RFC 6455, section 4.2).
fn upgrade(head: &Parts) -> Result<hyper::Response<Full<Bytes>>, Reply> {
    let headers = &head.headers;
    if head.method != Method::GET || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(Reply::text(400, "a WebSocket handshake is a GET with \"Connection: Upgrade\"\n"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Reply::text(426, "this node speaks WebSocket version 13\n"));
    }
    let accept = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok())
        .ok_or_else(|| Reply::text(400, "a WebSocket handshake has a Sec-WebSocket-Key\n"))?;
    let speaks = offered(headers).any(|protocol| protocol == PROTOCOL);
    let mut response = hyper::Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if speaks {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
}
