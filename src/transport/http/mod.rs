//! HTTP/1.1 connections and their upgrade to WebSocket. hyper parses and writes the messages; an [`HttpService`] answers
//! the requests.

mod cork;
mod error;
mod handshake;
mod idle;
mod pump;
mod request;
mod response;
mod serve;
mod service;

pub use error::ServeError;
pub use request::{BodyError, HttpRequest, RequestLimits};
pub use response::{BodyStream, HttpResponse, send_bad_request};
pub use serve::serve;
pub use service::HttpService;
