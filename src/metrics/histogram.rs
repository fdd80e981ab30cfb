//! How long calls take, counted by upper bound.

use std::fmt::Write;
use std::time::Duration;

use super::Counter;

/// Upper bounds in nanoseconds, and as `le` labels in seconds. Longer calls are counted under `+Inf`.
const BOUNDS: [(u64, &str); 12] = [
    (10_000, "0.00001"),
    (100_000, "0.0001"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (10_000_000_000, "10"),
    (30_000_000_000, "30"),
];

/// The number of calls by duration.
#[derive(Debug, Default)]
pub(crate) struct Histogram([Counter; BOUNDS.len() + 1]);

/// A snapshot of a [`Histogram`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations([u64; BOUNDS.len() + 1]);

impl Histogram {
    /// Counts a call of a duration in nanoseconds.
    pub(super) fn record(&self, nanos: u64) {
        // Most calls are quick.
        let bound = BOUNDS.iter().position(|(bound, _)| nanos <= *bound);
        self.0[bound.unwrap_or(BOUNDS.len())].inc();
    }

    /// Returns the number of calls.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// Adds the calls to a snapshot.
    pub(super) fn add_to(&self, durations: &mut Durations) {
        for (sum, counter) in durations.0.iter_mut().zip(&self.0) {
            *sum += counter.get();
        }
    }
}

impl Durations {
    /// Returns the number of calls.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Appends the samples of a Prometheus histogram that has `labels`, and took `nanos` in total.
    pub(super) fn write_prometheus(&self, out: &mut String, name: &str, labels: &str, nanos: u64) {
        let (mut sum, bounds) = (0, BOUNDS.iter().map(|(_, le)| *le).chain(["+Inf"]));
        for (le, count) in bounds.zip(self.0) {
            sum += count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {sum}");
        }
        let seconds = Duration::from_nanos(nanos).as_secs_f64();
        let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {sum}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_under_each_bound_that_it_does_not_exceed() {
        let histogram = Histogram::default();
        for nanos in [0, 10_000, 10_001, 2_500_000, 30_000_000_000, 30_000_000_001, u64::MAX] {
            histogram.record(nanos);
        }
        let mut durations = Durations::default();
        histogram.add_to(&mut durations);
        let mut out = String::new();
        durations.write_prometheus(&mut out, "f", "a=\"b\"", 1_500_000_000);
        let count = |le: &str| {
            let sample = format!("f_bucket{{a=\"b\",le=\"{le}\"}} ");
            let line = out.lines().find_map(|line| line.strip_prefix(&*sample));
            line.unwrap_or_else(|| panic!("no bound {le} in {out}")).parse::<u64>().unwrap()
        };
        let counts = ["0.00001", "0.0001", "0.001", "0.0025", "10", "30", "+Inf"].map(count);
        assert_eq!(counts, [2, 3, 3, 4, 4, 5, 7]);
        assert!(out.ends_with("f_sum{a=\"b\"} 1.5\nf_count{a=\"b\"} 7\n"), "{out}");
        assert_eq!((histogram.count(), durations.count()), (7, 7));
    }

    #[test]
    fn bounds_are_in_order_and_labels_say_them_in_seconds() {
        assert!(BOUNDS.is_sorted_by(|a, b| a.0 < b.0));
        for (nanos, le) in BOUNDS {
            assert_eq!(Duration::from_secs_f64(le.parse().unwrap()), Duration::from_nanos(nanos), "{le}");
        }
    }
}
