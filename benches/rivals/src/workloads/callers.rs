//! Many callers, each awaiting one call after the other, and one server, all on two threads.

use std::hint::black_box;

use super::{Calls, Workload, entrants};
use crate::contest::Contestant;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::State;

const CALLERS: u32 = 64;

pub(super) fn workloads() -> Vec<Workload> {
    vec![Workload {
        name: "64 callers on 2 threads",
        calls: Calls { many: 64 * 1_000, few: 64 * 2 },
        entrants: entrants!(run: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours),
    }]
}

fn run<C: Contestant>(calls: u32) -> Sample {
    let each = calls / CALLERS;
    C::Platform::two_threads(move |on| async move {
        let server = C::start(&on, State::default()).await;
        let caller = |server: C| async move {
            for n in 0..each {
                black_box(server.call1(u64::from(n)).await);
            }
        };
        let callers = (0..CALLERS).map(|_| caller(server.clone())).collect();
        let watch = Stopwatch::start();
        on.all(callers).await;
        watch.stop(each * CALLERS)
    })
}
