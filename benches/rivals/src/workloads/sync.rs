//! A caller awaits one call after the other; server and caller are tasks of one thread.

use std::hint::black_box;

use super::{Calls, Workload, entrants};
use crate::contest::Contestant;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::State;

pub(super) fn workloads() -> Vec<Workload> {
    let workload = |name, entrants| Workload { name, calls: Calls { many: 50_000, few: 100 }, entrants };
    vec![
        workload("sync call, 0 results", entrants!(call0: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours)),
        workload("sync call, 1 result", entrants!(call1: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours)),
        workload("sync call, N results", entrants!(call_n: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours)),
    ]
}

/// One function for each kind, because their results differ.
macro_rules! one_after_the_other {
    ($($call:ident)+) => {$(
        fn $call<C: Contestant>(calls: u32) -> Sample {
            C::Platform::one_thread(move |on| async move {
                let server = C::start(&on, State::default()).await;
                let watch = Stopwatch::start();
                for n in 0..calls {
                    black_box(server.$call(u64::from(n)).await);
                }
                watch.stop(calls)
            })
        }
    )+};
}

one_after_the_other! { call0 call1 call_n }
