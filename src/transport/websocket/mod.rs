//! WebSocket (RFC 6455). tungstenite parses and writes the frames.

mod buffered_stream;
mod frame_tracker;
mod pipe;

pub use pipe::WebSocket;
pub(super) use pipe::is_message_timeout;
