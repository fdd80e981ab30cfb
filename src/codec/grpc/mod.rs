//! gRPC (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>) as far as it is bytes: the prefix of
//! messages, deadlines, statuses, and the protobuf wire format.

mod format;
mod prefix;
pub mod proto;
mod status;
mod timeout;

pub use format::{codec, outcome, params};
pub use prefix::{PREFIX, is_longer_than, next_message, only_message, prefixed};
pub use status::{Status, percent_encode};
pub use timeout::parse_timeout;
