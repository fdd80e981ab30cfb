//! Byte pipes: carry bytes or whole frames between two peers. They do not interpret the messages inside.

mod error;
pub mod http;
#[cfg(feature = "grpc")]
pub mod http2;
#[cfg(feature = "internals")]
pub mod memory;
mod pipe;
mod stream;
pub mod tls;
mod websocket;

pub use error::{is_keepalive_timeout, is_message_timeout, is_stall_timeout, is_unexpected_eof};
pub use pipe::{CloseReason, Pipe, Received, Stream};
pub(crate) use stream::Alarm;
pub use stream::{Rewind, StallTimeout, StreamPipe, send_and_close, set_keepalive};
pub use websocket::WebSocket;
