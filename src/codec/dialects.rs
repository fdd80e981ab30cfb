//! All dialects behind one type: what a session reads its peer's bytes with, and writes its answers with.

use super::frame::{Next, Read};
use super::jsonrpc::{self, Bounds};
use super::lines::Lines;
use crate::message::{Answer, Id};

/// How a peer talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON-RPC, one text a line.
    Lines,
    /// JSON-RPC, one text in each frame of the transport.
    Frames,
}

/// One connection's dialect, with what it remembers of the bytes so far.
#[derive(Debug)]
pub struct Codec {
    framing: Framing,
    bounds: Bounds,
}

#[derive(Debug)]
enum Framing {
    Lines(Lines),
    Frames,
}

impl Codec {
    /// Reads and writes `dialect`, in messages of at most `max` bytes.
    pub fn new(dialect: Dialect, max: usize, bounds: Bounds) -> Self {
        let framing = match dialect {
            Dialect::Lines => Framing::Lines(Lines::new(max)),
            Dialect::Frames => Framing::Frames,
        };
        Self { framing, bounds }
    }

    /// Tells whether the transport has frames: each holds one message, and the bytes need no search.
    pub fn is_framed(&self) -> bool {
        matches!(self.framing, Framing::Frames)
    }

    /// Looks for the next message in a buffer that grows at its end, and that the caller cuts as told.
    pub fn next(&mut self, buffer: &[u8]) -> Next {
        match &mut self.framing {
            Framing::Lines(lines) => lines.next(buffer),
            Framing::Frames => Next::Frame(0..buffer.len(), buffer.len()),
        }
    }

    /// The last message of a stream that has ended in `buffer`, if its dialect needs no mark at the end.
    pub fn last(&self, buffer: &[u8]) -> Option<std::ops::Range<usize>> {
        match &self.framing {
            Framing::Lines(lines) => lines.last(buffer),
            Framing::Frames => None,
        }
    }

    /// Reads what one frame holds.
    pub fn read<'a>(&self, frame: &'a [u8]) -> Read<'a> {
        jsonrpc::decode(frame, self.bounds)
    }

    /// The id of a message of which only the beginning is known.
    pub fn id_at_front<'a>(&self, beginning: &'a [u8]) -> Option<Id<'a>> {
        jsonrpc::id_at_front(beginning)
    }

    /// Appends one whole message that `write` appends the body of.
    pub fn message(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        write(out);
        if let Framing::Lines(_) = self.framing {
            out.push(b'\n');
        }
    }

    /// Appends the body of a reply.
    pub fn reply(&self, out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) {
        jsonrpc::encode_reply(out, id, answer);
    }
}
