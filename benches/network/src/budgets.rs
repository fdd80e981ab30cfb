//! The goals for calls over the network, and whether this run met them.
//!
//! Absolute goals, in calls per second and microseconds, were set on a machine on which the minimal loop handled 1.9
//! million calls per second over one connection and 2.8 million over a hundred, at 0.36 µs each. Each is accompanied by
//! the equivalent ratio, which other machines can meet.

use crate::loads::{MANY, PINNED, PIPELINED, SINGLE};
use crate::measure::{Results, Sample};
use crate::servers::{
    BINARY, BINARY_HTTP, BINARY_WS, ECHO, Entrant, JSONRPSEE_HTTP, JSONRPSEE_WS, MINIMAL, NODE, NODE_HTTP,
    NODE_WS,
};
use crate::table::{median, ratio};

type Figure = fn(&Sample) -> f64;

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
    let against = |us: &str, load: usize, figure: Figure, rival: &str| {
        ratio(&of(us)?.loads[load], &of(rival)?.loads[load], figure)
    };
    let alone = |us: &str, load: usize, figure: Figure| median(of(us)?.loads[load].iter().map(figure));
    let rate: Figure = |sample| sample.rate;
    let cpu: Figure = |sample| sample.cpu;
    let p50: Figure = |sample| sample.p50;
    let fairness: Figure = |sample| sample.fairness;

    let idle = |us: &str| of(us).map(|us| us.memory.connection / 1e3);

    println!("\nBudgets\n");
    for us in [NODE, BINARY] {
        if of(us).is_none() {
            continue;
        }
        println!("{us}:");
        for (what, value, goal) in [
            ("1 × 1: CPU a call against the bare echo", against(us, SINGLE, cpu, ECHO), Goal::AtMost(1.15)),
            ("1 × 1, pinned: p50 against the bare echo", against(us, PINNED, p50, ECHO), Goal::AtMost(1.15)),
            (
                "1 × 64: million calls/s",
                alone(us, PIPELINED, rate).map(|rate| rate / 1e6),
                Goal::AtLeast(1.2),
            ),
            (
                "1 × 64: rate against the minimal loop",
                against(us, PIPELINED, rate, MINIMAL),
                Goal::AtLeast(0.63),
            ),
            ("1 × 64: CPU µs a call", alone(us, PIPELINED, cpu), Goal::AtMost(0.6)),
            (
                "1 × 64: CPU against the minimal loop",
                against(us, PIPELINED, cpu, MINIMAL),
                Goal::AtMost(1.67),
            ),
            ("100 × 32: million calls/s", alone(us, MANY, rate).map(|rate| rate / 1e6), Goal::AtLeast(1.5)),
            (
                "100 × 32: rate against the minimal loop",
                against(us, MANY, rate, MINIMAL),
                Goal::AtLeast(0.54),
            ),
            ("100 × 32: CPU µs a call", alone(us, MANY, cpu), Goal::AtMost(0.6)),
            ("100 × 32: CPU against the minimal loop", against(us, MANY, cpu, MINIMAL), Goal::AtMost(1.67)),
            (
                "100 × 32: slowest connection against the median",
                alone(us, MANY, fairness),
                Goal::AtLeast(0.5),
            ),
            ("KB an idle connection", idle(us), Goal::AtMost(4.0)),
        ] {
            line(what, value, &goal);
        }
    }
    for (us, rival) in [
        (NODE_WS, JSONRPSEE_WS),
        (BINARY_WS, JSONRPSEE_WS),
        (NODE_HTTP, JSONRPSEE_HTTP),
        (BINARY_HTTP, JSONRPSEE_HTTP),
    ] {
        if of(us).is_none() {
            continue;
        }
        println!("{us}:");
        for (load, what) in
            [(PIPELINED, "1 × 64: rate against jsonrpsee's"), (MANY, "100 × 32: rate against jsonrpsee's")]
        {
            line(what, against(us, load, rate, rival), &Goal::AtLeast(3.0));
        }
        line("KB an idle connection", idle(us), &Goal::AtMost(4.0));
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
    println!("  {what:<50} {value:>7}  {bound:<8} {number:<5} {verdict}");
}
