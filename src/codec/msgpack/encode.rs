//! From parameters and results, which are JSON, to MessagePack in its shortest form, in one pass and without an intermediate tree.

use std::fmt;

use memchr::memchr2;

use crate::codec::jsonrpc::CANCEL_METHOD;
use crate::message::number::keeps_digits;
use crate::message::{Answer, Fault, Id, RawJson, Request, code};

const NIL: u8 = 0xc0;

/// Appends a reply: `[1, msgid, nil, result]` or `[1, msgid, [code, message, data], nil]`. The result and the fault's
/// data are converted from JSON. A result that cannot be converted becomes an error.
pub(super) fn encode_reply(out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) {
    let start = out.len();
    // An array of four elements; type 1 is a response.
    out.extend_from_slice(&[0x94, 1]);
    if put_json(out, id.as_json()).is_err() {
        out.push(NIL);
    }
    match answer {
        Ok(result) => {
            out.push(NIL);
            if let Err(error) = put_json(out, result) {
                out.truncate(start);
                let message = format!("the result cannot be converted to MessagePack: {error}");
                encode_reply(out, id, Err(&Fault::new(code::INTERNAL, message)));
            }
        }
        Err(fault) => {
            out.push(0x93);
            put_int(out, fault.code);
            let (mut data, mut note) = (vec![NIL], String::new());
            if let Some(json) = &fault.data {
                data.clear();
                if let Err(error) = put_json(&mut data, json.get()) {
                    data.push(NIL);
                    note = format!(" (its data cannot be converted to MessagePack: {error})");
                }
            }
            let _ = put_str(out, format!("{}{note}", fault.message).as_bytes());
            out.append(&mut data);
            out.push(NIL);
        }
    }
}

/// Appends a request, `[0, msgid, method, params]`, or a notification, `[2, method, params]`. `meta` follows if the call
/// was forwarded. Returns `false`, and appends nothing, if the parameters cannot be converted.
pub(super) fn encode_request(out: &mut Vec<u8>, request: &Request<'_>) -> bool {
    let start = out.len();
    let Request { id, method, params, meta } = request;
    // Servers that do not know the extension reject a message with more elements.
    let is_forwarded = meta.hops > 0;
    out.push(0x93 + u8::from(id.is_some()) + u8::from(is_forwarded));
    let params = params.as_ref().map_or("[]", RawJson::get);
    let put = match id {
        Some(id) => {
            out.push(0);
            put_json(out, id.as_json())
        }
        None => {
            out.push(2);
            Ok(())
        }
    };
    if put.and_then(|()| put_str(out, method.as_bytes())).and_then(|()| put_json(out, params)).is_err() {
        out.truncate(start);
        return false;
    }
    if is_forwarded {
        out.push(0x81 + u8::from(meta.deadline.is_some()));
        let _ = put_str(out, b"hops");
        put_uint(out, meta.hops.into());
        if let Some(deadline) = meta.deadline {
            let _ = put_str(out, b"deadline_ms");
            put_uint(out, u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        }
    }
    true
}

/// Appends the notification that cancels the request `id`.
pub(super) fn encode_cancel(out: &mut Vec<u8>, id: &Id<'_>) {
    out.extend_from_slice(&[0x93, 2]);
    let _ = put_str(out, CANCEL_METHOD.as_bytes());
    out.push(0x91);
    if put_json(out, id.as_json()).is_err() {
        out.push(NIL);
    }
}

/// Why a JSON text cannot be converted to MessagePack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConvertError {
    NotJson,
    /// A number that is neither a 64-bit integer nor a 64-bit float that keeps all its digits.
    Number(String),
    /// A lone surrogate, which UTF-8 cannot encode.
    LoneSurrogate,
    /// More bytes or values than a header can express.
    TooLong,
}

/// Maximum number of characters of a number quoted in an error.
const MAX_QUOTED: usize = 40;

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("it is not JSON"),
            Self::Number(number) => write!(
                f,
                "the number {number} is neither a 64-bit integer nor a 64-bit float that keeps all its digits; \
                 send it as a text"
            ),
            Self::LoneSurrogate => f.write_str("a text contains a lone surrogate"),
            Self::TooLong => f.write_str("a text, an array or an object is longer than 2^32 - 1"),
        }
    }
}

/// An array or object that is not closed yet.
struct Open {
    /// The position of its header, with one byte reserved.
    at: usize,
    /// Number of values in it so far, including keys.
    values: usize,
    object: bool,
}

/// An array or object whose header needs more than the reserved byte.
struct Wide {
    at: usize,
    header: Header,
}

/// A header: a first byte, and a big-endian number in the last `width` bytes of `number`.
struct Header {
    first: u8,
    number: [u8; 8],
    width: usize,
}

impl Header {
    fn new(first: u8, number: u64, width: usize) -> Self {
        Self { first, number: number.to_be_bytes(), width }
    }

    fn number(&self) -> &[u8] {
        &self.number[self.number.len() - self.width..]
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.first);
        out.extend_from_slice(self.number());
    }
}

/// Converts and appends one JSON text. Does not detect every syntax error, since results are validated before.
///
/// # Errors
/// If it cannot be converted; then nothing is appended.
pub(super) fn put_json(out: &mut Vec<u8>, json: &str) -> Result<(), ConvertError> {
    let start = out.len();
    let mut wide = Vec::new();
    let put = put_values(out, json, &mut wide);
    match put {
        Ok(()) => widen(out, &mut wide),
        Err(_) => out.truncate(start),
    }
    put
}

fn put_values(out: &mut Vec<u8>, json: &str, wide: &mut Vec<Wide>) -> Result<(), ConvertError> {
    let (mut at, mut open) = (0, Vec::<Open>::new());
    let mut values = 0;
    let bytes = json.as_bytes();
    while let [byte, rest @ ..] = &bytes[at..] {
        let byte = *byte;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' => {
                at += 1;
                continue;
            }
            b']' | b'}' => {
                let closed =
                    open.pop().filter(|open| open.object == (byte == b'}')).ok_or(ConvertError::NotJson)?;
                close(out, &closed, wide)?;
                at += 1;
                continue;
            }
            _ => *open.last_mut().map_or(&mut values, |open| &mut open.values) += 1,
        }
        at += match byte {
            b'[' | b'{' => {
                open.push(Open { at: out.len(), values: 0, object: byte == b'{' });
                out.push(NIL);
                1
            }
            b'"' => 1 + put_string(out, rest)?,
            // Single digits are quick, since a result may hold half a million.
            b'0'..=b'9' if let [b',' | b']' | b'}', ..] = rest => {
                out.push(byte - b'0');
                1
            }
            b'-' | b'0'..=b'9' => put_number(out, &json[at..])?,
            _ => put_word(out, &bytes[at..])?,
        };
    }
    if values == 1 && open.is_empty() { Ok(()) } else { Err(ConvertError::NotJson) }
}

/// The length up to which a string is short, in bytes.
const SHORT: usize = 8;

fn put_word(out: &mut Vec<u8>, json: &[u8]) -> Result<usize, ConvertError> {
    let (byte, length) = match json {
        [b'n', b'u', b'l', b'l', ..] => (NIL, 4),
        [b't', b'r', b'u', b'e', ..] => (0xc3, 4),
        [b'f', b'a', b'l', b's', b'e', ..] => (0xc2, 5),
        _ => return Err(ConvertError::NotJson),
    };
    out.push(byte);
    Ok(length)
}

fn put_number(out: &mut Vec<u8>, json: &str) -> Result<usize, ConvertError> {
    let mut is_float = false;
    let is_other = |byte: u8| match byte {
        b'0'..=b'9' | b'-' => false,
        b'.' | b'e' | b'E' | b'+' => {
            is_float = true;
            false
        }
        _ => true,
    };
    let text = &json[..json.bytes().position(is_other).unwrap_or(json.len())];
    if is_float {
        put_float(out, text)?;
    } else {
        put_integer(out, text)?;
    }
    Ok(text.len())
}

fn put_integer(out: &mut Vec<u8>, text: &str) -> Result<(), ConvertError> {
    match integer(text.as_bytes()) {
        Some(number) if number < 0 => put_int(out, number),
        Some(number) => put_uint(out, number.unsigned_abs()),
        None if text == "-0" => put_float(out, text)?,
        None => match (text.parse(), text.parse()) {
            (Ok(number), _) => put_uint(out, number),
            (_, Ok(number)) => put_int(out, number),
            // As a float it would no longer be an integer.
            _ if text.parse::<f64>().is_ok() => return Err(number_error(text)),
            _ => return Err(ConvertError::NotJson),
        },
    }
    Ok(())
}

fn put_float(out: &mut Vec<u8>, text: &str) -> Result<(), ConvertError> {
    let number: f64 = text.parse().map_err(|_| ConvertError::NotJson)?;
    if !has_few_digits(text, number) && !keeps_digits(number, text) {
        return Err(number_error(text));
    }
    out.push(0xcb);
    out.extend_from_slice(&number.to_be_bytes());
    Ok(())
}

#[cold]
fn number_error(text: &str) -> ConvertError {
    let cut = if text.len() > MAX_QUOTED { "…" } else { "" };
    ConvertError::Number(format!("{}{cut}", &text[..text.len().min(MAX_QUOTED)]))
}

/// Parses an integer of usual size, quicker than the standard library's code for any size.
fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 || text == b"-0" {
        return None;
    }
    let number = digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| 10 * number + i64::from(digit - b'0')))?;
    Some(if is_negative { -number } else { number })
}

/// Returns `true` if a number that is no integer has at most 15 digits, and a float of full precision.
fn has_few_digits(text: &str, number: f64) -> bool {
    match text.bytes().position(|byte| matches!(byte, b'e' | b'E')) {
        None => text.len() <= 16,
        Some(mantissa) => mantissa <= 15 && number.is_normal(),
    }
}

/// Appends the string after an opening quote. Returns its length including the closing quote.
fn put_string(out: &mut Vec<u8>, text: &[u8]) -> Result<usize, ConvertError> {
    // Short strings are frequent, and searched without a call.
    let short = text.iter().take(SHORT).position(|byte| matches!(byte, b'"' | b'\\'));
    let mut at = short.or_else(|| memchr2(b'"', b'\\', text)).ok_or(ConvertError::NotJson)?;
    if text[at] == b'"' {
        put_str(out, &text[..at])?;
        return Ok(at + 1);
    }
    let start = out.len();
    out.extend_from_slice(&text[..at]);
    while text[at] == b'\\' {
        at += 1 + unescape(out, &text[at + 1..])?;
        let plain = memchr2(b'"', b'\\', &text[at..]).ok_or(ConvertError::NotJson)?;
        out.extend_from_slice(&text[at..at + plain]);
        at += plain;
    }
    // The length is known only now: append the header and move it to the front.
    let end = out.len();
    str_header(end - start)?.put(out);
    let header = out.len() - end;
    out[start..].rotate_right(header);
    Ok(at + 1)
}

/// Appends the character escaped by `text`, which follows a backslash. Returns the length of the escape.
fn unescape(out: &mut Vec<u8>, text: &[u8]) -> Result<usize, ConvertError> {
    let (char, length) = match text.first().ok_or(ConvertError::NotJson)? {
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'n' => ('\n', 1),
        b'r' => ('\r', 1),
        b't' => ('\t', 1),
        b'u' => {
            let unit = hex(&text[1..]).ok_or(ConvertError::NotJson)?;
            let next = text[5..]
                .strip_prefix(b"\\u")
                .map(|low| hex(low).ok_or(ConvertError::NotJson))
                .transpose()?;
            match (unit, next) {
                (high @ 0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                    let pair = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    (char::from_u32(pair).ok_or(ConvertError::LoneSurrogate)?, 11)
                }
                (unit, _) => (char::from_u32(unit).ok_or(ConvertError::LoneSurrogate)?, 5),
            }
        }
        &plain @ (b'"' | b'\\' | b'/') => (plain.into(), 1),
        _ => return Err(ConvertError::NotJson),
    };
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(length)
}

fn hex(text: &[u8]) -> Option<u32> {
    let digits = text.first_chunk::<4>()?;
    digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
}

/// Writes the header of an array or object, or adds it to `wide` if it needs more than one byte.
fn close(out: &mut [u8], closed: &Open, wide: &mut Vec<Wide>) -> Result<(), ConvertError> {
    let Open { at, values, object } = *closed;
    if object && values % 2 == 1 {
        return Err(ConvertError::NotJson);
    }
    let length =
        u32::try_from(if object { values / 2 } else { values }).map_err(|_| ConvertError::TooLong)?;
    let (fixed, short) = if object { (0x80, 0xde) } else { (0x90, 0xdc) };
    match length {
        0..=0x0f => out[at] = fixed | length as u8,
        0x10..=0xffff => wide.push(Wide { at, header: Header::new(short, length.into(), 2) }),
        _ => wide.push(Wide { at, header: Header::new(short + 1, length.into(), 4) }),
    }
    Ok(())
}

/// Inserts the headers that need more than one byte. Each byte is moved at most once.
fn widen(out: &mut Vec<u8>, wide: &mut [Wide]) {
    wide.sort_unstable_by_key(|wide| wide.at);
    let mut from = out.len();
    out.resize(from + wide.iter().map(|wide| wide.header.width).sum::<usize>(), 0);
    let mut to = out.len();
    for Wide { at, header } in wide.iter().rev() {
        let content = *at + 1;
        out.copy_within(content..from, to - (from - content));
        to -= from - content;
        out[to - header.width..to].copy_from_slice(header.number());
        to -= header.width + 1;
        out[to] = header.first;
        from = *at;
    }
}

/// Appends a string whose length is known.
///
/// # Errors
/// If it is longer than MessagePack allows.
fn put_str(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ConvertError> {
    if let length @ 0..=0x1f = text.len() {
        out.push(0xa0 | length as u8);
        out.extend_from_slice(text);
        return Ok(());
    }
    str_header(text.len())?.put(out);
    out.extend_from_slice(text);
    Ok(())
}

fn str_header(length: usize) -> Result<Header, ConvertError> {
    let length = u32::try_from(length).map_err(|_| ConvertError::TooLong)?;
    Ok(match length {
        0..=0x1f => Header::new(0xa0 | length as u8, 0, 0),
        0x20..=0xff => Header::new(0xd9, length.into(), 1),
        0x100..=0xffff => Header::new(0xda, length.into(), 2),
        _ => Header::new(0xdb, length.into(), 4),
    })
}

fn put_uint(out: &mut Vec<u8>, number: u64) {
    match number {
        0..=0x7f => Header::new(number as u8, 0, 0),
        0x80..=0xff => Header::new(0xcc, number, 1),
        0x100..=0xffff => Header::new(0xcd, number, 2),
        0x1_0000..=0xffff_ffff => Header::new(0xce, number, 4),
        _ => Header::new(0xcf, number, 8),
    }
    .put(out);
}

fn put_int(out: &mut Vec<u8>, number: i64) {
    let bits = number.cast_unsigned();
    match number {
        0.. => return put_uint(out, bits),
        -0x20..0 => Header::new(bits as u8, 0, 0),
        -0x80..-0x20 => Header::new(0xd0, bits, 1),
        -0x8000..-0x80 => Header::new(0xd1, bits, 2),
        -0x8000_0000..-0x8000 => Header::new(0xd2, bits, 4),
        _ => Header::new(0xd3, bits, 8),
    }
    .put(out);
}
