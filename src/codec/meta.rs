//! What a request's `meta` may say, in whatever dialect.

use std::time::Duration;

pub(super) const NO_DEADLINE: &str =
    "\"meta\": \"deadline_ms\" must be a number of milliseconds, not negative, or null";
pub(super) const NO_HOPS: &str = "\"meta\": \"hops\" must be a whole number below 2^32, or null";

/// The time that a number of milliseconds is. What is longer than any call may take is cut.
pub(super) fn deadline_of(ms: f64) -> Option<Duration> {
    let longest = Duration::from_millis(u64::MAX);
    (ms >= 0.0)
        .then(|| Duration::try_from_secs_f64(ms / 1000.0).map_or(longest, |deadline| deadline.min(longest)))
}
