//! Why a message was not sent to a caller.

use std::fmt;

use crate::message::Fault;

/// Why [`Caller::send`](super::Caller::send) has not sent a message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SendError {
    /// The caller has no connection that takes messages: it is a single request over HTTP, or in this process.
    Unreachable,
    /// The connection has ended, or was closed by [`Caller::close`](super::Caller::close).
    Closed,
    /// The peer reads too slowly: [`Limits::output`](crate::config::Limits::output) bytes wait for it.
    Full,
    /// The dialect of the caller cannot express the message, or the message is too long.
    Invalid(Fault),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the caller has no connection that takes messages"),
            Self::Closed => f.write_str("the connection is closed"),
            Self::Full => f.write_str("too much waits for the peer already (limits.output)"),
            Self::Invalid(fault) => f.write_str(&fault.message),
        }
    }
}

impl std::error::Error for SendError {}
