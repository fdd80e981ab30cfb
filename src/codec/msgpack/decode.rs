//! From MessagePack to messages.

use std::time::Duration;

use serde_json::value::RawValue;

use super::convert::{Converter, ParamLimits};
use super::marker::Marker;
use super::reader::{Reader, into_fault};
use crate::codec::frame::DecodeError;
use crate::codec::jsonrpc::CANCEL_METHOD;
use crate::codec::meta::{INVALID_DEADLINE, INVALID_HOPS, deadline_from_ms};
use crate::message::{Fault, Id, Message, Meta, Outcome, RawJson, Request, code};

/// Decodes one message.
///
/// # Errors
/// If it is not a message, or if its parameters cannot be expressed in JSON.
pub(super) fn decode(frame: &[u8], limits: ParamLimits) -> Result<Message<'_>, DecodeError> {
    let (kind, mut id, rest) = decode_head(frame).map_err(|fault| DecodeError { id: Id::null(), fault })?;
    match kind {
        // Nobody would get an error about a reply.
        Kind::Reply => {
            let outcome = decode_outcome(rest, limits).unwrap_or_else(|fault| {
                let message = format!("cannot decode the reply: {}", fault.message);
                Err(Fault::new(code::INTERNAL, message))
            });
            Ok(Message::Reply(id.unwrap_or_else(Id::null), outcome))
        }
        Kind::Notification | Kind::Request => {
            let request = decode_request(rest, &mut id, limits);
            request.map_err(|fault| DecodeError { id: id.unwrap_or_else(Id::null), fault })
        }
    }
}

/// Decodes the error and the result of a reply.
fn decode_outcome(mut rest: Elements<'_>, limits: ParamLimits) -> Result<Outcome, Fault> {
    if rest.left != 2 {
        return Err(invalid(REPLY_FORM));
    }
    if let Some(fault) = rest.reader.reply_fault(limits)? {
        return Ok(Err(fault));
    }
    rest.reader.json(limits).map(Ok)
}

const REPLY_FORM: &str = "a response must be [1, msgid, error, result]";
const OTHER_ERROR: &str = "the peer sent an error that is not [code, message, data]; it is in the data";

/// Rejects a message of which only a prefix is known. Nobody would get an error about a reply, so that it remains one.
pub(super) fn reject(prefix: &[u8], fault: Fault) -> Result<Message<'static>, DecodeError> {
    match decode_head(prefix) {
        Ok((Kind::Reply, id, _)) => Ok(Message::Reply(id.unwrap_or_else(Id::null), Err(fault))),
        Ok((_, id, _)) => Err(DecodeError { id: id.unwrap_or_else(Id::null), fault }),
        Err(_) => Err(DecodeError { id: Id::null(), fault }),
    }
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
        Kind::Reply => match elements.next().map(Reader::marker) {
            Some(Ok(Marker::Uint(id))) => Some(Id::from(id)),
            _ => None,
        },
        Kind::Notification => None,
    };
    Ok((kind, id, elements))
}

/// Decodes the rest of a request. Takes the id only if it succeeds.
fn decode_request<'a>(
    mut rest: Elements<'a>,
    id: &mut Option<Id<'static>>,
    limits: ParamLimits,
) -> Result<Message<'a>, Fault> {
    let method = match rest.next() {
        Some(reader) => reader.text()?.ok_or_else(|| invalid("\"method\" must be a UTF-8 string"))?,
        None => return Err(invalid("\"method\" is missing")),
    };
    let params = match rest.next() {
        // A cancellation without a valid id is an ordinary notification.
        Some(reader) if id.is_none() && method == CANCEL_METHOD => match cancelled_id(*reader) {
            Some(id) => return Ok(Message::Cancel(id)),
            None => reader.params(limits)?,
        },
        Some(reader) => reader.params(limits)?,
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

impl Reader<'_> {
    /// Converts the error of a reply, which may be any value: nil if there is none.
    fn reply_fault(&mut self, limits: ParamLimits) -> Result<Option<Fault>, Fault> {
        let mut parts = *self;
        let (code, count) = match parts.marker()? {
            Marker::Nil => {
                *self = parts;
                return Ok(None);
            }
            Marker::Str(_) => (Some(code::INTERNAL), 1),
            Marker::Array(count @ 2..=3) => {
                let code = match parts.marker()? {
                    Marker::Uint(code) => i64::try_from(code).ok(),
                    Marker::Int(code) => Some(code),
                    _ => None,
                };
                (code, count)
            }
            _ => (None, 0),
        };
        if count == 1 {
            parts = *self;
        }
        if let Some(code) = code
            && let Some(message) = parts.text()?
        {
            let data = if count == 3 { Some(parts.json(limits)?) } else { None };
            let data = data.filter(|data| data.get() != "null");
            let data = data.and_then(|data| RawValue::from_string(data.get().to_owned()).ok());
            return Ok(Some(Fault { code, message: message.to_owned().into(), data }));
        }
        let data = RawValue::from_string(self.json(limits)?.get().to_owned()).ok();
        Ok(Some(Fault { data, ..Fault::new(code::INTERNAL, OTHER_ERROR) }))
    }

    fn params(&mut self, limits: ParamLimits) -> Result<Option<RawJson<'static>>, Fault> {
        match Marker::read(self.rest).map_err(into_fault)?.0 {
            Marker::Nil => self.skip().map(|()| None),
            Marker::Array(_) | Marker::Map(_) => self.json(limits).map(Some),
            _ => Err(invalid("\"params\" must be an array or a map")),
        }
    }

    /// Converts a value to JSON.
    fn json(&mut self, limits: ParamLimits) -> Result<RawJson<'static>, Fault> {
        let mut converter = Converter::new(*self, limits);
        converter.value()?;
        let (reader, json) = converter.finish();
        *self = reader;
        Ok(json)
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
