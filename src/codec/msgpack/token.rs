//! MessagePack's smallest parts (<https://github.com/msgpack/msgpack/blob/master/spec.md>), and the way over a value.

/// What a value begins with. Of a string or an array only the length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token {
    Nil,
    Bool(bool),
    Uint(u64),
    /// Below zero.
    Int(i64),
    F32(f32),
    F64(f64),
    /// So many bytes follow, as also in `Bin` and `Ext`. Before there was `Bin`, these were any bytes.
    Str(u32),
    Bin(u32),
    Ext(u32),
    /// So many values follow.
    Array(u32),
    /// Twice as many values follow.
    Map(u32),
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoToken {
    /// More bytes must come first.
    Short,
    /// 0xc1, which MessagePack never uses.
    Reserved,
}

impl Token {
    /// Reads the token at the front, and how many bytes it takes.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize), NoToken> {
        let (&first, rest) = bytes.split_first().ok_or(NoToken::Short)?;
        let (token, more) = match first {
            0x00..=0x7f => (Self::Uint(first.into()), 0),
            0x80..=0x8f => (Self::Map((first & 0x0f).into()), 0),
            0x90..=0x9f => (Self::Array((first & 0x0f).into()), 0),
            0xa0..=0xbf => (Self::Str((first & 0x1f).into()), 0),
            0xc0 => (Self::Nil, 0),
            0xc1 => return Err(NoToken::Reserved),
            0xc2 | 0xc3 => (Self::Bool(first == 0xc3), 0),
            0xc4 => (Self::Bin(u8::from_be_bytes(take(rest)?).into()), 1),
            0xc5 => (Self::Bin(u16::from_be_bytes(take(rest)?).into()), 2),
            0xc6 => (Self::Bin(u32::from_be_bytes(take(rest)?)), 4),
            // With the type of an extension, which stands behind its length.
            0xc7 => (Self::Ext(take::<2>(rest)?[0].into()), 2),
            0xc8 => (Self::Ext(u16::from_be_bytes(take(&take::<3>(rest)?)?).into()), 3),
            0xc9 => (Self::Ext(u32::from_be_bytes(take(&take::<5>(rest)?)?)), 5),
            0xca => (Self::F32(f32::from_be_bytes(take(rest)?)), 4),
            0xcb => (Self::F64(f64::from_be_bytes(take(rest)?)), 8),
            0xcc => (Self::Uint(u8::from_be_bytes(take(rest)?).into()), 1),
            0xcd => (Self::Uint(u16::from_be_bytes(take(rest)?).into()), 2),
            0xce => (Self::Uint(u32::from_be_bytes(take(rest)?).into()), 4),
            0xcf => (Self::Uint(u64::from_be_bytes(take(rest)?)), 8),
            0xd0 => (Self::int(i8::from_be_bytes(take(rest)?).into()), 1),
            0xd1 => (Self::int(i16::from_be_bytes(take(rest)?).into()), 2),
            0xd2 => (Self::int(i32::from_be_bytes(take(rest)?).into()), 4),
            0xd3 => (Self::int(i64::from_be_bytes(take(rest)?)), 8),
            0xd4..=0xd8 => take::<1>(rest).map(|_type| (Self::Ext(1 << (first - 0xd4)), 1))?,
            0xd9 => (Self::Str(u8::from_be_bytes(take(rest)?).into()), 1),
            0xda => (Self::Str(u16::from_be_bytes(take(rest)?).into()), 2),
            0xdb => (Self::Str(u32::from_be_bytes(take(rest)?)), 4),
            0xdc => (Self::Array(u16::from_be_bytes(take(rest)?).into()), 2),
            0xdd => (Self::Array(u32::from_be_bytes(take(rest)?)), 4),
            0xde => (Self::Map(u16::from_be_bytes(take(rest)?).into()), 2),
            0xdf => (Self::Map(u32::from_be_bytes(take(rest)?)), 4),
            0xe0..=0xff => (Self::Int(first.cast_signed().into()), 0),
        };
        Ok((token, 1 + more))
    }

    fn int(number: i64) -> Self {
        u64::try_from(number).map_or(Self::Int(number), Self::Uint)
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<[u8; N], NoToken> {
    bytes.first_chunk().copied().ok_or(NoToken::Short)
}

/// The way over one value, in as many steps as it comes in pieces. However deep the value is, it takes no memory.
#[derive(Debug)]
pub(super) struct Walk {
    /// Values still to come.
    values: u64,
    /// Bytes of the last one still to come.
    bytes: u64,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { values: 1, bytes: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.least() == 0
    }

    /// How many bytes are still to come, at least.
    pub(super) fn least(&self) -> u64 {
        self.values.saturating_add(self.bytes)
    }

    /// Goes on over `bytes` and tells over how many. It stops behind the value, or before a token that is not
    /// all there.
    ///
    /// # Errors
    /// At a byte that begins no value.
    pub(super) fn over(&mut self, bytes: &[u8]) -> Result<usize, NoToken> {
        let mut rest = bytes;
        loop {
            let known = usize::try_from(self.bytes).map_or(rest.len(), |bytes| bytes.min(rest.len()));
            self.bytes -= known as u64;
            rest = &rest[known..];
            if self.values == 0 || self.bytes > 0 {
                break;
            }
            match Token::read(rest) {
                Err(NoToken::Short) => break,
                Err(NoToken::Reserved) => return Err(NoToken::Reserved),
                Ok((token, length)) => {
                    rest = &rest[length..];
                    self.values -= 1;
                    match token {
                        Token::Str(length) | Token::Bin(length) | Token::Ext(length) => {
                            self.bytes = length.into();
                        }
                        Token::Array(values) => self.values = self.values.saturating_add(values.into()),
                        Token::Map(pairs) => {
                            self.values = self.values.saturating_add(2 * u64::from(pairs));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }
}
