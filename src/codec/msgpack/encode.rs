//! From results, which are JSON, to MessagePack in its shortest form, in one pass and with no tree between.

use std::fmt;

use memchr::memchr2;

use crate::message::number::exact;
use crate::message::{Answer, Fault, Id, code};

const NIL: u8 = 0xc0;

/// Appends a reply: `[1, msgid, nil, result]` or `[1, msgid, [code, message, data], nil]`. The result is JSON, as is
/// the fault's data.
pub(in crate::codec) fn encode_reply(out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) {
    let start = out.len();
    // An array of four, the first of which says that it is a response.
    out.extend_from_slice(&[0x94, 1]);
    if put_json(out, id.as_json()).is_err() {
        out.push(NIL);
    }
    match answer {
        Ok(result) => {
            out.push(NIL);
            if let Err(unfit) = put_json(out, result) {
                out.truncate(start);
                let message = format!("the result has no form in MessagePack: {unfit}");
                encode_reply(out, id, Err(&Fault::new(code::INTERNAL, message)));
            }
        }
        Err(fault) => {
            out.push(0x93);
            put_int(out, fault.code);
            let (mut data, mut why) = (vec![NIL], String::new());
            if let Some(json) = &fault.data {
                data.clear();
                if let Err(unfit) = put_json(&mut data, json.get()) {
                    data.push(NIL);
                    why = format!(" (its data has no form in MessagePack: {unfit})");
                }
            }
            let _ = put_str(out, format!("{}{why}", fault.message).as_bytes());
            out.append(&mut data);
            out.push(NIL);
        }
    }
}

/// Why a text has no form in MessagePack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    NotJson,
    /// This number is neither an integer of 64 bits nor a float that keeps its digits.
    Number(String),
    /// Half of a surrogate pair, which no UTF-8 stands for.
    HalfPair,
    /// More bytes or values than a header can say.
    TooLong,
}

/// So much of a number is quoted.
const QUOTED: usize = 40;

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("it is not JSON"),
            Self::Number(number) => write!(
                f,
                "the number {number} is no integer of 64 bits, and no float of 64 bits keeps all its digits; send it \
                 as a text"
            ),
            Self::HalfPair => f.write_str("half of a surrogate pair in a text stands for no character"),
            Self::TooLong => f.write_str("a text, an array or an object is longer than 2^32 - 1"),
        }
    }
}

/// An array or object that has begun.
struct Open {
    /// Where its header stands, of one byte for now.
    at: usize,
    /// How many values are in it so far, keys among them.
    values: usize,
    object: bool,
}

/// An array or object whose header takes more than the one byte that it has.
struct Wide {
    at: usize,
    header: Header,
}

/// A first byte, and a number of so many bytes at the end of the eight.
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

/// Appends one JSON text, or nothing if it has no form. Of a text that is JSON to the eye, not every mistake is found.
pub(super) fn put_json(out: &mut Vec<u8>, json: &str) -> Result<(), Unfit> {
    let start = out.len();
    let mut wide = Vec::new();
    let put = put_values(out, json, &mut wide);
    match put {
        Ok(()) => widen(out, &mut wide),
        Err(_) => out.truncate(start),
    }
    put
}

fn put_values(out: &mut Vec<u8>, json: &str, wide: &mut Vec<Wide>) -> Result<(), Unfit> {
    let (mut at, mut open) = (0, Vec::<Open>::new());
    let mut values = 0;
    while let Some(&byte) = json.as_bytes().get(at) {
        let rest = &json[at..];
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' => {
                at += 1;
                continue;
            }
            b']' | b'}' => {
                let closed = open.pop().filter(|open| open.object == (byte == b'}')).ok_or(Unfit::NotJson)?;
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
            b'"' => 1 + put_string(out, &rest.as_bytes()[1..])?,
            b'-' | b'0'..=b'9' => put_number(out, rest)?,
            _ => put_word(out, rest)?,
        };
    }
    if values == 1 && open.is_empty() { Ok(()) } else { Err(Unfit::NotJson) }
}

fn put_word(out: &mut Vec<u8>, text: &str) -> Result<usize, Unfit> {
    let (word, byte) = [("null", NIL), ("false", 0xc2), ("true", 0xc3)]
        .into_iter()
        .find(|(word, _)| text.starts_with(word))
        .ok_or(Unfit::NotJson)?;
    out.push(byte);
    Ok(word.len())
}

fn put_number(out: &mut Vec<u8>, text: &str) -> Result<usize, Unfit> {
    let end = text.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let text = &text[..end.unwrap_or(text.len())];
    if let Ok(number) = text.parse() {
        put_uint(out, number);
    } else if text != "-0"
        && let Ok(number) = text.parse()
    {
        put_int(out, number);
    } else {
        let number: f64 = text.parse().map_err(|_| Unfit::NotJson)?;
        // An integer stays one. Of a fraction, so few digits are kept by every float.
        let is_integer = text != "-0" && !text.contains(['.', 'e', 'E']);
        let is_short = text.len() <= 16 && !text.contains(['e', 'E']);
        if is_integer || !(is_short || exact(text).is_some()) {
            let cut = if text.len() > QUOTED { "…" } else { "" };
            return Err(Unfit::Number(format!("{}{cut}", &text[..text.len().min(QUOTED)])));
        }
        out.push(0xcb);
        out.extend_from_slice(&number.to_be_bytes());
    }
    Ok(text.len())
}

/// Appends the string that begins behind a quote, and tells where it ends, behind its other quote.
fn put_string(out: &mut Vec<u8>, text: &[u8]) -> Result<usize, Unfit> {
    let mut at = memchr2(b'"', b'\\', text).ok_or(Unfit::NotJson)?;
    if text[at] == b'"' {
        put_str(out, &text[..at])?;
        return Ok(at + 1);
    }
    let start = out.len();
    out.extend_from_slice(&text[..at]);
    while text[at] == b'\\' {
        at += 1 + unescape(out, &text[at + 1..])?;
        let plain = memchr2(b'"', b'\\', &text[at..]).ok_or(Unfit::NotJson)?;
        out.extend_from_slice(&text[at..at + plain]);
        at += plain;
    }
    // Only now its length is known.
    let end = out.len();
    str_header(end - start)?.put(out);
    let header = out.len() - end;
    out[start..].rotate_right(header);
    Ok(at + 1)
}

/// Appends what stands behind a backslash, and tells how long that is.
fn unescape(out: &mut Vec<u8>, text: &[u8]) -> Result<usize, Unfit> {
    let (char, length) = match text.first().ok_or(Unfit::NotJson)? {
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'n' => ('\n', 1),
        b'r' => ('\r', 1),
        b't' => ('\t', 1),
        b'u' => {
            let unit = hex(&text[1..]).ok_or(Unfit::NotJson)?;
            let next =
                text[5..].strip_prefix(b"\\u").map(|low| hex(low).ok_or(Unfit::NotJson)).transpose()?;
            match (unit, next) {
                (high @ 0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                    let pair = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    (char::from_u32(pair).ok_or(Unfit::HalfPair)?, 11)
                }
                (unit, _) => (char::from_u32(unit).ok_or(Unfit::HalfPair)?, 5),
            }
        }
        &plain @ (b'"' | b'\\' | b'/') => (plain.into(), 1),
        _ => return Err(Unfit::NotJson),
    };
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(length)
}

fn hex(text: &[u8]) -> Option<u32> {
    let digits = text.first_chunk::<4>()?;
    digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
}

/// Writes the header of an array or object, or leaves it for later if it takes more than one byte.
fn close(out: &mut [u8], closed: &Open, wide: &mut Vec<Wide>) -> Result<(), Unfit> {
    let Open { at, values, object } = *closed;
    if object && values % 2 == 1 {
        return Err(Unfit::NotJson);
    }
    let length = u32::try_from(if object { values / 2 } else { values }).map_err(|_| Unfit::TooLong)?;
    let (fixed, short) = if object { (0x80, 0xde) } else { (0x90, 0xdc) };
    match length {
        0..=0x0f => out[at] = fixed | length as u8,
        0x10..=0xffff => wide.push(Wide { at, header: Header::new(short, length.into(), 2) }),
        _ => wide.push(Wide { at, header: Header::new(short + 1, length.into(), 4) }),
    }
    Ok(())
}

/// Makes room for the headers that need more, and writes them. Each byte moves once.
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

/// Appends a string of which the length is known, unless that is beyond MessagePack.
fn put_str(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unfit> {
    str_header(text.len())?.put(out);
    out.extend_from_slice(text);
    Ok(())
}

fn str_header(length: usize) -> Result<Header, Unfit> {
    let length = u32::try_from(length).map_err(|_| Unfit::TooLong)?;
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
