//! gRPC (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>) as far as it is bytes: the prefix of
//! messages, deadlines and statuses.

mod format;
mod prefix;
mod status;
mod timeout;

pub use format::{codec, outcome, params};
pub use prefix::{PREFIX, is_longer_than, next_message, only_message, prefixed};
pub use status::{Status, percent_decode, percent_encode};
pub use timeout::{format_timeout, parse_timeout};
