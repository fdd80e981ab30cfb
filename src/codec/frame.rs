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
