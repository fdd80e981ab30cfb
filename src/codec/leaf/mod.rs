//! The protocol of Leaf's gate (<https://github.com/name5566/leaf>, `network/tcp_msg.go` and `network/json`), byte for
//! byte: a length prefix, then a JSON object with one key, the name of the message; or, with the feature `grpc`, a message of
//! its protobuf processor.
//!
//! Leaf has no request ids: a reply is a message of its own. It has no errors either: a gate closes the connection of a
//! peer whose message it cannot read.

#[cfg(feature = "grpc")]
mod protobuf;

use std::borrow::Cow;

use super::format::{DecodeLimits, FormatTraits, MessageFormat, Outgoing};
use super::frame::{DecodeError, Decoded, FrameResult};
use super::framing::Framing;
use crate::message::json::{ScanError, ScanFailed, Scanner};
use crate::message::{Fault, Id, Message, Meta, RawJson, Request, code};
#[cfg(feature = "grpc")]
pub use protobuf::LeafMessages;

/// A result nested deeper than this is not inspected: each level takes some of the stack.
const MAX_DEPTH: usize = 128;

/// The settings of a Leaf gate (`LenMsgLen`, `LittleEndian`, `MinMsgLen`, `MaxMsgLen`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafFraming {
    /// Size of the length prefix.
    pub length_bytes: LengthBytes,
    /// Byte order of the length prefix.
    pub byte_order: ByteOrder,
    /// Minimum length of a message, in bytes. As in Leaf, `min` and `max` are clamped to what the length prefix can
    /// express.
    pub min: u32,
    /// Maximum length of a message, in bytes.
    pub max: u32,
    /// Messages have a length prefix. `true` over TCP, `false` over WebSocket.
    pub length_prefixed: bool,
    /// The messages of the protobuf processor; those of others are JSON.
    #[cfg(feature = "grpc")]
    pub messages: Option<&'static LeafMessages>,
}

/// Size of the length prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LengthBytes {
    One = 1,
    Two = 2,
    Four = 4,
}

/// Byte order of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
}

impl Default for LeafFraming {
    fn default() -> Self {
        Self {
            length_bytes: LengthBytes::Two,
            byte_order: ByteOrder::Big,
            min: 1,
            max: 4096,
            length_prefixed: true,
            #[cfg(feature = "grpc")]
            messages: None,
        }
    }
}

impl LeafFraming {
    /// Returns the format of the messages.
    pub(super) fn format(&self) -> &'static dyn MessageFormat {
        #[cfg(feature = "grpc")]
        if let Some(messages) = self.messages {
            return messages;
        }
        &Leaf
    }

    /// Limits the length of messages further.
    pub(super) fn with_max(self, max: usize) -> Self {
        Self { max: self.max.min(u32::try_from(max).unwrap_or(u32::MAX)), ..self }
    }

    /// Returns the limits, clamped to what the length prefix can express.
    fn limits(&self) -> (u32, u32) {
        let expressible = match self.length_bytes {
            LengthBytes::One => u8::MAX.into(),
            LengthBytes::Two => u16::MAX.into(),
            LengthBytes::Four => u32::MAX,
        };
        (self.min.clamp(1, expressible), self.max.min(expressible))
    }

    /// Checks the length of a message against the limits.
    fn check_length(&self, length: u64) -> Result<(), String> {
        let (min, max) = self.limits();
        if (u64::from(min)..=u64::from(max)).contains(&length) {
            return Ok(());
        }
        Err(format!("a message of {length} bytes; the gate takes {min} to {max}"))
    }
}

impl Framing for LeafFraming {
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        if !self.length_prefixed {
            return FrameResult::Frame(0..buffer.len(), buffer.len());
        }
        let start = self.length_bytes as usize;
        let Some((prefix, rest)) = buffer.split_at_checked(start) else { return FrameResult::Incomplete(0) };
        let add = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        let length = match self.byte_order {
            ByteOrder::Big => prefix.iter().fold(0, add),
            ByteOrder::Little => prefix.iter().rev().fold(0, add),
        };
        if let Err(reason) = self.check_length(u64::from(length)) {
            return FrameResult::Invalid(reason.into());
        }
        let length = length as usize;
        if rest.len() < length {
            FrameResult::Incomplete(0)
        } else {
            FrameResult::Frame(start..start + length, start + length)
        }
    }

    fn is_of_transport(&self) -> bool {
        !self.length_prefixed
    }

    fn lengths(&self) -> (usize, usize) {
        let (min, max) = self.limits();
        (min as usize, max as usize)
    }

    fn finish(&self, out: &mut Vec<u8>, start: usize) -> bool {
        let length = (out.len() - start) as u64;
        if self.check_length(length).is_err() {
            out.truncate(start);
            return false;
        }
        if self.length_prefixed {
            // The length is within the limits, so the bytes that are cut off are zero.
            let bytes = length.to_be_bytes();
            let prefix = &bytes[bytes.len() - self.length_bytes as usize..];
            match self.byte_order {
                ByteOrder::Big => out.extend_from_slice(prefix),
                ByteOrder::Little => out.extend(prefix.iter().rev()),
            }
            out[start..].rotate_right(prefix.len());
        }
        true
    }
}

/// The messages of a gate.
#[derive(Debug)]
pub(super) struct Leaf;

impl MessageFormat for Leaf {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: false, has_results_only: true }
    }

    fn decode<'a>(&self, frame: &'a [u8], limits: DecodeLimits, _max: usize) -> Decoded<'a> {
        Decoded::Single(decode(frame, limits.depth))
    }

    fn reject(&self, _prefix: &[u8], _limits: DecodeLimits, fault: Fault) -> Decoded<'static> {
        Decoded::Single(Err(DecodeError { id: Id::null(), fault }))
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        match message {
            Outgoing::Request(Request { id: None, method, params, .. }) => {
                let Ok(name) = serde_json::to_string(method) else { return false };
                put_member(out, &name, params.as_ref().map_or("null", RawJson::get));
                true
            }
            // A JSON object with one key is a message of its own.
            Outgoing::Reply(_, Ok(result)) if matches!(single_member(result, MAX_DEPTH), Ok(Some(_))) => {
                out.extend_from_slice(result.as_bytes());
                true
            }
            // Otherwise a reply needs a name.
            Outgoing::Reply(id, Ok(result)) if id.as_json().starts_with('"') => {
                put_member(out, id.as_json(), result);
                true
            }
            _ => false,
        }
    }
}

/// Appends an object with one member.
fn put_member(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in ["{", name, ":", value, "}"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Decodes one message, nested at most `depth` levels deep. Its name becomes its id, so that a reply can carry it.
///
/// # Errors
/// If it is not a Leaf message; the connection must be closed then.
fn decode(frame: &[u8], depth: usize) -> Result<Message<'_>, DecodeError> {
    let text = std::str::from_utf8(frame).map_err(|error| {
        DecodeError::new(code::PARSE, format!("not UTF-8 after {} bytes", error.valid_up_to()))
    })?;
    let member =
        single_member(text, depth).map_err(|error| DecodeError::new(code::PARSE, error.to_string()))?;
    let (name, body) = member.ok_or_else(|| {
        DecodeError::new(code::INVALID_REQUEST, "a message must be an object with one key, its name")
    })?;
    let id = Id::from_json(format!("\"{name}\"")).ok_or_else(|| {
        let message = format!("a name of more than {} bytes with its quotes", Id::MAX_LEN);
        DecodeError::new(code::INVALID_REQUEST, message)
    })?;
    let method = serde_json::from_str(id.as_json()).map_err(|error| {
        DecodeError::new(code::INVALID_REQUEST, format!("a name that is not text: {error}"))
    })?;
    let params = match body.as_bytes() {
        b"null" => None,
        [b'[' | b'{', ..] => Some(RawJson::checked(body)),
        _ => Some(RawJson::checked(format!("[{body}]"))),
    };
    Ok(Message::Request(Request { id: Some(id), method: Cow::Owned(method), params, meta: Meta::default() }))
}

/// Returns the key, without its quotes, and the value of an object with exactly one member.
///
/// # Errors
/// If `text` is not JSON or nested too deeply.
fn single_member(text: &str, depth: usize) -> Result<Option<(&str, &str)>, ScanError> {
    let mut scanner = Scanner::new(text, depth);
    let (mut member, mut count) = (None, 0);
    let scanned = match scanner.peek() {
        Some(b'{') => scanner.object(|scanner, key| {
            count += 1;
            member = Some((key.text, scanner.value()?));
            Ok(())
        }),
        _ => scanner.skip(),
    };
    match scanned.and_then(|()| scanner.expect_end()) {
        Ok(()) => Ok(member.filter(|_| count == 1)),
        Err(ScanFailed) => Err(scanner.error()),
    }
}

#[cfg(test)]
mod tests;
