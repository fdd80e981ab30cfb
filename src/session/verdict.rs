//! Why a peer is listened to no longer.

use std::fmt;

use crate::codec::Codec;
use crate::message::{Fault, code};

/// Messages in a row that make no sense, after which a peer is listened to no longer. A person who types by hand, or a client
/// that now and then writes a number that JSON does not know, gets an error for each.
const NONSENSE: u8 = 16;

/// Said of a message whose rest does not come.
const SLOW: &str =
    "a message that had begun did not come in time (limits.stall_timeout, or less than 1 KiB a second)";

/// Why no more of a peer's input is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The framing is broken, and nobody can tell where the next message begins.
    Unreadable,
    /// A mistake in a dialect that has no errors.
    Mistake,
    /// The first message was none.
    Foreign,
    /// Too many messages in a row made no sense.
    Nonsense,
    /// A message had begun, and its rest did not come in time.
    Slow,
    /// No token came in time from a peer that may call nothing without.
    NoToken,
}

impl Verdict {
    /// Returns `true` if the node's log tells of it.
    pub fn is_told(self) -> bool {
        self != Self::Mistake
    }
}

impl std::error::Error for Verdict {}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the peer breaks its dialect's framing"),
            Self::Mistake => f.write_str("the peer made a mistake, to which its dialect has no answer"),
            Self::Foreign => f.write_str("the connection ends, since its first message was none"),
            Self::Nonsense => {
                write!(f, "the connection ends after {NONSENSE} messages in a row that make no sense")
            }
            Self::Slow => f.write_str(SLOW),
            Self::NoToken => {
                f.write_str("no token came in time, and nothing may be called without (limits.auth_timeout)")
            }
        }
    }
}

/// Tells peers that speak something else from those that make a mistake.
#[derive(Debug, Default)]
pub(super) struct Nonsense {
    in_a_row: u8,
    /// A message was understood.
    spoken: bool,
}

impl Nonsense {
    /// Returns `true` if a message was understood before.
    pub(super) fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// Notes a message that makes sense.
    pub(super) fn understood(&mut self) {
        (self.in_a_row, self.spoken) = (0, true);
    }

    /// Judges a message without an id that was refused.
    pub(super) fn judge(&mut self, fault: &Fault, codec: &Codec, text: &[u8]) -> Option<Verdict> {
        let foreign = || fault.code == code::PARSE || !codec.sends_json() || !codec.is_plausible(text);
        // Where the transport has frames, the peer has shown by its handshake that it means this node.
        if !self.spoken && !codec.is_framed() && foreign() {
            return Some(Verdict::Foreign);
        }
        self.again()
    }

    /// Notes one more message that makes no sense.
    pub(super) fn again(&mut self) -> Option<Verdict> {
        self.in_a_row += 1;
        (self.in_a_row >= NONSENSE).then_some(Verdict::Nonsense)
    }
}
