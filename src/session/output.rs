//! Bytes on their way out.

use std::collections::VecDeque;

/// A buffer larger than this is given back when it is empty.
const KEPT: usize = 512;
/// So many bytes that have gone out may stay in front of those that have not.
const GONE: usize = 16 * 1024;

/// Messages that wait to be written.
#[derive(Debug)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many of `bytes` have gone out.
    sent: usize,
    /// Where messages end in `bytes`, if the transport wants them one by one.
    ends: VecDeque<usize>,
    framed: bool,
}

impl Output {
    /// Keeps messages apart if they are `framed`, one by one, by the transport.
    pub(super) fn new(framed: bool) -> Self {
        Self { bytes: Vec::new(), sent: 0, ends: VecDeque::new(), framed }
    }

    /// Gives back memory that is not in use.
    pub(super) fn rest(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Takes the message that `write` appends, if it does; returns what that does.
    pub(super) fn message<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.bytes.len();
        let written = write(&mut self.bytes);
        if self.framed && self.bytes.len() > before {
            self.ends.push_back(self.bytes.len());
        }
        written
    }

    /// Takes all that has not gone out.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..std::mem::take(&mut self.sent));
        self.ends.clear();
        bytes
    }

    pub(super) fn front(&self) -> &[u8] {
        &self.bytes[self.sent..self.ends.front().copied().unwrap_or(self.bytes.len())]
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.ends.front() == Some(&self.sent) {
            self.ends.pop_front();
        }
        if self.sent == self.bytes.len() {
            self.sent = 0;
            self.bytes.clear();
            self.bytes = kept(std::mem::take(&mut self.bytes));
        } else if self.sent > GONE && self.sent > self.bytes.len() / 2 {
            // Moves at most as many bytes as have gone since the last time.
            self.bytes.drain(..self.sent);
            self.ends.iter_mut().for_each(|end| *end -= self.sent);
            self.sent = 0;
        }
    }
}

/// The buffer to go on with: this one, unless it is empty and large.
pub(super) fn kept(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.is_empty() && buffer.capacity() > KEPT { Vec::new() } else { buffer }
}
