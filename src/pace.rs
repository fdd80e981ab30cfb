//! How quickly a message has to come, once it has begun.

use std::time::{Duration, Instant};

/// Bytes a second that a peer has to send at least, on average, beyond the time that it may take in any case.
const MIN_RATE: u64 = 1024;

/// The time in which a message may come: no pause is longer than `stall`, and the whole takes no longer than `stall` and a
/// second for each KiB that is there. So a message that is sent byte by byte ends soon, and a large one on a slow line has
/// the time that it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    begun: Instant,
    latest: Instant,
    bytes: u64,
}

impl Pace {
    /// Begins a message.
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun: now, latest: now, bytes: 0 }
    }

    /// Notes that more of the message has come.
    pub(crate) fn progress(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.latest = now;
            self.bytes += bytes as u64;
        }
    }

    /// Returns when the peer is too late, unless more comes. Bytes beyond `max`, the longest message, give no more time.
    pub(crate) fn deadline(&self, stall: Duration, max: usize) -> Instant {
        let given = Duration::from_millis(self.bytes.min(max as u64) * 1000 / MIN_RATE);
        (self.latest + stall).min(self.begun + stall + given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    #[test]
    fn a_pause_has_an_end_and_so_has_a_trickle() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert_eq!(pace.deadline(STALL, 1 << 20), begun + STALL);
        for second in 1..=9 {
            pace.progress(1, begun + Duration::from_secs(second));
        }
        assert!(pace.deadline(STALL, 1 << 20) < begun + STALL + Duration::from_millis(10));
        pace.progress(20 * 1024, begun + Duration::from_secs(9));
        assert_eq!(pace.deadline(STALL, 1 << 20), begun + Duration::from_secs(9) + STALL);
        pace.progress(0, begun + Duration::from_secs(12));
        assert_eq!(pace.deadline(STALL, 1 << 20), begun + Duration::from_secs(9) + STALL);
    }

    #[test]
    fn a_slow_line_has_its_time_and_no_more() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        for second in 0..600 {
            let now = begun + Duration::from_secs(second);
            assert!(now < pace.deadline(STALL, 1 << 20), "after {second} s");
            pace.progress(1024, now);
        }
        // More than a message may have is skipped, and gives no more time.
        assert!(pace.deadline(STALL, 100 * 1024) < begun + Duration::from_secs(111));
    }
}
