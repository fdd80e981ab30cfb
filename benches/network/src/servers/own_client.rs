//! Helpers of the rivals' clients: a closed loop of tasks on one thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::measured::Measured;

/// Creates a runtime with one thread, for a server or a client.
pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("tokio starts")
}

/// Keeps `in_flight` calls in flight on each connection that `connect` opens.
pub(super) fn closed_loop<C: Clone + 'static>(
    connections: usize,
    in_flight: usize,
    duration: Duration,
    connect: impl AsyncFn() -> C,
    call: impl AsyncFn(&mut C) + Clone + 'static,
) -> Measured {
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect().await);
        }
        let latencies = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
        let seen = Rc::new(RefCell::new((latencies, vec![0; connections])));
        let began = Instant::now();
        let mut tasks = Vec::new();
        for (connection, client) in clients.into_iter().enumerate() {
            for _ in 0..in_flight {
                let (mut client, call, seen) = (client.clone(), call.clone(), seen.clone());
                tasks.push(tokio::task::spawn_local(async move {
                    while began.elapsed() < duration {
                        let sent = Instant::now();
                        call(&mut client).await;
                        let (latencies, calls) = &mut *seen.borrow_mut();
                        latencies.saturating_record(sent.elapsed().as_nanos() as u64);
                        calls[connection] += 1;
                    }
                }));
            }
        }
        for task in tasks {
            task.await.expect("calls are answered");
        }
        let (latencies, calls) = &*seen.borrow();
        let quantile = |share| Duration::from_nanos(latencies.value_at_quantile(share));
        Measured { calls: calls.clone(), elapsed: began.elapsed(), p50: quantile(0.5), p99: quantile(0.99) }
    })
}
