//! The workloads, one kind per file.

mod across;
mod callers;
mod go;
mod in_flight;
mod post;
mod sync;
mod timers;
mod waterfall;

use crate::contest::Entrant;
use crate::measure::Sample;

/// A task that all entrants perform.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) calls: Calls,
    /// The entrants; the first is the baseline.
    pub(crate) entrants: Vec<Entry>,
}

/// The number of calls per sample, in a full run and in a quick one.
pub(crate) struct Calls {
    pub(crate) many: u32,
    pub(crate) few: u32,
}

/// An entrant's implementation of a workload.
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Takes a sample of about the given number of calls.
    pub(crate) run: fn(u32) -> Sample,
}

impl Entry {
    fn new<E: Entrant>(run: fn(u32) -> Sample) -> Self {
        Self { name: E::name(), run }
    }
}

/// Creates entrants from types and a function that is generic over them.
macro_rules! entrants {
    ($run:ident: $($entrant:ty),+) => {
        vec![$(crate::workloads::Entry::new::<$entrant>($run::<$entrant>)),+]
    };
}
use entrants;

/// All workloads, in the order of the table.
pub(crate) fn all() -> Vec<Workload> {
    [
        sync::workloads(),
        across::workloads(),
        callers::workloads(),
        go::workloads(),
        in_flight::workloads(),
        post::workloads(),
        waterfall::workloads(),
        timers::workloads(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
