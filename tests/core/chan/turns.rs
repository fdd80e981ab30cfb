//! A busy server lets other tasks of its executor run.

use std::time::Instant;

use super::*;

/// Runs calls of about 1 ms until the timer of a main future fires, and returns how many ran.
fn slow_calls_before_a_timer(in_place: bool) -> u64 {
    let mut functions = Functions::new();
    functions
        .register0("slow", |count: &mut u64, ()| {
            *count += 1;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(1) {
                std::hint::spin_loop();
            }
        })
        .unwrap();
    let server = Server::with_settings(0, functions, ServerSettings::default().capacity(20_000));
    let client = server.client();
    let executor = smol::LocalExecutor::new();
    let _server = executor.spawn(server.run());
    if !in_place {
        for _ in 0..10_000 {
            client.go("slow", ()).unwrap();
        }
    }
    let caller = client.clone();
    let _caller = executor.spawn(async move {
        if !in_place {
            return;
        }
        loop {
            caller.call0("slow", ()).await.unwrap();
        }
    });
    block_on(executor.run(async { smol::Timer::after(Duration::from_millis(10)).await }));
    client.stats().executed
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn slow_calls_do_not_starve_the_executors_main_future() {
    for in_place in [false, true] {
        let calls = slow_calls_before_a_timer(in_place);
        // The executor polls 200 tasks before it polls its main future; some more calls start before calls are known to
        // be slow. With a limit by count alone it would be 64 times as many.
        assert!(calls < 800, "{calls}, in place: {in_place}");
    }
}
