//! The start of a MessagePack value (<https://github.com/msgpack/msgpack/blob/master/spec.md>).

/// The start of a value: a complete scalar, or the type and length of a string or collection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Marker {
    Nil,
    Bool(bool),
    Uint(u64),
    /// Negative.
    Int(i64),
    F32(f32),
    F64(f64),
    /// The number of bytes that follow, as in `Bin` and `Ext`. Old encoders, which do not know `Bin`, use it for any
    /// bytes.
    Str(u32),
    Bin(u32),
    Ext(u32),
    /// The number of values that follow.
    Array(u32),
    /// The number of pairs of values that follow.
    Map(u32),
}

/// Why a marker cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkerError {
    /// More bytes are needed.
    Incomplete,
    /// 0xc1, which MessagePack never uses.
    Reserved,
}

impl Marker {
    /// Reads the marker at the front. Also returns its length, in bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize), MarkerError> {
        let (&first, rest) = bytes.split_first().ok_or(MarkerError::Incomplete)?;
        let (marker, more) = match first {
            0x00..=0x7f => (Self::Uint(first.into()), 0),
            0x80..=0x8f => (Self::Map((first & 0x0f).into()), 0),
            0x90..=0x9f => (Self::Array((first & 0x0f).into()), 0),
            0xa0..=0xbf => (Self::Str((first & 0x1f).into()), 0),
            0xc0 => (Self::Nil, 0),
            0xc1 => return Err(MarkerError::Reserved),
            0xc2 | 0xc3 => (Self::Bool(first == 0xc3), 0),
            0xc4 => (Self::Bin(u8::from_be_bytes(take(rest)?).into()), 1),
            0xc5 => (Self::Bin(u16::from_be_bytes(take(rest)?).into()), 2),
            0xc6 => (Self::Bin(u32::from_be_bytes(take(rest)?)), 4),
            // The type of an extension follows its length.
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
        Ok((marker, 1 + more))
    }

    fn int(number: i64) -> Self {
        u64::try_from(number).map_or(Self::Int(number), Self::Uint)
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<[u8; N], MarkerError> {
    bytes.first_chunk().copied().ok_or(MarkerError::Incomplete)
}
