//! Batches whose replies go out together.

use rustc_hash::FxHashMap;

use crate::route::CallId;

/// The batches of one connection that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Batches {
    next: CallId,
    open: FxHashMap<CallId, Batch>,
    /// Of all replies that are kept.
    bytes: usize,
}

/// The replies to a batch, gathered until none is missing.
#[derive(Debug)]
struct Batch {
    missing: usize,
    replies: Vec<u8>,
}

impl Batches {
    /// Begins a batch. It counts as a part of its own until all its messages are looked at.
    pub(super) fn open(&mut self) -> CallId {
        self.next += 1;
        self.open.insert(self.next, Batch { missing: 1, replies: Vec::new() });
        self.next
    }

    /// Says that a batch has one more part that will be answered.
    pub(super) fn expect(&mut self, batch: CallId) {
        self.open.entry(batch).and_modify(|batch| batch.missing += 1);
    }

    /// Keeps one reply, which `write` appends.
    pub(super) fn reply(&mut self, batch: CallId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Batch { replies, .. }) = self.open.get_mut(&batch) {
            let before = replies.len();
            replies.push(if replies.is_empty() { b'[' } else { b',' });
            write(replies);
            self.bytes += replies.len() - before;
        }
    }

    /// One part is dealt with; after the last, returns the replies as one array if there are any.
    pub(super) fn part_done(&mut self, batch: CallId) -> Option<Vec<u8>> {
        let open = self.open.get_mut(&batch)?;
        open.missing -= 1;
        if open.missing > 0 {
            return None;
        }
        let mut replies = self.open.remove(&batch)?.replies;
        self.bytes -= replies.len();
        if replies.is_empty() {
            return None;
        }
        replies.push(b']');
        Some(replies)
    }

    /// Returns how many bytes of replies are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back memory that is not in use.
    pub(super) fn rest(&mut self) {
        self.open.shrink_to_fit();
    }
}
