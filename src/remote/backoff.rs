//! The waits between attempts to connect.

use std::time::Duration;

/// The shortest wait.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait, before jitter.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The wait before the next attempt, which doubles with each.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(MIN_BACKOFF)
    }

    /// Returns the next wait. It has jitter, so that many clients of one node do not reconnect at the same moment.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + fastrand::f64());
        self.0 = (self.0 * 2).min(MAX_BACKOFF);
        wait
    }
}
