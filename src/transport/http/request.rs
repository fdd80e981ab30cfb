//! A request, whose body is read within its limits.

#[cfg(feature = "grpc")]
use std::any::Any;
#[cfg(feature = "grpc")]
use std::sync::Weak;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Uri, Version};
use smol::Timer;
use smol::future::FutureExt;

#[cfg(feature = "grpc")]
use super::body::IncomingData;
use super::body::RequestBody;
use super::handshake;
use super::response::HttpResponse;
use crate::receive_deadline::ReceiveDeadline;

/// Limits of one connection and its requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Maximum length of a body, in bytes.
    pub body: usize,
    /// Maximum time until the head of a request is complete.
    pub head_timeout: Duration,
    /// Maximum pause within a body.
    pub stall_timeout: Duration,
}

/// Why a body could not be read.
#[derive(Debug)]
pub enum BodyError {
    /// It was not received in time.
    Timeout,
    /// It exceeds the limit. Contains the part up to the limit.
    TooLarge(Vec<u8>),
    /// It has a content coding, such as gzip.
    Encoded,
    /// The stream failed, or the body is not valid HTTP.
    Http(String),
}

/// A request whose head was received.
#[derive(Debug)]
pub struct HttpRequest {
    inner: hyper::Request<RequestBody>,
    limits: RequestLimits,
    is_body_read: bool,
    /// Exists as long as the function that the request has called runs.
    #[cfg(feature = "grpc")]
    running: Option<Weak<dyn Any + Send + Sync>>,
}

impl HttpRequest {
    pub(in crate::transport) fn new(
        inner: hyper::Request<impl Into<RequestBody>>,
        limits: RequestLimits,
    ) -> Self {
        Self {
            inner: inner.map(Into::into),
            limits,
            is_body_read: false,
            #[cfg(feature = "grpc")]
            running: None,
        }
    }

    /// Returns the method: `GET`, `POST` and so on.
    pub fn method(&self) -> &Method {
        self.inner.method()
    }

    /// Returns the target.
    pub fn uri(&self) -> &Uri {
        self.inner.uri()
    }

    /// Returns the version of HTTP.
    pub fn version(&self) -> Version {
        self.inner.version()
    }

    /// Returns the headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// Returns `true` if the request asks for an upgrade to WebSocket.
    pub fn is_websocket_upgrade(&self) -> bool {
        handshake::is_websocket_upgrade(self.headers())
    }

    /// Returns the WebSocket subprotocols that the client offers.
    pub fn offered_protocols(&self) -> impl Iterator<Item = &str> {
        handshake::offered_protocols(self.headers())
    }

    /// Returns the response to a WebSocket handshake. After it, the stream carries WebSocket frames. `protocol` is the
    /// subprotocol to select if the client offers it.
    ///
    /// # Errors
    /// The error response if the handshake is invalid.
    pub fn accept_websocket(&self, protocol: &'static str) -> Result<HttpResponse, HttpResponse> {
        handshake::accept(self.method(), self.headers(), protocol)
    }

    /// Returns `true` if nothing of the body is left unread, so that the next request can be found.
    pub(super) fn is_body_read(&self) -> bool {
        self.is_body_read || self.inner.body().is_end_stream()
    }

    /// Notes the function that the request has called: it runs until no strong reference is left. The connection takes
    /// no other request in its place before, even if this one is cancelled.
    #[cfg(feature = "grpc")]
    pub fn set_running(&mut self, function: Weak<dyn Any + Send + Sync>) {
        self.running = Some(function);
    }

    /// Removes and returns what [`set_running`](Self::set_running) has noted.
    #[cfg(feature = "grpc")]
    pub(in crate::transport) fn take_running(&mut self) -> Option<Weak<dyn Any + Send + Sync>> {
        self.running.take()
    }

    /// Takes the body, which is then read while the response is sent.
    #[cfg(feature = "grpc")]
    pub fn take_data(&mut self) -> IncomingData {
        self.is_body_read = true;
        let mut body = std::mem::replace(self.inner.body_mut(), RequestBody::Taken);
        if let RequestBody::Http2(source) = &mut body {
            source.make_stream();
        }
        IncomingData(body)
    }

    /// Lets the body be longer than its limit by some bytes, for what frames its message.
    #[cfg(feature = "grpc")]
    pub fn extend_limit(&mut self, bytes: usize) {
        self.limits.body = self.limits.body.saturating_add(bytes);
    }

    /// Reads the body. Sets a timer only if the body is not available at once. A peer that waits for "100 Continue"
    /// gets it now, unless its body is too large.
    ///
    /// # Errors
    /// [`BodyError`] if the body violates a limit or cannot be read.
    pub async fn read_body(&mut self) -> Result<Vec<u8>, BodyError> {
        self.read_body_unless(|_| false).await
    }

    /// As [`read_body`](Self::read_body), but stops once `is_too_large` returns `true` for what is received.
    ///
    /// # Errors
    /// [`BodyError`] if the body violates a limit or cannot be read.
    #[inline]
    pub async fn read_body_unless(
        &mut self,
        is_too_large: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, BodyError> {
        let Self { inner, limits, is_body_read, .. } = self;
        // Do not even begin to read: that would send "100 Continue" (RFC 9110, section 10.1.1).
        if inner.body().size_hint().lower() > limits.body as u64
            && inner.headers().contains_key(header::EXPECT)
        {
            return Err(BodyError::TooLarge(Vec::new()));
        }
        let coding = inner.headers().get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
            && !inner.body().is_end_stream()
        {
            return Err(BodyError::Encoded);
        }
        let body = inner.body_mut();
        let mut bytes = Vec::new();
        let mut timeout: Option<ReceiveDeadline> = None;
        loop {
            let frame = match smol::future::poll_once(body.frame()).await {
                Some(frame) => frame,
                None => {
                    let timeout = timeout.get_or_insert_with(|| {
                        let mut timeout = ReceiveDeadline::new(Instant::now());
                        timeout.progress(bytes.len(), Instant::now());
                        timeout
                    });
                    let deadline = timeout.deadline(limits.stall_timeout, limits.body);
                    let expired = async {
                        Timer::at(deadline).await;
                        Err(BodyError::Timeout)
                    };
                    match async { Ok(body.frame().await) }.or(expired).await {
                        // The peer is not late while this node does not take its data.
                        #[cfg(feature = "grpc")]
                        Err(BodyError::Timeout) if body.is_held_back() => {
                            *timeout = ReceiveDeadline::new(Instant::now());
                            timeout.progress(bytes.len(), Instant::now());
                            continue;
                        }
                        received => received?,
                    }
                }
            };
            let Some(frame) = frame else {
                *is_body_read = true;
                return Ok(bytes);
            };
            let Ok(data) = frame.map_err(|error| BodyError::Http(error.to_string()))?.into_data() else {
                continue;
            };
            let room = limits.body - bytes.len();
            if data.len() > room {
                bytes.extend_from_slice(&data[..room]);
                return Err(BodyError::TooLarge(bytes));
            }
            if let Some(timeout) = &mut timeout {
                timeout.progress(data.len(), Instant::now());
            }
            // Most bodies arrive in one piece, which need not be copied.
            if bytes.is_empty() {
                bytes = data.into();
            } else {
                bytes.extend_from_slice(&data);
            }
            if is_too_large(&bytes) {
                return Err(BodyError::TooLarge(bytes));
            }
        }
    }
}
