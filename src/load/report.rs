//! The result of a load.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::stats::Stats;

/// A schedule counts as kept if no call is sent later than this.
const MAX_DELAY: Duration = Duration::from_millis(100);

/// The measurements of a load.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) elapsed: Duration,
    pub(super) rate: Option<f64>,
    pub(super) stats: Stats,
    pub(super) interrupted: bool,
}

impl Report {
    /// Returns how long the measurement lasted.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns the number of calls answered with a result.
    pub fn calls(&self) -> u64 {
        self.stats.answered.iter().sum()
    }

    /// Returns the number of calls answered with a result, per second.
    pub fn rate(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.calls() as f64 / self.elapsed.as_secs_f64() }
    }

    /// Returns the number of calls answered with an error.
    pub fn errors(&self) -> u64 {
        self.stats.errors
    }

    /// Returns the first error reply.
    pub fn first_error(&self) -> Option<&[u8]> {
        self.stats.first_error.as_deref()
    }

    /// Returns the number of calls without a reply at the end.
    pub fn unanswered(&self) -> u64 {
        self.stats.unanswered
    }

    /// Returns the number of replies that match no call in flight.
    pub fn unexpected(&self) -> u64 {
        self.stats.unexpected
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        self.stats.answered.len()
    }

    /// Returns the number of calls answered with a result for each connection.
    #[cfg(feature = "internals")]
    pub fn calls_by_connection(&self) -> &[u64] {
        &self.stats.answered
    }

    /// Returns the number of connections that ended early.
    pub fn lost_connections(&self) -> usize {
        self.stats.lost
    }

    /// Returns why the first of these connections ended.
    pub fn first_loss(&self) -> Option<&str> {
        self.stats.first_loss.as_deref()
    }

    /// Returns `true` if the load was stopped before its end.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Returns the latency that the given share of calls, such as 0.99, did not exceed; `None` if no call was measured.
    /// Latency counts from when a call was due. Calls without a reply count with their age at the end; calls answered
    /// with an error or lost with their connection are excluded.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let latencies: &Histogram<u64> = &self.stats.latencies;
        (!latencies.is_empty()).then(|| Duration::from_nanos(latencies.value_at_quantile(share)))
    }

    /// Returns the number of replies on the slowest connection divided by that on the median one.
    pub fn fairness(&self) -> Option<f64> {
        let mut answered = self.stats.answered.clone();
        answered.sort_unstable();
        let median = *answered.get(answered.len() / 2).filter(|median| **median > 0)?;
        Some(answered[0] as f64 / median as f64)
    }

    /// Returns how well an open loop's schedule was kept; `None` for a closed loop.
    pub fn schedule(&self) -> Option<Schedule> {
        let Stats { unsent, max_delay, .. } = self.stats;
        self.rate.map(|rate| Schedule { rate, unsent, max_delay })
    }
}

/// How well an open loop's schedule was kept.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The requested number of calls per second.
    pub rate: f64,
    /// Calls that were due but not sent, because the maximum number was in flight.
    pub unsent: u64,
    /// The maximum delay between when a call was due and when it was sent.
    pub max_delay: Duration,
}

impl Schedule {
    /// Returns `true` if every call was sent at most 100 ms after it was due.
    pub fn is_kept(&self) -> bool {
        self.unsent == 0 && self.max_delay <= MAX_DELAY
    }
}
