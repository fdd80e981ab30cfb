//! From MessagePack to requests, whose parameters become JSON on the way, with no tree between.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::Duration;

use serde::ser::{Error, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::token::{NoToken, Token, Walk};
use crate::codec::frame::Refused;
use crate::codec::jsonrpc::CANCEL;
use crate::codec::meta::{NO_DEADLINE, NO_HOPS, deadline_of};
use crate::message::{Fault, Id, Message, Meta, RawJson, Request, code};

/// Each level takes some of the stack, so there is an end to them whatever the limit.
const DEEPEST: usize = 1024;

/// Reads one message, nested `depth` deep at most.
///
/// # Errors
/// If it is no message, or its parameters hold what JSON has no form for.
pub(in crate::codec) fn decode(frame: &[u8], depth: usize) -> Result<Message<'_>, Refused> {
    let (kind, mut id, rest) = open(frame).map_err(|fault| Refused { id: Id::null(), fault })?;
    match kind {
        // Nothing is ever asked in this dialect, so what it answers makes no difference.
        Kind::Reply => Ok(Message::Reply(Id::null(), Ok(RawJson::NULL))),
        Kind::Notification | Kind::Request => {
            let request = request(rest, &mut id, depth);
            request.map_err(|fault| Refused { id: id.unwrap_or_else(Id::null), fault })
        }
    }
}

/// Returns the id of a request of which only the beginning is known.
pub(in crate::codec) fn id_at_front(beginning: &[u8]) -> Option<Id<'static>> {
    open(beginning).ok()?.1
}

#[derive(Clone, Copy)]
enum Kind {
    Request,
    Reply,
    Notification,
}

/// Reads what a message begins with: what it is, its id, and where to read on.
fn open(message: &[u8]) -> Result<(Kind, Option<Id<'static>>, Elements<'_>), Fault> {
    let mut reader = Reader { rest: message };
    let Token::Array(left) = reader.token()? else { return Err(invalid("a message must be an array")) };
    let mut elements = Elements { reader, left };
    let kind = match elements.next().map(Reader::token).transpose()? {
        Some(Token::Uint(0)) => Kind::Request,
        Some(Token::Uint(1)) => Kind::Reply,
        Some(Token::Uint(2)) => Kind::Notification,
        _ => return Err(invalid("a message must begin with 0 (request), 1 (response) or 2 (notification)")),
    };
    let id = match kind {
        Kind::Request => match elements.next().map(Reader::token).transpose()? {
            Some(Token::Uint(id)) => Some(Id::from(id)),
            _ => return Err(invalid("\"msgid\" must be an integer, and not negative")),
        },
        _ => None,
    };
    Ok((kind, id, elements))
}

/// Takes the id only with a whole request.
fn request<'a>(
    mut rest: Elements<'a>,
    id: &mut Option<Id<'static>>,
    depth: usize,
) -> Result<Message<'a>, Fault> {
    let method = match rest.next() {
        Some(reader) => reader.text()?.ok_or_else(|| invalid("\"method\" must be a string of UTF-8"))?,
        None => return Err(invalid("\"method\" is missing")),
    };
    let params = match rest.next() {
        // One that names no request is a notification like any other that nobody understands.
        Some(reader) if id.is_none() && method == CANCEL => match cancelled(*reader) {
            Some(cancelled) => return Ok(Message::Cancel(cancelled)),
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

fn cancelled(mut params: Reader<'_>) -> Option<Id<'static>> {
    let mut token = params.token().ok()?;
    if token == Token::Array(1) {
        token = params.token().ok()?;
        if let Token::Uint(id) = token {
            return Some(id.into());
        }
    }
    let Token::Map(pairs) = token else { return None };
    for _ in 0..pairs {
        if params.text().ok()? == Some("id") {
            let Token::Uint(id) = params.token().ok()? else { return None };
            return Some(id.into());
        }
        params.skip().ok()?;
    }
    None
}

fn invalid(message: &'static str) -> Fault {
    Fault::new(code::INVALID_REQUEST, message)
}

/// The elements of a message, as long as there are any.
struct Elements<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Elements<'a> {
    /// The reader, which stands at the next element.
    fn next(&mut self) -> Option<&mut Reader<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(&mut self.reader)
    }
}

/// Reads values one after another.
#[derive(Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn token(&mut self) -> Result<Token, Fault> {
        let (token, length) = Token::read(self.rest).map_err(unread)?;
        self.rest = &self.rest[length..];
        Ok(token)
    }

    fn bytes(&mut self, length: u32) -> Result<&'a [u8], Fault> {
        let (bytes, rest) =
            self.rest.split_at_checked(length as usize).ok_or_else(|| unread(NoToken::Short))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads a value, and tells what it says if it is a string or bytes of UTF-8.
    fn text(&mut self) -> Result<Option<&'a str>, Fault> {
        let before = *self;
        if let Token::Str(length) | Token::Bin(length) = self.token()? {
            return Ok(std::str::from_utf8(self.bytes(length)?).ok());
        }
        *self = before;
        self.skip().map(|()| None)
    }

    fn skip(&mut self) -> Result<(), Fault> {
        let mut walk = Walk::new();
        let passed = walk.over(self.rest).map_err(unread)?;
        self.rest = &self.rest[passed..];
        if walk.is_done() { Ok(()) } else { Err(unread(NoToken::Short)) }
    }

    fn params(&mut self, depth: usize) -> Result<Option<RawJson<'static>>, Fault> {
        match Token::read(self.rest).map_err(unread)?.0 {
            Token::Nil => self.skip().map(|()| None),
            Token::Array(_) | Token::Map(_) => self.json(depth).map(Some),
            _ => Err(invalid("\"params\" must be an array or a map")),
        }
    }

    /// Reads a value as JSON. It stands in a message, which is one level of `depth`.
    fn json(&mut self, depth: usize) -> Result<RawJson<'static>, Fault> {
        let depth = depth.min(DEEPEST);
        let (reader, fault) = (Cell::new(*self), Cell::new(None));
        let json = serde_json::to_string(&Json { reader: &reader, fault: &fault, depth, level: 1 });
        *self = reader.get();
        json.map(RawJson::checked).map_err(|error| {
            fault.take().unwrap_or_else(|| Fault::invalid_params(format!("no JSON: {error}")))
        })
    }

    fn meta(&mut self) -> Result<Meta, Fault> {
        let pairs = match self.token()? {
            Token::Nil => 0,
            Token::Map(pairs) => pairs,
            _ => return Err(invalid("\"meta\" must be a map")),
        };
        let mut meta = Meta::default();
        for _ in 0..pairs {
            match self.text()? {
                Some("deadline_ms") => {
                    meta.deadline = match self.token()? {
                        Token::Uint(ms) => Some(Duration::from_millis(ms)),
                        Token::Nil => None,
                        Token::F32(ms) => Some(deadline_of(ms.into()).ok_or_else(|| invalid(NO_DEADLINE))?),
                        Token::F64(ms) => Some(deadline_of(ms).ok_or_else(|| invalid(NO_DEADLINE))?),
                        _ => return Err(invalid(NO_DEADLINE)),
                    }
                }
                Some("hops") => {
                    let whole = |hops: f64| (hops == f64::from(hops as u32)).then_some(hops as u32);
                    meta.hops = match self.token()? {
                        Token::Nil => Some(0),
                        Token::Uint(hops) => u32::try_from(hops).ok(),
                        Token::F32(hops) => whole(hops.into()),
                        Token::F64(hops) => whole(hops),
                        _ => None,
                    }
                    .ok_or_else(|| invalid(NO_HOPS))?;
                }
                _ => self.skip()?,
            }
        }
        Ok(meta)
    }
}

fn unread(why: NoToken) -> Fault {
    let message = match why {
        NoToken::Short => "the message ends within a value",
        NoToken::Reserved => "byte 0xc1, which MessagePack does not use",
    };
    Fault::new(code::PARSE, message)
}

/// The value at which a reader stands, to be written as JSON while it is read.
struct Json<'r, 'a> {
    reader: &'r Cell<Reader<'a>>,
    /// Why it could not be.
    fault: &'r Cell<Option<Fault>>,
    depth: usize,
    /// How deep it stands.
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
        E::custom("the fault tells")
    }

    fn unfit<E: Error>(&self, message: &'static str) -> E {
        self.fail(Fault::invalid_params(message))
    }

    fn inside<E: Error>(&self) -> Result<Self, E> {
        if self.level >= self.depth {
            let message = format!("nested deeper than {} (limits.depth)", self.depth);
            return Err(self.fail(Fault::new(code::PARSE, message)));
        }
        Ok(Self { level: self.level + 1, ..*self })
    }
}

impl Serialize for Json<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.read(Reader::token)? {
            Token::Nil => to.serialize_unit(),
            Token::Bool(value) => to.serialize_bool(value),
            Token::Uint(number) => to.serialize_u64(number),
            Token::Int(number) => to.serialize_i64(number),
            // The shortest text of a short float is another number to whoever reads it as a long one.
            Token::F32(number) if number.is_finite() => to.serialize_f64(number.into()),
            Token::F64(number) if number.is_finite() => to.serialize_f64(number),
            Token::F32(_) | Token::F64(_) => {
                Err(self.unfit("NaN and Infinity have no form in JSON; send nil or a string instead"))
            }
            Token::Str(length) => {
                let bytes = self.read(|reader| reader.bytes(length))?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => to.serialize_str(text),
                    Err(_) => to.serialize_bytes(bytes),
                }
            }
            Token::Bin(length) => to.serialize_bytes(self.read(|reader| reader.bytes(length))?),
            Token::Ext(_) => Err(self.unfit(
                "extension types have no form in JSON; send a number, a string or bytes (bin) instead, and a \
                 moment as seconds or as text",
            )),
            Token::Array(values) => {
                let value = self.inside()?;
                let mut array = to.serialize_seq(Some(values as usize))?;
                for _ in 0..values {
                    array.serialize_element(&value)?;
                }
                array.end()
            }
            Token::Map(pairs) => {
                let value = self.inside()?;
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

/// The key at which a reader stands.
struct Key<'v, 'r, 'a> {
    json: &'v Json<'r, 'a>,
    /// Keys of the same map that are numbers, or texts that look like some: as JSON these two could be one.
    numbers: &'v RefCell<HashSet<i128>>,
}

impl Key<'_, '_, '_> {
    fn number<E: Error>(&self, number: i128) -> Result<(), E> {
        if self.numbers.borrow_mut().insert(number) {
            Ok(())
        } else {
            Err(self
                .json
                .unfit("two keys of a map are the same number, or the same as a number and as a text"))
        }
    }
}

impl Serialize for Key<'_, '_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { json, .. } = self;
        match json.read(Reader::token)? {
            Token::Uint(number) => {
                self.number(number.into())?;
                to.serialize_u64(number)
            }
            Token::Int(number) => {
                self.number(number.into())?;
                to.serialize_i64(number)
            }
            Token::Str(length) => match std::str::from_utf8(json.read(|reader| reader.bytes(length))?) {
                Ok(text) => {
                    if let Some(number) = number(text) {
                        self.number(number)?;
                    }
                    to.serialize_str(text)
                }
                Err(_) => Err(json.unfit("a key of a map must be UTF-8")),
            },
            _ => Err(json.unfit("a key of a map must be a string or an integer")),
        }
    }
}

/// The number that a text is exactly the decimal form of.
fn number(text: &str) -> Option<i128> {
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number: &i128| number.to_string() == text)
}
