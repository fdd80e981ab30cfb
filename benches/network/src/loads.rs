//! The loads at which servers are measured.

/// A number of connections with a number of calls in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    /// Client and server run on one core, so that no other core has to be woken.
    pub(crate) pinned: bool,
}

const fn point(name: &'static str, connections: usize, in_flight: usize, pinned: bool) -> Point {
    Point { name, connections, in_flight, pinned }
}

pub(crate) const SINGLE: usize = 0;
pub(crate) const PINNED: usize = 1;
pub(crate) const PIPELINED: usize = 2;
pub(crate) const MANY: usize = 4;

pub(crate) const ALL: [Point; 5] = [
    point("1 × 1", 1, 1, false),
    point("1 × 1, pinned", 1, 1, true),
    point("1 × 64", 1, 64, false),
    point("100 × 1", 100, 1, false),
    point("100 × 32", 100, 32, false),
];
