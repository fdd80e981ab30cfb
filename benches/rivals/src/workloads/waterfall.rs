//! Three calls to three servers, each with the result of the previous one; the unit is the whole waterfall.
//!
//! The rivals await one call after the other in a task. chanrpc uses the scheduler's waterfall, whose loop has the
//! state before, between and after the calls.

use std::hint::black_box;

use super::{Calls, Workload, entrants};
use crate::contest::Contestant;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::State;

pub(super) fn workloads() -> Vec<Workload> {
    vec![Workload {
        name: "waterfall of 3 steps",
        calls: Calls { many: 20_000, few: 100 },
        entrants: entrants!(run: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours),
    }]
}

fn run<C: Contestant>(waterfalls: u32) -> Sample {
    C::Platform::one_thread(move |on| async move {
        let start = async || C::start(&on, State::default()).await;
        let steps = [start().await, start().await, start().await];
        let watch = Stopwatch::start();
        for n in 0..waterfalls {
            black_box(C::waterfall(&steps, u64::from(n)).await);
        }
        watch.stop(waterfalls)
    })
}
