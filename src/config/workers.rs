//! How many calls run at once: the `[workers]` tables, and the keys of a function.

use std::ops::RangeInclusive;

use super::table::{Field, Result, Table};
use super::{NodeWorkers, WhenFull, Workers};

const COUNT: RangeInclusive<usize> = 1..=65_536;
const QUEUE: RangeInclusive<usize> = 0..=65_536;
/// Calls that may wait for one function, unless it is said otherwise.
pub(super) const FUNCTION_QUEUE: usize = 16;

/// Reads `[workers]` and the tables below it.
pub(super) fn tables(table: &Table<'_>) -> Result<NodeWorkers> {
    table.allow(&["count", "queue", "when_full", "share", "exec", "forward", "native"])?;
    let of = |key, heading| {
        let Some(field) = table.get(key) else { return Ok(None) };
        let below = field.table(heading).ok_or_else(|| field.expected(&format!("a table: {heading}")))?;
        below.allow(&["count", "queue", "when_full", "share"])?;
        shared(&below).map(Some)
    };
    let says = ["count", "queue", "when_full", "share"].iter().any(|key| table.get(key).is_some());
    Ok(NodeWorkers {
        node: says.then(|| shared(table)).transpose()?,
        exec: of("exec", "[workers.exec]")?,
        forward: of("forward", "[workers.forward]")?,
        native: of("native", "[workers.native]")?,
    })
}

/// Reads workers that functions share.
fn shared(table: &Table<'_>) -> Result<Workers> {
    table.require("count", "64")?;
    let mut workers = Workers::new(1);
    table.count("count", COUNT, &mut workers.count)?;
    table.count("queue", QUEUE, &mut workers.queue)?;
    when_full(table, &mut workers.when_full)?;
    if table.get("share").is_some() {
        let mut share = 1;
        table.count("share", 1..=workers.count, &mut share)?;
        workers.share = Some(share);
    }
    Ok(workers)
}

/// Reads the workers of one function.
pub(super) fn of_function(table: &Table<'_>) -> Result<Option<Workers>> {
    if table.get("workers").is_none() {
        let without = ["queue", "when_full"].iter().find_map(|key| table.get(key));
        return without.map_or(Ok(None), |field: Field<'_>| {
            Err(field.fail("says nothing without workers, such as workers = 4"))
        });
    }
    let mut workers = Workers { queue: FUNCTION_QUEUE, ..Workers::new(1) };
    table.count("workers", COUNT, &mut workers.count)?;
    table.count("queue", QUEUE, &mut workers.queue)?;
    when_full(table, &mut workers.when_full)?;
    Ok(Some(workers))
}

pub(super) fn when_full(table: &Table<'_>, into: &mut WhenFull) -> Result<()> {
    let Some(field) = table.get("when_full") else { return Ok(()) };
    *into = match field.value.get_ref().as_str() {
        Some("refuse") => WhenFull::Refuse,
        Some("shed") => WhenFull::Shed,
        Some("wait") => WhenFull::Wait,
        _ => return Err(field.expected("\"refuse\", \"shed\" or \"wait\"")),
    };
    Ok(())
}
