//! HTTP/1.1 connections and their upgrade to WebSocket. hyper parses and writes the messages; an [`HttpService`] answers
//! the requests.

mod body;
mod cork;
mod error;
mod handshake;
mod idle;
mod pump;
mod request;
mod response;
mod serve;
mod service;

#[cfg(feature = "grpc")]
pub use body::IncomingData;
#[cfg(feature = "grpc")]
pub(super) use body::{BodySource, RequestBody};
pub use error::ServeError;
pub use request::{BodyError, HttpRequest, RequestLimits};
#[cfg(feature = "grpc")]
pub(super) use response::Http2Content;
pub use response::{BodyStream, HttpResponse, send_bad_request};
pub use serve::serve;
pub use service::HttpService;
