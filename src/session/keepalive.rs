//! When to ping a silent peer.

use std::time::{Duration, Instant};

/// A longer period is as good as none.
const MAX_PERIOD: Duration = Duration::from_secs(365 * 24 * 3600);

/// Measures how long a peer has been silent. Time during which it is not checked does not count.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// Time between two checks.
    step: Duration,
    next_check: Instant,
    /// Number of consecutive checks without activity.
    silent: u8,
    /// The peer was asked for a sign of life before its time.
    is_asked: bool,
    /// The number of them at which the peer is pinged, and is dead.
    thresholds: (u8, u8),
}

/// What a silent peer requires.
pub(super) enum PeerIdle {
    /// The peer has been silent for one period and should be pinged.
    PingDue,
    /// The peer did not react to the ping in time.
    Dead,
}

impl Keepalive {
    /// Pings after `period` of silence and declares the peer dead after as long again. Returns `None` if `period` is 0.
    pub(super) fn new(period: Duration, now: Instant) -> Option<Self> {
        Self::of(period / 2, (2, 4), now)
    }

    /// Pings after `period` of silence and declares the peer dead after a third of that. Returns `None` if `period` is 0.
    pub(super) fn prompt(period: Duration, now: Instant) -> Option<Self> {
        Self::of(period / 3, (3, 4), now)
    }

    /// Watches a peer that owes a reply: pings after `period` of silence and declares the peer dead after a fifth of that.
    /// Returns `None` if `period` is 0.
    pub(super) fn watch(period: Duration, now: Instant) -> Option<Self> {
        Self::of(period / 5, (5, 6), now)
    }

    fn of(step: Duration, thresholds: (u8, u8), now: Instant) -> Option<Self> {
        let step = step.min(MAX_PERIOD);
        (!step.is_zero()).then(|| Self {
            step,
            next_check: now + step,
            silent: 0,
            is_asked: false,
            thresholds,
        })
    }

    /// Records that the peer sent something.
    pub(super) fn record_activity(&mut self) {
        (self.silent, self.is_asked) = (0, false);
    }

    /// Returns `true` if the peer should be pinged, since it has not answered in time: once, until it sends something.
    pub(super) fn ask(&mut self) -> bool {
        !std::mem::replace(&mut self.is_asked, true)
    }

    /// Takes the peer for silent, since it has not answered in time. Returns `true` if it should be pinged.
    pub(super) fn suspect(&mut self, now: Instant) -> bool {
        let is_new = self.silent < self.thresholds.0;
        if is_new {
            (self.silent, self.next_check) = (self.thresholds.0, now + self.step);
        }
        is_new
    }

    /// Returns `true` if the peer was pinged and has sent nothing since.
    pub(super) fn is_suspect(&self) -> bool {
        self.silent >= self.thresholds.0
    }

    /// Returns when to call [`check`](Self::check) next.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Returns what the peer requires, at most once for each check that is due.
    pub(super) fn check(&mut self, now: Instant) -> Option<PeerIdle> {
        if now < self.next_check {
            return None;
        }
        self.next_check = now + self.step;
        self.silent = self.silent.saturating_add(1);
        match self.silent {
            silent if silent == self.thresholds.0 => Some(PeerIdle::PingDue),
            silent if silent >= self.thresholds.1 => Some(PeerIdle::Dead),
            _ => None,
        }
    }
}
