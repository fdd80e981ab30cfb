//! Limits on concurrent calls: the `[workers]` tables, and the keys of a function.

use std::ops::RangeInclusive;

use super::table::Table;
use crate::setters::setters;

const COUNT: RangeInclusive<usize> = 1..=65_536;
const QUEUE: RangeInclusive<usize> = 0..=65_536;
/// The default length of one function's queue.
pub(super) const FUNCTION_QUEUE: usize = 16;

/// Limits on concurrent calls of many functions together: the `[workers]` tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeWorkers {
    /// `[workers]`: calls of all functions.
    pub node: Option<Workers>,
    /// `[workers.exec]`: calls of all functions that programs provide.
    pub exec: Option<Workers>,
    /// `[workers.forward]`: calls of all functions that other nodes provide.
    pub forward: Option<Workers>,
    /// `[workers.process]`: calls of all functions that processes provide.
    pub process: Option<Workers>,
    /// `[workers.native]`: calls of all functions of this process.
    pub native: Option<Workers>,
    /// `[workers.peer]`: calls of all functions that connections offer.
    pub peer: Option<Workers>,
}

/// A limit on concurrent calls: how many run, how many others are queued, and what happens to the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workers {
    /// The maximum number of running calls; at least 1.
    pub count: usize,
    /// The maximum number of queued calls, of all functions together. With [`WhenFull::Wait`] it limits only
    /// notifications, for each function separately.
    pub queue: usize,
    /// What happens to calls when the queue is full.
    pub when_full: WhenFull,
    /// The maximum number of workers that a single function may hold. By default all but one, so that a slow function
    /// leaves one to the others; all, if there is only one worker or one function.
    pub share: Option<usize>,
}

setters!(Workers { count: usize, queue: usize, when_full: WhenFull });

impl Workers {
    /// Sets [`share`](Self#structfield.share).
    #[must_use]
    pub fn share(mut self, share: usize) -> Self {
        self.share = Some(share);
        self
    }
}

impl Workers {
    /// Creates a limit of `count` running calls, with a queue of 256 and defaults for everything else.
    pub fn new(count: usize) -> Self {
        Self { count, queue: 256, when_full: WhenFull::Refuse, share: None }
    }
}

/// What happens to calls when the queue is full. It affects the function with the most queued calls, so that a flood of
/// calls to one function does not displace those to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// `"refuse"`, the default: the function's newest call is answered that the node is busy.
    #[default]
    Refuse,
    /// `"shed"`: the function's oldest queued call is answered that the node is busy.
    Shed,
    /// `"wait"`: no call is refused; the queue is limited only by the calls in flight that each connection may have.
    Wait,
}

/// Parses `[workers]` and its subtables.
pub(super) fn parse_node(table: &Table<'_>) -> NodeWorkers {
    table.allow(&["count", "queue", "when_full", "share", "exec", "forward", "native", "peer", "process"]);
    let of_provider = |key, heading| {
        let table = table.source.note(table.table(key, heading))??;
        table.allow(&["count", "queue", "when_full", "share"]);
        Some(parse_shared(&table))
    };
    let limits_node = ["count", "queue", "when_full", "share"].iter().any(|key| table.get(key).is_some());
    NodeWorkers {
        node: limits_node.then(|| parse_shared(table)),
        exec: of_provider("exec", "[workers.exec]"),
        forward: of_provider("forward", "[workers.forward]"),
        process: of_provider("process", "[workers.process]"),
        native: of_provider("native", "[workers.native]"),
        peer: of_provider("peer", "[workers.peer]"),
    }
}

/// Parses a limit that several functions share.
fn parse_shared(table: &Table<'_>) -> Workers {
    let is_counted = table.read_required("count", "64", |_| Ok(())).is_some();
    let mut workers = Workers::new(1);
    table.count("count", COUNT, &mut workers.count);
    table.count("queue", QUEUE, &mut workers.queue);
    when_full(table, &mut workers.when_full);
    if table.get("share").is_some() {
        let mut share = 1;
        table.count("share", 1..=if is_counted { workers.count } else { *COUNT.end() }, &mut share);
        workers.share = Some(share);
    }
    workers
}

/// Parses the limit of one function.
pub(super) fn parse_function(table: &Table<'_>) -> Option<Workers> {
    if table.get("workers").is_none() {
        for field in ["queue", "when_full"].iter().filter_map(|key| table.get(key)) {
            table.note(field.fail("has no effect without workers, such as workers = 4"));
        }
        return None;
    }
    let mut workers = Workers { queue: FUNCTION_QUEUE, ..Workers::new(1) };
    table.count("workers", COUNT, &mut workers.count);
    table.count("queue", QUEUE, &mut workers.queue);
    when_full(table, &mut workers.when_full);
    Some(workers)
}

/// Reads `when_full` into `into`, which is left unchanged if the key is missing.
pub(super) fn when_full(table: &Table<'_>, into: &mut WhenFull) {
    let choices = [("refuse", WhenFull::Refuse), ("shed", WhenFull::Shed), ("wait", WhenFull::Wait)];
    table.choice("when_full", &choices, into);
}
