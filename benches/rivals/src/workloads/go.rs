//! Fire and forget: a burst of messages, then the server runs until it has handled all of them.

use super::{Calls, Workload, entrants};
use crate::contest::Contestant;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::{Gauge, State};

const BURST: u32 = 64;

pub(super) fn workloads() -> Vec<Workload> {
    vec![Workload {
        name: "go, bursts of 64",
        calls: Calls { many: 64 * 2_000, few: 64 * 2 },
        entrants: entrants!(run: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours),
    }]
}

fn run<C: Contestant>(calls: u32) -> Sample {
    let bursts = calls / BURST;
    C::Platform::one_thread(move |on| async move {
        let seen = Gauge::default();
        let server = C::start(&on, State::watched_by(&seen)).await;
        let watch = Stopwatch::start();
        for burst in 1..=bursts {
            for n in 0..BURST {
                server.go(u64::from(n));
            }
            seen.reach(u64::from(burst * BURST)).await;
        }
        watch.stop(bursts * BURST)
    })
}
