//! All dialects behind one type: what a session decodes its peer's bytes with, and encodes its replies with.

use std::ops::Range;

use super::content_length::{self, ContentLengthFramer};
use super::frame::{DecodeError, Decoded, FrameResult};
use super::jsonrpc::{self, CommonRequest, DecodeLimits};
use super::leaf::{self, LeafFraming};
use super::lines::{LineFramer, starts_json, whole_lines};
use super::msgpack::{self, MessagePackFramer};
use crate::message::{Answer, Fault, Id};

/// The wire protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON-RPC, one text per line.
    JsonLines,
    /// JSON-RPC, one text per frame of the transport.
    JsonPerFrame,
    /// JSON-RPC or MessagePack-RPC, detected from the first message; one message per frame of the transport.
    DetectPerFrame,
    /// JSON-RPC, each text preceded by its `Content-Length`.
    JsonContentLength,
    /// MessagePack-RPC.
    MessagePack,
    /// The messages of a Leaf gate.
    Leaf(LeafFraming),
}

/// The codec of one connection, with the state of its framing.
#[derive(Debug)]
pub struct Codec {
    framing: Framing,
    limits: DecodeLimits,
    /// Maximum length of a message, in bytes.
    max: usize,
}

#[derive(Debug)]
enum Framing {
    JsonLines(LineFramer),
    JsonPerFrame,
    /// The first frame is not received yet.
    DetectPerFrame,
    /// MessagePack-RPC in frames of the transport.
    MsgpackPerFrame,
    JsonContentLength(ContentLengthFramer),
    MessagePack(MessagePackFramer),
    Leaf(LeafFraming),
}

impl Codec {
    /// Creates a codec for messages of at most `max` bytes.
    pub fn new(dialect: Dialect, max: usize, limits: DecodeLimits) -> Self {
        let framing = match dialect {
            Dialect::JsonLines => Framing::JsonLines(LineFramer::new(max)),
            Dialect::JsonPerFrame => Framing::JsonPerFrame,
            Dialect::DetectPerFrame => Framing::DetectPerFrame,
            Dialect::JsonContentLength => Framing::JsonContentLength(ContentLengthFramer::new(max)),
            Dialect::MessagePack => Framing::MessagePack(MessagePackFramer::new(max)),
            Dialect::Leaf(leaf) => {
                let max = leaf.max.min(u32::try_from(max).unwrap_or(u32::MAX));
                Framing::Leaf(LeafFraming { max, ..leaf })
            }
        };
        Self { framing, limits, max }
    }

    /// Returns `true` if each frame of the transport is one message, so that the bytes need no framing.
    pub fn is_framed(&self) -> bool {
        matches!(
            self.framing,
            Framing::JsonPerFrame
                | Framing::DetectPerFrame
                | Framing::MsgpackPerFrame
                | Framing::Leaf(LeafFraming { length_prefixed: false, .. })
        )
    }

    /// Returns `true` if the dialect has only results: an error closes the connection, and a function without a result
    /// gets no reply.
    pub fn sends_results_only(&self) -> bool {
        matches!(self.framing, Framing::Leaf(_))
    }

    /// Returns `true` if replies contain results as JSON text, so that [`encode_result`](Self::encode_result) can be
    /// used.
    pub fn sends_json(&self) -> bool {
        matches!(
            self.framing,
            Framing::JsonLines(_)
                | Framing::JsonPerFrame
                | Framing::DetectPerFrame
                | Framing::JsonContentLength(_)
        )
    }

    /// Finds the next message. The buffer grows at its end; before the next call, the caller discards bytes at its
    /// front as the result says.
    pub fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        match &mut self.framing {
            Framing::JsonLines(framer) => framer.next_frame(buffer),
            Framing::JsonPerFrame | Framing::DetectPerFrame | Framing::MsgpackPerFrame => {
                FrameResult::Frame(0..buffer.len(), buffer.len())
            }
            Framing::JsonContentLength(framer) => framer.next_frame(buffer),
            Framing::MessagePack(framer) => framer.next_frame(buffer),
            Framing::Leaf(framing) => framing.next_frame(buffer),
        }
    }

    /// Returns `true` within a message that is too long and is being skipped, so that no bytes of it are kept.
    pub fn is_skipping(&self) -> bool {
        match &self.framing {
            Framing::JsonLines(framer) => framer.is_skipping(),
            Framing::JsonContentLength(framer) => framer.is_skipping(),
            Framing::MessagePack(framer) => framer.is_skipping(),
            Framing::JsonPerFrame | Framing::DetectPerFrame | Framing::MsgpackPerFrame | Framing::Leaf(_) => {
                false
            }
        }
    }

    /// Returns the last message of a stream that ended after `buffer`, if the dialect does not need a terminator.
    pub fn last_frame(&self, buffer: &[u8]) -> Option<Range<usize>> {
        match &self.framing {
            Framing::JsonLines(framer) => framer.last_frame(buffer),
            _ => None,
        }
    }

    /// Returns `false` if the prefix of a connection's first message shows that the peer uses another protocol.
    pub fn is_plausible(&self, prefix: &[u8]) -> bool {
        !matches!(self.framing, Framing::JsonLines(_)) || starts_json(prefix) == Some(true)
    }

    /// Returns `true` if the dialect is still to be detected from the first frame.
    pub fn is_undetected(&self) -> bool {
        matches!(self.framing, Framing::DetectPerFrame)
    }

    /// Decodes one frame.
    pub fn decode<'a>(&mut self, frame: &'a [u8]) -> Decoded<'a> {
        if let Framing::DetectPerFrame = self.framing {
            let is_msgpack = frame.first().is_some_and(|first| MessagePackFramer::is_first_byte(*first));
            self.framing = if is_msgpack { Framing::MsgpackPerFrame } else { Framing::JsonPerFrame };
        }
        match &self.framing {
            Framing::JsonLines(_)
            | Framing::JsonPerFrame
            | Framing::DetectPerFrame
            | Framing::JsonContentLength(_) => jsonrpc::decode(frame, self.limits),
            Framing::MessagePack(_) | Framing::MsgpackPerFrame => {
                let limits = msgpack::ParamLimits { depth: self.limits.depth, json: self.max };
                Decoded::Single(msgpack::decode(frame, limits))
            }
            Framing::Leaf(_) => Decoded::Single(leaf::decode(frame, self.limits.depth)),
        }
    }

    /// Returns the front of a buffer as text, in which frames need not be checked for UTF-8 again. May be empty.
    pub fn text_at<'a>(&self, buffer: &'a [u8]) -> &'a str {
        if let Framing::JsonLines(_) = self.framing { whole_lines(buffer) } else { "" }
    }

    /// Returns a frame as text, if the dialect's messages are text and it is valid; else an empty text.
    pub fn frame_text<'a>(&self, frame: &'a [u8]) -> &'a str {
        match &self.framing {
            Framing::JsonPerFrame | Framing::JsonContentLength(_) => {
                std::str::from_utf8(frame).unwrap_or_default()
            }
            _ => "",
        }
    }

    /// Decodes one frame of a [text](Self::text_at).
    pub fn decode_text<'a>(&self, frame: &'a str) -> Decoded<'a> {
        jsonrpc::decode_text(frame, self.limits)
    }

    /// Decodes one frame of a [text](Self::text_at) if it is a request in a common form.
    #[inline(always)]
    pub fn common_request<'a>(&self, frame: &'a str) -> Option<CommonRequest<'a>> {
        jsonrpc::common_request(frame, self.limits.depth)
    }

    /// Rejects a message of which only a prefix is known, under the ids found in it.
    pub fn reject(&self, prefix: &[u8], fault: Fault) -> Decoded<'static> {
        let id = match &self.framing {
            Framing::JsonLines(_)
            | Framing::JsonPerFrame
            | Framing::DetectPerFrame
            | Framing::JsonContentLength(_) => {
                return jsonrpc::reject(prefix, self.limits.batch, &fault);
            }
            Framing::MessagePack(_) | Framing::MsgpackPerFrame => msgpack::id_in_prefix(prefix),
            Framing::Leaf(_) => None,
        };
        Decoded::Single(Err(DecodeError { id: id.unwrap_or_else(Id::null), fault }))
    }

    /// Appends one message with its framing. `write` appends the body; its result is returned.
    pub fn frame<R>(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        match &self.framing {
            Framing::JsonLines(_) => {
                let written = write(out);
                out.push(b'\n');
                written
            }
            Framing::JsonContentLength(_) => content_length::write(out, write),
            Framing::JsonPerFrame
            | Framing::DetectPerFrame
            | Framing::MsgpackPerFrame
            | Framing::MessagePack(_)
            | Framing::Leaf(_) => write(out),
        }
    }

    /// Appends the body of a reply. `write` appends its result as JSON. Only for dialects that
    /// [send JSON](Self::sends_json).
    ///
    /// # Errors
    /// The error of `write`; then nothing is appended.
    pub fn encode_result<E>(
        &self,
        out: &mut Vec<u8>,
        id: &Id<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        jsonrpc::encode_result(out, id, write)
    }

    /// Appends the body of a reply. Returns `false`, and appends nothing, if the dialect cannot express it.
    pub fn encode_reply(&self, out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) -> bool {
        match &self.framing {
            Framing::JsonLines(_)
            | Framing::JsonPerFrame
            | Framing::DetectPerFrame
            | Framing::JsonContentLength(_) => {
                jsonrpc::encode_reply(out, id, answer);
                true
            }
            // MessagePack-RPC has no reply to a request without an id.
            Framing::MessagePack(_) | Framing::MsgpackPerFrame if *id == Id::null() => false,
            Framing::MessagePack(_) | Framing::MsgpackPerFrame => {
                msgpack::encode_reply(out, id, answer);
                true
            }
            Framing::Leaf(framing) => {
                answer.is_ok_and(|result| leaf::encode_reply(framing, out, id, result).is_ok())
            }
        }
    }
}
