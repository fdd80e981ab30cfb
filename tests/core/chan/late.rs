//! Deadlines and cancelled callers.

use std::time::Instant;

use super::*;

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn expired_go_call_never_runs() {
    let (client, owner) = running(1);
    let threads: Vec<_> = (0..6_u64)
        .map(|number| {
            let client = client.clone();
            thread::spawn(move || {
                let mut queued = Vec::new();
                for n in 0..u64::from(scale(2000)) {
                    let (value, time) = (number << 32 | n, Duration::from_micros(n % 61));
                    match client.go_when_room("write", value).timeout(time).wait() {
                        Ok(()) => queued.push(value),
                        Err(CallError::Deadline) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                queued
            })
        })
        .collect();
    let mut queued: Vec<u64> = threads.into_iter().flat_map(ended).collect();
    drop(client);
    let mut ran = ended(owner).entries;
    queued.sort_unstable();
    ran.sort_unstable();
    assert_eq!(ran, queued, "what has run, and what was said to run");
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn timeout_applies_to_a_call_of_an_idle_server() {
    for awaited in [false, true] {
        let (drops, gate) = (Drops::default(), Gate::default());
        let (begins, begun) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        *gate.lock().unwrap() = Some((begins, opened));
        let server = placed(&drops, &gate);
        let client = server.client();
        let owner = thread::spawn(move || block_on(server.run()));
        // It is idle, so it lends its state.
        eventually("the server is idle", || {
            client.call0("order", 0_u64).wait().unwrap();
            client.stats().in_place > 0
        });
        let call = client.call0("block", 1_u64).timeout(Duration::from_millis(50));
        let result = if awaited { block_on(call) } else { call.wait() };
        assert!(matches!(result, Err(CallError::Deadline)), "{result:?}");
        got(&begun);
        drop(open);
        client.call1::<_, u64>("close", ()).wait().unwrap();
        drop(ended(owner));
    }
}

#[test]
fn cancelling_callers_waiting_for_capacity_takes_constant_time() {
    let server = server(1);
    let client = server.client();
    client.go("write", 0_u64).unwrap();
    let giving_up = |last_first: bool| {
        let mut calls: Vec<_> = (0..u64::from(scale(30_000)))
            .map(|n| {
                let mut call = Box::pin(client.go_when_room("write", n));
                assert!(poll(&mut call).is_pending());
                call
            })
            .collect();
        if !last_first {
            calls.reverse();
        }
        let start = Instant::now();
        while calls.pop().is_some() {}
        start.elapsed()
    };
    let best = |last_first| (0..3).map(|_| giving_up(last_first)).min().unwrap();
    let (first_first, last_first) = (best(false), best(true));
    // If each cancellation searched the queue, the ratio would be in the hundreds.
    assert!(last_first < 10 * first_first + Duration::from_millis(5), "{last_first:?}, {first_first:?}");
    assert_eq!(client.stats().waiting, 0);
}

#[test]
fn errors_returning_arguments_require_no_trait_bounds() {
    /// Does not implement `Debug`.
    struct Plain;
    fn is_error<E: std::error::Error>(error: E) -> String {
        format!("{error:?}")
    }
    fn is_unwind_safe<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>(_: &T) {}

    let mut functions = Functions::new();
    functions.register0("take", |_: &mut (), _: Plain| ()).unwrap();
    let server = Server::with_settings((), functions, ServerSettings::default().capacity(1));
    let client = server.client();
    client.go("take", Plain).unwrap();
    assert!(is_error(client.go("take", Plain).unwrap_err()).contains("Full"));
    let mut callbacks = Callbacks::<()>::new(1);
    callbacks.call0(&client, "take", Plain).then(|_, _| ()).unwrap();
    let refused = callbacks.call0(&client, "take", Plain).then(|_, _| ()).map_err(is_error).unwrap_err();
    assert!(refused.contains("limit: 1"), "{refused}");
    is_unwind_safe(&client);
    is_unwind_safe(&server.closer());
    let caught = std::panic::catch_unwind(|| drop(client.go("take", Plain)));
    assert!(caught.is_ok());
}
