//! Counters and latencies recorded while the load runs.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The highest latency recorded; longer ones count as this.
const MAX_LATENCY: Duration = Duration::from_secs(3600);
/// The precision of latencies, in significant decimal digits.
const SIGNIFICANT_DIGITS: u8 = 3;
/// The number of bytes kept of the first error.
const MAX_ERROR_LEN: usize = 512;
/// The maximum number of groups in which the unsent calls of a connection are recorded; the calls of a group get the
/// same age.
const MAX_GROUPS: u64 = 1000;

/// The counters of one thread's connections, or of all threads'.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    /// Latencies in nanoseconds; for calls without a reply, their age at the end.
    pub(super) latencies: Histogram<u64>,
    /// Replies to measured calls for each connection.
    pub(super) answered: Vec<u64>,
    pub(super) errors: u64,
    pub(super) unanswered: u64,
    pub(super) unsent: u64,
    pub(super) unexpected: u64,
    pub(super) lost: usize,
    pub(super) first_error: Option<Vec<u8>>,
    pub(super) first_loss: Option<String>,
    /// The maximum delay between when a call was due and when it was sent.
    pub(super) max_delay: Duration,
}

impl Stats {
    pub(super) fn new(connections: usize) -> Self {
        let latencies = Histogram::new_with_bounds(1, nanos(MAX_LATENCY), SIGNIFICANT_DIGITS)
            .expect("the bounds are valid");
        Self {
            latencies,
            answered: vec![0; connections],
            errors: 0,
            unanswered: 0,
            unsent: 0,
            unexpected: 0,
            lost: 0,
            first_error: None,
            first_loss: None,
            max_delay: Duration::ZERO,
        }
    }

    pub(super) fn record_reply(&mut self, connection: usize, latency: Duration) {
        self.answered[connection] += 1;
        self.latencies.saturating_record(nanos(latency).max(1));
    }

    pub(super) fn record_error(&mut self, text: &[u8]) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| text[..text.len().min(MAX_ERROR_LEN)].to_vec());
    }

    pub(super) fn record_lost(&mut self, reason: String) {
        self.lost += 1;
        self.first_loss.get_or_insert(reason);
    }

    /// Records a call without a reply at the end; `age` is the lower bound of its latency.
    pub(super) fn record_unanswered(&mut self, age: Duration) {
        self.unanswered += 1;
        self.latencies.saturating_record(nanos(age).max(1));
    }

    /// Records calls that were never sent and were due at a steady rate.
    pub(super) fn record_unsent(&mut self, calls: u64, oldest: Duration, youngest: Duration) {
        self.unsent += calls;
        let groups = calls.min(MAX_GROUPS);
        for group in 0..groups {
            let share = calls / groups + u64::from(group < calls % groups);
            let age = oldest - oldest.saturating_sub(youngest).mul_f64(group as f64 / groups as f64);
            self.latencies.saturating_record_n(nanos(age).max(1), share);
        }
    }

    /// Adds the counters of another thread.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.latencies.add(&other.latencies).expect("all have the same bounds");
        self.answered.append(&mut other.answered);
        self.errors += other.errors;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.unexpected += other.unexpected;
        self.lost += other.lost;
        self.first_error = self.first_error.take().or(other.first_error);
        self.first_loss = self.first_loss.take().or(other.first_loss);
        self.max_delay = self.max_delay.max(other.max_delay);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
