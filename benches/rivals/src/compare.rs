//! Measures entrants in turn and aggregates their samples.

use crate::alloc;
use crate::measure::Sample;
use crate::workloads::{Entry, Workload};

const ROUNDS: usize = 15;

/// The cost of one call of one entrant.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) ns: f64,
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
    /// The time relative to the workload's first entrant.
    pub(crate) ratio: f64,
}

/// Measures all entrants of a workload. The machine may be shared and noisy, so the entrants take turns, and ratios are
/// computed within a round, whose noise affects all about equally.
pub(crate) fn compare(workload: &Workload, quick: bool) -> Vec<Figures> {
    let (calls, rounds) = if quick { (workload.calls.few, 1) } else { (workload.calls.many, ROUNDS) };
    let run = |entrant: &Entry| (entrant.run)(calls);

    // Also warms up what is created once per process.
    alloc::count(true);
    let counted: Vec<Sample> = workload.entrants.iter().map(run).collect();
    alloc::count(false);

    let rounds: Vec<Vec<f64>> =
        (0..rounds).map(|_| workload.entrants.iter().map(|entrant| run(entrant).ns()).collect()).collect();
    let figures = |(index, counted): (usize, Sample)| Figures {
        ns: median(rounds.iter().map(|round| round[index])),
        allocations: counted.allocations as f64 / f64::from(counted.calls),
        bytes: counted.bytes as f64 / f64::from(counted.calls),
        ratio: median(rounds.iter().map(|round| round[index] / round[0])),
    };
    counted.into_iter().enumerate().map(figures).collect()
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
