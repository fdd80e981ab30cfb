//! A request, whose body is read within its limits.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Uri, Version};
use smol::Timer;
use smol::future::FutureExt;

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
    Http(hyper::Error),
}

/// A request whose head was received.
#[derive(Debug)]
pub struct HttpRequest {
    inner: hyper::Request<Incoming>,
    limits: RequestLimits,
    is_body_read: bool,
}

impl HttpRequest {
    pub(super) fn new(inner: hyper::Request<Incoming>, limits: RequestLimits) -> Self {
        Self { inner, limits, is_body_read: false }
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

    /// Reads the body. Sets a timer only if the body is not available at once. A peer that waits for "100 Continue"
    /// gets it now, unless its body is too large.
    ///
    /// # Errors
    /// [`BodyError`] if the body violates a limit or cannot be read.
    pub async fn read_body(&mut self) -> Result<Vec<u8>, BodyError> {
        let Self { inner, limits, is_body_read } = self;
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
                    async { Ok(body.frame().await) }.or(expired).await?
                }
            };
            let Some(frame) = frame else {
                *is_body_read = true;
                return Ok(bytes);
            };
            let Ok(data) = frame.map_err(BodyError::Http)?.into_data() else { continue };
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
        }
    }
}
