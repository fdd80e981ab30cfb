//! What a client is asked for, and what it measures.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The load to generate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    /// Calls per second, if limited. Only the shared client obeys it.
    pub(crate) rate: Option<f64>,
    pub(crate) duration: Duration,
    /// The client never sleeps.
    pub(crate) spin: bool,
}

/// The measurements of a client.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) calls: Vec<u64>,
    pub(crate) elapsed: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Collects the measurements of a client other than the shared one.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    latencies: Histogram<u64>,
    calls: Vec<u64>,
}

impl Recorder {
    pub(crate) fn new(connections: usize) -> Self {
        let latencies = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
        Self { began: Instant::now(), latencies, calls: vec![0; connections] }
    }

    /// Records replies on a connection to calls that were sent at the same time.
    pub(crate) fn record(&mut self, connection: usize, latency: Duration, replies: u64) {
        self.latencies.saturating_record_n(latency.as_nanos() as u64, replies);
        self.calls[connection] += replies;
    }

    pub(crate) fn finish(&self) -> Measured {
        let quantile = |share| Duration::from_nanos(self.latencies.value_at_quantile(share));
        Measured {
            calls: self.calls.clone(),
            elapsed: self.began.elapsed(),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}
