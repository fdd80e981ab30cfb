//! How the messages of a dialect are written.

use std::fmt::Debug;

use super::frame::Decoded;
use crate::message::{Answer, Fault, Id, Outcome, Request};

/// Decodes and encodes every message of a dialect, as either peer. Has no state: one value serves all connections.
pub trait MessageFormat: Debug + Sync {
    /// Returns in what the dialect differs from others.
    fn traits(&self) -> FormatTraits;

    /// Decodes one message, or a batch. What a message becomes when converted to JSON takes at most `max` bytes.
    fn decode<'a>(&self, frame: &'a [u8], limits: DecodeLimits, max: usize) -> Decoded<'a>;

    /// Decodes the replies in a frame that is not a valid message, since servers that deviate from a specification send
    /// them. There is nobody to send an error to.
    fn decode_deviating_replies(&self, frame: &[u8], limits: DecodeLimits) -> Vec<(Id<'static>, Outcome)> {
        let _ = (frame, limits);
        Vec::new()
    }

    /// Rejects a message of which only a prefix is known, under the ids found in it.
    fn reject(&self, prefix: &[u8], limits: DecodeLimits, fault: Fault) -> Decoded<'static>;

    /// Returns `true` if a notification for many peers is worth encoding once. At most one format does.
    fn shares_notifications(&self) -> bool {
        false
    }

    /// Appends a message, without framing. Returns `false`, and appends nothing, if the dialect cannot express it.
    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool;
}

/// A message to encode.
#[derive(Debug)]
pub enum Outgoing<'a> {
    /// A call, or a notification if it has no id.
    Request(&'a Request<'a>),
    /// The cancellation of one of our requests.
    Cancel(&'a Id<'a>),
    /// The reply to one of the peer's requests.
    Reply(&'a Id<'a>, Answer<'a>),
}

/// In what a dialect differs from others, as far as its connections must know.
#[derive(Clone, Copy, Debug)]
pub struct FormatTraits {
    /// Messages are those of JSON-RPC.
    pub is_json: bool,
    /// There are only results: an error closes the connection, a function without a result gets no reply, and replies
    /// cannot be matched to calls.
    pub has_results_only: bool,
}

/// Limits on decoded messages.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Maximum nesting of arrays and objects.
    pub depth: usize,
    /// Maximum number of messages in a batch.
    pub batch: usize,
}
