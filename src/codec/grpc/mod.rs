//! gRPC (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>) as far as it is bytes: the prefix of
//! messages, deadlines, statuses, and protobuf: the wire format, and the messages of users as JSON.

pub(crate) mod descriptors;
mod format;
mod prefix;
pub mod proto;
mod schema;
mod status;
mod timeout;
mod transcode;

pub use format::{codec, outcome, params};
pub use prefix::{PREFIX, is_longer_than, next_message, only_message, prefixed};
pub use schema::{Method, Schema, Streaming, Wanted};
pub use status::{Status, percent_decode, percent_encode};
pub use timeout::{format_timeout, parse_timeout};
pub use transcode::{MessageType, TranscodeError};
