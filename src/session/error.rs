//! Errors after which a session ignores further input.

use std::fmt;

/// Invalid messages in a row after which the connection closes. A person typing by hand, or a client that occasionally
/// sends a number that JSON does not have, gets an error for each.
pub(super) const MAX_INVALID: u8 = 16;

/// The error after which a session ignores further input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The framing is broken, so that the next message cannot be found.
    BrokenFraming,
    /// The caller made an error, in a dialect that cannot express errors.
    CallerError,
    /// The first message was invalid: the peer speaks another protocol.
    ForeignProtocol,
    /// Too many messages in a row were invalid.
    InvalidMessages,
    /// The remainder of a message did not arrive in time.
    MessageTimeout,
    /// No token arrived in time from a peer that may call nothing without one.
    AuthTimeout,
    /// A reply belongs to one of several calls, but it is unknown to which.
    UnmatchedReply,
    /// A reply was too long, and it is unknown to which call it belongs.
    ReplyTooLarge,
    /// The peer stopped responding.
    Vanished,
    /// The peer speaks TLS, and this node does not.
    PeerSpeaksTls,
}

impl SessionError {
    /// Returns `true` if the node logs this error.
    pub fn is_logged(self) -> bool {
        self != Self::CallerError
    }
}

impl std::error::Error for SessionError {}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokenFraming => f.write_str("the peer broke its dialect's framing"),
            Self::CallerError => f.write_str("the peer made an error, which its dialect cannot express"),
            Self::ForeignProtocol => f.write_str("closing the connection, since its first message is invalid"),
            Self::InvalidMessages => {
                write!(f, "closing the connection after {MAX_INVALID} invalid messages in a row")
            }
            Self::MessageTimeout => f.write_str(
                "the remainder of a message did not arrive in time (limits.stall_timeout, or less than 1 KiB a second)",
            ),
            Self::UnmatchedReply => f.write_str("the other node sent a reply that matches no call"),
            Self::ReplyTooLarge => f.write_str("a reply was too long (limits.message), and has no readable id"),
            Self::Vanished => f.write_str("the peer stopped responding (limits.keepalive, limits.forward_silence or limits.offer_keepalive)"),
            Self::PeerSpeaksTls => f.write_str(
                "the node speaks TLS at this port: use --ca FILE, or tls under [[function]]",
            ),
            Self::AuthTimeout => f.write_str(
                "no token arrived in time, and nothing may be called without one (limits.auth_timeout)",
            ),
        }
    }
}
