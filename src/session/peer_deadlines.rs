//! Deadlines that the peer must meet: the remainder of a message, or its token.

use std::time::{Duration, Instant};

use crate::config::Limits;
use crate::receive_deadline::ReceiveDeadline;

/// The input that a connection expects from its peer, and by when.
#[derive(Debug, Default)]
pub(super) struct PeerDeadlines {
    /// The deadline for the remainder of an incomplete message.
    partial: Option<ReceiveDeadline>,
    /// Unprocessed input at the last update, in bytes.
    buffered: usize,
    /// When to check that deadline. Kept when the message is complete, so that a busy connection sets few timers.
    check: Option<Instant>,
    /// By when the peer must have presented a token.
    token: Option<Instant>,
}

/// What the peer did not send in time.
pub(super) enum Expired {
    Message,
    Token,
}

impl PeerDeadlines {
    /// Expects a token within `timeout`.
    pub(super) fn expect_token(&mut self, now: Instant, timeout: Duration) {
        self.token = Some(now + timeout);
    }

    /// Returns `true` if a message is incomplete and its remainder expected.
    pub(super) fn expects_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Notes that a message is complete.
    pub(super) fn message_complete(&mut self) {
        self.partial = None;
    }

    /// Notes that `left` bytes of `before` bytes of input are unprocessed. If they are `partial`, the beginning of a
    /// message, its remainder is expected.
    pub(super) fn update(
        &mut self,
        before: usize,
        left: usize,
        partial: bool,
        now: Instant,
        stall_timeout: Duration,
    ) {
        let received = before.saturating_sub(self.buffered);
        self.buffered = left;
        if !partial {
            self.partial = None;
            return;
        }
        self.partial.get_or_insert(ReceiveDeadline::new(now)).progress(received, now);
        self.check.get_or_insert(now + stall_timeout);
    }

    /// Returns when to call [`expired`](Self::expired) next.
    pub(super) fn next_check(&self) -> Option<Instant> {
        [self.check, self.token].into_iter().flatten().min()
    }

    /// Returns a deadline that has passed, once.
    pub(super) fn expired(&mut self, now: Instant, limits: &Limits) -> Option<Expired> {
        if self.token.take_if(|token| *token <= now).is_some() {
            return Some(Expired::Token);
        }
        self.check.take_if(|check| *check <= now)?;
        let deadline = self.partial?.deadline(limits.stall_timeout, limits.message);
        if deadline <= now {
            return Some(Expired::Message);
        }
        self.check = Some(deadline);
        None
    }
}
