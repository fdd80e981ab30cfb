//! What is counted while load runs.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(3600);
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;
/// Bytes that are kept of the first error.
const LONGEST_ERROR: usize = 512;
/// Calls of one connection that were never sent are entered in at most so many groups of about the same age.
const GROUPS: u64 = 1000;

/// What the connections of one thread have counted, or of all threads.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Latencies in nanoseconds: of the calls that were answered, and the age at the end of those that were not.
    pub(super) latencies: Histogram<u64>,
    /// Answers to measured calls, of each connection.
    pub(super) answered: Vec<u64>,
    pub(super) errors: u64,
    pub(super) unanswered: u64,
    pub(super) unsent: u64,
    pub(super) strays: u64,
    pub(super) lost: usize,
    pub(super) first_error: Option<Vec<u8>>,
    pub(super) first_loss: Option<String>,
    /// The longest that a call was sent after its time.
    pub(super) latest: Duration,
}

impl Tally {
    pub(super) fn new(connections: usize) -> Self {
        let latencies = Histogram::new_with_bounds(1, nanos(LONGEST), DIGITS).expect("the bounds are valid");
        Self {
            latencies,
            answered: vec![0; connections],
            errors: 0,
            unanswered: 0,
            unsent: 0,
            strays: 0,
            lost: 0,
            first_error: None,
            first_loss: None,
            latest: Duration::ZERO,
        }
    }

    pub(super) fn answer(&mut self, connection: usize, latency: Duration) {
        self.answered[connection] += 1;
        self.latencies.saturating_record(nanos(latency).max(1));
    }

    pub(super) fn error(&mut self, text: &[u8]) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| text[..text.len().min(LONGEST_ERROR)].to_vec());
    }

    pub(super) fn lose(&mut self, why: String) {
        self.lost += 1;
        self.first_loss.get_or_insert(why);
    }

    /// Enters a call that had no answer at the end: it took at least that long.
    pub(super) fn unanswered(&mut self, age: Duration) {
        self.unanswered += 1;
        self.latencies.saturating_record(nanos(age).max(1));
    }

    /// Enters calls that could not even be sent, which were due at a steady rate.
    pub(super) fn unsent(&mut self, calls: u64, oldest: Duration, youngest: Duration) {
        self.unsent += calls;
        let groups = calls.min(GROUPS);
        for group in 0..groups {
            let share = calls / groups + u64::from(group < calls % groups);
            let age = oldest - oldest.saturating_sub(youngest).mul_f64(group as f64 / groups as f64);
            self.latencies.saturating_record_n(nanos(age).max(1), share);
        }
    }

    /// Adds what the connections of another thread have counted.
    pub(super) fn add(&mut self, mut other: Self) {
        self.latencies.add(&other.latencies).expect("all have the same bounds");
        self.answered.append(&mut other.answered);
        self.errors += other.errors;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.strays += other.strays;
        self.lost += other.lost;
        self.first_error = self.first_error.take().or(other.first_error);
        self.first_loss = self.first_loss.take().or(other.first_loss);
        self.latest = self.latest.max(other.latest);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
