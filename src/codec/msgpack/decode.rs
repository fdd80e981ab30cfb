//! From MessagePack to requests. Parameters are converted to JSON directly, without an intermediate tree.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::Duration;

use serde::ser::{Error, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::marker::{Marker, MarkerError};
use super::skipper::Skipper;
use crate::codec::frame::DecodeError;
use crate::codec::jsonrpc::CANCEL_METHOD;
use crate::codec::meta::{INVALID_DEADLINE, INVALID_HOPS, deadline_from_ms};
use crate::message::{Fault, Id, Message, Meta, RawJson, Request, code};

/// Upper bound of the depth limit, since each level takes some of the stack.
const MAX_DEPTH: usize = 1024;

/// Decodes one message, nested at most `depth` levels deep.
///
/// # Errors
/// If it is not a message, or if its parameters cannot be expressed in JSON.
pub(in crate::codec) fn decode(frame: &[u8], depth: usize) -> Result<Message<'_>, DecodeError> {
    let (kind, mut id, rest) = decode_head(frame).map_err(|fault| DecodeError { id: Id::null(), fault })?;
    match kind {
        // The node sends no requests in this dialect, so the content of a reply is irrelevant.
        Kind::Reply => Ok(Message::Reply(Id::null(), Ok(RawJson::NULL))),
        Kind::Notification | Kind::Request => {
            let request = decode_request(rest, &mut id, depth);
            request.map_err(|fault| DecodeError { id: id.unwrap_or_else(Id::null), fault })
        }
    }
}

/// Returns the id of a request of which only a prefix is known.
pub(in crate::codec) fn id_in_prefix(prefix: &[u8]) -> Option<Id<'static>> {
    decode_head(prefix).ok()?.1
}

#[derive(Clone, Copy)]
enum Kind {
    Request,
    Reply,
    Notification,
}

/// Decodes the kind and id of a message. Also returns the elements that follow.
fn decode_head(message: &[u8]) -> Result<(Kind, Option<Id<'static>>, Elements<'_>), Fault> {
    let mut reader = Reader { rest: message };
    let Marker::Array(left) = reader.marker()? else { return Err(invalid("a message must be an array")) };
    let mut elements = Elements { reader, left };
    let kind = match elements.next().map(Reader::marker).transpose()? {
        Some(Marker::Uint(0)) => Kind::Request,
        Some(Marker::Uint(1)) => Kind::Reply,
        Some(Marker::Uint(2)) => Kind::Notification,
        _ => return Err(invalid("a message must begin with 0 (request), 1 (response) or 2 (notification)")),
    };
    let id = match kind {
        Kind::Request => match elements.next().map(Reader::marker).transpose()? {
            Some(Marker::Uint(id)) => Some(Id::from(id)),
            _ => return Err(invalid("\"msgid\" must be an integer, and not negative")),
        },
        _ => None,
    };
    Ok((kind, id, elements))
}

/// Decodes the rest of a request. Takes the id only if it succeeds.
fn decode_request<'a>(
    mut rest: Elements<'a>,
    id: &mut Option<Id<'static>>,
    depth: usize,
) -> Result<Message<'a>, Fault> {
    let method = match rest.next() {
        Some(reader) => reader.text()?.ok_or_else(|| invalid("\"method\" must be a UTF-8 string"))?,
        None => return Err(invalid("\"method\" is missing")),
    };
    let params = match rest.next() {
        // A cancellation without a valid id is an ordinary notification.
        Some(reader) if id.is_none() && method == CANCEL_METHOD => match cancelled_id(*reader) {
            Some(id) => return Ok(Message::Cancel(id)),
            None => reader.params(depth)?,
        },
        Some(reader) => reader.params(depth)?,
        None => None,
    };
    let meta = rest.next().map(Reader::meta).transpose()?.unwrap_or_default();
    if rest.left > 0 {
        return Err(invalid("a message has at most an id, a method, parameters and \"meta\""));
    }
    if !rest.reader.rest.is_empty() {
        return Err(Fault::new(code::PARSE, "bytes follow the message"));
    }
    Ok(Message::Request(Request { id: id.take(), method: method.into(), params, meta }))
}

fn cancelled_id(mut params: Reader<'_>) -> Option<Id<'static>> {
    let mut marker = params.marker().ok()?;
    if marker == Marker::Array(1) {
        marker = params.marker().ok()?;
        if let Marker::Uint(id) = marker {
            return Some(id.into());
        }
    }
    let Marker::Map(pairs) = marker else { return None };
    for _ in 0..pairs {
        if params.text().ok()? == Some("id") {
            let Marker::Uint(id) = params.marker().ok()? else { return None };
            return Some(id.into());
        }
        params.skip().ok()?;
    }
    None
}

fn invalid(message: &'static str) -> Fault {
    Fault::new(code::INVALID_REQUEST, message)
}

/// The remaining elements of a message.
struct Elements<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Elements<'a> {
    /// Returns the reader, positioned at the next element.
    fn next(&mut self) -> Option<&mut Reader<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(&mut self.reader)
    }
}

/// Reads consecutive values.
#[derive(Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn marker(&mut self) -> Result<Marker, Fault> {
        let (marker, length) = Marker::read(self.rest).map_err(into_fault)?;
        self.rest = &self.rest[length..];
        Ok(marker)
    }

    fn bytes(&mut self, length: u32) -> Result<&'a [u8], Fault> {
        let (bytes, rest) =
            self.rest.split_at_checked(length as usize).ok_or_else(|| into_fault(MarkerError::Incomplete))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads a value and returns its text if it is a string or binary of valid UTF-8.
    fn text(&mut self) -> Result<Option<&'a str>, Fault> {
        let before = *self;
        if let Marker::Str(length) | Marker::Bin(length) = self.marker()? {
            return Ok(std::str::from_utf8(self.bytes(length)?).ok());
        }
        *self = before;
        self.skip().map(|()| None)
    }

    fn skip(&mut self) -> Result<(), Fault> {
        let mut skipper = Skipper::new();
        let skipped = skipper.advance(self.rest).map_err(into_fault)?;
        self.rest = &self.rest[skipped..];
        if skipper.is_done() { Ok(()) } else { Err(into_fault(MarkerError::Incomplete)) }
    }

    fn params(&mut self, depth: usize) -> Result<Option<RawJson<'static>>, Fault> {
        match Marker::read(self.rest).map_err(into_fault)?.0 {
            Marker::Nil => self.skip().map(|()| None),
            Marker::Array(_) | Marker::Map(_) => self.json(depth).map(Some),
            _ => Err(invalid("\"params\" must be an array or a map")),
        }
    }

    /// Converts a value to JSON. The message around it counts as one level of `depth`.
    fn json(&mut self, depth: usize) -> Result<RawJson<'static>, Fault> {
        let depth = depth.min(MAX_DEPTH);
        let (reader, fault) = (Cell::new(*self), Cell::new(None));
        let json = serde_json::to_string(&Json { reader: &reader, fault: &fault, depth, level: 1 });
        *self = reader.get();
        json.map(RawJson::checked).map_err(|error| {
            fault
                .take()
                .unwrap_or_else(|| Fault::invalid_params(format!("cannot be converted to JSON: {error}")))
        })
    }

    fn meta(&mut self) -> Result<Meta, Fault> {
        let pairs = match self.marker()? {
            Marker::Nil => 0,
            Marker::Map(pairs) => pairs,
            _ => return Err(invalid("\"meta\" must be a map")),
        };
        let mut meta = Meta::default();
        for _ in 0..pairs {
            match self.text()? {
                Some("deadline_ms") => {
                    meta.deadline = match self.marker()? {
                        Marker::Uint(ms) => Some(Duration::from_millis(ms)),
                        Marker::Nil => None,
                        Marker::F32(ms) => {
                            Some(deadline_from_ms(ms.into()).ok_or_else(|| invalid(INVALID_DEADLINE))?)
                        }
                        Marker::F64(ms) => {
                            Some(deadline_from_ms(ms).ok_or_else(|| invalid(INVALID_DEADLINE))?)
                        }
                        _ => return Err(invalid(INVALID_DEADLINE)),
                    }
                }
                Some("hops") => {
                    let whole = |hops: f64| (hops == f64::from(hops as u32)).then_some(hops as u32);
                    meta.hops = match self.marker()? {
                        Marker::Nil => Some(0),
                        Marker::Uint(hops) => u32::try_from(hops).ok(),
                        Marker::F32(hops) => whole(hops.into()),
                        Marker::F64(hops) => whole(hops),
                        _ => None,
                    }
                    .ok_or_else(|| invalid(INVALID_HOPS))?;
                }
                _ => self.skip()?,
            }
        }
        Ok(meta)
    }
}

fn into_fault(error: MarkerError) -> Fault {
    let message = match error {
        MarkerError::Incomplete => "the message ends within a value",
        MarkerError::Reserved => "byte 0xc1, which MessagePack does not use",
    };
    Fault::new(code::PARSE, message)
}

/// The value at the reader's position, converted to JSON by serializing it.
struct Json<'r, 'a> {
    reader: &'r Cell<Reader<'a>>,
    /// Why the conversion failed.
    fault: &'r Cell<Option<Fault>>,
    depth: usize,
    /// The nesting level of the value.
    level: usize,
}

impl<'a> Json<'_, 'a> {
    fn read<T, E: Error>(&self, read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fault>) -> Result<T, E> {
        let mut reader = self.reader.get();
        let result = read(&mut reader);
        self.reader.set(reader);
        result.map_err(|fault| self.fail(fault))
    }

    fn fail<E: Error>(&self, fault: Fault) -> E {
        self.fault.set(Some(fault));
        E::custom("see the fault")
    }

    fn unsupported<E: Error>(&self, message: &'static str) -> E {
        self.fail(Fault::invalid_params(message))
    }

    fn nested<E: Error>(&self) -> Result<Self, E> {
        if self.level >= self.depth {
            let message = format!("nested deeper than {} (limits.depth)", self.depth);
            return Err(self.fail(Fault::new(code::PARSE, message)));
        }
        Ok(Self { level: self.level + 1, ..*self })
    }
}

impl Serialize for Json<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.read(Reader::marker)? {
            Marker::Nil => to.serialize_unit(),
            Marker::Bool(value) => to.serialize_bool(value),
            Marker::Uint(number) => to.serialize_u64(number),
            Marker::Int(number) => to.serialize_i64(number),
            // The shortest decimal form of an f32 is a different number when parsed as f64.
            Marker::F32(number) if number.is_finite() => to.serialize_f64(number.into()),
            Marker::F64(number) if number.is_finite() => to.serialize_f64(number),
            Marker::F32(_) | Marker::F64(_) => {
                Err(self.unsupported("NaN and Infinity cannot be expressed in JSON; send nil or a string instead"))
            }
            Marker::Str(length) => {
                let bytes = self.read(|reader| reader.bytes(length))?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => to.serialize_str(text),
                    Err(_) => to.serialize_bytes(bytes),
                }
            }
            Marker::Bin(length) => to.serialize_bytes(self.read(|reader| reader.bytes(length))?),
            Marker::Ext(_) => Err(self.unsupported(
                "extension types cannot be expressed in JSON; send a number, a string or bytes (bin) instead, and a \
                 timestamp as seconds or as text",
            )),
            Marker::Array(values) => {
                let value = self.nested()?;
                let mut array = to.serialize_seq(Some(values as usize))?;
                for _ in 0..values {
                    array.serialize_element(&value)?;
                }
                array.end()
            }
            Marker::Map(pairs) => {
                let value = self.nested()?;
                let mut map = to.serialize_map(Some(pairs as usize))?;
                let numbers = RefCell::default();
                for _ in 0..pairs {
                    map.serialize_entry(&Key { json: &value, numbers: &numbers }, &value)?;
                }
                map.end()
            }
        }
    }
}

/// The key at the reader's position.
struct Key<'v, 'r, 'a> {
    json: &'v Json<'r, 'a>,
    /// The keys of the map that are integers, or texts that look like integers: in JSON both are the same key.
    numbers: &'v RefCell<HashSet<i128>>,
}

impl Key<'_, '_, '_> {
    fn check_unique<E: Error>(&self, number: i128) -> Result<(), E> {
        if self.numbers.borrow_mut().insert(number) {
            Ok(())
        } else {
            Err(self.json.unsupported(
                "two keys of a map are equal in JSON: the same number, or a number and its text",
            ))
        }
    }
}

impl Serialize for Key<'_, '_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { json, .. } = self;
        match json.read(Reader::marker)? {
            Marker::Uint(number) => {
                self.check_unique(number.into())?;
                to.serialize_u64(number)
            }
            Marker::Int(number) => {
                self.check_unique(number.into())?;
                to.serialize_i64(number)
            }
            Marker::Str(length) => match std::str::from_utf8(json.read(|reader| reader.bytes(length))?) {
                Ok(text) => {
                    if let Some(number) = decimal(text) {
                        self.check_unique(number)?;
                    }
                    to.serialize_str(text)
                }
                Err(_) => Err(json.unsupported("a key of a map must be UTF-8")),
            },
            _ => Err(json.unsupported("a key of a map must be a string or an integer")),
        }
    }
}

/// Returns the number whose canonical decimal form is `text`.
fn decimal(text: &str) -> Option<i128> {
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number: &i128| number.to_string() == text)
}
