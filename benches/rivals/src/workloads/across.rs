//! A plain thread calls a server on another thread and blocks until the reply.

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Calls, Workload, entrants};
use crate::contest::Contestant;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::platform::Platform;
use crate::rivals::{Actix, Bare, Kameo, Ractor, Tokio, Xtra};
use crate::server::State;

/// The maximum duration of a sample, whatever number of calls was made. A call of xtra can take milliseconds: its
/// oneshot channel wakes the caller while holding a spin lock, and may be preempted by the caller, which then spins.
const LIMIT: Duration = Duration::from_millis(200);

pub(super) fn workloads() -> Vec<Workload> {
    vec![Workload {
        name: "call from another thread",
        calls: Calls { many: 4_000, few: 100 },
        entrants: entrants!(run: Tokio, Bare, Actix, Ractor, Kameo, Xtra, Ours),
    }]
}

fn run<C: Contestant>(calls: u32) -> Sample {
    let (starts, started) = mpsc::channel();
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let owner = thread::spawn(move || {
        C::Platform::one_thread(move |on| async move {
            let _ = starts.send(C::start(&on, State::default()).await);
            let _ = stopped.recv().await;
        });
    });
    let server = started.recv().expect("the server starts");
    let watch = Stopwatch::start();
    let mut made = 0;
    while made < calls && watch.elapsed() < LIMIT {
        black_box(server.wait1(u64::from(made)));
        made += 1;
    }
    let sample = watch.stop(made);
    drop(stop);
    owner.join().expect("it ends well");
    sample
}
