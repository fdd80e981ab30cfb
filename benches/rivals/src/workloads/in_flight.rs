//! Async calls: a number of calls start before their results are awaited; server and caller are tasks of one thread.

use super::{Calls, Workload, entrants};
use crate::contest::Contestant;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::State;

pub(super) fn workloads() -> Vec<Workload> {
    let workload = |name, entrants| Workload { name, calls: Calls { many: 50_000, few: 200 }, entrants };
    vec![
        workload("async, 1 in flight", entrants!(one: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours)),
        workload("async, 100 in flight", entrants!(hundred: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours)),
    ]
}

fn one<C: Contestant>(calls: u32) -> Sample {
    run::<C>(calls, 1)
}

fn hundred<C: Contestant>(calls: u32) -> Sample {
    run::<C>(calls / 100, 100)
}

fn run<C: Contestant>(bursts: u32, in_flight: u32) -> Sample {
    C::Platform::one_thread(move |on| async move {
        let server = C::start(&on, State::default()).await;
        let watch = Stopwatch::start();
        let sum = server.bursts(bursts, in_flight).await;
        let sample = watch.stop(bursts * in_flight);
        assert_eq!(sum, u64::from(bursts) * u64::from(in_flight * (in_flight - 1) / 2), "all are answered");
        sample
    })
}
