//! Takes samples in turn, and makes one figure of each kind out of them.

use std::iter::Sum;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

use crate::alloc;
use crate::workloads::{Entry, Workload};

const ROUNDS: usize = 15;

/// What a number of calls took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    calls: u32,
    time: Duration,
    allocations: u64,
    bytes: u64,
}

impl Sample {
    fn ns(&self) -> f64 {
        self.time.as_nanos() as f64 / f64::from(self.calls)
    }
}

impl Sum for Sample {
    fn sum<I: Iterator<Item = Self>>(samples: I) -> Self {
        samples.fold(Self::default(), |sum, sample| Self {
            calls: sum.calls + sample.calls,
            time: sum.time + sample.time,
            allocations: sum.allocations + sample.allocations,
            bytes: sum.bytes + sample.bytes,
        })
    }
}

/// Takes a sample of what is done between its start and its [`stop`](Self::stop).
pub(crate) struct Stopwatch {
    counted: (u64, u64),
    clock: Clock,
}

enum Clock {
    Wall(Instant),
    Processor(ProcessTime),
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { counted: alloc::counted(), clock: Clock::Wall(Instant::now()) }
    }

    /// Takes the processor's time of all threads, for work that follows a wait or is done on another thread.
    pub(crate) fn start_of_processor() -> Self {
        Self { counted: alloc::counted(), clock: Clock::Processor(ProcessTime::now()) }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match &self.clock {
            Clock::Wall(began) => began.elapsed(),
            Clock::Processor(began) => began.elapsed(),
        }
    }

    pub(crate) fn stop(self, calls: u32) -> Sample {
        let time = self.elapsed();
        let (allocations, bytes) = alloc::counted();
        Sample { calls, time, allocations: allocations - self.counted.0, bytes: bytes - self.counted.1 }
    }
}

/// What one call of one entrant costs.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) ns: f64,
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
    /// Time against the workload's first entrant.
    pub(crate) ratio: f64,
}

/// Measures all entrants of a workload. The machine may be shared and noisy: they take turns, and ratios are
/// formed within a round, in which the noise was about the same for all.
pub(crate) fn compare(workload: &Workload, quick: bool) -> Vec<Figures> {
    let (calls, rounds) = if quick { (workload.calls.few, 1) } else { (workload.calls.many, ROUNDS) };
    let run = |entrant: &Entry| (entrant.run)(calls);

    // Also warms up what is made once in a process.
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
