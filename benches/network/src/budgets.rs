//! The budgets for calls over the network, and whether this run met them.
//!
//! All are ratios within a round, with both ends on one core: times differ between machines, and between two moments of
//! a shared one.

use crate::loads::{IDLING, MANY, PIPELINED, Placement, SINGLE};
use crate::measure::{Results, Sample};
use crate::servers::{BINARY, ECHO, Entrant, JSONRPSEE_HTTP, Names, PACKAGE, REDIS};
use crate::table::{median, ratio};

/// A maximum or a minimum for a result.
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(&self, value: f64) -> bool {
        match self {
            Self::AtMost(goal) => value <= *goal,
            Self::AtLeast(goal) => value >= *goal,
        }
    }
}

pub(crate) fn print(entrants: &[Entrant], all: &[Results]) {
    let of = |name: &str| entrants.iter().position(|entrant| entrant.name == name).map(|at| &all[at]);
    let cpu = |us: &str, load: usize, rival: &str| {
        let place = Placement::Together;
        ratio(of(us)?.of(load, place), of(rival)?.of(load, place), |sample| sample.cpu)
    };
    let fairness = |us: &str, load: usize| {
        median(of(us)?.of(load, Placement::Together).iter().map(|sample: &Sample| sample.fairness))
    };
    let idle = |us: &str| of(us).map(|us| us.memory.connection / 1e3);

    println!("\nBudgets, of the server's CPU a call with both ends on one core");
    for us in [PACKAGE, BINARY] {
        if entrants.iter().all(|entrant| !us.all().contains(&entrant.name)) {
            continue;
        }
        let Names { lines, content_length, websocket, http, msgpack } = us;
        println!("\n{lines}:");
        line("1 × 1 against the bare echo", cpu(lines, SINGLE, ECHO), &Goal::AtMost(1.1));
        for (load, name) in [(PIPELINED, "1 × 64"), (MANY, "100 × 32")] {
            line(&format!("{name} against redis ECHO"), cpu(lines, load, REDIS), &Goal::AtMost(1.0));
            line(
                &format!("{name} WebSocket against lines"),
                cpu(websocket, load, lines),
                &Goal::AtMost(1.15),
            );
            line(&format!("{name} MessagePack against lines"), cpu(msgpack, load, lines), &Goal::AtMost(1.0));
            let at_most = Goal::AtMost(1.0 / 3.0);
            line(&format!("{name} HTTP against jsonrpsee"), cpu(http, load, JSONRPSEE_HTTP), &at_most);
        }
        for name in [lines, content_length, websocket, http, msgpack] {
            for (load, at) in [(MANY, "100 × 32"), (IDLING, "1000 × 1")] {
                let what = format!("slowest connection of {at} against the median, {name}");
                line(&what, fairness(name, load), &Goal::AtLeast(0.8));
            }
        }
        for (name, most) in [(lines, 2.0), (websocket, 4.0), (http, 5.0)] {
            line(&format!("KB a connection that waits, {name}"), idle(name), &Goal::AtMost(most));
        }
    }
}

fn line(what: &str, value: Option<f64>, goal: &Goal) {
    let (bound, number) = match goal {
        Goal::AtMost(number) => ("at most", number),
        Goal::AtLeast(number) => ("at least", number),
    };
    let (value, verdict) = match value {
        None => ("–".to_owned(), "not measured"),
        Some(value) => (format!("{value:.2}"), if goal.is_met(value) { "met" } else { "NOT met" }),
    };
    println!("  {what:<76} {value:>7}  {bound:<8} {number:<5.2} {verdict}");
}
