//! Invalid messages, counted to detect peers that speak another protocol.

use super::error::{MAX_INVALID, SessionError};
use crate::codec::Codec;
use crate::message::{Fault, code};

/// Counts the invalid messages of one connection.
#[derive(Debug, Default)]
pub(super) struct InvalidMessages {
    in_a_row: u8,
    seen_valid: bool,
}

impl InvalidMessages {
    /// Returns `true` if a message was valid.
    pub(super) fn has_seen_valid(&self) -> bool {
        self.seen_valid
    }

    /// Notes a valid message.
    pub(super) fn reset(&mut self) {
        (self.in_a_row, self.seen_valid) = (0, true);
    }

    /// Counts an invalid message without a readable id. Returns an error if the connection should close.
    pub(super) fn count(&mut self, fault: &Fault, codec: &Codec, text: &[u8]) -> Option<SessionError> {
        let is_foreign = || fault.code == code::PARSE || !codec.sends_json() || !codec.is_plausible(text);
        // On a framed transport the handshake has shown that the peer means this node.
        if !self.seen_valid && !codec.is_framed() && is_foreign() {
            return Some(SessionError::ForeignProtocol);
        }
        self.count_one()
    }

    /// Counts an invalid message, of whatever form.
    pub(super) fn count_one(&mut self) -> Option<SessionError> {
        self.in_a_row += 1;
        (self.in_a_row >= MAX_INVALID).then_some(SessionError::InvalidMessages)
    }
}
