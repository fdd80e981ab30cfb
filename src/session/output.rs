//! The output buffer of a session.

use std::collections::VecDeque;

/// An empty buffer with a larger capacity is dropped, in bytes.
const MAX_KEPT_CAPACITY: usize = 512;
/// Written bytes that may stay in front of unwritten ones before the buffer is compacted.
const COMPACT_THRESHOLD: usize = 16 * 1024;

/// Encoded messages that are not written yet.
#[derive(Debug)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are written.
    written: usize,
    /// Bytes written before those in `bytes`.
    flushed: u64,
    /// The ends of messages in `bytes`, if the transport sends one message a frame.
    ends: VecDeque<usize>,
    framed: bool,
}

impl Output {
    /// Creates an empty buffer, which keeps message boundaries if the transport is `framed`.
    pub(super) fn new(framed: bool) -> Self {
        Self { bytes: Vec::new(), written: 0, flushed: 0, ends: VecDeque::new(), framed }
    }

    /// Releases unused memory.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Returns the number of unwritten bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Returns the number of bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.flushed + self.written as u64
    }

    /// Returns the position at which the next message begins, counted from the first byte written.
    pub(super) fn position(&self) -> u64 {
        self.flushed + self.bytes.len() as u64
    }

    /// Adds the message that `write` appends, if any, and returns the result of `write`.
    pub(super) fn message<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.bytes.len();
        let result = write(&mut self.bytes);
        if self.framed && self.bytes.len() > before {
            self.ends.push_back(self.bytes.len());
        }
        result
    }

    /// Removes and returns all unwritten bytes.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.flushed += bytes.len() as u64;
        bytes.drain(..std::mem::take(&mut self.written));
        self.ends.clear();
        bytes
    }

    /// Returns the next message if the transport is framed, and all unwritten bytes otherwise.
    pub(super) fn front(&self) -> &[u8] {
        &self.bytes[self.written..self.ends.front().copied().unwrap_or(self.bytes.len())]
    }

    /// Removes `bytes` bytes from the front, which are written.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.written += bytes;
        if self.ends.front() == Some(&self.written) {
            self.ends.pop_front();
        }
        if self.written == self.bytes.len() {
            self.flushed += self.written as u64;
            self.written = 0;
            self.bytes.clear();
            self.bytes = reuse_or_drop(std::mem::take(&mut self.bytes));
        } else if self.written > COMPACT_THRESHOLD && self.written > self.bytes.len() / 2 {
            // Moves at most as many bytes as were written since the last time.
            self.bytes.drain(..self.written);
            self.ends.iter_mut().for_each(|end| *end -= self.written);
            self.flushed += self.written as u64;
            self.written = 0;
        }
    }
}

/// Returns `buffer`, or a new one if it is empty and large.
pub(super) fn reuse_or_drop(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.is_empty() && buffer.capacity() > MAX_KEPT_CAPACITY { Vec::new() } else { buffer }
}
