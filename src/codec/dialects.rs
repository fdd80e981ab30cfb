//! All dialects behind one type: what a session reads its peer's bytes with, and writes its answers with.

use std::ops::Range;

use super::frame::{Next, Read, Refused};
use super::headers::{self, Headers};
use super::jsonrpc::{self, Bounds};
use super::leaf::{self, Leaf};
use super::lines::{Lines, begins_json};
use super::msgpack::{self, MessagePack};
use crate::message::{Answer, Fault, Id, Message, Request, code};

/// How a peer talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON-RPC, one text a line.
    Lines,
    /// JSON-RPC, one text in each frame of the transport.
    Frames,
    /// JSON-RPC or MessagePack-RPC, as the first message tells, one in each frame of the transport.
    Messages,
    /// JSON-RPC, each text behind its `Content-Length`.
    Headers,
    /// MessagePack-RPC.
    MessagePack,
    /// The messages of Leaf's gates.
    Leaf(Leaf),
}

/// One connection's dialect, with what it remembers of the bytes so far.
#[derive(Debug)]
pub struct Codec {
    framing: Framing,
    bounds: Bounds,
    /// Bytes of a message at most.
    max: usize,
}

#[derive(Debug)]
enum Framing {
    Lines(Lines),
    Frames,
    /// The first frame is still to come.
    Messages,
    /// MessagePack-RPC in frames of the transport.
    Packed,
    Headers(Headers),
    MessagePack(MessagePack),
    Leaf(Leaf),
}

impl Codec {
    /// Reads and writes `dialect`, in messages of at most `max` bytes.
    pub fn new(dialect: Dialect, max: usize, bounds: Bounds) -> Self {
        let framing = match dialect {
            Dialect::Lines => Framing::Lines(Lines::new(max)),
            Dialect::Frames => Framing::Frames,
            Dialect::Messages => Framing::Messages,
            Dialect::Headers => Framing::Headers(Headers::new(max)),
            Dialect::MessagePack => Framing::MessagePack(MessagePack::new(max)),
            Dialect::Leaf(leaf) => {
                Framing::Leaf(Leaf { max: leaf.max.min(u32::try_from(max).unwrap_or(u32::MAX)), ..leaf })
            }
        };
        Self { framing, bounds, max }
    }

    /// Tells whether the transport has frames: each holds one message, and the bytes need no search.
    pub fn is_framed(&self) -> bool {
        matches!(
            self.framing,
            Framing::Frames | Framing::Messages | Framing::Packed | Framing::Leaf(Leaf { framed: false, .. })
        )
    }

    /// Tells whether only results are sent: who makes a mistake is cut off, and a function without a result is
    /// not answered.
    pub fn sends_results_only(&self) -> bool {
        matches!(self.framing, Framing::Leaf(_))
    }

    /// Looks for the next message in a buffer that grows at its end, and that the caller cuts as told.
    pub fn next(&mut self, buffer: &[u8]) -> Next {
        match &mut self.framing {
            Framing::Lines(lines) => lines.next(buffer),
            Framing::Frames | Framing::Messages | Framing::Packed => {
                Next::Frame(0..buffer.len(), buffer.len())
            }
            Framing::Headers(headers) => headers.next(buffer),
            Framing::MessagePack(message_pack) => message_pack.next(buffer),
            Framing::Leaf(leaf) => leaf.next(buffer),
        }
    }

    /// Returns `true` in the middle of a message that is too long, and skipped, so that nothing of it is kept.
    pub fn is_skipping(&self) -> bool {
        match &self.framing {
            Framing::Lines(lines) => lines.is_skipping(),
            Framing::Headers(headers) => headers.is_skipping(),
            Framing::MessagePack(message_pack) => message_pack.is_skipping(),
            Framing::Frames | Framing::Messages | Framing::Packed | Framing::Leaf(_) => false,
        }
    }

    /// The last message of a stream that has ended in `buffer`, if its dialect needs no mark at the end.
    pub fn last(&self, buffer: &[u8]) -> Option<Range<usize>> {
        match &self.framing {
            Framing::Lines(lines) => lines.last(buffer),
            _ => None,
        }
    }

    /// Returns `false` if the beginning of a connection's first message shows that the peer speaks something else.
    pub fn is_plausible(&self, beginning: &[u8]) -> bool {
        !matches!(self.framing, Framing::Lines(_)) || begins_json(beginning) == Some(true)
    }

    /// Returns `true` if the dialect of a framed transport is not known yet.
    pub fn is_undecided(&self) -> bool {
        matches!(self.framing, Framing::Messages)
    }

    /// Reads what one frame holds.
    pub fn read<'a>(&mut self, frame: &'a [u8]) -> Read<'a> {
        if let Framing::Messages = self.framing {
            let packed = frame.first().is_some_and(|first| MessagePack::starts(*first));
            self.framing = if packed { Framing::Packed } else { Framing::Frames };
        }
        match &self.framing {
            Framing::Lines(_) | Framing::Frames | Framing::Messages | Framing::Headers(_) => {
                jsonrpc::decode(frame, self.bounds)
            }
            Framing::MessagePack(_) | Framing::Packed => {
                Read::Single(msgpack::decode(frame, self.bounds.depth).and_then(|message| self.fit(message)))
            }
            Framing::Leaf(_) => Read::Single(leaf::decode(frame, self.bounds.depth)),
        }
    }

    /// Refuses parameters that have outgrown a message on their way to JSON.
    fn fit<'a>(&self, message: Message<'a>) -> Result<Message<'a>, Refused> {
        let Message::Request(Request { id, params: Some(params), .. }) = &message else { return Ok(message) };
        let size = params.get().len();
        if size <= self.max {
            return Ok(message);
        }
        let limit = self.max;
        let text = format!("parameters of {size} bytes as JSON; the limit is {limit} (limits.message)");
        Err(Refused::new(code::REQUEST_TOO_LARGE, text).with_id(id.clone()))
    }

    /// Refuses a message of which only the beginning is known, under the ids that can be told.
    pub fn refuse(&self, beginning: &[u8], fault: Fault) -> Read<'static> {
        let id = match &self.framing {
            Framing::Lines(_) | Framing::Frames | Framing::Messages | Framing::Headers(_) => {
                return jsonrpc::refuse(beginning, self.bounds.batch, &fault);
            }
            Framing::MessagePack(_) | Framing::Packed => msgpack::id_at_front(beginning),
            Framing::Leaf(_) => None,
        };
        Read::Single(Err(Refused { id: id.unwrap_or_else(Id::null), fault }))
    }

    /// Appends one whole message, whose body `write` appends; returns what that does.
    pub fn message<R>(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        match &self.framing {
            Framing::Lines(_) => {
                let written = write(out);
                out.push(b'\n');
                written
            }
            Framing::Headers(_) => headers::write(out, write),
            Framing::Frames
            | Framing::Messages
            | Framing::Packed
            | Framing::MessagePack(_)
            | Framing::Leaf(_) => write(out),
        }
    }

    /// Tells whether results stand in replies as the JSON texts that they are, so that
    /// [`result`](Self::result) may append them.
    pub fn sends_json(&self) -> bool {
        matches!(self.framing, Framing::Lines(_) | Framing::Frames | Framing::Messages | Framing::Headers(_))
    }

    /// Appends the body of the reply whose result `write` appends, as JSON. If it does not, nothing is left, and what it
    /// says instead returned. For dialects that [send JSON](Self::sends_json).
    pub fn result<E>(
        &self,
        out: &mut Vec<u8>,
        id: &Id<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        jsonrpc::encode_result(out, id, write)
    }

    /// Appends the body of a reply. `false`, and nothing, if the dialect has no form for it.
    pub fn reply(&self, out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) -> bool {
        match &self.framing {
            Framing::Lines(_) | Framing::Frames | Framing::Messages | Framing::Headers(_) => {
                jsonrpc::encode_reply(out, id, answer);
                true
            }
            // Clients in this dialect know no reply to a request without an id.
            Framing::MessagePack(_) | Framing::Packed if *id == Id::null() => false,
            Framing::MessagePack(_) | Framing::Packed => {
                msgpack::encode_reply(out, id, answer);
                true
            }
            Framing::Leaf(leaf) => answer.is_ok_and(|result| leaf.encode_reply(out, id, result).is_ok()),
        }
    }
}
