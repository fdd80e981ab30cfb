//! Samples the time and the allocations of a piece of work.

use std::iter::Sum;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

use crate::alloc;

/// The cost of a number of calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) calls: u32,
    time: Duration,
    pub(crate) allocations: u64,
    pub(crate) bytes: u64,
}

impl Sample {
    pub(crate) fn ns(&self) -> f64 {
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

/// Samples the work between its creation and its [`stop`](Self::stop).
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

    /// Measures the processor time of all threads, for work that follows a wait or runs on another thread.
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
