//! Batches, whose replies are sent together.

use rustc_hash::FxHashMap;

/// Identifies a batch within its connection.
pub(super) type BatchId = u64;

/// The unanswered batches of one connection.
#[derive(Debug, Default)]
pub(super) struct Batches {
    last_id: BatchId,
    open: FxHashMap<BatchId, Batch>,
    /// The size of all replies held.
    bytes: usize,
}

/// The replies to a batch, held until every part is finished.
#[derive(Debug)]
struct Batch {
    unfinished: usize,
    replies: Vec<u8>,
}

impl Batches {
    /// Opens a batch. It counts as an unfinished part of its own until all its messages are handled.
    pub(super) fn open(&mut self) -> BatchId {
        self.last_id += 1;
        self.open.insert(self.last_id, Batch { unfinished: 1, replies: Vec::new() });
        self.last_id
    }

    /// Returns `true` if no batch is unanswered.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Adds a part that will be answered.
    pub(super) fn expect(&mut self, batch: BatchId) {
        self.open.entry(batch).and_modify(|batch| batch.unfinished += 1);
    }

    /// Adds the reply that `write` appends.
    pub(super) fn reply(&mut self, batch: BatchId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Batch { replies, .. }) = self.open.get_mut(&batch) {
            let before = replies.len();
            replies.push(if replies.is_empty() { b'[' } else { b',' });
            write(replies);
            self.bytes += replies.len() - before;
        }
    }

    /// Finishes one part. After the last part, returns the replies as one array, if there are any.
    pub(super) fn finish_part(&mut self, batch: BatchId) -> Option<Vec<u8>> {
        let open = self.open.get_mut(&batch)?;
        open.unfinished -= 1;
        if open.unfinished > 0 {
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

    /// Returns the size of all replies held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Releases unused memory.
    pub(super) fn shrink(&mut self) {
        self.open.shrink_to_fit();
    }
}
