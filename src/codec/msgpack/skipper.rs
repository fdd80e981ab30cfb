//! Skips one value without decoding it.

use super::marker::{Marker, MarkerError};

/// The position within one value that is received in pieces. Uses constant memory, however deep the value is nested.
#[derive(Debug)]
pub(super) struct Skipper {
    /// Number of values that remain.
    values: u64,
    /// Number of bytes of the current one that remain.
    bytes: u64,
}

impl Skipper {
    pub(super) fn new() -> Self {
        Self { values: 1, bytes: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.min_remaining() == 0
    }

    /// Returns the minimum number of bytes that remain.
    pub(super) fn min_remaining(&self) -> u64 {
        self.values.saturating_add(self.bytes)
    }

    /// Continues with `bytes` and returns how many of them are skipped. Stops after the value, or before an incomplete
    /// marker.
    ///
    /// # Errors
    /// At a byte that cannot start a value.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, MarkerError> {
        let mut rest = bytes;
        loop {
            let skipped = usize::try_from(self.bytes).map_or(rest.len(), |bytes| bytes.min(rest.len()));
            self.bytes -= skipped as u64;
            rest = &rest[skipped..];
            if self.bytes == 0 {
                rest = self.skip_short(rest);
            }
            if self.values == 0 || self.bytes > 0 {
                break;
            }
            match Marker::read(rest) {
                Err(MarkerError::Incomplete) => break,
                Err(MarkerError::Reserved) => return Err(MarkerError::Reserved),
                Ok((marker, length)) => {
                    rest = &rest[length..];
                    self.values -= 1;
                    match marker {
                        Marker::Str(length) | Marker::Bin(length) | Marker::Ext(length) => {
                            self.bytes = length.into();
                        }
                        Marker::Array(values) => self.values = self.values.saturating_add(values.into()),
                        Marker::Map(pairs) => {
                            self.values = self.values.saturating_add(2 * u64::from(pairs));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Skips values of one byte and the markers of small collections, of which most fit into a message. Returns the
    /// remainder.
    fn skip_short<'a>(&mut self, mut rest: &'a [u8]) -> &'a [u8] {
        let mut values = self.values;
        while values > 0
            && let [first, tail @ ..] = rest
        {
            match first {
                0x00..=0x7f | 0xa0 | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => values -= 1,
                0x80..=0x8f => values = (values - 1).saturating_add(2 * u64::from(first & 0x0f)),
                0x90..=0x9f => values = (values - 1).saturating_add(u64::from(first & 0x0f)),
                _ => break,
            }
            rest = tail;
        }
        self.values = values;
        rest
    }
}
