//! Timers that run functions on a loop, a thousand at a time; the unit is one timer.
//!
//! Only entrants with such timers take part. If no actor owns the loop, the caller's task runs it.

use std::time::Duration;

use super::{Calls, Workload, entrants};
use crate::contest::Timers;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Loop;
use crate::platform::Platform;
use crate::rivals::{Actix, Delays, Kameo, Ractor, Sleeps, SmolTimers};
use crate::server::{Gauge, State};

const TIMERS: u32 = 1_000;
/// Long enough to arm all timers before the first is due, even if the thread is preempted.
const SOON: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3_600);

pub(super) fn workloads() -> Vec<Workload> {
    let workload = |name, many, entrants| Workload { name, calls: Calls { many, few: TIMERS }, entrants };
    vec![
        workload(
            "timers, arm + cancel",
            TIMERS * 20,
            entrants!(arm_and_cancel: Delays, Sleeps, SmolTimers, Actix, Ractor, Kameo, Loop),
        ),
        workload(
            "timers, fire (CPU time)",
            TIMERS * 3,
            entrants!(fire: Delays, Sleeps, SmolTimers, Actix, Ractor, Kameo, Loop),
        ),
    ]
}

fn arm_and_cancel<T: Timers>(timers: u32) -> Sample {
    T::Platform::one_thread(move |on| async move {
        let mut server = T::start(&on, State::default()).await;
        let watch = Stopwatch::start();
        for _ in 0..timers / TIMERS {
            let armed = server.arm(TIMERS, NEVER).await;
            server.cancel(armed).await;
        }
        watch.stop(timers)
    })
}

fn fire<T: Timers>(timers: u32) -> Sample {
    T::Platform::one_thread(move |on| async move {
        let seen = Gauge::default();
        let mut server = T::start(&on, State::watched_by(&seen)).await;
        let mut samples = Vec::new();
        for lot in 1..=timers / TIMERS {
            let armed = server.arm(TIMERS, SOON).await;
            // Waiting costs no processor time, and smol's timers may fire on their own thread.
            let watch = Stopwatch::start_of_processor();
            server.fire(armed, SOON).await;
            seen.reach(u64::from(lot * TIMERS)).await;
            samples.push(watch.stop(TIMERS));
        }
        samples.into_iter().sum()
    })
}
