//! HTTP/1.1 and its upgrade to WebSocket. hyper parses and writes the messages.

mod bearer;
mod body;
mod cork;
mod error;
mod handshake;
mod host_policy;
mod idle;
mod message;
mod pump;
mod request;
mod serve;
mod service;

pub use error::ServeError;
pub use host_policy::HostPolicy;
pub use message::{HttpRequest, HttpResponse, send_bad_request};
pub use serve::serve;
pub use service::{HttpService, RequestLimits, Upgraded};
