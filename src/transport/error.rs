//! Classifies the errors that end a connection, also when they are wrapped in those of other libraries.

use std::error::Error;
use std::io;

use super::{stream, websocket};

/// Returns `true` if the connection was cut off because the peer did not read its data (`limits.stall_timeout`).
pub fn is_stall_timeout(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, stream::is_stall_timeout)
}

/// Returns `true` if the connection was closed because the peer stopped responding (`limits.keepalive`).
pub fn is_keepalive_timeout(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, stream::is_keepalive_timeout)
}

/// Returns `true` if the connection was closed because a partially received message was not completed in time.
pub fn is_message_timeout(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, websocket::is_message_timeout)
}

/// Returns `true` if the peer closed the connection without the closing handshake of its protocol, such as TLS's
/// `close_notify`.
pub fn is_unexpected_eof(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, |error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn has_cause(error: &(dyn Error + 'static), matches: fn(&io::Error) -> bool) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(matches) {
            return true;
        }
        cause = error.source();
    }
    false
}
