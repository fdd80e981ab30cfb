//! Replies to output: alone or in a batch, within the limit on a message.

use super::batches::BatchId;
use super::{Session, SessionError};
use crate::codec::Codec;
use crate::message::{Answer, Fault, Id, code};
use crate::metrics::Metrics;

/// Bytes by which the message of an error may exceed the limit, its data not included.
const ERROR_MESSAGE_ALLOWANCE: usize = 128;
/// Bytes by which an encoded reply may exceed the limit: an error message, the id, and member names.
const ENVELOPE_ALLOWANCE: usize = ERROR_MESSAGE_ALLOWANCE + 2 * Id::MAX_LEN;

impl Session {
    /// Writes a reply to the output, or adds it to its batch.
    pub(super) fn write_reply(&mut self, batch: Option<BatchId>, id: &Id<'_>, outcome: Answer<'_>) {
        self.close_on_caller_error(outcome);
        let (codec, limit, metrics) = (&self.codec, self.limits.message, self.registry.metrics());
        match batch {
            None => self.output.message(|out| {
                let start = out.len();
                encode_reply(codec, out, limit, metrics, id, outcome);
                if !codec.finish(out, start) {
                    metrics.unsent.inc();
                }
            }),
            Some(batch) => {
                self.batches.reply(batch, |out| {
                    encode_reply(codec, out, limit.saturating_sub(out.len()), metrics, id, outcome);
                });
                self.finish_batch_part(batch);
            }
        }
    }

    /// Writes a reply unless it is to a notification, which has no `id`.
    pub(super) fn write_reply_unless_notification(
        &mut self,
        batch: Option<BatchId>,
        id: Option<&Id<'_>>,
        outcome: Answer<'_>,
    ) {
        match id {
            Some(id) => self.write_reply(batch, id, outcome),
            None => self.close_on_caller_error(outcome),
        }
    }

    /// Ignores further input after an error of the caller's if the dialect cannot express errors.
    fn close_on_caller_error(&mut self, outcome: Answer<'_>) {
        if self.codec.sends_results_only() && outcome.is_err_and(is_caller_error) {
            self.error.get_or_insert(SessionError::CallerError);
        }
    }

    /// Finishes one part of a batch. After the last part, writes the replies if it has any.
    pub(super) fn finish_batch_part(&mut self, batch: BatchId) {
        if let Some(replies) = self.batches.finish_part(batch) {
            let codec = &self.codec;
            self.output.message(|out| {
                let start = out.len();
                out.extend_from_slice(&replies);
                codec.finish(out, start);
            });
        }
    }
}

/// Appends a reply, or an error if the reply exceeds `limit` bytes.
pub(super) fn encode_reply(
    codec: &Codec,
    out: &mut Vec<u8>,
    limit: usize,
    metrics: &Metrics,
    id: &Id<'_>,
    outcome: Answer<'_>,
) {
    let start = out.len();
    let mut encoded = match oversize(outcome, limit) {
        None => codec.encode_reply(out, id, outcome),
        Some(size) => codec.encode_reply(out, id, Err(&reply_too_large(size, limit, codec, metrics))),
    };
    // Dialects other than JSON-RPC may need more bytes for the same reply.
    let size = out.len() - start;
    if size > limit.saturating_add(ENVELOPE_ALLOWANCE) {
        out.truncate(start);
        encoded = codec.encode_reply(out, id, Err(&reply_too_large(size, limit, codec, metrics)));
    }
    if !encoded {
        metrics.unsent.inc();
    }
}

/// Returns the error sent in place of a reply of `size` bytes.
pub(super) fn reply_too_large(size: usize, limit: usize, codec: &Codec, metrics: &Metrics) -> Fault {
    metrics.replies_too_large.inc();
    let name = codec.limit_name();
    let message = format!("a reply of {size} bytes exceeds the remaining limit of {limit} bytes ({name})");
    Fault::new(code::REPLY_TOO_LARGE, message)
}

/// Returns the size of an outcome that exceeds `limit`. The message of an error may exceed it by
/// [`ERROR_MESSAGE_ALLOWANCE`].
pub(super) fn oversize(outcome: Answer<'_>, limit: usize) -> Option<usize> {
    let (data, message) = match outcome {
        Ok(result) => (result.len(), 0),
        Err(Fault { data, message, .. }) => (data.as_ref().map_or(0, |data| data.get().len()), message.len()),
    };
    (data > limit || data + message > limit + ERROR_MESSAGE_ALLOWANCE).then_some(data + message)
}

/// Returns `true` if a fault is the caller's, on which a dialect without error replies closes the connection.
fn is_caller_error(fault: &Fault) -> bool {
    matches!(
        fault.code,
        code::PARSE
            | code::INVALID_REQUEST
            | code::INVALID_PARAMS
            | code::UNKNOWN_FUNCTION
            | code::REQUEST_TOO_LARGE
            | code::DENIED
    )
}
