//! The results of framing and decoding.

use std::borrow::Cow;
use std::ops::Range;

use crate::message::{Fault, Id, Message};

/// What a framer finds at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameResult {
    /// A complete message: its position, and the number of bytes to discard after processing it.
    Frame(Range<usize>, usize),
    /// The message exceeds the maximum length. Discard this many bytes; the remainder is skipped as it arrives.
    TooLong(usize),
    /// No complete message yet. Discard this many bytes, which are not part of one.
    Incomplete(usize),
    /// The bytes are invalid, and more of them cannot change that.
    Invalid(Cow<'static, str>),
}

/// The content of one frame.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// One request, reply or cancellation.
    Single(Result<Message<'a>, DecodeError>),
    /// Several, to be answered together.
    Batch(Vec<Result<Message<'a>, DecodeError>>),
}

/// A message that could not be decoded, and the id to report it under.
#[derive(Debug)]
pub struct DecodeError {
    /// The message's id if it has a valid one, otherwise null.
    pub id: Id<'static>,
    /// What is wrong with it.
    pub fault: Fault,
}

impl DecodeError {
    /// Creates an error for a message whose id is unknown.
    pub(super) fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { id: Id::null(), fault: Fault::new(code, message) }
    }

    /// Sets the id if it is known.
    pub(super) fn with_id(self, id: Option<Id<'_>>) -> Self {
        Self { id: id.map_or(self.id, Id::into_owned), ..self }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::FrameResult;

    /// Returns what a framer finds in `pieces`: messages, "!" for one that is too long, and "invalid" at the end; and
    /// how many bytes are left over.
    pub(in crate::codec) fn frames<'a>(
        mut next_frame: impl FnMut(&[u8]) -> FrameResult,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Vec<u8>>, usize) {
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while !buffer.is_empty() {
                let cut = match next_frame(&buffer) {
                    FrameResult::Frame(at, cut) => {
                        assert!(at.end <= cut && cut > 0);
                        found.push(buffer[at].to_vec());
                        cut
                    }
                    FrameResult::TooLong(cut) => {
                        found.push(b"!".to_vec());
                        cut
                    }
                    FrameResult::Incomplete(0) => break,
                    FrameResult::Incomplete(cut) => cut,
                    FrameResult::Invalid(reason) => {
                        assert!(!reason.is_empty());
                        found.push(b"invalid".to_vec());
                        return (found, buffer.len());
                    }
                };
                buffer.drain(..cut);
            }
        }
        (found, buffer.len())
    }
}
