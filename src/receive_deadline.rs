//! The time within which a peer must complete a message, once its first bytes are received.

use std::time::{Duration, Instant};

/// Minimum average rate, in bytes per second, of a message that takes longer than the stall timeout.
const MIN_RATE: u64 = 1024;

/// Deadline of a partially received message: no pause may be longer than `stall_timeout`, and the whole message may
/// take `stall_timeout` plus one second for each KiB received. A message sent byte by byte therefore fails soon, and a
/// large one on a slow line has the time it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveDeadline {
    started: Instant,
    last_progress: Instant,
    bytes: u64,
}

impl ReceiveDeadline {
    /// Starts the time of a message.
    pub(crate) fn new(now: Instant) -> Self {
        Self { started: now, last_progress: now, bytes: 0 }
    }

    /// Records `bytes` more of the message.
    pub(crate) fn progress(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.last_progress = now;
            self.bytes += bytes as u64;
        }
    }

    /// Returns the time at which the message has failed, unless more is received before. Bytes beyond `max`, the
    /// maximum length of a message, do not extend it.
    pub(crate) fn deadline(&self, stall_timeout: Duration, max: usize) -> Instant {
        let transfer = Duration::from_millis(self.bytes.min(max as u64) * 1000 / MIN_RATE);
        (self.last_progress + stall_timeout).min(self.started + stall_timeout + transfer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    #[test]
    fn long_pause_and_slow_trickle_expire() {
        let started = Instant::now();
        let mut message = ReceiveDeadline::new(started);
        assert_eq!(message.deadline(STALL, 1 << 20), started + STALL);
        for second in 1..=9 {
            message.progress(1, started + Duration::from_secs(second));
        }
        assert!(message.deadline(STALL, 1 << 20) < started + STALL + Duration::from_millis(10));
        message.progress(20 * 1024, started + Duration::from_secs(9));
        assert_eq!(message.deadline(STALL, 1 << 20), started + Duration::from_secs(9) + STALL);
        message.progress(0, started + Duration::from_secs(12));
        assert_eq!(message.deadline(STALL, 1 << 20), started + Duration::from_secs(9) + STALL);
    }

    #[test]
    fn slow_line_gets_one_second_per_kib_up_to_the_maximum() {
        let started = Instant::now();
        let mut message = ReceiveDeadline::new(started);
        for second in 0..600 {
            let now = started + Duration::from_secs(second);
            assert!(now < message.deadline(STALL, 1 << 20), "after {second} s");
            message.progress(1024, now);
        }
        // Bytes beyond the maximum are skipped and do not extend the deadline.
        assert!(message.deadline(STALL, 100 * 1024) < started + Duration::from_secs(111));
    }
}
