//! The length prefix and the limits of a Leaf gate.

use crate::codec::frame::FrameResult;

/// The settings of a Leaf gate (`LenMsgLen`, `LittleEndian`, `MinMsgLen`, `MaxMsgLen`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafFraming {
    /// Size of the length prefix.
    pub length_bytes: LengthBytes,
    /// Byte order of the length prefix.
    pub byte_order: ByteOrder,
    /// Minimum length of a message, in bytes. As in Leaf, `min` and `max` are clamped to what the length prefix can
    /// express.
    pub min: u32,
    /// Maximum length of a message, in bytes.
    pub max: u32,
    /// Messages have a length prefix. `true` over TCP, `false` over WebSocket.
    pub length_prefixed: bool,
}

/// Size of the length prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LengthBytes {
    One = 1,
    Two = 2,
    Four = 4,
}

/// Byte order of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
}

impl Default for LeafFraming {
    fn default() -> Self {
        Self {
            length_bytes: LengthBytes::Two,
            byte_order: ByteOrder::Big,
            min: 1,
            max: 4096,
            length_prefixed: true,
        }
    }
}

impl LeafFraming {
    /// Finds the next message of a stream.
    pub fn next_frame(&self, buffer: &[u8]) -> FrameResult {
        let start = self.length_bytes as usize;
        let Some((prefix, rest)) = buffer.split_at_checked(start) else { return FrameResult::Incomplete(0) };
        let add = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        let length = match self.byte_order {
            ByteOrder::Big => prefix.iter().fold(0, add),
            ByteOrder::Little => prefix.iter().rev().fold(0, add),
        };
        if let Err(reason) = self.check_length(u64::from(length)) {
            return FrameResult::Invalid(reason.into());
        }
        let length = length as usize;
        if rest.len() < length {
            FrameResult::Incomplete(0)
        } else {
            FrameResult::Frame(start..start + length, start + length)
        }
    }

    /// Returns the size of the prefix of each message, in bytes.
    pub(super) fn prefix_len(&self) -> usize {
        if self.length_prefixed { self.length_bytes as usize } else { 0 }
    }

    /// Fills `prefix`, which has the [size of the prefix](Self::prefix_len), with a length that has been checked.
    pub(super) fn write_prefix(&self, prefix: &mut [u8], length: u64) {
        // The length is within the limits, so the bytes that are cut off are zero.
        let bytes = length.to_be_bytes();
        prefix.copy_from_slice(&bytes[bytes.len() - prefix.len()..]);
        if self.byte_order == ByteOrder::Little {
            prefix.reverse();
        }
    }

    /// Checks the length of a message against the limits.
    pub(super) fn check_length(&self, length: u64) -> Result<(), String> {
        let expressible = match self.length_bytes {
            LengthBytes::One => u8::MAX.into(),
            LengthBytes::Two => u16::MAX.into(),
            LengthBytes::Four => u32::MAX,
        };
        let (min, max) = (self.min.clamp(1, expressible), self.max.min(expressible));
        if (u64::from(min)..=u64::from(max)).contains(&length) {
            return Ok(());
        }
        Err(format!("a message of {length} bytes; the gate takes {min} to {max}"))
    }
}
