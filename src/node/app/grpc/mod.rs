//! gRPC: the services of this node itself, by which any client calls its functions (`chanrpc.v1.Node`), watches its
//! topics, asks for its health and for the description of services; and those of the user, by their descriptors.

mod call;
mod health;
mod messages;
mod own;
mod reflection;
mod service;
mod stream;
mod watch;

use std::time::{Duration, Instant};

use data_encoding::BASE64_NOPAD;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Version};
use smol::Timer;
use smol::future::FutureExt;

use super::App;
use super::bearer::bearer_token;
use crate::codec::grpc::{
    PREFIX, Status, is_longer_than, only_message, parse_timeout, percent_encode, prefixed,
};
use crate::message::{Fault, code};
use crate::route::Grants;
use crate::transport::http::{BodyError, HttpRequest, HttpResponse};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Returns `true` if a request is a gRPC call, so that its errors are statuses.
pub(super) fn is_call(request: &HttpRequest) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content_type.and_then(|name| name.strip_prefix(b"application/grpc"));
    request.version() == Version::HTTP_2
        && *request.method() == Method::POST
        // Not `application/grpc-web`.
        && rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// The head of a call.
struct Head {
    /// What the caller may do.
    grants: Grants,
    /// When its answer is due, and the time until then when it arrived.
    deadline: Option<(Instant, Duration)>,
    /// The number of nodes that have forwarded it.
    hops: u32,
}

impl App<'_> {
    /// Answers a gRPC call.
    pub(super) async fn grpc(&self, request: &mut HttpRequest) -> HttpResponse {
        if let Err(response) = self.context.host_policy.check(request) {
            self.node.metrics().misdirected.inc();
            self.grants.log_rejection(&"misdirected");
            let message = String::from_utf8_lossy(response.body()).trim_end().to_owned();
            return failed(&Status::new(Status::PERMISSION_DENIED, message));
        }
        match self.grpc_head(request) {
            Ok(head) => self.grpc_method(request, head).await.unwrap_or_else(|status| failed(&status)),
            Err(status) => failed(&status),
        }
    }

    /// Checks the headers of a call.
    fn grpc_head(&self, request: &HttpRequest) -> Result<Head, Status> {
        let mut grants = self.grants();
        if let Some(token) = bearer_token(request) {
            self.accept_token(&mut grants, token)
                .map_err(|fault| Status::of(&fault).with_code(Status::UNAUTHENTICATED))?;
        }
        let text =
            |name| request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
        let coding = text("grpc-encoding");
        if coding.is_some_and(|coding| coding != "identity") {
            let message = "compression is not supported: send messages with grpc-encoding identity";
            return Err(Status::new(Status::UNIMPLEMENTED, message));
        }
        if text("content-type").is_some_and(|found| found.contains('+') && !found.contains("+proto")) {
            let message = "the messages of a call are protobuf: application/grpc or application/grpc+proto";
            return Err(Status::new(Status::UNIMPLEMENTED, message));
        }
        let deadline = match text("grpc-timeout") {
            None => None,
            Some(timeout) => {
                let timeout = parse_timeout(timeout).ok_or_else(|| {
                    Status::new(Status::INVALID_ARGUMENT, "grpc-timeout is a number and a unit, such as 100m")
                })?;
                // A later one than the node's own has no effect.
                let timeout = timeout.min(Duration::from_secs(24 * 3600));
                Some((Instant::now() + timeout, timeout))
            }
        };
        let hops = match text("chanrpc-hops") {
            None => 0,
            Some(hops) => hops.parse().map_err(|_| {
                Status::new(
                    Status::INVALID_ARGUMENT,
                    "chanrpc-hops is the number of nodes that forwarded the call",
                )
            })?,
        };
        Ok(Head { grants, deadline, hops })
    }

    /// Calls a method.
    async fn grpc_method(&self, request: &mut HttpRequest, head: Head) -> Result<HttpResponse, Status> {
        if self.context.is_websocket_only() {
            return Err(Status::new(
                Status::UNIMPLEMENTED,
                "this listener speaks Leaf messages over WebSocket",
            ));
        }
        let path = request.uri().path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
        match (service, method) {
            ("chanrpc.v1.Node", "Call") => self.grpc_call(request, head).await,
            ("chanrpc.v1.Node", "Watch") => {
                let message = self.grpc_message(request, &head).await?;
                self.grpc_watch(&message, &head)
            }
            ("grpc.health.v1.Health", "Check") => {
                let message = self.grpc_message(request, &head).await?;
                self.health_check(&message, &head)
            }
            ("grpc.health.v1.Health", "Watch") => {
                let message = self.grpc_message(request, &head).await?;
                self.health_watch(&message, &head)
            }
            (
                "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
                "ServerReflectionInfo",
            ) => self.reflection(request, &head),
            _ => {
                let services = self.node.services();
                if let Some(mapped) = services.find(&path) {
                    return self.grpc_service(request, head, &services, mapped).await;
                }
                let is_known = own::has_service(service) || services.has_service(service);
                let kind = if is_known { "method" } else { "service" };
                let name: String = path.chars().take(200).collect();
                let message = format!("no {kind} {name:?}; chanrpc.v1.Node/Call calls any function");
                Err(Status::new(Status::UNIMPLEMENTED, message))
            }
        }
    }

    /// Reads the only message of a request.
    async fn grpc_message(&self, request: &mut HttpRequest, head: &Head) -> Result<Vec<u8>, Status> {
        let max = self.limits.message;
        request.extend_limit(PREFIX);
        let body = request.read_body_unless(|body| is_longer_than(max, body));
        let late = async {
            match head.deadline {
                Some((deadline, _)) => _ = Timer::at(deadline).await,
                None => std::future::pending().await,
            }
            Err(None)
        };
        match async { body.await.map_err(Some) }.or(late).await {
            Ok(mut body) => {
                only_message(&body, max)?;
                body.drain(..PREFIX);
                self.has_served_request.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(body)
            }
            Err(None) => {
                Err(Status::of_code(code::DEADLINE, "the call's deadline passed before its message"))
            }
            Err(Some(BodyError::TooLarge(body))) => {
                self.node.metrics().too_large.inc();
                self.grants.log_rejection(&code::REQUEST_TOO_LARGE);
                only_message(&body, max)?;
                Err(Status::new(Status::UNIMPLEMENTED, "the method takes one message"))
            }
            Err(Some(BodyError::Timeout)) => {
                self.node.metrics().slow_messages.inc();
                let message = "the message was not received in time (limits.stall_timeout)";
                Err(Status::of_code(code::DEADLINE, message))
            }
            Err(Some(BodyError::Http(error))) => {
                Err(Status::new(Status::INTERNAL, format!("cannot read the message: {error}")))
            }
            Err(Some(BodyError::Encoded)) => {
                Err(Status::new(Status::UNIMPLEMENTED, "no content-encoding but identity is supported"))
            }
        }
    }

    /// Returns the status of a fault: a caller without a token is not authenticated rather than denied.
    fn grpc_status(&self, fault: &Fault, grants: &Grants) -> Status {
        let status = Status::of(fault);
        let is_anonymous = status.code == Status::PERMISSION_DENIED && grants.is_anonymous();
        if is_anonymous { status.with_code(Status::UNAUTHENTICATED) } else { status }
    }
}

/// Returns the response with one message.
fn replied(write: impl FnOnce(&mut Vec<u8>)) -> HttpResponse {
    HttpResponse::new("application/grpc", prefixed(write)).with_trailers(trailers(None))
}

/// Returns the response without a message.
fn failed(status: &Status) -> HttpResponse {
    let mut response = HttpResponse::empty(200);
    response.set_header(header::CONTENT_TYPE, CONTENT_TYPE);
    for (name, value) in status_headers(Some(status)).into_iter().flatten() {
        response.set_header(name, value);
    }
    response
}

/// Returns the trailers of a response; without a status, of success.
fn trailers(status: Option<&Status>) -> HeaderMap {
    status_headers(status).into_iter().flatten().collect()
}

fn status_headers(status: Option<&Status>) -> [Option<(HeaderName, HeaderValue)>; 3] {
    let Some(Status { code, message, details }) = status else {
        return [Some((STATUS, HeaderValue::from_static("0"))), None, None];
    };
    let message = HeaderValue::from_str(&percent_encode(message)).ok();
    let details = (!details.is_empty()).then(|| BASE64_NOPAD.encode(details));
    let details = details.and_then(|details| HeaderValue::from_str(&details).ok());
    [
        Some((STATUS, (*code).into())),
        message.map(|message| (MESSAGE, message)),
        details.map(|details| (DETAILS, details)),
    ]
}
