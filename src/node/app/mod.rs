//! The HTTP application of a node: who may call, and what each path answers. It does not know the version of HTTP.

mod bearer;
mod events;
#[cfg(feature = "grpc")]
mod grpc;
mod rpc;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Method;
use hyper::header;
use smol::Timer;

use super::listener::ListenerContext;
use super::shared::Shared;
use crate::codec::{Dialect, jsonrpc};
use crate::config::Limits;
use crate::message::{Fault, Id, code};
use crate::metrics;
use crate::route::Grants;
use crate::transport::http::{BodyError, HttpRequest, HttpResponse, HttpService};
use crate::web;
use bearer::bearer_token;
use events::EventStream;

/// The WebSocket subprotocol of this node.
const PROTOCOL: &str = "chanrpc";
/// The body of an error: the available endpoints.
const USAGE: &str = "GET / for a page; POST a JSON-RPC 2.0 request to / or /rpc; GET /events?topic=NAME, /healthz or /metrics\n";
/// The same on a listener for Leaf messages.
const LEAF_USAGE: &str = "this listener speaks Leaf messages over WebSocket; GET /healthz or /metrics\n";

/// The application, for one connection.
pub(super) struct App<'a> {
    node: &'a Shared,
    limits: &'a Arc<Limits>,
    context: &'a ListenerContext,
    /// What the peer may do without a token.
    grants: Grants,
    has_served_request: AtomicBool,
    tokens: Mutex<Tokens>,
}

/// The tokens of one connection.
#[derive(Default)]
struct Tokens {
    /// The token accepted last, which is not delayed when presented again.
    accepted: Option<Box<str>>,
    /// What the peer may do after an upgrade to WebSocket.
    upgraded: Option<Grants>,
}

impl<'a> App<'a> {
    pub(super) fn new(
        node: &'a Shared,
        limits: &'a Arc<Limits>,
        context: &'a ListenerContext,
        peer: Option<SocketAddr>,
    ) -> Self {
        let (has_served_request, tokens) = (AtomicBool::new(false), Mutex::default());
        Self { node, limits, context, grants: context.grants_for(peer), has_served_request, tokens }
    }

    /// Returns what the peer may do without a token.
    fn grants(&self) -> Grants {
        let mut grants = self.grants.clone();
        self.node.registry.refresh(&mut grants);
        grants
    }

    /// Returns `true` if a request has arrived. A timeout then means an idle connection, not a slow head.
    pub(super) fn has_served_request(&self) -> bool {
        self.has_served_request.load(Ordering::Relaxed)
    }

    /// Returns what the peer may do after an upgrade that was accepted.
    pub(super) fn into_upgraded(self) -> Option<Grants> {
        self.tokens.into_inner().unwrap_or_else(PoisonError::into_inner).upgraded
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the head of a request before its body is read.
    ///
    /// # Errors
    /// The response if it needs no body.
    fn admit(&self, request: &HttpRequest, token: Option<&str>) -> Result<Grants, HttpResponse> {
        if let Err(response) = self.context.host_policy.check(request) {
            self.node.metrics().misdirected.inc();
            self.grants.log_rejection(&"misdirected");
            return Err(response.and_close());
        }
        if request.is_websocket_upgrade() {
            let response = request.accept_websocket(PROTOCOL).map_err(HttpResponse::and_close)?;
            let grants = self.authenticate(token)?;
            self.tokens().upgraded = Some(grants);
            return Err(response);
        }
        match self.context.host_policy.preflight(request) {
            Some(response) => Err(response),
            None => self.authenticate(token),
        }
    }

    /// Returns how long to wait before `token` is checked, if its host has presented wrong ones.
    fn token_delay(&self, token: &str) -> Option<Duration> {
        let delay = self.grants().token_delay()?;
        if self.tokens().accepted.as_deref() == Some(token) {
            return None;
        }
        self.node.metrics().tokens_delayed.inc();
        Some(delay)
    }

    /// Returns what the sender of a request may do.
    fn authenticate(&self, token: Option<&str>) -> Result<Grants, HttpResponse> {
        let mut grants = self.grants();
        if let Some(token) = token {
            self.accept_token(&mut grants, token).map_err(|fault| unauthorized(&fault).and_close())?;
        }
        Ok(grants)
    }

    /// Adds what a token allows to `grants`.
    fn accept_token(&self, grants: &mut Grants, token: &str) -> Result<(), Fault> {
        let accepted = &mut self.tokens().accepted;
        if let Err(fault) = grants.authenticate(token) {
            *accepted = None;
            self.node.metrics().bad_tokens.inc();
            grants.log_call(Grants::AUTH, Some(&fault), Duration::ZERO);
            return Err(fault);
        }
        if accepted.as_deref() != Some(token) && !grants.is_anonymous() {
            *accepted = Some(token.into());
        }
        Ok(())
    }

    /// Reads the body of a request, and handles the request.
    async fn handle(&self, request: &mut HttpRequest, grants: Grants) -> HttpResponse {
        let body = match request.read_body().await {
            Ok(body) => body,
            Err(error) => return self.reject_body(error).and_close(),
        };
        self.has_served_request.store(true, Ordering::Relaxed);
        match (request.method(), request.uri().path()) {
            (_, path) if self.context.is_websocket_only() && !matches!(path, "/healthz" | "/metrics") => {
                let headers = [("upgrade", "websocket"), ("sec-websocket-version", "13")];
                HttpResponse::text(426, LEAF_USAGE).with_headers(&headers)
            }
            (&Method::POST, "/" | "/rpc") => self.rpc(request, body, grants).await,
            (&Method::GET | &Method::HEAD, "/healthz") => HttpResponse::text(200, "ok\n"),
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(&grants),
            (&Method::GET, "/events") => self.events(request, &grants),
            (method, path) => match self.node.file(path) {
                Some(web::File { content_type, text }) if matches!(*method, Method::GET | Method::HEAD) => {
                    HttpResponse::new(content_type, text).with_headers(&web::HEADERS)
                }
                found => not_found(path, found.is_some()),
            },
        }
    }

    /// Answers a request whose body cannot be read.
    fn reject_body(&self, error: BodyError) -> HttpResponse {
        match error {
            BodyError::Timeout => {
                self.node.metrics().slow_messages.inc();
                let limits = "limits.stall_timeout, or less than 1 KiB a second";
                HttpResponse::text(408, format!("the body was not received in time ({limits})\n"))
            }
            BodyError::TooLarge(prefix) => {
                let mut session = self.node.session(self.limits, Dialect::JsonPerFrame, self.grants());
                session.reject_oversized(&prefix);
                HttpResponse::json(session.take_output()).with_status(413)
            }
            BodyError::Encoded => {
                let text = "no Content-Encoding but identity is supported: send the body uncompressed\n";
                HttpResponse::text(415, text).with_headers(&[("accept-encoding", "identity")])
            }
            BodyError::Http(error) => HttpResponse::text(400, format!("cannot read the body: {error}\n")),
        }
    }

    /// Answers a JSON-RPC message or batch.
    async fn rpc(&self, request: &mut HttpRequest, body: Vec<u8>, grants: Grants) -> HttpResponse {
        let session = self.node.session(self.limits, Dialect::JsonPerFrame, grants.for_single_request());
        let output = match rpc::answer(session, body, request, || self.node.shutdown.force_signal()) {
            Ok(output) => output,
            Err(finished) => match finished.await {
                Ok(output) => output,
                Err(error) => return HttpResponse::text(500, error.to_string()),
            },
        };
        if output.is_empty() { HttpResponse::empty(202) } else { HttpResponse::json(output) }
    }

    /// Returns the events of the topics that the query names, until the node stops.
    fn events(&self, request: &HttpRequest, grants: &Grants) -> HttpResponse {
        let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
        let (registry, keepalive) = (&self.node.registry, self.limits.keepalive);
        let (query, stop) = (request.uri().query().unwrap_or_default(), self.node.shutdown.signal());
        let stream = EventStream::subscribe(registry, grants, query, last, keepalive, stop);
        grants.log_call("rpc.subscribe", stream.as_ref().err(), Duration::ZERO);
        match stream {
            Ok(stream) => HttpResponse::stream("text/event-stream", stream)
                .with_headers(&[("cache-control", "no-cache"), ("x-accel-buffering", "no")]),
            Err(fault) => {
                let is_denied = fault.code == code::DENIED;
                if is_denied {
                    self.node.metrics().denied.inc();
                }
                let needs_token = is_denied && grants.is_anonymous();
                if needs_token { unauthorized(&fault) } else { error(&fault, events::status(&fault)) }
            }
        }
    }

    /// Returns the metrics, to callers that may call `rpc.stats`.
    fn metrics(&self, grants: &Grants) -> HttpResponse {
        let allowed = grants.check("rpc.stats");
        grants.log_call("rpc.stats", allowed.as_ref().err(), Duration::ZERO);
        match allowed {
            Ok(()) => {
                let exposition = "text/plain; version=0.0.4; charset=utf-8";
                let mut page = self.node.registry.prometheus(grants);
                metrics::write_certificates(&mut page, &self.node.certificates());
                HttpResponse::new(exposition, page)
            }
            Err(fault) => {
                self.node.metrics().denied.inc();
                if grants.is_anonymous() { unauthorized(&fault) } else { error(&fault, 403) }
            }
        }
    }
}

impl HttpService for App<'_> {
    async fn respond(&self, request: &mut HttpRequest) -> HttpResponse {
        let token = bearer_token(request);
        if let Some(delay) = token.and_then(|token| self.token_delay(token)) {
            Timer::after(delay).await;
        }
        #[cfg(feature = "grpc")]
        if grpc::is_call(request) {
            return self.grpc(request).await;
        }
        let mut response = match self.admit(request, token) {
            Ok(grants) => self.handle(request, grants).await,
            Err(response) => response,
        };
        let origin = request.headers().get(header::ORIGIN);
        self.context.host_policy.add_cors_headers(origin, &mut response);
        response
    }

    #[cfg(feature = "grpc")]
    fn awaits_token(&self) -> bool {
        self.tokens().accepted.is_none() && self.grants().allows_nothing()
    }

    #[cfg(feature = "grpc")]
    fn record_stalled(&self) {
        self.node.metrics().slow_readers.inc();
    }
}

/// Returns a response with a JSON-RPC error.
fn error(fault: &Fault, status: u16) -> HttpResponse {
    let mut body = Vec::new();
    jsonrpc::encode_reply(&mut body, &Id::null(), Err(fault));
    HttpResponse::json(body).with_status(status)
}

fn unauthorized(fault: &Fault) -> HttpResponse {
    error(fault, 401).with_headers(&[("www-authenticate", "Bearer")])
}

/// Returns 405 with the allowed methods for a known path, and 404 for an unknown one.
fn not_found(path: &str, is_file: bool) -> HttpResponse {
    let allowed: &[(&str, &str)] = match path {
        "/" => &[("allow", "GET, HEAD, POST")],
        "/rpc" => &[("allow", "POST")],
        "/events" => &[("allow", "GET")],
        _ if matches!(path, "/healthz" | "/metrics") || is_file => &[("allow", "GET, HEAD")],
        _ => return HttpResponse::text(404, USAGE),
    };
    HttpResponse::text(405, USAGE).with_headers(allowed)
}
