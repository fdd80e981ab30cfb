//! The failures observed when running Leaf, the Go framework that inspired this project. Each test is named after a
//! failure and shows that it does not happen here.

use std::cell::Cell;
use std::future::Future;
use std::panic::panic_any;
use std::pin::pin;
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{
    CallError, Callbacks, Client, Functions, GoError, Id1, Kind, Responder, Server, ServerSettings,
};
#[cfg(feature = "cron")]
use chanrpc::sched::{Cron, Zone};
use chanrpc::sched::{ModuleError, Modules, Scheduler};

const LONG: Duration = Duration::from_secs(3600);

fn functions<S: 'static>() -> Functions<S> {
    let mut functions = Functions::new();
    functions.register1("echo", |_: &mut S, value: u64| value).unwrap();
    functions
}

fn server<S: 'static>(state: S, functions: Functions<S>, capacity: usize) -> Server<S> {
    Server::with_settings(state, functions, ServerSettings::default().capacity(capacity))
}

/// Runs a server on its own thread until its last client is dropped.
fn run<S: Send + 'static>(server: Server<S>) -> thread::JoinHandle<S> {
    thread::spawn(|| smol::block_on(server.run()))
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

// Leaf's chanrpc.

/// In Leaf, a call's arguments have any type, and a wrong one is found when the function runs.
#[test]
fn wrong_arguments_are_found_when_the_function_runs() {
    let server = server((), functions(), 4);
    let client = server.client();
    let kind = client.call0("echo", 1_u64).wait().unwrap_err();
    assert!(
        matches!(kind, CallError::KindMismatch { registered: Kind::One, called: Kind::Zero, .. }),
        "{kind}"
    );
    let unknown = client.call1::<_, u64>("ehco", 1_u64).wait().unwrap_err();
    assert!(matches!(unknown, CallError::Unknown(_)), "{unknown}");
    let arguments = client.call1::<_, u64>("echo", "one").wait().unwrap_err();
    assert!(matches!(arguments, CallError::TypeMismatch { part: "arguments", .. }), "{arguments}");
    assert_eq!(client.stats().high_water, 0, "none of them was queued");
}

/// In Leaf, a call above the limit runs its callback inside the call, and a retry in it recurses.
#[test]
fn callback_runs_inside_the_call_when_too_many_are_pending() {
    thread_local! {
        static RAN: Cell<u32> = const { Cell::new(0) };
    }
    let server = server((), functions(), 1);
    let client = server.client();
    let mut callbacks: Callbacks<Vec<String>> = Callbacks::new(2);
    let note = |log: &mut Vec<String>, result: Result<u64, CallError>| {
        RAN.set(RAN.get() + 1);
        log.push(format!("{result:?}"));
    };
    callbacks.call1(&client, "echo", 1_u64).then(note).unwrap();
    callbacks.call1(&client, "echo", 2_u64).then(note).unwrap(); // the queue is full
    let too_many = callbacks.call1(&client, "echo", 3_u64).then(note).unwrap_err();
    assert_eq!((too_many.limit(), too_many.into_inner()), (2, 3));
    assert_eq!(RAN.get(), 0, "whatever becomes of a call, its callback waits for the loop");
    let mut log = Vec::new();
    callbacks.try_next().unwrap().run(&mut log);
    assert_eq!(log, ["Err(Full)"]);
    callbacks.call1(&client, "echo", 3_u64).then(note).unwrap();
}

/// In Leaf, a caller with capacity for 0 replies can never make an async call.
#[test]
fn zero_reply_capacity_blocks_all_async_calls() {
    let mut server = server((), functions(), 4);
    let client = server.client();
    let mut callbacks = Callbacks::new(0);
    callbacks.call1(&client, "echo", 5_u64).then(|got: &mut u64, result| *got = result.unwrap()).unwrap();
    assert!(smol::block_on(server.exec()));
    let mut got = 0;
    callbacks.try_next().unwrap().run(&mut got);
    assert_eq!(got, 5);
}

/// In Leaf, go mode blocks on a full channel; a loop that posts to its own freezes.
#[test]
fn loop_posting_to_its_own_full_queue_freezes() {
    let mut functions = functions();
    functions
        .register1("flood", |me: &mut Option<Client>, (): ()| {
            let me = me.as_ref().unwrap();
            (0..10_u64).map(|n| me.go("echo", n).map_err(GoError::into_error)).collect::<Vec<_>>()
        })
        .unwrap();
    let mut server = server(None, functions, 3);
    let client = server.client();
    *server.state_mut() = Some(client.clone());
    let mut call = client.call1::<_, Vec<Result<(), CallError>>>("flood", ());
    assert!(poll(&mut call).is_pending());
    assert!(smol::block_on(server.exec()));
    let Poll::Ready(Ok(posts)) = poll(&mut call) else { panic!("it froze") };
    assert_eq!(posts.iter().filter(|post| post.is_ok()).count(), 3);
    assert!(posts.iter().skip(3).all(|post| matches!(post, Err(CallError::Full))), "{posts:?}");
    assert_eq!(client.stats().refused, 7);
}

/// In Leaf, the caller gets only the panic's text; the stack is only logged.
#[test]
fn caller_gets_only_the_text_of_a_panic() {
    let mut functions = functions();
    functions.register0("fail", |(): &mut (), cause: String| panic!("failed: {cause}")).unwrap();
    let server = server((), functions, 4);
    let client = server.client();
    let owner = run(server);
    let error = client.call0("fail", "the disk".to_owned()).wait().unwrap_err();
    let CallError::Panicked(panic) = error else { panic!("{error}") };
    assert_eq!(panic.message(), "failed: the disk");
    assert!(panic.backtrace().contains("leaf.rs:"), "{}", panic.backtrace());
    assert_eq!(client.call1::<_, u64>("echo", 1_u64).wait().unwrap(), 1, "the loop goes on");
    drop(client);
    owner.join().unwrap();
}

/// In Leaf, a function that ends its goroutine, or panics with nil, never replies, and its caller hangs.
#[test]
fn function_that_never_replies_hangs_its_caller() {
    let mut functions = functions();
    functions
        .register1("panic with nothing", |(): &mut (), (): ()| -> u64 { panic_any(()) })
        .unwrap()
        .register_deferred(Id1::new("forget"), |(), (), _: Responder<u64>| {})
        .unwrap()
        .register_deferred(Id1::new("forget elsewhere"), |(), (), responder: Responder<u64>| {
            thread::spawn(move || {
                let _responder = responder;
                // It ends without an error, as if it had been stopped.
            });
        })
        .unwrap()
        .register_async(Id1::new("panic later"), |(), ()| {
            Box::pin(async {
                smol::future::yield_now().await;
                panic_any(()) as u64
            })
        })
        .unwrap();
    let server = server((), functions, 4);
    let client = server.client();
    let owner = run(server);
    for id in ["panic with nothing", "panic later"] {
        let error = client.call1::<_, u64>(id, ()).wait().unwrap_err();
        assert!(matches!(error, CallError::Panicked(_)), "{id}: {error}");
    }
    for id in ["forget", "forget elsewhere"] {
        let error = client.call1::<_, u64>(id, ()).wait().unwrap_err();
        assert!(matches!(error, CallError::Unanswered), "{id}: {error}");
    }
    drop(client);
    owner.join().unwrap();
}

/// In Leaf, callers that wait for capacity when the server is closed, or call later, get the runtime's panic for closed
/// channels.
#[test]
fn closing_panics_waiting_and_later_callers() {
    let server = server((), functions(), 1);
    let client = server.client();
    let mut queued = client.call1::<_, u64>("echo", 1_u64);
    let mut waits = client.call1::<_, u64>("echo", 2_u64);
    let mut posts = client.go_when_room("echo", 3_u64);
    assert!(poll(&mut queued).is_pending() && poll(&mut waits).is_pending() && poll(&mut posts).is_pending());
    assert_eq!(client.stats().waiting, 2);
    server.close();
    assert!(matches!(poll(&mut queued), Poll::Ready(Err(CallError::Closed))));
    assert!(matches!(poll(&mut waits), Poll::Ready(Err(CallError::Closed))));
    assert!(matches!(poll(&mut posts), Poll::Ready(Err(CallError::Closed))));
    assert!(matches!(client.call1::<_, u64>("echo", 4_u64).wait(), Err(CallError::Closed)));
    assert!(matches!(client.go("echo", 5_u64).unwrap_err().error(), CallError::Closed));
    let mut callbacks = Callbacks::new(1);
    let callback = |closed: &mut bool, result: Result<u64, CallError>| {
        *closed = matches!(result, Err(CallError::Closed));
    };
    callbacks.call1(&client, "echo", 6_u64).then(callback).unwrap();
    let mut closed = false;
    callbacks.try_next().unwrap().run(&mut closed);
    assert!(closed);
}

/// In Leaf, closing a second time panics.
#[test]
fn closing_twice_panics() {
    let server = server((), functions(), 1);
    let (closer, client) = (server.closer(), server.client());
    server.close();
    server.close();
    closer.close();
    drop(server);
    closer.close();
    assert!(smol::block_on(closer.drain(LONG)), "it has ended");
    assert!(client.is_closed());
}

/// In Leaf, a sync call to the own loop deadlocks silently, and so does A to B to A.
#[test]
fn sync_call_to_the_own_loop_or_in_a_cycle_deadlocks() {
    let mut functions = functions();
    functions
        .register1("ask", |next: &mut Option<Client>, (): ()| {
            next.as_ref().unwrap().call1::<_, Result<u64, CallError>>("ask", ()).wait().unwrap_or_else(Err)
        })
        .unwrap()
        .register0("next", |next: &mut Option<Client>, client: Option<Client>| *next = client)
        .unwrap();
    let functions = Arc::new(functions);
    let made = ["a", "b"].map(|name| {
        let settings = ServerSettings::default().name(name);
        let server = Server::with_settings(None, functions.clone(), settings);
        (server.client(), run(server))
    });
    let [(a, a_ends), (b, b_ends)] = made;
    for (of_a, of_b, expected) in [(&a, &a, "a -> a"), (&b, &a, "b -> a -> b")] {
        a.call0("next", Some(of_a.clone())).wait().unwrap();
        b.call0("next", Some(of_b.clone())).wait().unwrap();
        let result = a.call1::<_, Result<u64, CallError>>("ask", ()).wait().unwrap();
        let Err(CallError::WouldDeadlock { chain }) = result else { panic!("{expected}: {result:?}") };
        assert_eq!(chain.join(" -> "), expected);
    }
    for client in [&a, &b] {
        client.call0("next", None::<Client>).wait().unwrap();
    }
    drop((a, b));
    assert!(a_ends.join().unwrap().is_none() && b_ends.join().unwrap().is_none());
}

/// In Leaf, a client has one slot for replies; of 160,000 replies for 8 threads, 1,991 went to the wrong caller.
#[test]
fn shared_client_mixes_up_replies() {
    const THREADS: u64 = 8;
    const CALLS: u64 = 20_000;
    let server = server((), functions(), 16);
    let client = server.client();
    let owner = run(server);
    let barrier = Arc::new(Barrier::new(8));
    let callers = (0..THREADS).map(|caller| {
        let (client, barrier) = (client.clone(), barrier.clone());
        thread::spawn(move || {
            barrier.wait();
            (0..CALLS)
                .map(|n| caller * CALLS + n)
                .filter(|value| client.call1::<_, u64>("echo", *value).wait().unwrap() != *value)
                .count()
        })
    });
    let callers: Vec<_> = callers.collect();
    let wrong: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!(wrong, 0);
    assert_eq!(client.stats().executed, THREADS * CALLS);
    drop(client);
    owner.join().unwrap();
}

// Leaf's go, timer and module.

/// In Leaf, the callback of a task that panicked runs as if nothing had happened.
#[test]
fn callback_does_not_get_the_panic_of_its_task() {
    let executor = Arc::new(smol::Executor::new());
    let scheduler = Scheduler::new(&executor, Functions::new(), |_| Vec::new());
    let handle = scheduler.handle();
    let note = |log: &mut Vec<_>, result: Result<u32, CallError>| log.push(result);
    handle.spawn_blocking(|| panic!("no such file"), note).unwrap();
    handle.spawn(async { panic!("no such host") }, note).unwrap();
    handle.spawn_blocking(|| 5, note).unwrap();
    let owner = executor.spawn(scheduler.run());
    let log = smol::block_on(executor.run(async {
        assert!(handle.drain(LONG).await);
        owner.await
    }));
    let mut told: Vec<_> = log
        .iter()
        .map(|result| match result {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        })
        .collect();
    told.sort();
    assert_eq!(told, ["5", "the function panicked: no such file", "the function panicked: no such host"]);
}

/// In Leaf, a timer for 29 February that is set in March 2021 never fires, without an error.
#[cfg(feature = "cron")]
#[test]
fn february_29_never_fires() {
    let moment = |text: &str| text.parse::<jiff::Timestamp>().unwrap().into();
    let cron = Cron::parse("0 0 29 2 *", Zone::Utc).unwrap();
    let next = cron.next_after(moment("2021-03-01T00:00:00Z"));
    assert_eq!(next, Some(moment("2024-02-29T00:00:00Z")));
    assert_eq!(cron.next_after(next.unwrap()), Some(moment("2028-02-29T00:00:00Z")));
    assert!(Cron::parse("0 0 30 2 *", Zone::Utc).is_err(), "what never comes is an error");
}

/// In Leaf, in zones with half-hour offsets, 09:00 of today is skipped in favour of tomorrow.
#[cfg(feature = "cron")]
#[test]
fn nine_oclock_is_skipped_in_zones_with_half_hour_offsets() {
    let moment = |text: &str| text.parse::<jiff::Timestamp>().unwrap().into();
    for zone in [Zone::minutes(330), Zone::named("Asia/Kolkata")] {
        let cron = Cron::parse("0 9 * * *", zone).unwrap();
        let next = cron.next_after(moment("2021-03-01T08:10:00+05:30"));
        assert_eq!(next, Some(moment("2021-03-01T09:00:00+05:30")), "{cron}");
    }
}

/// In Leaf, a panic while a module is created kills the process, and earlier modules do not stop cleanly.
#[test]
fn module_panicking_during_creation_kills_the_process() {
    let executor = Arc::new(smol::Executor::new());
    let module = |sender: &mpsc::Sender<&'static str>, name: &'static str, fails: bool| {
        let (executor, sender) = (executor.clone(), sender.clone());
        let init = move || {
            assert!(!fails, "not made");
            Ok(Scheduler::new(&executor, Functions::new(), |_| name))
        };
        let stop = move |name| {
            sender.send(name).unwrap();
            assert_ne!(name, "second", "not ended");
        };
        (init, stop)
    };
    for fails in [false, true] {
        let (sender, ended) = mpsc::channel();
        let mut modules = Modules::new(&executor);
        for name in ["first", "second"] {
            let (init, stop) = module(&sender, name, false);
            modules.add(name, init, stop);
        }
        let (init, stop) = module(&sender, "third", fails);
        modules.add("third", init, stop);
        let result = smol::block_on(executor.run(modules.run(std::future::ready(()), LONG)));
        let names: Vec<_> = ended.try_iter().collect();
        if fails {
            assert!(
                matches!(&result, Err(ModuleError::Panicked { module, .. }) if module == "third"),
                "{result:?}"
            );
            assert_eq!(names, ["second", "first"]);
        } else {
            assert!(result.is_ok(), "{result:?}");
            assert_eq!(names, ["third", "second", "first"]);
        }
    }
}
