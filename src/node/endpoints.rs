//! The HTTP endpoints of a node: RPC, the page, metrics and health.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Method;
use smol::future::{Boxed, FutureExt};

use super::driver;
use super::listener::ListenerContext;
use super::shared::Shared;
use crate::codec::{Dialect, jsonrpc};
use crate::message::{Fault, Id};
use crate::route::Grants;
use crate::transport::http::{HostPolicy, HttpRequest, HttpResponse, HttpService};
use crate::transport::{CloseReason, Pipe, Received};
use crate::web;

/// The body of an error: the available endpoints.
const USAGE: &str = "GET / for a page; POST a JSON-RPC 2.0 request to / or /rpc; GET /healthz or /metrics\n";
/// The same on a listener for Leaf messages.
const LEAF_USAGE: &str = "this listener speaks Leaf messages over WebSocket; GET /healthz or /metrics\n";

/// The endpoints, for one connection.
#[derive(Clone)]
pub(super) struct Endpoints {
    node: Arc<Shared>,
    context: Arc<ListenerContext>,
    connection: Arc<ConnectionState>,
}

/// The state that the requests of one connection share.
#[derive(Debug)]
struct ConnectionState {
    peer: Option<SocketAddr>,
    has_served_request: AtomicBool,
    /// The token accepted last, which is not delayed when presented again.
    accepted_token: Mutex<Option<Box<str>>>,
}

impl Endpoints {
    pub(super) fn new(node: Arc<Shared>, context: Arc<ListenerContext>, peer: Option<SocketAddr>) -> Self {
        let (has_served_request, accepted_token) = (AtomicBool::new(false), Mutex::new(None));
        let connection = Arc::new(ConnectionState { peer, has_served_request, accepted_token });
        Self { node, context, connection }
    }

    /// Returns `true` if a request has arrived. A timeout then means an idle connection, not a slow head.
    pub(super) fn has_served_request(&self) -> bool {
        self.connection.has_served_request.load(Ordering::Relaxed)
    }

    /// Answers one body, in a session of its own.
    async fn rpc(&self, body: Vec<u8>, grants: Grants) -> HttpResponse {
        let output = match self.start_rpc(body, grants) {
            Ok(output) => output,
            Err(driven) => match driven.await {
                Ok(output) => output,
                Err(error) => return HttpResponse::text(500, error.to_string()),
            },
        };
        if output.is_empty() { HttpResponse::accepted() } else { HttpResponse::json(output) }
    }

    /// Returns the output if all calls are answered inline, and a future of it otherwise. The future of most requests
    /// thus does not contain the driver.
    fn start_rpc(&self, body: Vec<u8>, grants: Grants) -> Result<Vec<u8>, Boxed<io::Result<Vec<u8>>>> {
        let mut session = self.node.session(Dialect::JsonPerFrame, grants.for_single_request());
        *session.input() = body;
        session.received(Instant::now());
        if session.has_replied() {
            return Ok(session.take_output());
        }
        let force_stop = self.node.shutdown.force_signal();
        let driven = async {
            let mut output = Vec::new();
            let pipe = Box::new(OutputPipe { output: &mut output });
            // No stop signal: a request that was received is answered even while the node stops.
            driver::drive(session, pipe, None, force_stop).await?;
            Ok(output)
        };
        Err(driven.boxed())
    }

    /// Returns the metrics, to callers that may call `rpc.stats`.
    fn metrics(&self, grants: &Grants) -> HttpResponse {
        let allowed = grants.check("rpc.stats");
        grants.log_call("rpc.stats", allowed.as_ref().err(), Duration::ZERO);
        match allowed {
            Ok(()) => {
                let exposition = "text/plain; version=0.0.4; charset=utf-8";
                HttpResponse::new(exposition, self.node.registry.prometheus(grants))
            }
            Err(fault) => {
                self.node.metrics().denied.inc();
                denied(&fault, if grants.is_anonymous() { 401 } else { 403 })
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
        &self.context.host_policy
    }

    fn on_misdirected(&self) {
        self.node.metrics().misdirected.inc();
        self.context.grants_for(self.connection.peer).log_rejection(&"misdirected");
    }

    fn token_delay(&self, token: &str) -> Option<Duration> {
        let delay = self.context.grants_for(self.connection.peer).token_delay()?;
        let accepted = self.connection.accepted_token.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.as_deref() == Some(token) {
            return None;
        }
        self.node.metrics().tokens_delayed.inc();
        Some(delay)
    }

    fn on_slow_body(&self) {
        self.node.metrics().slow_messages.inc();
    }

    fn authenticate(&self, token: Option<&str>) -> Result<Grants, HttpResponse> {
        let mut grants = self.context.grants_for(self.connection.peer);
        if let Some(token) = token {
            let mut accepted = self.connection.accepted_token.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(fault) = grants.authenticate(token) {
                *accepted = None;
                self.node.metrics().bad_tokens.inc();
                grants.log_call(Grants::AUTH, Some(&fault), Duration::ZERO);
                return Err(denied(&fault, 401));
            }
            if accepted.as_deref() != Some(token) && !grants.is_anonymous() {
                *accepted = Some(token.into());
            }
        }
        Ok(grants)
    }

    async fn handle(&self, request: HttpRequest<'_>, grants: Grants) -> HttpResponse {
        self.connection.has_served_request.store(true, Ordering::Relaxed);
        match (request.method, request.path) {
            (_, path) if self.context.is_websocket_only() && !matches!(path, "/healthz" | "/metrics") => {
                HttpResponse::text(426, LEAF_USAGE).with_headers(&[("upgrade", "websocket")])
            }
            (&Method::POST, "/" | "/rpc") => self.rpc(request.body, grants).await,
            (&Method::GET | &Method::HEAD, "/healthz") => HttpResponse::text(200, "ok\n"),
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(&grants),
            (method, path) => match web::file(path) {
                Some(web::File { content_type, text }) if matches!(*method, Method::GET | Method::HEAD) => {
                    HttpResponse::new(content_type, text).with_headers(&web::HEADERS)
                }
                _ => not_found(path),
            },
        }
    }

    fn payload_too_large(&self, prefix: &[u8]) -> HttpResponse {
        let mut session =
            self.node.session(Dialect::JsonPerFrame, self.context.grants_for(self.connection.peer));
        session.reject_oversized(prefix);
        HttpResponse::json(session.take_output()).with_status(413)
    }
}

/// Returns 405 with the allowed methods for a known path, and 404 for an unknown one.
fn not_found(path: &str) -> HttpResponse {
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

/// A pipe without input, which collects the output.
struct OutputPipe<'a> {
    output: &'a mut Vec<u8>,
}

impl Pipe for OutputPipe<'_> {
    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        Poll::Ready(Ok(Received::Eof))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
