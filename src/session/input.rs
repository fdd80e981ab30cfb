//! Input to messages: framing, limits, and peers that send no valid messages.

use std::time::Instant;

use memchr::memchr;

use super::batches::BatchId;
use super::{Session, SessionError, TIME_BUDGET, output};
use crate::codec::{DecodeError, Decoded, FrameResult};
use crate::message::{Fault, Id, Message, Meta, Request, code};

/// Messages of a stream that are handled before other connections run.
const MESSAGE_BUDGET: u32 = 64;

/// The error of a first line that starts with neither bracket.
const NOT_JSON: &str = "not JSON: a message starts with { or [";

impl Session {
    /// Dispatches the requests that were waiting for space, and processes more input.
    pub(super) fn process(&mut self, now: Instant) {
        self.budget_end = self.clock.max(now) + TIME_BUDGET;
        self.dispatch_queued();
        self.yielded = false;
        let has_input =
            !self.input.is_empty() || (self.codec.is_skipping() && !self.peer_deadlines.expects_message());
        if has_input && !self.codec.is_framed() {
            self.decode_stream(now);
            // A cancellation may have freed space.
            self.dispatch_queued();
        }
        self.yielded |= self.has_deferred_requests();
    }

    /// Handles the complete messages of the input.
    fn decode_stream(&mut self, now: Instant) {
        let mut input = std::mem::take(&mut self.input);
        let (mut at, mut budget) = (self.consumed, MESSAGE_BUDGET);
        // The part of the input that is known to be text, and where it starts.
        let (mut text, mut text_start) = ("", at);
        self.has_buffered_messages = false;
        while at < input.len() && !self.has_failed() {
            self.yielded = budget == 0 || (budget < MESSAGE_BUDGET && self.is_budget_spent(now));
            if self.yielded || !self.can_read_ahead() {
                self.has_buffered_messages = true;
                break;
            }
            budget -= 1;
            let rest = &input[at..];
            at += match self.codec.next_frame(rest) {
                FrameResult::Frame(frame, cut) => {
                    self.peer_deadlines.message_complete();
                    if !frame.is_empty() {
                        let range = at + frame.start..at + frame.end;
                        if range.end > text_start + text.len() {
                            (text, text_start) = (self.codec.text_at(rest), at);
                        }
                        match text.get(range.start - text_start..range.end - text_start) {
                            Some(frame) => self.handle_text(frame, now),
                            None => self.handle_frame(&rest[frame], now),
                        }
                    }
                    cut
                }
                FrameResult::TooLong(cut) => {
                    self.reject_oversized(&rest[..cut]);
                    cut
                }
                FrameResult::Invalid(_) if self.skips_lines() => {
                    let line = memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
                    self.note_stray(&rest[..line]);
                    line
                }
                FrameResult::Invalid(why) => {
                    self.reject(&Id::null(), Fault::new(code::PARSE, why), rest);
                    self.error = Some(SessionError::BrokenFraming);
                    rest.len()
                }
                FrameResult::Incomplete(0) if self.ended => {
                    if let Some(frame) = self.codec.last_frame(rest) {
                        self.handle_frame(&rest[frame], now);
                    }
                    rest.len()
                }
                FrameResult::Incomplete(0) => break,
                FrameResult::Incomplete(cut) => cut,
            };
        }
        let before = input.len() - self.consumed;
        if at == input.len() || self.has_failed() {
            input.clear();
            at = 0;
        } else if !self.has_buffered_messages && at > 0 {
            // Moves only the beginning of one message.
            input = input.split_off(at);
            at = 0;
        }
        self.consumed = at;
        let left = input.len() - at;
        let is_partial = left > 0 || self.codec.is_skipping();
        // The peer is not late while the session itself does not read.
        let is_reading = !self.is_read_closed() && !self.has_buffered_messages && self.can_read_ahead();
        let stall = self.limits.stall_timeout;
        self.peer_deadlines.update(before, left, is_partial && is_reading, now, stall);
        self.input = output::reuse_or_drop(input);
    }

    pub(super) fn can_read_ahead(&self) -> bool {
        // This node's own requests must not keep it from reading replies: the peer may read only when those are read.
        let requests = if self.outbound.is_some() { self.limits.output + self.limits.message } else { 0 };
        let max = self.limits.output + requests;
        self.calls.can_read_ahead() && self.output.len() + self.batches.bytes() < max
    }

    /// Rejects a message that exceeds the maximum length, of which `prefix` is known.
    pub fn reject_oversized(&mut self, prefix: &[u8]) {
        if self.is_dialled() {
            return self.reject_oversized_reply(prefix);
        }
        if !self.invalid.has_seen_valid() && !self.codec.is_plausible(prefix) {
            return self.reject(&Id::null(), Fault::new(code::PARSE, NOT_JSON), prefix);
        }
        self.metrics().too_large.inc();
        self.grants.log_rejection(&code::REQUEST_TOO_LARGE);
        let message = format!("a message of more than {} bytes (limits.message)", self.limits.message);
        match self.codec.reject(prefix, Fault::new(code::REQUEST_TOO_LARGE, message)) {
            Decoded::Single(Ok(_)) => {}
            Decoded::Single(Err(DecodeError { id, fault })) => self.write_reply(None, &id, Err(&fault)),
            Decoded::Batch(parts) => {
                let batch = self.batches.open();
                for DecodeError { id, fault } in parts.into_iter().filter_map(Result::err) {
                    self.batches.expect(batch);
                    self.write_reply(Some(batch), &id, Err(&fault));
                }
                self.finish_batch_part(batch);
            }
        }
    }

    /// Handles one message, or a batch.
    pub(super) fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        match self.codec.frame_text(frame) {
            "" => {
                let was_undetected = self.codec.is_undetected();
                let decoded = self.codec.decode(frame);
                if was_undetected && self.calls.existing_mailbox().is_some() {
                    self.peer();
                }
                self.handle_decoded(decoded, frame, now);
            }
            text => self.handle_text(text, now),
        }
    }

    /// Handles one message, or a batch, that is known to be text.
    fn handle_text(&mut self, frame: &str, now: Instant) {
        match self.codec.common_request(frame) {
            Some(common) => {
                self.messages += 1;
                self.invalid.reset();
                let (id, method, params) = (common.id(), common.method.into(), common.params());
                self.handle_request(Request { id, method, params, meta: Meta::default() }, None, now);
            }
            None => {
                let decoded = self.codec.decode_text(frame);
                self.handle_decoded(decoded, frame.as_bytes(), now);
            }
        }
    }

    fn handle_decoded(&mut self, decoded: Decoded<'_>, frame: &[u8], now: Instant) {
        self.messages += 1;
        match decoded {
            Decoded::Single(Ok(message)) => {
                self.invalid.reset();
                self.handle_message(message, None, now);
            }
            Decoded::Single(Err(error)) => {
                if !self.handle_deviating(&error, frame) {
                    self.reject(&error.id, error.fault, frame);
                }
            }
            Decoded::Batch(parts) => {
                let is_call =
                    |part: &Result<_, _>| matches!(part, Ok(Message::Request(_) | Message::Cancel(_)));
                if let Some(error) = parts.iter().find_map(|part| part.as_ref().err())
                    && !parts.iter().any(is_call)
                    && self.handle_deviating(error, frame)
                {
                    return;
                }
                self.count_batch(&parts);
                let batch = self.batches.open();
                for part in parts {
                    match part {
                        Ok(message) => self.handle_message(message, Some(batch), now),
                        Err(DecodeError { id, fault }) => {
                            self.metrics().refused.inc();
                            self.grants.log_rejection(&fault.code);
                            self.batches.expect(batch);
                            self.write_reply(Some(batch), &id, Err(&fault));
                        }
                    }
                }
                self.finish_batch_part(batch);
            }
        }
    }

    fn handle_message(&mut self, message: Message<'_>, batch: Option<BatchId>, now: Instant) {
        match message {
            Message::Request(request) => {
                if let (Some(batch), Some(_)) = (batch, &request.id) {
                    self.batches.expect(batch);
                }
                self.handle_request(request, batch, now);
            }
            Message::Cancel(id) => self.cancel(&id),
            Message::Reply(id, outcome) => self.handle_reply(&id, outcome),
        }
    }

    /// Rejects an invalid message, of which `text` is at least the beginning.
    fn reject(&mut self, id: &Id<'_>, mut fault: Fault, text: &[u8]) {
        self.metrics().refused.inc();
        self.grants.log_rejection(&fault.code);
        if *id != Id::null() {
            self.invalid.reset();
        } else if let Some(error) = self.invalid.count(&fault, &self.codec, text) {
            self.close_for_invalid(error);
            fault.message = format!("{}; {error}", fault.message).into();
        }
        if self.is_dialled() && *id == Id::null() {
            return;
        }
        self.write_reply(None, id, Err(&fault));
    }

    /// Counts a batch as one message, which is valid if a part of it is.
    fn count_batch(&mut self, parts: &[Result<Message<'_>, DecodeError>]) {
        let is_valid =
            |part: &Result<_, DecodeError>| part.as_ref().map_or_else(|e| e.id != Id::null(), |_| true);
        if parts.iter().any(is_valid) {
            self.invalid.reset();
        } else if let Some(error) = self.invalid.count_one() {
            self.close_for_invalid(error);
        }
    }

    fn close_for_invalid(&mut self, error: SessionError) {
        self.metrics().foreign.inc();
        self.error = Some(error);
    }

    pub(super) fn close_for_slow_message(&mut self) {
        self.metrics().slow_messages.inc();
        let input = std::mem::take(&mut self.input);
        let id = match self.codec.reject(&input, Fault::new(code::DEADLINE, "")) {
            Decoded::Single(Err(refused)) => refused.id,
            _ => Id::null(),
        };
        self.close_for_timeout(SessionError::MessageTimeout, code::DEADLINE, &id);
    }

    pub(super) fn close_for_missing_token(&mut self) {
        self.metrics().unauthenticated.inc();
        self.close_for_timeout(SessionError::AuthTimeout, code::DENIED, &Id::null());
    }

    fn close_for_timeout(&mut self, error: SessionError, code: i64, id: &Id<'_>) {
        (self.input, self.consumed) = (Vec::new(), 0);
        self.error = Some(error);
        if self.is_dialled() {
            return;
        }
        self.write_reply(None, id, Err(&Fault::new(code, error.to_string())));
    }
}
