//! Posts a closure to a server's loop and awaits its result; server and caller are tasks of one thread.

use std::hint::black_box;

use super::{Calls, Workload, entrants};
use crate::contest::Posts;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Loop;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::State;

pub(super) fn workloads() -> Vec<Workload> {
    vec![Workload {
        name: "post + wait",
        calls: Calls { many: 50_000, few: 100 },
        entrants: entrants!(run: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Loop),
    }]
}

fn run<C: Posts>(calls: u32) -> Sample {
    C::Platform::one_thread(move |on| async move {
        let server = C::start(&on, State::default()).await;
        let watch = Stopwatch::start();
        for n in 0..calls {
            black_box(server.post(move |state| state.echo(u64::from(n))).await);
        }
        watch.stop(calls)
    })
}
