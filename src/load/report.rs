//! What came of it.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::tally::Tally;

/// A schedule is kept if no call is sent later than this.
const KEPT: Duration = Duration::from_millis(100);

/// What a run of load has measured.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) elapsed: Duration,
    pub(super) rate: Option<f64>,
    pub(super) tally: Tally,
    pub(super) interrupted: bool,
}

impl Report {
    /// Returns how long was measured.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns how many calls were answered with a result.
    pub fn calls(&self) -> u64 {
        self.tally.answered.iter().sum()
    }

    /// Returns how many calls were answered with a result, each second.
    pub fn rate(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.calls() as f64 / self.elapsed.as_secs_f64() }
    }

    /// Returns how many calls were answered with an error.
    pub fn errors(&self) -> u64 {
        self.tally.errors
    }

    /// Returns the first answer that was an error.
    pub fn first_error(&self) -> Option<&[u8]> {
        self.tally.first_error.as_deref()
    }

    /// Returns how many calls were sent and had no answer at the end.
    pub fn unanswered(&self) -> u64 {
        self.tally.unanswered
    }

    /// Returns how many answers there were to nothing that was asked.
    pub fn strays(&self) -> u64 {
        self.tally.strays
    }

    /// Returns how many connections there were.
    pub fn connections(&self) -> usize {
        self.tally.answered.len()
    }

    /// Returns how many calls were answered with a result, of each connection.
    pub fn calls_by_connection(&self) -> &[u64] {
        &self.tally.answered
    }

    /// Returns how many connections ended before their time.
    pub fn lost(&self) -> usize {
        self.tally.lost
    }

    /// Returns why the first of them ended.
    pub fn first_loss(&self) -> Option<&str> {
        self.tally.first_loss.as_deref()
    }

    /// Tells whether the run was stopped before its end.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Returns the latency that this share of the calls did not exceed, such as 0.99; `None` if there were no
    /// calls. It is measured from when the call was due. Calls without an answer count with their age at the
    /// end, those answered with an error or lost with their connection not at all.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let latencies: &Histogram<u64> = &self.tally.latencies;
        (!latencies.is_empty()).then(|| Duration::from_nanos(latencies.value_at_quantile(share)))
    }

    /// Returns how many answers the slowest connection had against the median one.
    pub fn fairness(&self) -> Option<f64> {
        let mut answered = self.tally.answered.clone();
        answered.sort_unstable();
        let median = *answered.get(answered.len() / 2).filter(|median| **median > 0)?;
        Some(answered[0] as f64 / median as f64)
    }

    /// Returns what became of the schedule, if there was one.
    pub fn schedule(&self) -> Option<Schedule> {
        let Tally { unsent, latest, .. } = self.tally;
        self.rate.map(|rate| Schedule { rate, unsent, latest })
    }
}

/// What became of an open loop's schedule.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The calls each second that were asked for.
    pub rate: f64,
    /// Calls that were due and never sent, since all places in flight were taken.
    pub unsent: u64,
    /// The longest that a call was sent after its time.
    pub latest: Duration,
}

impl Schedule {
    /// Tells whether all calls were sent about when they were due.
    pub fn is_kept(&self) -> bool {
        self.unsent == 0 && self.latest <= KEPT
    }
}
