//! Requests and responses as the HTTP service sees them.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use crate::transport::pipe::Stream;
use crate::transport::stream::send_and_close;

static JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request with its complete body.
#[derive(Debug)]
pub struct HttpRequest<'a> {
    /// `GET`, `POST` and so on.
    pub method: &'a Method,
    /// The path, without the query.
    pub path: &'a str,
    /// The body.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub struct HttpResponse {
    status: StatusCode,
    content_type: HeaderValue,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
}

impl HttpResponse {
    /// Creates a 200 response of the given type.
    pub fn new(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        Self { status: StatusCode::OK, content_type, headers: &[], body: body.into() }
    }

    /// Creates a 200 response with a JSON body.
    pub fn json(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, content_type: JSON.clone(), headers: &[], body }
    }

    /// Creates a plain-text response. An invalid `status` becomes 500.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { status, content_type, headers: &[], body: body.into() }
    }

    /// Creates a 202 response without a body, for a request that needs no reply.
    pub fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, content_type: JSON.clone(), headers: &[], body: Vec::new() }
    }

    /// Sets the status. An invalid one is ignored.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).unwrap_or(self.status);
        self
    }

    /// Sets additional headers. Their names must be in lower case.
    #[must_use]
    pub fn with_headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.headers = headers;
        self
    }

    /// Converts to hyper's type. With `close`, the connection ends after this response.
    pub(super) fn into_hyper(self, close: bool) -> hyper::Response<Full<Bytes>> {
        let empty = self.body.is_empty();
        let mut response = hyper::Response::new(Full::new(self.body.into()));
        *response.status_mut() = self.status;
        if !empty {
            response.headers_mut().insert(header::CONTENT_TYPE, self.content_type);
        }
        if close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        for &(name, value) in self.headers {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let status_header = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::UPGRADE_REQUIRED => Some((header::SEC_WEBSOCKET_VERSION, "13")),
            _ => None,
        };
        if let Some((name, value)) = status_header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
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
