//! Responses.

use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
#[cfg(feature = "grpc")]
use hyper::header::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

use crate::transport::pipe::Stream;
use crate::transport::stream::send_and_close;

// Statics, since each `from_static` checks the text again.
static JSON: HeaderValue = HeaderValue::from_static("application/json");
static TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A response.
// Much smaller than hyper's, since it is moved several times.
#[derive(Debug)]
pub struct HttpResponse {
    status: StatusCode,
    is_last: bool,
    content_type: Option<&'static HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    /// Sent instead of `body`.
    stream: Option<Box<dyn BodyStream>>,
    /// Sent after the body, over HTTP/2 only.
    #[cfg(feature = "grpc")]
    trailers: Option<Box<HeaderMap>>,
}

/// A body of unknown length, which is sent as it becomes available.
pub trait BodyStream: Debug + Send + 'static {
    /// Returns the next part, which is not empty, or `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>>;

    /// Returns the trailers after the last part, which are sent over HTTP/2 only.
    #[cfg(feature = "grpc")]
    fn trailers(&mut self) -> Option<HeaderMap> {
        None
    }
}

/// A body as hyper takes it.
pub(super) enum ResponseBody {
    Full(Full<Bytes>),
    Stream(Box<dyn BodyStream>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full).poll_frame(cx),
            Self::Stream(stream) => {
                stream.poll_next(cx).map(|part| part.map(|part| Ok(Frame::data(part.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(full) if full.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// What follows the head of a response over HTTP/2.
#[cfg(feature = "grpc")]
pub(in crate::transport) struct Http2Content {
    pub(in crate::transport) body: Vec<u8>,
    /// Sent instead of `body`.
    pub(in crate::transport) stream: Option<Box<dyn BodyStream>>,
    pub(in crate::transport) trailers: Option<Box<HeaderMap>>,
}

impl HttpResponse {
    /// Creates a 200 response of the given type.
    pub fn new(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self::with_body(StatusCode::OK, None, body.into()).with_headers(&[("content-type", content_type)])
    }

    /// Creates a 200 response with a JSON body.
    pub fn json(body: Vec<u8>) -> Self {
        Self::with_body(StatusCode::OK, Some(&JSON), body)
    }

    /// Creates a plain-text response. An invalid `status` becomes 500.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::with_body(status, Some(&TEXT), body.into())
    }

    /// Creates a response without a body. An invalid `status` becomes 500.
    pub fn empty(status: u16) -> Self {
        Self::text(status, Vec::new())
    }

    /// Creates a 200 response of the given type, whose body is sent as it becomes available. The connection ends after it.
    pub fn stream(content_type: &'static str, stream: impl BodyStream) -> Self {
        let response = Self::new(content_type, Vec::new()).and_close();
        Self { stream: Some(Box::new(stream)), ..response }
    }

    fn with_body(status: StatusCode, content_type: Option<&'static HeaderValue>, body: Vec<u8>) -> Self {
        Self {
            status,
            is_last: false,
            content_type,
            headers: Vec::new(),
            body,
            stream: None,
            #[cfg(feature = "grpc")]
            trailers: None,
        }
    }

    /// Sets the status. An invalid one is ignored.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).unwrap_or(self.status);
        self
    }

    /// Sets headers. Their names must be in lower case.
    #[must_use]
    pub fn with_headers(mut self, headers: &[(&'static str, &'static str)]) -> Self {
        for &(name, value) in headers {
            self.set_header(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        self
    }

    /// Sets a header.
    pub fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.push((name, value));
    }

    /// Returns the body, unless it is a stream.
    #[cfg(feature = "grpc")]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sets the trailers, which are sent over HTTP/2 only.
    #[cfg(feature = "grpc")]
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(Box::new(trailers));
        self
    }

    /// Ends the connection after this response, since the peer violated a rule or may still be sending.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.is_last = true;
        self
    }

    /// Returns `true` if the connection changes its protocol after this response.
    pub(super) fn is_upgrade(&self) -> bool {
        self.status == StatusCode::SWITCHING_PROTOCOLS
    }

    /// Returns `true` if the body is sent as it becomes available.
    pub(super) fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Returns `true` if the connection ends after this response.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Returns the head and the parts of the body for HTTP/2, which has no header that ends the connection.
    #[cfg(feature = "grpc")]
    pub(in crate::transport) fn into_http2(mut self) -> (hyper::Response<()>, Http2Content) {
        self.is_last = false;
        let content = Http2Content {
            body: std::mem::take(&mut self.body),
            stream: self.stream.take(),
            trailers: self.trailers.take(),
        };
        if content.body.is_empty() {
            self.content_type = None;
        } else if content.trailers.is_none() {
            self.set_header(header::CONTENT_LENGTH, content.body.len().into());
            // `into_hyper` omits it for an empty body.
            if let Some(content_type) = self.content_type.take() {
                self.set_header(header::CONTENT_TYPE, content_type.clone());
            }
        }
        (self.into_hyper().map(drop), content)
    }

    /// Converts to hyper's type.
    pub(super) fn into_hyper(self) -> hyper::Response<ResponseBody> {
        let is_empty = self.body.is_empty();
        let body = match self.stream {
            Some(stream) => ResponseBody::Stream(stream),
            None => ResponseBody::Full(Full::new(self.body.into())),
        };
        let mut response = hyper::Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = self.content_type.filter(|_| !is_empty) {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
        }
        if self.is_last {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

/// Answers a peer that does not use HTTP/1.1 as this port requires with a 400 response, and closes the stream.
pub async fn send_bad_request(stream: &mut impl Stream, text: &str) {
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close";
    let response = format!("{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    // An error means that the peer is gone.
    let _ = send_and_close(stream, response.as_bytes()).await;
}
