//! Until when the peer has to send something: the rest of a message, or its token.

use std::time::{Duration, Instant};

use crate::config::Limits;
use crate::receive_deadline::ReceiveDeadline;

/// What a connection waits for from its peer.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// A message has begun and is not whole.
    begun: Option<ReceiveDeadline>,
    /// Bytes that were there when the input was last looked at.
    seen: usize,
    /// When to look whether the message is late. It stays when the message is there, so that a connection which is busy
    /// sets few timers.
    look: Option<Instant>,
    /// By when the peer has to have presented a token.
    token: Option<Instant>,
}

/// What the peer is late with.
pub(super) enum Late {
    Message,
    Token,
}

impl Arrival {
    /// Expects a token within `limit`.
    pub(super) fn expect_token(&mut self, now: Instant, limit: Duration) {
        self.token = Some(now + limit);
    }

    /// Returns `true` while a message has begun and is not whole.
    pub(super) fn is_open(&self) -> bool {
        self.begun.is_some()
    }

    /// Notes that a message is whole.
    pub(super) fn whole(&mut self) {
        self.begun = None;
    }

    /// Notes what is left of the input, of which there were `before` bytes. If it is the beginning of a message, and `open`,
    /// the rest of it has to come.
    pub(super) fn left(&mut self, before: usize, left: usize, open: bool, now: Instant, stall: Duration) {
        let came = before.saturating_sub(self.seen);
        self.seen = left;
        if !open {
            self.begun = None;
            return;
        }
        self.begun.get_or_insert(ReceiveDeadline::new(now)).progress(came, now);
        self.look.get_or_insert(now + stall);
    }

    /// When to look next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        [self.look, self.token].into_iter().flatten().min()
    }

    /// Looks whether the peer is late.
    pub(super) fn late(&mut self, now: Instant, limits: &Limits) -> Option<Late> {
        if self.token.take_if(|token| *token <= now).is_some() {
            return Some(Late::Token);
        }
        self.look.take_if(|look| *look <= now)?;
        let deadline = self.begun?.deadline(limits.stall_timeout, limits.message);
        if deadline <= now {
            return Some(Late::Message);
        }
        self.look = Some(deadline);
        None
    }
}
