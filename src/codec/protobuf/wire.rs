//! The wire format of protobuf (<https://protobuf.dev/programming-guides/encoding/>), for the few messages of this
//! node's own services.

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Of any integer type, `bool` or an enumeration.
    Varint(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// Of 32 or 64 bits, which none of these messages has.
    Fixed,
}

/// The fields of a message, in the order in which they were sent. Ends with `Err` if the message is invalid.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// The message is no protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl<'a> Fields<'a> {
    /// Reads a message.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// Returns what is left of the message.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn varint(&mut self) -> Result<u64, Invalid> {
        let mut value = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(Invalid)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Invalid> {
        let length = usize::try_from(length).map_err(|_| Invalid)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Invalid)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Invalid> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Invalid)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Invalid),
        };
        if number == 0 { Err(Invalid) } else { Ok((number, value)) }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Value<'a> {
    /// Returns a text, or `None` if it is none.
    pub fn text(self) -> Option<&'a str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Returns an integer, or `None` if it is none.
    pub fn integer(self) -> Option<u64> {
        match self {
            Self::Varint(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the bytes of a text, of bytes or of a message.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends an integer field. Unlike [`put_bytes`], always, so that a field with presence may be 0.
pub fn put_integer(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

/// Appends a field of text, bytes or a message.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX] {
            let mut out = Vec::new();
            put_integer(&mut out, 3, number);
            put_bytes(&mut out, 1 << 20, "ä".as_bytes());
            let fields: Result<Vec<_>, _> = Fields::of(&out).collect();
            let expected = vec![(3, Value::Varint(number)), (1 << 20, Value::Bytes("ä".as_bytes()))];
            assert_eq!(fields, Ok(expected));
        }
    }

    #[test]
    fn invalid_messages_end_with_an_error() {
        for bytes in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\x05ab",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0b\x0c",
            b"\x00\x00",
            b"\x09\0\0\0",
            b"\x0d\0\0",
        ] {
            assert_eq!(Fields::of(bytes).last(), Some(Err(Invalid)), "{bytes:?}");
        }
        assert_eq!(Fields::of(b"").next(), None);
        assert_eq!(Fields::of(b"\x09\0\0\0\0\0\0\0\0\x15\0\0\0\0").filter(Result::is_ok).count(), 2);
    }
}
