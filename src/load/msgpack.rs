//! The part of MessagePack that the load generator needs: encoding parameters and finding the end of a value.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The bytes are not MessagePack.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidMsgpack;

/// Appends a JSON value.
pub(super) fn write(json: &str, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    Encoder(out).deserialize(&mut serde_json::Deserializer::from_str(json))
}

/// Appends a string.
pub(super) fn write_str(text: &str, out: &mut Vec<u8>) {
    match text.len() {
        len @ ..32 => out.push(0xa0 | len as u8),
        len => write_len(len, [0xda, 0xdb], out),
    }
    out.extend(text.as_bytes());
}

/// Appends the head of an array.
pub(super) fn write_array_len(len: usize, out: &mut Vec<u8>) {
    match len {
        ..16 => out.push(0x90 | len as u8),
        _ => write_len(len, [0xdc, 0xdd], out),
    }
}

/// Appends what it deserializes.
struct Encoder<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Encoder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Encoder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push(0xc0);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.push(0xc2 + u8::from(value));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        write_uint(number, self.0);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.push(0xd3);
        self.0.extend(number.to_be_bytes());
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.push(0xcb);
        self.0.extend(number.to_be_bytes());
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        write_str(text, self.0);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let (mut len, mut elements) = (0, Vec::new());
        while array.next_element_seed(Encoder(&mut elements))?.is_some() {
            len += 1;
        }
        write_array_len(len, self.0);
        self.0.append(&mut elements);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let (mut len, mut members) = (0, Vec::new());
        while object.next_key_seed(Encoder(&mut members))?.is_some() {
            object.next_value_seed(Encoder(&mut members))?;
            len += 1;
        }
        match len {
            ..16 => self.0.push(0x80 | len as u8),
            _ => write_len(len, [0xde, 0xdf], self.0),
        }
        self.0.append(&mut members);
        Ok(())
    }
}

fn write_uint(number: u64, out: &mut Vec<u8>) {
    match number {
        0..0x80 => out.push(number as u8),
        _ => {
            out.push(0xcf);
            out.extend(number.to_be_bytes());
        }
    }
}

/// Appends a 16-bit or a 32-bit length after its marker.
fn write_len(len: usize, [short, long]: [u8; 2], out: &mut Vec<u8>) {
    if let Ok(len) = u16::try_from(len) {
        out.push(short);
        out.extend(len.to_be_bytes());
    } else {
        out.push(long);
        out.extend((len as u32).to_be_bytes());
    }
}

/// Returns the length of the first value in bytes, or `None` if it is incomplete.
pub(super) fn value_len(input: &[u8]) -> Result<Option<usize>, InvalidMsgpack> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let bytes = input.get(at..)?.get(..bytes)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let mut at = 0;
    // Values still to be read. Nesting needs no stack, because only the end matters.
    let mut left: usize = 1;
    while left > 0 {
        let Some(&marker) = input.get(at) else { return Ok(None) };
        at += 1;
        left -= 1;
        // The width of the length field, bytes per unit of length, fixed bytes, and values per unit of length.
        let (len_bytes, scale, fixed, values) = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0, 0, 0),
            0x80..=0x8f => (0, 0, 0, 2 * usize::from(marker & 0x0f)),
            0x90..=0x9f => (0, 0, 0, usize::from(marker & 0x0f)),
            0xa0..=0xbf => (0, 0, usize::from(marker & 0x1f), 0),
            0xc1 => return Err(InvalidMsgpack),
            0xc4 | 0xd9 => (1, 1, 0, 0),
            0xc5 | 0xda => (2, 1, 0, 0),
            0xc6 | 0xdb => (4, 1, 0, 0),
            0xc7 => (1, 1, 1, 0),
            0xc8 => (2, 1, 1, 0),
            0xc9 => (4, 1, 1, 0),
            0xcc | 0xd0 => (0, 0, 1, 0),
            0xcd | 0xd1 => (0, 0, 2, 0),
            0xca | 0xce | 0xd2 => (0, 0, 4, 0),
            0xcb | 0xcf | 0xd3 => (0, 0, 8, 0),
            0xd4..=0xd8 => (0, 0, 1 + (1 << (marker - 0xd4)), 0),
            0xdc => (2, 0, 0, 1),
            0xdd => (4, 0, 0, 1),
            0xde => (2, 0, 0, 2),
            0xdf => (4, 0, 0, 2),
        };
        if len_bytes == 0 {
            at += fixed;
            left += values;
        } else {
            let Some(len) = number(at, len_bytes) else { return Ok(None) };
            at = (at + len_bytes + fixed).saturating_add(len.saturating_mul(scale));
            left = left.saturating_add(len.saturating_mul(values));
        }
    }
    Ok((at <= input.len()).then_some(at))
}

/// Reads an unsigned integer and returns it with its encoded length in bytes.
pub(super) fn uint(input: &[u8]) -> Option<(u64, usize)> {
    let bytes = match *input.first()? {
        small @ 0..0x80 => return Some((small.into(), 1)),
        0xcc => 1,
        0xcd => 2,
        0xce => 4,
        0xcf => 8,
        _ => return None,
    };
    let digits = input.get(1..1 + bytes)?;
    Some((digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)), 1 + bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_the_length_of_written_values_and_of_no_prefix() {
        let long = "x".repeat(70_000);
        for value in [
            json!(null),
            json!([true, false, 0, 127, 128, u64::MAX, -1, i64::MIN, 1.5]),
            json!(["", "a".repeat(31), "a".repeat(32), long]),
            json!({ "a": { "b": [1, [2, [3, {}]]] }, "c": [] }),
            json!(vec![7; 15]),
            json!(vec![7; 16]),
            json!(vec![7; 70_000]),
            json!((0..40).map(|n| (n.to_string(), n)).collect::<std::collections::BTreeMap<_, _>>()),
        ] {
            let mut bytes = Vec::new();
            write(&value.to_string(), &mut bytes).unwrap();
            let len = bytes.len();
            assert_eq!(value_len(&bytes), Ok(Some(len)), "{value}");
            assert_eq!(value_len(&bytes[..len - 1]), Ok(None), "{value}");
            bytes.push(0xc0);
            assert_eq!(value_len(&bytes), Ok(Some(len)), "{value}");
        }
    }

    #[test]
    fn finds_the_length_of_values_in_other_encodings() {
        for (bytes, len) in [
            (&b"\xd9\x02ab\x00"[..], Some(4)),
            (b"\xc4\x01a", Some(3)),
            (b"\xd6\x01abcd", Some(6)),
            (b"\xc7\x02\x01ab", Some(5)),
            (b"\x92\xcd\x01", None),
            (b"\xdd\xff\xff\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(value_len(bytes), Ok(len), "{bytes:?}");
        }
        assert_eq!(value_len(b"\x91\xc1"), Err(InvalidMsgpack));
        assert_eq!(uint(b"\xcd\x01\x00"), Some((256, 3)));
        assert_eq!(uint(b"\xa1a"), None);
    }
}
