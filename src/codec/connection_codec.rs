//! What a connection decodes its peer's bytes with, and encodes its own messages with.

use std::ops::Range;
use std::sync::OnceLock;

use super::dialect::{self, Dialect};
use super::format::{FormatTraits, MessageFormat, Outgoing};
use super::frame::{Decoded, FrameResult};
use super::framing::Framing;
use super::jsonrpc::{self, CommonRequest, DecodeLimits};
use crate::message::{Answer, Fault, Id, Meta, Outcome, RawJson, Request, code};

/// A dialect on one connection: its framing, with the state of it, and its message format.
#[derive(Debug)]
pub struct Codec {
    framing: Box<dyn Framing>,
    format: &'static dyn MessageFormat,
    traits: FormatTraits,
    limits: DecodeLimits,
    /// Maximum length of a message, in bytes.
    max: usize,
    /// The format is still to be detected from the first frame.
    undetected: bool,
}

impl Codec {
    /// Creates the codec of a dialect, for messages of at most `max` bytes.
    pub fn new(dialect: Dialect, max: usize, limits: DecodeLimits) -> Self {
        let (framing, format) = dialect.parts(max);
        let undetected = dialect == Dialect::DetectPerFrame;
        Self { undetected, ..Self::of(framing, format, max, limits) }
    }

    /// Creates a codec from a framing and a message format.
    pub fn of(
        framing: Box<dyn Framing>,
        format: &'static dyn MessageFormat,
        max: usize,
        limits: DecodeLimits,
    ) -> Self {
        Self { framing, format, traits: format.traits(), limits, max, undetected: false }
    }

    /// Returns `true` if the dialect has only results: an error closes the connection, a function without a result gets
    /// no reply, and replies cannot be matched to calls.
    pub fn sends_results_only(&self) -> bool {
        self.traits.has_results_only
    }

    /// Returns `true` if replies contain results as JSON text, so that [`encode_result`](Self::encode_result) can be
    /// used.
    pub fn sends_json(&self) -> bool {
        self.traits.is_json
    }

    /// Returns what the peer that connects may send before its first message, so that the other one detects the dialect.
    /// May be empty.
    pub fn preface(&self) -> &'static [u8] {
        self.framing.preface()
    }

    /// Returns `true` if each frame of the transport is one message, so that the bytes need no framing.
    pub fn is_framed(&self) -> bool {
        self.framing.is_of_transport()
    }

    /// Finds the next message. The buffer grows at its end; before the next call, the caller discards bytes at its
    /// front as the result says.
    pub fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        self.framing.next_frame(buffer)
    }

    /// Returns `true` within a message that is too long and is being skipped, so that no bytes of it are kept.
    pub fn is_skipping(&self) -> bool {
        self.framing.is_skipping()
    }

    /// Returns the last message of a stream that ended after `buffer`, if the dialect does not need a terminator.
    pub fn last_frame(&self, buffer: &[u8]) -> Option<Range<usize>> {
        self.framing.last_frame(buffer)
    }

    /// Returns `false` if the prefix of a connection's first message shows that the peer uses another protocol.
    pub fn is_plausible(&self, prefix: &[u8]) -> bool {
        self.framing.is_plausible(prefix)
    }

    /// Returns `true` if the dialect is still to be detected from the first frame.
    pub fn is_undetected(&self) -> bool {
        self.undetected
    }

    /// Decodes one frame.
    pub fn decode<'a>(&mut self, frame: &'a [u8]) -> Decoded<'a> {
        if std::mem::take(&mut self.undetected) {
            self.format = dialect::format_of_frame(frame);
            self.traits = self.format.traits();
        }
        self.format.decode(frame, self.limits, self.max)
    }

    /// Decodes the replies in a frame that is not a valid message.
    pub fn decode_deviating_replies(&self, frame: &[u8]) -> Vec<(Id<'static>, Outcome)> {
        self.format.decode_deviating_replies(frame, self.limits)
    }

    /// Returns the front of a buffer as text, in which frames need not be checked for UTF-8 again. May be empty.
    pub fn text_at<'a>(&self, buffer: &'a [u8]) -> &'a str {
        if self.traits.is_json { self.framing.text_at(buffer) } else { "" }
    }

    /// Returns a frame as text, if the dialect's messages are text and it is valid; else an empty text.
    pub fn frame_text<'a>(&self, frame: &'a [u8]) -> &'a str {
        let is_text = self.traits.is_json && !self.undetected;
        if is_text { std::str::from_utf8(frame).unwrap_or_default() } else { "" }
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
        self.format.reject(prefix, self.limits, fault)
    }

    /// Completes the message whose body was appended at `start`, if any, with its framing. Returns `false`, and removes
    /// the message, if the framing cannot express its length.
    pub fn finish(&self, out: &mut Vec<u8>, start: usize) -> bool {
        out.len() == start || self.framing.finish(out, start)
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

    /// Appends the body of a message. Returns `false`, and appends nothing, if the dialect cannot express it.
    pub fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        self.format.encode(out, message)
    }

    /// Returns the setting that limits the length of a message, for errors.
    pub fn limit_name(&self) -> &'static str {
        self.framing.limit_name()
    }

    /// Returns what encodes notifications of at most `max` bytes for the peer outside of its session.
    pub fn notification_encoder(&self, max: usize) -> NotificationEncoder {
        let (min, longest) = self.framing.lengths();
        NotificationEncoder { format: self.format, min, max: max.min(longest) }
    }

    /// Appends the body of a notification that many peers receive. It is encoded by `encode` each time, or once, into
    /// `shared`, if that takes time. Returns `false`, and appends nothing, if the dialect cannot express it.
    pub fn encode_shared(
        &self,
        out: &mut Vec<u8>,
        shared: &OnceLock<Vec<u8>>,
        encode: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        if !self.format.shares_notifications() {
            return encode(out);
        }
        let encoded = shared.get_or_init(|| {
            let mut encoded = Vec::new();
            encode(&mut encoded);
            encoded
        });
        out.extend_from_slice(encoded);
        !encoded.is_empty()
    }

    /// Appends the body of a reply. Returns `false`, and appends nothing, if the dialect cannot express it.
    pub fn encode_reply(&self, out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) -> bool {
        self.encode(out, &Outgoing::Reply(id, answer))
    }
}

/// Encodes notifications, without their framing, in the dialect of a connection.
#[derive(Clone, Copy, Debug)]
pub struct NotificationEncoder {
    format: &'static dyn MessageFormat,
    /// The minimum and the maximum length of a message, in bytes.
    min: usize,
    max: usize,
}

impl NotificationEncoder {
    /// Returns the body of a notification. `data` is any JSON: a value that cannot be the parameters of a dialect becomes
    /// the only one of them.
    ///
    /// # Errors
    /// The fault if the dialect cannot express the notification, or it is too short or too long.
    pub fn encode(&self, method: &str, data: &RawJson<'_>) -> Result<Vec<u8>, Fault> {
        let params = match data.get().as_bytes() {
            // The messages of a gate have data of any kind.
            _ if self.format.traits().has_results_only => Some(data.borrowed()),
            b"null" => None,
            [b'[' | b'{', ..] => Some(data.borrowed()),
            _ => Some(RawJson::checked(format!("[{}]", data.get()))),
        };
        let mut body = Vec::new();
        let request = Request { id: None, method: method.into(), params, meta: Meta::default() };
        if !self.format.encode(&mut body, &Outgoing::Request(&request)) {
            return Err(Fault::invalid_params("the peer's dialect cannot express a number or a text in it"));
        }
        let (length, Self { min, max, .. }) = (body.len(), self);
        if (*min..=*max).contains(&length) {
            return Ok(body);
        }
        let message =
            format!("a message of {length} bytes; the peer takes {min} to {max} (limits.message, leaf.max)");
        Err(Fault::new(code::REQUEST_TOO_LARGE, message))
    }
}
