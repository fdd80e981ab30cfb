//! From MessagePack values to JSON, written directly: a message of a megabyte may hold as many values, and the node does
//! nothing else meanwhile.

use super::marker::Marker;
use super::reader::Reader;
use crate::codec::json::unescaped_len;
use crate::message::{Fault, RawJson, code};

/// Upper bound of the depth limit, for readers of the JSON text that recurse.
const MAX_DEPTH: usize = 1024;

/// Limits on the parameters of a message.
#[derive(Clone, Copy)]
pub(super) struct ParamLimits {
    /// Maximum nesting of arrays and maps, those of the message included.
    pub(super) depth: usize,
    /// Maximum length as JSON, in bytes.
    pub(super) json: usize,
}

/// Converts values to JSON texts.
pub(super) struct Converter<'a> {
    reader: Reader<'a>,
    out: Vec<u8>,
    /// The keys of each map that is not at its end.
    keys: Vec<Numbers>,
    depth: usize,
    max: usize,
}

impl<'a> Converter<'a> {
    /// Creates a converter for the value at the reader's position.
    pub(super) fn new(reader: Reader<'a>, limits: ParamLimits) -> Self {
        let (out, keys) = (Vec::with_capacity(128), Vec::new());
        Self { reader, out, keys, depth: limits.depth.min(MAX_DEPTH), max: limits.json }
    }

    /// Returns the reader behind the value, and the JSON text.
    pub(super) fn finish(self) -> (Reader<'a>, RawJson<'static>) {
        // All that was written is text.
        let json = String::from_utf8(self.out).unwrap_or_default();
        (self.reader, RawJson::checked(json))
    }

    /// Converts the next value.
    ///
    /// # Errors
    /// If the value cannot be expressed in JSON, or exceeds a limit.
    pub(super) fn value(&mut self) -> Result<(), Fault> {
        // Most messages nest no deeper, and need no memory for those around it.
        let (mut innermost, mut outer) = (None::<Open>, Vec::new());
        loop {
            let opened = match self.reader.marker()? {
                Marker::Array(values) => Some(Open::new(values, b']')),
                Marker::Map(pairs) => Some(Open::new(pairs, b'}')),
                scalar => {
                    self.scalar(scalar)?;
                    None
                }
            };
            if let Some(opened) = opened {
                outer.extend(innermost.take());
                self.open(&opened, outer.len() + 1)?;
                innermost = Some(opened);
            }
            while let Some(Open { end, .. }) = innermost.take_if(|open| open.left == 0) {
                if end == b'}' {
                    self.keys.pop().unwrap_or_default().check_unique()?;
                }
                self.out.push(end);
                innermost = outer.pop();
            }
            self.check_size()?;
            let Some(innermost) = &mut innermost else { return Ok(()) };
            self.next(innermost)?;
        }
    }

    /// Begins an array or a map that is `level` levels deep.
    fn open(&mut self, opened: &Open, level: usize) -> Result<(), Fault> {
        // The message counts as one level.
        if level >= self.depth {
            let message = format!("nested deeper than {} (limits.depth)", self.depth);
            return Err(Fault::new(code::PARSE, message));
        }
        if opened.end == b'}' {
            self.keys.push(Numbers::default());
        }
        self.out.push(if opened.end == b']' { b'[' } else { b'{' });
        Ok(())
    }

    /// Writes what comes before the next value of an array or a map that is not at its end.
    fn next(&mut self, Open { left, end, is_first }: &mut Open) -> Result<(), Fault> {
        // Single digits in an array, of which most fit into a message, are quick.
        while *end == b']'
            && *left > 1
            && let [digit @ 0..=9, rest @ ..] = self.reader.rest
            && self.out.len() < self.max
        {
            if !std::mem::take(is_first) {
                self.out.push(b',');
            }
            self.out.push(b'0' + digit);
            self.reader.rest = rest;
            *left -= 1;
        }
        *left -= 1;
        if !std::mem::take(is_first) {
            self.out.push(b',');
        }
        if *end == b'}' {
            self.key()?;
            self.out.push(b':');
        }
        Ok(())
    }

    fn scalar(&mut self, marker: Marker) -> Result<(), Fault> {
        match marker {
            Marker::Nil => self.out.extend_from_slice(b"null"),
            Marker::Bool(value) => self.out.extend_from_slice(if value { b"true" } else { b"false" }),
            Marker::Uint(number) => self.uint(number),
            Marker::Int(number) => self.int(number),
            // The shortest decimal form of an f32 is a different number when parsed as f64.
            Marker::F32(number) => self.float(number.into())?,
            Marker::F64(number) => self.float(number)?,
            Marker::Str(length) => {
                let bytes = self.reader.bytes(length)?;
                // As for digits.
                if bytes.len() <= SHORT && bytes.iter().all(|byte| is_plain(*byte)) {
                    self.out.push(b'"');
                    bytes.iter().for_each(|byte| self.out.push(*byte));
                    self.out.push(b'"');
                    return Ok(());
                }
                match std::str::from_utf8(bytes) {
                    Ok(text) => self.text(text)?,
                    Err(_) => self.bytes(bytes)?,
                }
            }
            Marker::Bin(length) => {
                let bytes = self.reader.bytes(length)?;
                self.bytes(bytes)?;
            }
            Marker::Ext(_) | Marker::Array(_) | Marker::Map(_) => {
                return Err(Fault::invalid_params(
                    "extension types cannot be expressed in JSON; send a number, a string or bytes (bin) instead, and \
                     a timestamp as seconds or as text",
                ));
            }
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), Fault> {
        if self.out.len() <= self.max { Ok(()) } else { Err(self.too_large()) }
    }

    fn too_large(&self) -> Fault {
        let message = format!("the parameters have over {} bytes as JSON (limits.message)", self.max);
        Fault::new(code::REQUEST_TOO_LARGE, message)
    }

    fn key(&mut self) -> Result<(), Fault> {
        match self.reader.marker()? {
            Marker::Uint(number) => {
                self.note_number(number.into());
                self.out.push(b'"');
                self.uint(number);
                self.out.push(b'"');
            }
            Marker::Int(number) => {
                self.note_number(number.into());
                self.out.push(b'"');
                self.int(number);
                self.out.push(b'"');
            }
            Marker::Str(length) => match std::str::from_utf8(self.reader.bytes(length)?) {
                Ok(text) => {
                    if let Some(number) = decimal(text) {
                        self.note_number(number);
                    }
                    self.text(text)?;
                }
                Err(_) => return Err(Fault::invalid_params("a key of a map must be UTF-8")),
            },
            _ => return Err(Fault::invalid_params("a key of a map must be a string or an integer")),
        }
        Ok(())
    }

    /// Notes that the innermost map has a key that is a number.
    fn note_number(&mut self, number: i128) {
        if let Some(numbers) = self.keys.last_mut() {
            numbers.add(number);
        }
    }

    fn uint(&mut self, number: u64) {
        match number {
            0..=9 => self.out.push(b'0' + number as u8),
            10..=99 => self.out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]),
            // Writing to a vector does not fail.
            _ => drop(serde_json::to_writer(&mut self.out, &number)),
        }
    }

    fn int(&mut self, number: i64) {
        if let -9..=-1 = number {
            self.out.push(b'-');
            return self.uint(number.unsigned_abs());
        }
        let _ = serde_json::to_writer(&mut self.out, &number);
    }

    fn float(&mut self, number: f64) -> Result<(), Fault> {
        if !number.is_finite() {
            return Err(Fault::invalid_params(
                "NaN and Infinity cannot be expressed in JSON; send nil or a string instead",
            ));
        }
        let _ = serde_json::to_writer(&mut self.out, &number);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Fault> {
        if self.out.len() + text.len() > self.max {
            return Err(self.too_large());
        }
        if unescaped_len(text.as_bytes()) == text.len() {
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
        } else {
            let _ = serde_json::to_writer(&mut self.out, text);
        }
        Ok(())
    }

    /// Writes bytes as an array of numbers.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.out.push(b'[');
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.uint((*byte).into());
            if self.out.len() > self.max {
                return self.check_size();
            }
        }
        self.out.push(b']');
        Ok(())
    }
}

/// An array or a map that is not at its end.
struct Open {
    /// The number of values, or of pairs, that remain.
    left: u32,
    /// Its last character in JSON.
    end: u8,
    is_first: bool,
}

impl Open {
    fn new(left: u32, end: u8) -> Self {
        Self { left, end, is_first: true }
    }
}

/// The keys of a map that are integers, or texts that look like integers: in JSON both are the same key.
#[derive(Default)]
struct Numbers {
    numbers: Vec<i128>,
    /// A number is greater than the one before it, or less. If both are so, or two are equal, they have to be sorted.
    rises: bool,
    falls: bool,
}

impl Numbers {
    fn add(&mut self, number: i128) {
        if let Some(last) = self.numbers.last() {
            self.rises |= *last <= number;
            self.falls |= *last >= number;
        }
        self.numbers.push(number);
    }

    fn check_unique(mut self) -> Result<(), Fault> {
        if self.rises && self.falls {
            self.numbers.sort_unstable();
            if self.numbers.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Fault::invalid_params(
                    "two keys of a map are equal in JSON: the same number, or a number and its text",
                ));
            }
        }
        Ok(())
    }
}

/// The length up to which a text is short, in bytes.
const SHORT: usize = 8;

/// Returns `true` if a byte is a character of its own that JSON does not escape.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Returns the number whose canonical decimal form is `text`.
fn decimal(text: &str) -> Option<i128> {
    match text.strip_prefix('-').unwrap_or(text).as_bytes() {
        b"0" if text.len() == 1 => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => match text.parse::<i64>() {
            Ok(number) => Some(number.into()),
            // Numbers of 128 bits are slow.
            Err(_) => text.parse().ok(),
        },
        _ => None,
    }
}
