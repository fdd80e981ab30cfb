//! Helpers of the rivals' clients: a closed loop of tasks on one thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::measured::{How, Measured, Recorder};

/// Creates a runtime with one thread, for a server or a client.
pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("tokio starts")
}

/// Keeps calls in flight on each connection that `connect` opens. With a rate, each connection makes one call and waits.
pub(super) fn closed_loop<C: Clone + 'static>(
    How { connections, in_flight, duration, spin, rate }: How,
    connect: impl AsyncFn() -> C,
    call: impl AsyncFn(&mut C) + Clone + 'static,
) -> Measured {
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect().await);
        }
        if spin {
            tokio::task::spawn_local(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        let seen = Rc::new(RefCell::new(Recorder::new(connections)));
        let began = Instant::now();
        let mut tasks = Vec::new();
        for (connection, client) in clients.into_iter().enumerate() {
            for _ in 0..in_flight {
                let (mut client, call, seen) = (client.clone(), call.clone(), seen.clone());
                tasks.push(tokio::task::spawn_local(async move {
                    while began.elapsed() < duration {
                        let sent = Instant::now();
                        call(&mut client).await;
                        seen.borrow_mut().record(connection, sent.elapsed(), 1);
                        if rate.is_some() {
                            tokio::time::sleep_until((began + duration).into()).await;
                        }
                    }
                }));
            }
        }
        for task in tasks {
            task.await.expect("calls are answered");
        }
        let measured = seen.borrow().finish();
        measured
    })
}
