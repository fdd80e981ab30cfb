//! What a client measures.

use std::time::Duration;

/// The measurements of a client.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) calls: Vec<u64>,
    pub(crate) elapsed: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}
