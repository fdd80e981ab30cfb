//! Reads values one after the other.

use super::marker::{Marker, MarkerError};
use super::skipper::Skipper;
use crate::message::{Fault, code};

/// Reads consecutive values.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads the marker of a value.
    pub(super) fn marker(&mut self) -> Result<Marker, Fault> {
        let (marker, length) = Marker::read(self.rest).map_err(into_fault)?;
        self.rest = &self.rest[length..];
        Ok(marker)
    }

    /// Reads the bytes of a string or of binary data.
    pub(super) fn bytes(&mut self, length: u32) -> Result<&'a [u8], Fault> {
        let (bytes, rest) =
            self.rest.split_at_checked(length as usize).ok_or_else(|| into_fault(MarkerError::Incomplete))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads a value and returns its text if it is a string or binary of valid UTF-8.
    pub(super) fn text(&mut self) -> Result<Option<&'a str>, Fault> {
        let before = *self;
        if let Marker::Str(length) | Marker::Bin(length) = self.marker()? {
            return Ok(std::str::from_utf8(self.bytes(length)?).ok());
        }
        *self = before;
        self.skip().map(|()| None)
    }

    /// Skips a value.
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        let mut skipper = Skipper::new();
        let skipped = skipper.advance(self.rest).map_err(into_fault)?;
        self.rest = &self.rest[skipped..];
        if skipper.is_done() { Ok(()) } else { Err(into_fault(MarkerError::Incomplete)) }
    }
}

pub(super) fn into_fault(error: MarkerError) -> Fault {
    let message = match error {
        MarkerError::Incomplete => "the message ends within a value",
        MarkerError::Reserved => "byte 0xc1, which MessagePack does not use",
    };
    Fault::new(code::PARSE, message)
}
