//! The loads at which servers are measured, and where client and server run.

/// A number of connections with a number of calls in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
}

const fn point(name: &'static str, connections: usize, in_flight: usize) -> Point {
    Point { name, connections, in_flight }
}

pub(crate) const SINGLE: usize = 0;
pub(crate) const PIPELINED: usize = 1;
pub(crate) const MANY: usize = 3;
pub(crate) const IDLING: usize = 4;

pub(crate) const ALL: [Point; 5] = [
    point("1 × 1", 1, 1),
    point("1 × 64", 1, 64),
    point("100 × 1", 100, 1),
    point("100 × 32", 100, 32),
    point("1000 × 1", 1000, 1),
];

/// Where the client runs. Left to the system, the placement of two processes decides more than their code: waking
/// another core can cost more than a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On the server's core: no other core is woken, so that only the code costs.
    Together,
    /// On another core, which never sleeps: the latency that a busy client sees.
    Apart,
}

impl Placement {
    pub(crate) const ALL: [Self; 2] = [Self::Together, Self::Apart];
}
