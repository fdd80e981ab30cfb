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
}
