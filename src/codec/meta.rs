//! The `meta` of a request, as far as all dialects share it.

use std::time::Duration;

pub(super) const INVALID_DEADLINE: &str =
    "\"meta\": \"deadline_ms\" must be a non-negative number of milliseconds, or null";
pub(super) const INVALID_HOPS: &str = "\"meta\": \"hops\" must be an integer from 0 to 2^32 - 1, or null";

/// Converts a number of milliseconds, clamped to `u64::MAX` of them. Returns `None` if it is negative or not a number.
pub(super) fn deadline_from_ms(ms: f64) -> Option<Duration> {
    let max = Duration::from_millis(u64::MAX);
    (ms >= 0.0).then(|| Duration::try_from_secs_f64(ms / 1000.0).map_or(max, |deadline| deadline.min(max)))
}
