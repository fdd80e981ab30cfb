//! Protobuf: the wire format, for messages of this crate's own, and the messages of users as JSON.

pub(crate) mod descriptors;
mod schema;
mod transcode;
pub mod wire;

pub use schema::{Method, Schema, Streaming, Wanted};
pub use transcode::{MessageType, TranscodeError};
