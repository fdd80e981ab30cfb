//! Messages between peers, in no dialect's form.

use std::borrow::Cow;
use std::time::Duration;

use super::{Fault, RawJson, number};

/// A request's id as its JSON text, which returns byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id<'a>(Cow<'a, str>);

impl<'a> Id<'a> {
    /// The maximum length of an id, in bytes of JSON text.
    pub const MAX_LEN: usize = 128;

    /// The id of a reply to a message whose id cannot be read.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// Accepts a JSON text as an id if it is a string, a number or null, and not too long.
    pub fn from_json(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        let text = text.into();
        let fits = text.len() <= Self::MAX_LEN;
        let is_id = &*text == "null"
            || text.starts_with(['"', '-'])
            || text.starts_with(|c: char| c.is_ascii_digit());
        (fits && is_id).then_some(Self(text))
    }

    /// Wraps a text of any form and length, which only its own dialect reads.
    #[cfg(feature = "nats")]
    pub(crate) fn opaque(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// Returns the id as JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Returns the id as a whole number, also if it is a fraction such as `1.0`, or a text: some servers return numbers
    /// so.
    pub fn number(&self) -> Option<u64> {
        let text = match self.0.strip_prefix('"') {
            Some(_) => Cow::Owned(serde_json::from_str::<String>(&self.0).ok()?),
            None => Cow::Borrowed(&*self.0),
        };
        number::whole(&text)?.parse().ok()
    }

    /// Returns an owned copy.
    pub fn into_owned(self) -> Id<'static> {
        Id(self.0.into_owned().into())
    }
}

impl From<u64> for Id<'static> {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

/// A message between two peers.
#[derive(Debug)]
pub enum Message<'a> {
    /// A call. Without an id it is a notification, which gets no reply.
    Request(Request<'a>),
    /// The peer cancels one of its requests.
    Cancel(Id<'a>),
    /// The reply to one of our requests.
    Reply(Id<'a>, Outcome),
}

/// One call as received.
#[derive(Debug)]
pub struct Request<'a> {
    /// The id of the reply; `None` in a notification.
    pub id: Option<Id<'a>>,
    /// The function's name.
    pub method: Cow<'a, str>,
    /// An array or an object, if present.
    pub params: Option<RawJson<'a>>,
    /// The extension member `meta`.
    pub meta: Meta,
}

/// The extension member `meta` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The remaining time that the caller waits.
    pub deadline: Option<Duration>,
    /// The number of nodes that have forwarded the call.
    pub hops: u32,
}

/// The result of a call: a JSON text, or a fault.
pub type Outcome = Result<RawJson<'static>, Fault>;

/// The borrowed form, for encoding.
pub type Answer<'a> = Result<&'a str, &'a Fault>;
