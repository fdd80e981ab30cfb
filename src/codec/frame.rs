//! Messages as they stand in bytes: where one is, and what it holds.

use std::borrow::Cow;
use std::ops::Range;

use crate::message::{Fault, Id, Message};

/// What stands at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole message: where it is, and how many bytes to cut with it.
    Frame(Range<usize>, usize),
    /// A message longer than the maximum began here; cut so many bytes. Its rest is skipped when it comes.
    TooLong(usize),
    /// No whole message yet; cut so many bytes that mean nothing.
    Incomplete(usize),
    /// The bytes make no sense, and never will.
    Broken(Cow<'static, str>),
}

/// What one message holds.
#[derive(Debug)]
pub enum Read<'a> {
    /// One call, reply or cancellation.
    Single(Result<Message<'a>, Refused>),
    /// Several, answered together.
    Batch(Vec<Result<Message<'a>, Refused>>),
}

/// A message that could not be understood, and the id to tell it under.
#[derive(Debug)]
pub struct Refused {
    /// The message's id if it had a usable one, else null.
    pub id: Id<'static>,
    /// What is wrong with it.
    pub fault: Fault,
}

impl Refused {
    /// Refuses a message whose id is not known.
    pub(super) fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { id: Id::null(), fault: Fault::new(code, message) }
    }

    /// Enters the id, if it has become known.
    pub(super) fn with_id(self, id: Option<Id<'_>>) -> Self {
        Self { id: id.map_or(self.id, Id::into_owned), ..self }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::Next;

    /// What a framer finds in `pieces`: messages, "!" for one too long, "broken" for the end of it all; and how
    /// many bytes are left over.
    pub(in crate::codec) fn found<'a>(
        mut next: impl FnMut(&[u8]) -> Next,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Vec<u8>>, usize) {
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while !buffer.is_empty() {
                let cut = match next(&buffer) {
                    Next::Frame(at, cut) => {
                        assert!(at.end <= cut && cut > 0);
                        found.push(buffer[at].to_vec());
                        cut
                    }
                    Next::TooLong(cut) => {
                        found.push(b"!".to_vec());
                        cut
                    }
                    Next::Incomplete(0) => break,
                    Next::Incomplete(cut) => cut,
                    Next::Broken(why) => {
                        assert!(!why.is_empty());
                        found.push(b"broken".to_vec());
                        return (found, buffer.len());
                    }
                };
                buffer.drain(..cut);
            }
        }
        (found, buffer.len())
    }
}
