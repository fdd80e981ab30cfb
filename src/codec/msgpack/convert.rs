//! From MessagePack values to JSON, written directly: a message of a megabyte may hold as many values, and the node does
//! nothing else meanwhile.

use std::hash::{BuildHasher, RandomState};

use super::marker::Marker;
use super::reader::Reader;
use crate::message::json::unescaped_len;
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
    /// The numbers among the keys of each map that is not at its end.
    numbers: Vec<i128>,
    depth: usize,
    max: usize,
}

impl<'a> Converter<'a> {
    /// Creates a converter for the value at the reader's position.
    pub(super) fn new(reader: Reader<'a>, limits: ParamLimits) -> Self {
        let (out, numbers) = (Vec::with_capacity(128), Vec::new());
        Self { reader, out, numbers, depth: limits.depth.min(MAX_DEPTH), max: limits.json }
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
            if let Some((count, end)) = self.scalar_or_start()? {
                outer.extend(innermost.take());
                // The message counts as one level.
                if outer.len() + 1 >= self.depth {
                    return Err(self.too_deep());
                }
                self.out.push(if end == b']' { b'[' } else { b'{' });
                innermost = Some(Open { left: count, end, is_first: true, keys: Keys::after(&self.numbers) });
            }
            while let Some(Open { end, keys, .. }) = innermost.take_if(|open| open.left == 0) {
                keys.check_unique(&mut self.numbers)?;
                self.out.push(end);
                innermost = outer.pop();
            }
            self.check_size()?;
            let Some(innermost) = &mut innermost else { return Ok(()) };
            self.next(innermost)?;
        }
    }

    #[cold]
    fn too_deep(&self) -> Fault {
        Fault::new(code::PARSE, format!("nested deeper than {} (limits.depth)", self.depth))
    }

    /// Writes a scalar, or returns the number of values or pairs of an array or a map, and its last character in JSON.
    fn scalar_or_start(&mut self) -> Result<Option<(u32, u8)>, Fault> {
        // Markers of one byte, of which most fit into a message, are quick.
        if let [first, rest @ ..] = self.reader.rest {
            let (first, rest) = (*first, rest);
            match first {
                0x80..=0x9f => {
                    self.reader.rest = rest;
                    return Ok(Some((u32::from(first & 0x0f), if first < 0x90 { b'}' } else { b']' })));
                }
                0..=9 => {
                    self.reader.rest = rest;
                    self.out.push(b'0' + first);
                    return Ok(None);
                }
                0xa0..=0xbf => {
                    self.reader.rest = rest;
                    return self.string(u32::from(first & 0x1f)).map(|()| None);
                }
                _ => {}
            }
        }
        match self.reader.marker()? {
            Marker::Array(values) => Ok(Some((values, b']'))),
            Marker::Map(pairs) => Ok(Some((pairs, b'}'))),
            scalar => self.scalar(scalar).map(|()| None),
        }
    }

    /// Writes what comes before the next value of an array or a map that is not at its end.
    fn next(&mut self, Open { left, end, is_first, keys }: &mut Open) -> Result<(), Fault> {
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
            let number = self.key()?;
            // A single key is unique.
            if let Some(number) = number
                && (*left > 0 || !keys.is_empty(&self.numbers))
            {
                keys.add(number, &mut self.numbers);
            }
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
            Marker::Str(length) => self.string(length)?,
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

    fn string(&mut self, length: u32) -> Result<(), Fault> {
        let bytes = self.reader.bytes(length)?;
        if self.put_short(bytes) {
            return Ok(());
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.bytes(bytes),
        }
    }

    /// Writes a text that is short and plain, in which case it returns `true`. As quick as for digits.
    fn put_short(&mut self, text: &[u8]) -> bool {
        let is_short = text.len() <= SHORT && text.iter().all(|byte| is_plain(*byte));
        if is_short {
            self.out.push(b'"');
            text.iter().for_each(|byte| self.out.push(*byte));
            self.out.push(b'"');
        }
        is_short
    }

    /// Writes a key. Returns its number if it is one, or looks like one.
    fn key(&mut self) -> Result<Option<i128>, Fault> {
        match self.reader.marker()? {
            Marker::Uint(number) => {
                self.out.push(b'"');
                self.uint(number);
                self.out.push(b'"');
                Ok(Some(number.into()))
            }
            Marker::Int(number) => {
                self.out.push(b'"');
                self.int(number);
                self.out.push(b'"');
                Ok(Some(number.into()))
            }
            Marker::Str(length) => {
                let bytes = self.reader.bytes(length)?;
                if !self.put_short(bytes) {
                    let text = std::str::from_utf8(bytes);
                    self.text(text.map_err(|_| Fault::invalid_params("a key of a map must be UTF-8"))?)?;
                }
                Ok(decimal(bytes))
            }
            _ => Err(Fault::invalid_params("a key of a map must be a string or an integer")),
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
    keys: Keys,
}

/// The keys of a map that are integers, or texts that look like integers: in JSON both are the same key. They follow those
/// of the maps around it in one list, since a message may hold a hundred thousand maps.
struct Keys {
    /// The position of the first one in the list.
    from: usize,
    /// A number is greater than the one before it, or less. If both are so, or two are equal, all have to be compared.
    rises: bool,
    falls: bool,
}

impl Keys {
    fn after(numbers: &[i128]) -> Self {
        Self { from: numbers.len(), rises: false, falls: false }
    }

    fn is_empty(&self, numbers: &[i128]) -> bool {
        self.from == numbers.len()
    }

    fn add(&mut self, number: i128, numbers: &mut Vec<i128>) {
        if let Some(last) = numbers[self.from..].last() {
            self.rises |= *last <= number;
            self.falls |= *last >= number;
        }
        numbers.push(number);
    }

    /// Checks that the numbers are unique, and removes them.
    fn check_unique(&self, numbers: &mut Vec<i128>) -> Result<(), Fault> {
        if self.rises && self.falls && !are_unique(&numbers[self.from..]) {
            return Err(Fault::invalid_params(
                "two keys of a map are equal in JSON: the same number, or a number and its text",
            ));
        }
        numbers.truncate(self.from);
        Ok(())
    }
}

/// Returns `true` if all numbers differ. In a table of their places, since a message may have over a hundred thousand, and
/// the standard library's sort for small binaries is slow.
fn are_unique(numbers: &[i128]) -> bool {
    let bits = (2 * numbers.len()).next_power_of_two().ilog2();
    // Secret factors, one for each half of a number, so that nobody can choose numbers that meet in the table.
    let random = RandomState::new();
    let [low, high] = [0, 1].map(|half| random.hash_one(half) | 1);
    // Places count from 1, and 0 is free.
    let mut table = vec![0_u32; 1 << bits];
    numbers.iter().zip(1..).all(|(number, place)| {
        let hash = low.wrapping_mul(*number as u64).wrapping_add(high.wrapping_mul((*number >> 64) as u64));
        let mut slot = (hash >> (u64::BITS - bits)) as usize;
        while let Some(other) = table[slot].checked_sub(1) {
            if numbers[other as usize] == *number {
                return false;
            }
            slot = (slot + 1) & (table.len() - 1);
        }
        table[slot] = place;
        true
    })
}

/// The length up to which a text is short, in bytes.
const SHORT: usize = 8;

/// Returns `true` if a byte is a character of its own that JSON does not escape.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Returns the number whose canonical decimal form is `text`.
fn decimal(text: &[u8]) -> Option<i128> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    match digits {
        b"0" if sign == 1 => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < MOST_DIGITS && rest.iter().all(u8::is_ascii_digit) => {
            let number = digits
                .iter()
                .try_fold(0_i64, |number, digit| number.checked_mul(10)?.checked_add((digit - b'0').into()));
            match number {
                Some(number) => Some(i128::from(sign * number)),
                // Numbers of 128 bits are slow.
                None => std::str::from_utf8(text).ok()?.parse().ok(),
            }
        }
        _ => None,
    }
}

/// The most digits of an integer of 128 bits.
const MOST_DIGITS: usize = 39;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::are_unique;

    proptest! {
        #[test]
        fn equal_numbers_are_found(numbers in prop::collection::vec(-300_i128..300, 2..60), wide in any::<i128>()) {
            let numbers: Vec<_> = numbers.into_iter().map(|number| number.wrapping_mul(wide | 1)).collect();
            prop_assert_eq!(are_unique(&numbers), numbers.iter().collect::<HashSet<_>>().len() == numbers.len());
        }
    }
}
