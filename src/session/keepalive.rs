//! When to ping a silent peer.

use std::time::{Duration, Instant};

/// A longer period is as good as none.
const MAX_PERIOD: Duration = Duration::from_secs(365 * 24 * 3600);

/// Measures how long a peer has been silent. Time during which it is not checked does not count.
#[derive(Debug)]
pub(super) struct Keepalive {
    half: Duration,
    next_check: Instant,
    /// Number of consecutive half periods without activity.
    silent_halves: u8,
}

/// What a silent peer requires.
pub(super) enum PeerIdle {
    /// The peer has been silent for one period and should be pinged.
    PingDue,
    /// The peer did not react to the ping within another period.
    Dead,
}

impl Keepalive {
    /// Pings after `period` of silence and declares the peer dead after as long again. Returns `None` if `period` is 0.
    pub(super) fn new(period: Duration, now: Instant) -> Option<Self> {
        let half = (period / 2).min(MAX_PERIOD);
        (!half.is_zero()).then(|| Self { half, next_check: now + half, silent_halves: 0 })
    }

    /// Records that the peer sent something.
    pub(super) fn record_activity(&mut self) {
        self.silent_halves = 0;
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
        self.next_check = now + self.half;
        self.silent_halves = self.silent_halves.saturating_add(1);
        match self.silent_halves {
            2 => Some(PeerIdle::PingDue),
            4.. => Some(PeerIdle::Dead),
            _ => None,
        }
    }
}
