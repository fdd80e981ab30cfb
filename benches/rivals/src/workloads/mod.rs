//! What is measured, one file for each kind of workload.

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

/// Something that all entrants do.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) calls: Calls,
    /// The first is the one that the others are compared with.
    pub(crate) entrants: Vec<Entry>,
}

/// How many calls a sample takes: in earnest, and only to see that it works.
pub(crate) struct Calls {
    pub(crate) many: u32,
    pub(crate) few: u32,
}

/// An entrant's way to do it.
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Takes a sample of about so many calls.
    pub(crate) run: fn(u32) -> Sample,
}

impl Entry {
    fn new<E: Entrant>(run: fn(u32) -> Sample) -> Self {
        Self { name: E::name(), run }
    }
}

/// Enters all of these with a function that is generic over them.
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
