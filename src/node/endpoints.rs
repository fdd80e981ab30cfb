//! What a node answers over HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Method;
use smol::future::{Boxed, FutureExt};

use super::listener::Entrance;
use super::{Shared, connection};
use crate::codec::{Dialect, jsonrpc};
use crate::message::{Fault, Id};
use crate::route::Grants;
use crate::transport::http::{HostPolicy, HttpRequest, HttpResponse, HttpService};
use crate::transport::{CloseReason, Pipe, Received};
use crate::web;

/// What there is, for who asks for something else.
const USAGE: &str = "GET / for a page; POST a JSON-RPC 2.0 request to / or /rpc; GET /healthz or /metrics\n";
/// What there is where messages are Leaf's.
const LEAF_USAGE: &str = "Leaf's messages in WebSocket frames are spoken here; GET /healthz or /metrics\n";

/// The node's paths.
#[derive(Clone)]
pub(super) struct Endpoints {
    node: Arc<Shared>,
    entrance: Arc<Entrance>,
    connection: Arc<Connection>,
}

/// What the requests of one connection have in common.
#[derive(Debug)]
struct Connection {
    peer: Option<SocketAddr>,
    /// It has made a request.
    asked: AtomicBool,
    /// The token that was taken last. Presented again, it does not wait.
    taken: Mutex<Option<Box<str>>>,
}

impl Endpoints {
    pub(super) fn new(node: Arc<Shared>, entrance: Arc<Entrance>, peer: Option<SocketAddr>) -> Self {
        let connection = Connection { peer, asked: AtomicBool::new(false), taken: Mutex::new(None) };
        Self { node, entrance, connection: Arc::new(connection) }
    }

    /// Tells whether a request has come. A connection that then waits too long is idle, and no slow head.
    pub(super) fn was_asked(&self) -> bool {
        self.connection.asked.load(Ordering::Relaxed)
    }

    /// Has a session of its own answer one body.
    async fn rpc(&self, body: Vec<u8>, pass: Grants) -> HttpResponse {
        let answer = match self.begin(body, pass) {
            Ok(answer) => answer,
            Err(driven) => match driven.await {
                Ok(answer) => answer,
                Err(error) => return HttpResponse::text(500, error.to_string()),
            },
        };
        if answer.is_empty() { HttpResponse::accepted() } else { HttpResponse::json(answer) }
    }

    /// The answer if it is there at once, and otherwise what waits for it. So what most requests need not take is not in
    /// the future of each.
    fn begin(&self, body: Vec<u8>, pass: Grants) -> Result<Vec<u8>, Boxed<io::Result<Vec<u8>>>> {
        let mut session = self.node.session(Dialect::JsonPerFrame, pass.for_single_request());
        *session.input() = body;
        session.received(Instant::now());
        if session.is_settled() {
            return Ok(session.take_output());
        }
        let last_call = self.node.shutdown.force_signal();
        let driven = async {
            let mut answer = Vec::new();
            let exchange = Box::new(Exchange { answer: &mut answer });
            // What was taken in is answered also while the node stops, so no signal is waited for here.
            connection::drive(session, exchange, None, last_call).await?;
            Ok(answer)
        };
        Err(driven.boxed())
    }
}

impl Endpoints {
    /// What the counters say, to whoever may also ask for them by `rpc.stats`.
    fn metrics(&self, pass: &Grants) -> HttpResponse {
        let allowed = pass.check("rpc.stats");
        pass.log_call("rpc.stats", allowed.as_ref().err(), Duration::ZERO);
        match allowed {
            Ok(()) => {
                let exposition = "text/plain; version=0.0.4; charset=utf-8";
                HttpResponse::new(exposition, self.node.registry.prometheus(pass))
            }
            Err(fault) => {
                self.node.metrics().denied.add();
                denied(&fault, if pass.is_anonymous() { 401 } else { 403 })
            }
        }
    }
}

fn denied(fault: &Fault, status: u16) -> HttpResponse {
    let mut body = Vec::new();
    jsonrpc::encode_reply(&mut body, &Id::null(), Err(fault));
    HttpResponse::json(body).with_status(status)
}

impl HttpService for Endpoints {
    type Grants = Grants;

    fn host_policy(&self) -> &HostPolicy {
        &self.entrance.host_policy
    }

    fn on_misdirected(&self) {
        self.node.metrics().misdirected.add();
        self.entrance.pass_of(self.connection.peer).log_rejection(&"misdirected");
    }

    fn token_delay(&self, token: &str) -> Option<Duration> {
        let delay = self.entrance.pass_of(self.connection.peer).token_delay()?;
        let taken = self.connection.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.as_deref() == Some(token) {
            return None;
        }
        self.node.metrics().tokens_delayed.add();
        Some(delay)
    }

    fn on_slow_body(&self) {
        self.node.metrics().slow_messages.add();
    }

    fn authenticate(&self, token: Option<&str>) -> Result<Grants, HttpResponse> {
        let mut pass = self.entrance.pass_of(self.connection.peer);
        if let Some(token) = token {
            let mut taken = self.connection.taken.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(fault) = pass.authenticate(token) {
                *taken = None;
                self.node.metrics().bad_tokens.add();
                pass.log_call(Grants::AUTH, Some(&fault), Duration::ZERO);
                return Err(denied(&fault, 401));
            }
            if taken.as_deref() != Some(token) && !pass.is_anonymous() {
                *taken = Some(token.into());
            }
        }
        Ok(pass)
    }

    async fn handle(&self, request: HttpRequest<'_>, pass: Grants) -> HttpResponse {
        self.connection.asked.store(true, Ordering::Relaxed);
        match (request.method, request.path) {
            (_, path)
                if self.entrance.speaks_only_websocket() && !matches!(path, "/healthz" | "/metrics") =>
            {
                HttpResponse::text(426, LEAF_USAGE).with_headers(&[("upgrade", "websocket")])
            }
            (&Method::POST, "/" | "/rpc") => self.rpc(request.body, pass).await,
            (&Method::GET | &Method::HEAD, "/healthz") => HttpResponse::text(200, "ok\n"),
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(&pass),
            (method, path) => match web::file(path) {
                Some(web::File { content_type, text }) if matches!(*method, Method::GET | Method::HEAD) => {
                    HttpResponse::new(content_type, text).with_headers(&web::HEADERS)
                }
                _ => not_here(path),
            },
        }
    }

    fn payload_too_large(&self, beginning: &[u8]) -> HttpResponse {
        let mut session =
            self.node.session(Dialect::JsonPerFrame, self.entrance.pass_of(self.connection.peer));
        session.too_long(beginning);
        HttpResponse::json(session.take_output()).with_status(413)
    }
}

/// Says what would be answered: at this path, or where it is none.
fn not_here(path: &str) -> HttpResponse {
    let allowed: &[(&str, &str)] = match path {
        "/" => &[("allow", "GET, HEAD, POST")],
        "/rpc" => &[("allow", "POST")],
        _ if matches!(path, "/healthz" | "/metrics") || web::file(path).is_some() => {
            &[("allow", "GET, HEAD")]
        }
        _ => return HttpResponse::text(404, USAGE),
    };
    HttpResponse::text(405, USAGE).with_headers(allowed)
}

/// Nothing more comes in, one answer goes out.
struct Exchange<'a> {
    answer: &'a mut Vec<u8>,
}

impl Pipe for Exchange<'_> {
    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        Poll::Ready(Ok(Received::Eof))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len();
        self.answer.extend_from_slice(bytes);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
