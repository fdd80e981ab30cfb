//! The channel-RPC core.

mod late;
mod panics;
mod turns;
mod undone;
mod waits;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{
    CallError, Callbacks, Client, Closer, FunctionId, Functions, Id0, Id1, IdN, Kind, RegisterError,
    Responder, Server, ServerSettings, WeakClient,
};
use proptest::prelude::*;
#[cfg(not(miri))]
use smol::block_on;
// Without smol's reactor, because Miri does not support all of its system calls.
#[cfg(miri)]
use smol::future::block_on;

use crate::support::scale;

use crate::support::{DropGuard, Drops, LIMIT, Woken, ended, eventually, got};

/// A state that records everything done to it.
#[derive(Default)]
struct Ledger {
    entries: Vec<u64>,
    kept: Vec<Responder<u64>>,
}

struct Deposit;

fn functions() -> Functions<Ledger> {
    let mut functions = Functions::new();
    functions
        .register0("write", |ledger: &mut Ledger, entry: u64| ledger.entries.push(entry))
        .unwrap()
        .register1("echo", |_, value: u64| value)
        .unwrap()
        .register1("push", |ledger, entry: u64| {
            ledger.entries.push(entry);
            ledger.entries.len()
        })
        .unwrap()
        .register_n("last_two", |ledger, ()| {
            let mut entries = ledger.entries.iter().rev().copied();
            (entries.next(), entries.next())
        })
        .unwrap()
        .register_n(7, |ledger, ()| ledger.entries.clone())
        .unwrap()
        .register1(FunctionId::of::<Deposit>(), |_, _: Deposit| "deposited")
        .unwrap()
        .register0("panic", |_, message: String| panic!("{message}"))
        .unwrap()
        .register0("panic silently", |_, ()| std::panic::panic_any(7_i32))
        .unwrap()
        .register_deferred(Id1::new("keep"), |ledger: &mut Ledger, _: u64, responder| {
            ledger.kept.push(responder);
        })
        .unwrap()
        .register_deferred(Id1::new("drop"), |_, _: u64, _: Responder<u64>| {})
        .unwrap()
        .register_deferred(Id1::new("panic with responder"), |_, (): (), _: Responder<u64>| {
            panic!("while holding it")
        })
        .unwrap();
    functions
}

fn server(capacity: usize) -> Server<Ledger> {
    let settings = ServerSettings::default().name("ledger").capacity(capacity);
    Server::with_settings(Ledger::default(), functions(), settings)
}

/// Starts a server on its own thread until its last client is dropped.
fn running(capacity: usize) -> (Client, thread::JoinHandle<Ledger>) {
    let server = server(capacity);
    let client = server.client();
    (client, thread::spawn(move || block_on(server.run())))
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a loop for more turns than it needs, because on a slow machine a turn may end after one call. The loop keeps
/// running.
fn turns<F: Future + Unpin>(run: &mut F) {
    for _ in 0..256 {
        assert!(poll(run).is_pending());
    }
}

/// Polls the loop of a closed server until it ends.
fn end<F: Future + Unpin>(run: &mut F) -> F::Output {
    let ended = (0..256).find_map(|_| match poll(run) {
        Poll::Ready(state) => Some(state),
        Poll::Pending => None,
    });
    ended.expect("it is closed")
}

/// Runs the next call, if any.
fn exec<S: 'static>(server: &mut Server<S>) -> bool {
    block_on(server.exec())
}

#[test]
fn calls_of_all_kinds_with_all_types_of_ids() {
    let (client, owner) = running(4);
    client.call0("write", 5_u64).wait().unwrap();
    assert_eq!(client.call1::<_, usize>("push", 6_u64).wait().unwrap(), 2);
    let two: (Option<u64>, Option<u64>) = client.call_n("last_two", ()).wait().unwrap();
    assert_eq!(two, (Some(6), Some(5)));
    assert_eq!(client.call_n::<_, Vec<u64>>(7, ()).wait().unwrap(), [5, 6]);
    let deposited: &str = client.call1(FunctionId::of::<Deposit>(), Deposit).wait().unwrap();
    assert_eq!(deposited, "deposited");
    let awaited = block_on(async { client.call1::<_, u64>("echo", 8_u64).await });
    assert_eq!(awaited.unwrap(), 8);
    client.go("write", 9_u64).unwrap();
    client.go("push", 10_u64).unwrap();
    drop(client);
    assert_eq!(owner.join().unwrap().entries, [5, 6, 9, 10]);
}

#[test]
fn invalid_registrations_fail_with_typed_errors() {
    let mut functions = functions();
    let duplicate = functions.register0("echo", |_, ()| ()).unwrap_err();
    assert_eq!(duplicate, RegisterError::Duplicate("echo".into()));
    assert!(functions.register0(7, |_, ()| ()).is_err());
    assert_eq!(functions.register0("", |_, ()| ()).unwrap_err(), RegisterError::EmptyId);
    assert_eq!(functions.kind(&"echo".into()), Some(Kind::One), "the first registration stays");
}

#[test]
fn invalid_calls_fail_with_typed_errors_and_are_not_queued() {
    let server = server(4);
    let client = server.client();
    let unknown = client.call0("nope", ()).wait().unwrap_err();
    assert!(matches!(&unknown, CallError::Unknown(id) if *id == "nope".into()), "{unknown}");
    let kind = client.call0("echo", 5_u64).wait().unwrap_err();
    assert!(
        matches!(kind, CallError::KindMismatch { registered: Kind::One, called: Kind::Zero, .. }),
        "{kind}"
    );
    let arguments = client.call1::<_, u64>("echo", "five").wait().unwrap_err();
    assert!(matches!(arguments, CallError::TypeMismatch { part: "arguments", .. }), "{arguments}");
    let result = client.call1::<_, String>("echo", 5_u64).wait().unwrap_err();
    assert!(matches!(result, CallError::TypeMismatch { part: "result", .. }), "{result}");
    let go = client.go("nope", 5_u64).unwrap_err();
    assert!(matches!(go.error(), CallError::Unknown(_)));
    assert_eq!(go.into_inner(), 5, "the arguments come back");
    assert_eq!(client.stats().queued, 0);
}

#[test]
fn go_reports_full_and_closed_without_blocking() {
    let server = server(2);
    let client = server.client();
    client.go("write", 1_u64).unwrap();
    client.go("write", 2_u64).unwrap();
    let full = client.go("write", 3_u64).unwrap_err();
    assert!(matches!(full.error(), CallError::Full), "{full}");
    assert_eq!(full.into_inner(), 3);
    let full = client.call1::<_, u64>("echo", 4_u64).unless_full().wait().unwrap_err();
    assert!(matches!(full, CallError::Full));
    assert_eq!(client.stats().refused, 2);
    server.close();
    let closed = client.go("write", 5_u64).unwrap_err();
    assert!(matches!(closed.error(), CallError::Closed));
}

#[test]
fn exec_runs_one_queued_call() {
    let mut server = server(4);
    let client = server.client();
    let mut call = client.call1::<_, u64>("echo", 5_u64);
    assert!(!exec(&mut server), "nothing is queued before the call is polled");
    assert!(poll(&mut call).is_pending());
    assert!(exec(&mut server));
    assert!(matches!(poll(&mut call), Poll::Ready(Ok(5))));
    assert_eq!(server.stats().executed, 1);
}

#[test]
fn panic_is_returned_to_the_caller_and_the_server_continues() {
    let (client, owner) = running(4);
    let error = client.call0("panic", "no such luck".to_owned()).wait().unwrap_err();
    let CallError::Panicked(panic) = error else { panic!("{error}") };
    assert_eq!(panic.message(), "no such luck");
    let backtrace = panic.backtrace();
    assert!(backtrace.starts_with("at tests"), "{backtrace}");
    assert!(backtrace.contains("chan.rs:"), "{backtrace}");
    assert!(backtrace.len() <= ServerSettings::default().backtrace_limit);
    let error = client.call0("panic silently", ()).wait().unwrap_err();
    assert!(matches!(error, CallError::Panicked(_)), "{error}");
    let error = client.call1::<_, u64>("panic with responder", ()).wait().unwrap_err();
    assert!(matches!(&error, CallError::Panicked(panic) if panic.message() == "while holding it"), "{error}");
    assert_eq!(client.call1::<_, u64>("echo", 1_u64).wait().unwrap(), 1);
    assert_eq!(client.stats().panicked, 3);
    drop(client);
    owner.join().unwrap();
}

#[test]
fn backtrace_is_truncated_as_configured() {
    for limit in [0, 10, 1000] {
        let settings = ServerSettings::default().backtrace_limit(limit);
        let server = Server::with_settings(Ledger::default(), functions(), settings);
        let client = server.client();
        let owner = thread::spawn(move || block_on(server.run()));
        let error = client.call0("panic", "x".to_owned()).wait().unwrap_err();
        let CallError::Panicked(panic) = error else { panic!("{error}") };
        assert!(panic.backtrace().len() <= limit);
        assert_eq!(panic.backtrace().is_empty(), limit == 0);
        drop(client);
        owner.join().unwrap();
    }
}

#[test]
fn responders_reply_in_any_order_and_report_when_dropped() {
    let mut server = server(4);
    let client = server.client();
    let mut calls: Vec<_> = (0..3).map(|n| client.call1::<_, u64>("keep", n as u64)).collect();
    for call in &mut calls {
        assert!(poll(call).is_pending());
        assert!(exec(&mut server));
        assert!(poll(call).is_pending(), "the function has run and not answered");
    }
    let mut kept = std::mem::take(&mut server.state_mut().kept);
    assert!(!kept[1].is_abandoned());
    kept.remove(1).reply(11);
    assert!(matches!(poll(&mut calls[1]), Poll::Ready(Ok(11))));
    drop(calls.remove(0));
    assert!(kept[0].is_abandoned(), "no caller waits");
    drop(kept);
    assert!(matches!(poll(&mut calls[1]), Poll::Ready(Err(CallError::Unanswered))));

    let mut dropped = client.call1::<_, u64>("drop", 1_u64);
    assert!(poll(&mut dropped).is_pending());
    assert!(exec(&mut server));
    assert!(matches!(poll(&mut dropped), Poll::Ready(Err(CallError::Unanswered))));
}

#[test]
fn dropped_call_that_has_not_started_never_runs() {
    let mut server = server(4);
    let client = server.client();
    let mut call = Box::pin(client.call0("write", 1_u64));
    assert!(poll(&mut call).is_pending());
    drop(call);
    assert!(exec(&mut server));
    assert!(server.state().entries.is_empty());
    assert_eq!(server.stats().cancelled, 1);
    assert_eq!(server.stats().executed, 0);
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn deadline_ends_waiting_for_a_reply_and_for_capacity() {
    let server = server(1);
    let client = server.client();
    let waits = client.call1::<_, u64>("echo", 1_u64).timeout(Duration::from_millis(5)).wait();
    assert!(matches!(waits, Err(CallError::Deadline)));
    assert_eq!(client.stats().queued, 1, "the queue is full now");
    let waits = client.call1::<_, u64>("echo", 1_u64).timeout(Duration::from_millis(5)).wait();
    assert!(matches!(waits, Err(CallError::Deadline)));
}

#[test]
fn close_answers_all_calls_and_is_idempotent() {
    let mut server = server(2);
    let client = server.client();
    let closer = server.closer();
    let mut queued: Vec<_> = (0..2).map(|n| client.call1::<_, u64>("echo", n as u64)).collect();
    let mut blocked = client.call1::<_, u64>("echo", 9_u64);
    for call in &mut queued {
        assert!(poll(call).is_pending());
    }
    assert!(poll(&mut blocked).is_pending(), "the queue is full");
    let waits = thread::spawn({
        let client = client.clone();
        move || client.call0("write", 1_u64).wait()
    });
    closer.close();
    server.close();
    closer.close();
    for mut call in queued {
        assert!(matches!(poll(&mut call), Poll::Ready(Err(CallError::Closed))));
    }
    assert!(matches!(poll(&mut blocked), Poll::Ready(Err(CallError::Closed))));
    assert!(matches!(waits.join().unwrap(), Err(CallError::Closed)));
    assert!(matches!(client.call0("write", 1_u64).wait(), Err(CallError::Closed)));
    assert!(client.is_closed());
    assert!(!block_on(server.ready()));
}

#[test]
fn dropped_server_answers_all_calls() {
    let server = server(4);
    let client = server.client();
    let mut call = client.call1::<_, u64>("echo", 1_u64);
    assert!(poll(&mut call).is_pending());
    drop(server);
    assert!(matches!(poll(&mut call), Poll::Ready(Err(CallError::Closed))));
}

/// Arguments, or the payload of a panic, that panic in `drop`.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn panic_while_dropping_a_value_affects_nothing_else() {
    let mut functions = functions();
    functions
        .register0("take", |_: &mut Ledger, _: Bomb| {})
        .unwrap()
        .register0("throw", |_, ()| std::panic::panic_any(Bomb))
        .unwrap();
    let mut server = Server::new(Ledger::default(), functions);
    let client = server.client();

    let mut thrown = client.call0("throw", ());
    let mut cancelled = Box::pin(client.call0("take", Bomb));
    assert!(poll(&mut thrown).is_pending() && poll(&mut cancelled).is_pending());
    drop(cancelled);
    while exec(&mut server) {}
    assert!(matches!(poll(&mut thrown), Poll::Ready(Err(CallError::Panicked(_)))));

    let mut bomb = client.call0("take", Bomb);
    let mut behind = client.call1::<_, u64>("echo", 1_u64);
    assert!(poll(&mut bomb).is_pending() && poll(&mut behind).is_pending());
    drop(server);
    assert!(matches!(poll(&mut bomb), Poll::Ready(Err(CallError::Closed))));
    assert!(matches!(poll(&mut behind), Poll::Ready(Err(CallError::Closed))));
}

/// A chain of servers, each with a function that calls the next and waits; the last calls `back_to`.
fn chain(names: &[&'static str], back_to: usize) -> (Vec<Client>, Vec<thread::JoinHandle<Option<Client>>>) {
    let mut functions = Functions::new();
    functions
        .register1("pass on", |next: &mut Option<Client>, (): ()| -> Result<u64, CallError> {
            match next {
                Some(next) => next.call1::<_, Result<u64, CallError>>("pass on", ()).wait()?,
                None => Ok(1),
            }
        })
        .unwrap()
        .register0("next", |next: &mut Option<Client>, client: Option<Client>| *next = client)
        .unwrap();
    let functions = Arc::new(functions);
    let (mut clients, mut owners) = (Vec::new(), Vec::new());
    for name in names {
        let settings = ServerSettings::default().name(*name);
        let server = Server::with_settings(None, functions.clone(), settings);
        clients.push(server.client());
        owners.push(thread::spawn(move || block_on(server.run())));
    }
    for (at, client) in clients.iter().enumerate() {
        let next = clients.get(at + 1).or(clients.get(back_to)).cloned();
        client.call0("next", next).wait().unwrap();
    }
    (clients, owners)
}

#[test]
fn call_cycle_fails_and_names_the_chain() {
    for (names, back_to, expected) in [
        (&["a"][..], 0, "a -> a"),
        (&["a", "b"], 0, "b -> a -> b"),
        (&["a", "b", "c"], 0, "c -> a -> b -> c"),
        (&["a", "b", "c"], 1, "c -> b -> c"),
    ] {
        let (clients, owners) = chain(names, back_to);
        let result = clients[0].call1::<_, Result<u64, CallError>>("pass on", ()).wait().unwrap();
        let Err(CallError::WouldDeadlock { chain }) = result else { panic!("{names:?}: {result:?}") };
        assert_eq!(chain.join(" -> "), expected);
        for client in &clients {
            client.call0("next", None::<Client>).wait().unwrap();
        }
        let result = clients[0].call1::<_, Result<u64, CallError>>("pass on", ()).wait().unwrap();
        assert!(matches!(result, Ok(1)), "the servers live on");
        drop(clients);
        owners.into_iter().for_each(|owner| drop(owner.join().unwrap()));
    }
}

#[test]
fn chain_without_a_cycle_is_not_a_deadlock() {
    let (clients, owners) = chain(&["a", "b", "c", "d"], usize::MAX);
    let result = clients[0].call1::<_, Result<u64, CallError>>("pass on", ()).wait().unwrap();
    assert!(matches!(result, Ok(1)));
    drop(clients);
    owners.into_iter().for_each(|owner| drop(owner.join().unwrap()));
}

#[test]
fn async_call_to_the_own_server_is_not_a_deadlock() {
    struct Own {
        client: Option<Client>,
        callbacks: Option<Callbacks<u64>>,
    }
    let mut functions = Functions::new();
    functions
        .register0("start", |own: &mut Own, ()| {
            let client = own.client.clone().unwrap();
            let callbacks = own.callbacks.as_mut().unwrap();
            callbacks.call1(&client, "value", ()).then(|got: &mut u64, value| *got = value.unwrap()).unwrap();
        })
        .unwrap()
        .register1("value", |_: &mut Own, ()| 42_u64)
        .unwrap();
    let mut server = Server::new(Own { client: None, callbacks: Some(Callbacks::new(1)) }, functions);
    server.state_mut().client = Some(server.client());
    server.client().go("start", ()).unwrap();
    for _ in 0..2 {
        assert!(exec(&mut server));
    }
    let mut got = 0;
    server.state_mut().callbacks.as_mut().unwrap().try_next().unwrap().run(&mut got);
    assert_eq!(got, 42);
}

#[test]
fn callbacks_run_on_the_callers_loop_for_every_outcome() {
    let server = server(1);
    let client = server.client();
    let mut callbacks = Callbacks::new(5);
    let seen = Arc::new(AtomicUsize::new(0));
    let record = |name: &'static str| {
        let seen = seen.clone();
        move |log: &mut Vec<(&'static str, bool)>, result: Result<u64, CallError>| {
            seen.fetch_add(1, Ordering::SeqCst);
            log.push((name, result.is_ok()));
        }
    };
    callbacks.call1(&client, "nope", 1_u64).then(record("unknown")).unwrap();
    callbacks.call1(&client, "echo", 1_u64).then(record("queued")).unwrap();
    callbacks.call1(&client, "echo", 2_u64).then(record("full")).unwrap();
    callbacks.call1(&client, "echo", "text").then(record("mistyped")).unwrap();
    server.close();
    callbacks.call1(&client, "echo", 3_u64).then(record("closed")).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0, "no callback ran inline");
    let refused = callbacks.call1(&client, "echo", 4_u64).then(record("too many")).unwrap_err();
    assert_eq!((refused.limit(), refused.into_inner()), (5, 4));
    assert_eq!(callbacks.pending(), 5);
    let mut log = Vec::new();
    while let Some(callback) = callbacks.try_next() {
        callback.run(&mut log);
    }
    let names: Vec<_> = log.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["unknown", "full", "mistyped", "queued", "closed"]);
    assert!(log.iter().all(|(_, ok)| !ok));
    assert_eq!(callbacks.pending(), 0);
    callbacks.call1(&client, "echo", 5_u64).then(record("again")).unwrap();
}

#[test]
fn callback_may_start_the_next_call() {
    let (client, owner) = running(4);
    let mut callbacks = Callbacks::new(1);
    let (sender, results) = mpsc::channel();
    let mut left = 100_u64;
    let start = |callbacks: &mut Callbacks<u64>, client: &Client, left: u64| {
        let sender = sender.clone();
        callbacks
            .call1(client, "echo", left)
            .then(move |state: &mut u64, value: Result<u64, CallError>| {
                *state = value.unwrap() - 1;
                sender.send(*state).unwrap();
            })
            .unwrap();
    };
    block_on(async {
        while left > 0 {
            start(&mut callbacks, &client, left);
            callbacks.next().await.run(&mut left);
        }
    });
    assert_eq!(results.try_iter().count(), 100);
    drop(client);
    owner.join().unwrap();
}

#[test]
fn client_shared_by_eight_threads_keeps_replies_apart_and_in_order() {
    const THREADS: u64 = 8;
    let calls = u64::from(scale(100_000));
    let (client, owner) = running(64);
    let barrier = Arc::new(Barrier::new(THREADS as usize));
    let callers: Vec<_> = (0..THREADS)
        .map(|caller| {
            let (client, barrier) = (client.clone(), barrier.clone());
            thread::spawn(move || {
                let mut callbacks = Callbacks::new(16);
                let mut written = 0_u64;
                let mut answered = 0_u64;
                barrier.wait();
                for n in 0..calls {
                    let value = caller * calls + n;
                    match n % 5 {
                        0 => assert_eq!(client.call1::<_, u64>("echo", value).wait().unwrap(), value),
                        1 => client.call0("write", value).wait().unwrap(),
                        2 => written += u64::from(client.go("write", value).is_ok()),
                        3 => {
                            let check = move |answered: &mut u64, reply: Result<u64, CallError>| match reply {
                                Ok(reply) => {
                                    assert_eq!(reply, value);
                                    *answered += 1;
                                }
                                Err(error) => assert!(matches!(error, CallError::Full), "{error}"),
                            };
                            callbacks.call1(&client, "echo", value).then(check).unwrap();
                            while let Some(callback) = callbacks.try_next() {
                                callback.run(&mut answered);
                            }
                            if callbacks.pending() == 16 {
                                smol::future::block_on(callbacks.next()).run(&mut answered);
                            }
                        }
                        _ => {
                            let (last, _): (Option<u64>, Option<u64>) =
                                client.call_n("last_two", ()).wait().unwrap();
                            assert!(last.is_some());
                        }
                    }
                    written += u64::from(n % 5 == 1);
                }
                while callbacks.pending() > 0 {
                    smol::future::block_on(callbacks.next()).run(&mut answered);
                }
                assert!(answered > 0);
                written
            })
        })
        .collect();
    let written: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    drop(client);
    let entries = owner.join().unwrap().entries;
    assert_eq!(entries.len() as u64, written, "every call that was taken has run once");
    let mut latest = HashMap::new();
    for entry in entries {
        if let Some(before) = latest.insert(entry / calls, entry) {
            assert!(before < entry, "{before} ran before {entry}");
        }
    }
    assert_eq!(latest.len() as u64, THREADS);
}

/// Lets a server's loop fall asleep, so that callers run its functions in place.
fn asleep<F: Future>(run: F) -> std::pin::Pin<Box<F>> {
    let mut run = Box::pin(run);
    turns(&mut run);
    run
}

#[test]
fn responder_reports_that_its_caller_is_gone() {
    let mut server = server(4);
    let client = server.client();
    let kept = |server: &mut Server<Ledger>| {
        assert!(exec(server));
        server.state_mut().kept.pop().unwrap()
    };

    // A dropped call, an expired one, and one in go mode.
    let mut call = Box::pin(client.call1::<_, u64>("keep", 1_u64));
    assert!(poll(&mut call).is_pending());
    let mut responder = kept(&mut server);
    assert!(poll(&mut Box::pin(responder.abandoned())).is_pending());
    // A task on any thread can wait for it.
    let waits = smol::spawn(async move {
        responder.abandoned().await;
        responder
    });
    drop(call);
    assert!(smol::block_on(waits).is_abandoned());

    let call = client.call1::<_, u64>("keep", 1_u64).timeout(Duration::from_millis(2));
    assert!(matches!(call.wait(), Err(CallError::Deadline)));
    assert!(exec(&mut server));
    assert!(server.state().kept.is_empty(), "it never began");
    client.go("keep", 1_u64).unwrap();
    assert!(poll(&mut Box::pin(kept(&mut server).abandoned())).is_ready());

    // Async calls: a dropped loop, and a deadline.
    for timed in [false, true] {
        let mut callbacks = Callbacks::<()>::new(4);
        let time = if timed { LIMIT } else { Duration::MAX };
        callbacks.call1(&client, "keep", 1_u64).timeout(time).then(|(), _: Result<u64, _>| ()).unwrap();
        let mut responder = kept(&mut server);
        assert!(poll(&mut Box::pin(responder.abandoned())).is_pending());
        thread::scope(|scope| {
            let waits = scope.spawn(|| smol::block_on(responder.abandoned()));
            drop(callbacks);
            waits.join().unwrap();
        });
        assert!(poll(&mut Box::pin(responder.abandoned())).is_ready());
        responder.reply(1);
    }
    let mut callbacks = Callbacks::new(1);
    let late = |late: &mut bool, result: Result<u64, _>| *late = matches!(result, Err(CallError::Deadline));
    callbacks.call1(&client, "keep", 1_u64).timeout(Duration::from_millis(2)).then(late).unwrap();
    let mut responder = kept(&mut server);
    let waits = thread::spawn(move || smol::block_on(responder.abandoned()));
    let mut was_late = false;
    smol::block_on(callbacks.next()).run(&mut was_late);
    assert!(was_late);
    ended(waits);
}

#[test]
fn every_sleeping_waiter_is_woken() {
    // A function that serves a call, and async calls with and without a deadline.
    let mut server = server(4);
    let client = server.client();
    let woken = Arc::new(Woken::default());
    let mut call = Box::pin(client.call1::<_, u64>("keep", 1_u64));
    let mut callbacks = Callbacks::<()>::new(4);
    for way in 0..3 {
        match way {
            0 => assert!(poll(&mut call).is_pending()),
            1 => callbacks.call1(&client, "keep", 1_u64).then(|(), _: Result<u64, _>| ()).unwrap(),
            _ => callbacks
                .call1(&client, "keep", 1_u64)
                .timeout(LIMIT)
                .then(|(), _: Result<u64, _>| ())
                .unwrap(),
        }
        assert!(exec(&mut server));
        let mut responder = server.state_mut().kept.pop().unwrap();
        let mut abandoned = Box::pin(responder.abandoned());
        woken.sleep(&mut abandoned);
        assert!(!woken.take());
        match way {
            0 => call = Box::pin(client.call1("keep", 1_u64)),
            _ => callbacks = Callbacks::new(4),
        }
        assert!(woken.take(), "{way}");
        assert!(poll(&mut abandoned).is_ready());
    }
    drop(call);
    drop(callbacks);

    // A loop whose state was borrowed by a caller while calls were queued.
    let (drops, gate) = (Drops::default(), Gate::default());
    let server = placed(&drops, &gate);
    let client = server.client();
    let mut run = asleep(server.run());
    let (begins, begun) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    *gate.lock().unwrap() = Some((begins, opened));
    let other = client.clone();
    let caller = thread::spawn(move || other.call0("block", 1_u64).wait());
    got(&begun);
    woken.sleep(&mut run);
    client.go("order", 2_u64).unwrap();
    assert!(!woken.take(), "it could not run it");
    drop(open);
    ended(caller).unwrap();
    assert!(woken.take());
}

#[test]
fn async_call_has_a_deadline_if_one_is_set() {
    let mut server = server(8);
    let client = server.client();
    let mut callbacks = Callbacks::new(4);
    let note = |name: &'static str| {
        move |log: &mut Vec<(&'static str, bool)>, result: Result<u64, CallError>| {
            assert!(matches!(result, Ok(_) | Err(CallError::Deadline)), "{result:?}");
            log.push((name, result.is_ok()));
        }
    };
    callbacks.call1(&client, "echo", 1_u64).timeout(LIMIT).then(note("in time")).unwrap();
    callbacks.call1(&client, "echo", 2_u64).timeout(Duration::ZERO).then(note("late")).unwrap();
    callbacks.call1(&client, "echo", 3_u64).then(note("without")).unwrap();
    callbacks.call1(&client, "echo", 4_u64).timeout(Duration::MAX).then(note("never")).unwrap();
    let refused = callbacks.call1(&client, "echo", 5_u64).timeout(Duration::ZERO).then(note("too many"));
    assert_eq!(refused.unwrap_err().into_inner(), 5);
    let mut log = Vec::new();
    smol::block_on(callbacks.next()).run(&mut log);
    assert!(callbacks.try_next().is_none());
    // The rejected call has consumed its deadline.
    callbacks.call1(&client, "echo", 6_u64).then(note("next")).unwrap();
    while exec(&mut server) {}
    while let Some(callback) = callbacks.try_next() {
        callback.run(&mut log);
    }
    assert_eq!(log, [("late", false), ("in time", true), ("without", true), ("never", true), ("next", true)]);
    assert_eq!((client.stats().timed_out, client.stats().cancelled, callbacks.pending()), (1, 1, 0));
}

/// Any number of replies does not delay the deadlines of other calls.
#[test]
fn deadline_is_noticed_during_a_flood_of_replies() {
    let mut server = server(64);
    let client = server.client();
    let mut callbacks = Callbacks::new(64);
    let mut late = false;
    let seen = |late: &mut bool, result: Result<u64, _>| *late = matches!(result, Err(CallError::Deadline));
    callbacks.call1(&client, "keep", 1_u64).timeout(Duration::ZERO).then(seen).unwrap();
    let ask = |callbacks: &mut Callbacks<bool>| {
        callbacks.call1(&client, "echo", 1_u64).then(|_, _: Result<u64, _>| ())
    };
    for _ in 0..40 {
        ask(&mut callbacks).unwrap();
    }
    for _ in 0..20 {
        assert!(exec(&mut server));
    }
    for _ in 0..1000 {
        assert!(exec(&mut server));
        callbacks.try_next().unwrap().run(&mut late);
        if late {
            return;
        }
        ask(&mut callbacks).unwrap();
    }
    panic!("it is starved");
}

#[test]
fn go_call_may_wait_for_capacity() {
    let mut server = server(1);
    let client = server.client();
    client.go_when_room("write", 1_u64).wait().unwrap();
    let mut second = client.go_when_room("write", 2_u64);
    let mut third = client.go_when_room("write", 3_u64);
    assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
    assert_eq!(client.stats().waiting, 2);
    let full = client.go_when_room("write", 4_u64).unless_full().wait();
    assert!(matches!(full, Err(CallError::Full)));
    let late = client.go_when_room("write", 5_u64).timeout(Duration::from_millis(2)).wait();
    assert!(matches!(late, Err(CallError::Deadline)));
    let mut dropped = Box::pin(client.go_when_room("write", 6_u64));
    assert!(poll(&mut dropped).is_pending());
    drop(dropped);
    let mut last = client.go_when_room("write", 7_u64);
    assert!(poll(&mut last).is_pending());
    assert_eq!(client.stats().waiting, 3);
    assert!(matches!(client.go("write", 8_u64).unwrap_err().error(), CallError::Full), "nobody overtakes");
    assert!(exec(&mut server) && exec(&mut server));
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(()))));
    // It is queued and runs whether or not a caller waits.
    drop(third);
    while exec(&mut server) {}
    assert!(matches!(poll(&mut last), Poll::Ready(Ok(()))));
    assert!(matches!(client.go_when_room("nope", 1_u64).wait(), Err(CallError::Unknown(_))));
    client.go("write", 9_u64).unwrap();
    let mut closed = client.go_when_room("write", 10_u64);
    assert!(poll(&mut closed).is_pending());
    server.close();
    assert!(matches!(poll(&mut closed), Poll::Ready(Err(CallError::Closed))));
    assert!(matches!(client.go_when_room("write", 11_u64).wait(), Err(CallError::Closed)));
    assert!(matches!(&server.state().entries[..], [1, 2, 7] | [1, 2, 3, 7]));
}

#[test]
fn drain_runs_queued_calls_and_rejects_new_ones() {
    let server = server(1);
    let (client, closer) = (server.client(), server.closer());
    let mut queued = client.call0("write", 1_u64);
    let mut for_room = client.call0("write", 2_u64);
    assert!(poll(&mut queued).is_pending() && poll(&mut for_room).is_pending());
    let mut drain = Box::pin(closer.drain(LIMIT));
    let mut other = Box::pin(closer.drain(LIMIT));
    assert!(poll(&mut drain).is_pending() && poll(&mut other).is_pending());
    assert!(client.is_closed());
    assert!(matches!(client.go("write", 3_u64).unwrap_err().error(), CallError::Closed));
    assert!(matches!(client.call0("write", 3_u64).wait(), Err(CallError::Closed)));
    assert_eq!(smol::block_on(server.run()).entries, [1, 2]);
    assert!(matches!(poll(&mut queued), Poll::Ready(Ok(()))));
    assert!(matches!(poll(&mut for_room), Poll::Ready(Ok(()))));
    assert!(smol::block_on(drain) && smol::block_on(other));
    assert!(smol::block_on(closer.drain(LIMIT)), "there is nothing left to run");

    // A server that is not driven, after the timeout.
    let server = self::server(2);
    let (client, closer) = (server.client(), server.closer());
    let mut queued = client.call0("write", 1_u64);
    assert!(poll(&mut queued).is_pending());
    assert!(!smol::block_on(closer.drain(Duration::from_millis(2))));
    assert!(matches!(poll(&mut queued), Poll::Ready(Err(CallError::Closed))));
    assert!(smol::block_on(server.run()).entries.is_empty());

    // A sleeping server is woken, and so is one whose function runs in place.
    let (client, owner) = running(4);
    let closer = self::server(1).closer();
    assert!(smol::block_on(closer.drain(LIMIT)), "it was dropped");
    client.call0("write", 1_u64).wait().unwrap();
    drop(client);
    ended(owner);
}

/// A server with async functions on a list.
fn awaiting() -> (Server<Vec<u64>>, smol::channel::Sender<u64>) {
    let (sender, values) = smol::channel::unbounded::<u64>();
    let mut functions = Functions::new();
    let (one, many) = (values.clone(), values.clone());
    functions
        .register_async(Id0::new("take"), move |list: &mut Vec<u64>, (): ()| {
            let values = values.clone();
            Box::pin(async move { list.push(values.recv().await.unwrap()) })
        })
        .unwrap()
        .register_async(Id1::new("take1"), move |list, by: u64| {
            let values = one.clone();
            Box::pin(async move {
                list.push(0);
                let value = values.recv().await.unwrap() * by;
                list.pop();
                list.push(value);
                value
            })
        })
        .unwrap()
        .register_async(IdN::new("take_n"), move |_, (): ()| {
            let values = many.clone();
            Box::pin(async move { (values.recv().await.unwrap(), values.recv().await.unwrap()) })
        })
        .unwrap()
        .register_async(
            Id1::new("panic"),
            |_, late: bool| -> std::pin::Pin<Box<dyn Future<Output = u64> + Send + '_>> {
                assert!(late, "at once");
                Box::pin(async {
                    smol::future::yield_now().await;
                    panic!("late")
                })
            },
        )
        .unwrap()
        .register1("list", |list, ()| list.clone())
        .unwrap();
    (Server::new(Vec::new(), functions), sender)
}

#[test]
fn async_function_keeps_the_state_until_it_ends() {
    let (server, values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    let mut run = asleep(server.run());
    let mut first = client.call1::<_, u64>("take1", 2_u64);
    let mut list = client.call1::<_, Vec<u64>>("list", ());
    let mut dropped = Box::pin(client.call0("take", ()));
    let mut two = client.call_n::<_, (u64, u64)>("take_n", ());
    for _ in 0..2 {
        assert!(poll(&mut first).is_pending() && poll(&mut list).is_pending() && poll(&mut two).is_pending());
        assert!(poll(&mut dropped).is_pending());
        turns(&mut run);
    }
    drop(dropped);
    client.go("take", ()).unwrap();
    values.try_send(5).unwrap();
    turns(&mut run);
    assert!(matches!(poll(&mut first), Poll::Ready(Ok(10))));
    assert!(matches!(poll(&mut list), Poll::Ready(Ok(list)) if list == [10]), "it saw no half-done work");
    values.try_send(6).unwrap();
    values.try_send(7).unwrap();
    values.try_send(8).unwrap();
    turns(&mut run);
    assert!(matches!(poll(&mut two), Poll::Ready(Ok((6, 7)))));
    let stats = client.stats();
    assert_eq!((stats.executed, stats.cancelled, stats.in_place), (4, 1, 0));

    // Panics before the future exists and inside it.
    for late in [false, true] {
        let mut call = client.call1::<_, u64>("panic", late);
        assert!(poll(&mut call).is_pending());
        turns(&mut run);
        let Poll::Ready(Err(CallError::Panicked(panic))) = poll(&mut call) else { panic!("no panic") };
        assert_eq!(panic.message(), if late { "late" } else { "at once" });
    }
    // A running async function completes even if its caller is gone; closing the server ends it at its next await.
    let mut call = Box::pin(client.call0("take", ()));
    assert!(poll(&mut call).is_pending());
    turns(&mut run);
    drop(call);
    let mut behind = client.call0("take", ());
    assert!(poll(&mut behind).is_pending());
    values.try_send(9).unwrap();
    turns(&mut run);
    closer.close();
    let list = end(&mut run);
    assert!(matches!(poll(&mut behind), Poll::Ready(Err(CallError::Unanswered))));
    assert_eq!(list, [10, 8, 9]);
}

#[test]
fn async_function_awaiting_its_own_server_fails() {
    struct Circle {
        next: Option<Client>,
    }
    let mut functions = Functions::new();
    functions
        .register_async(Id1::<u64, Result<u64, CallError>>::new("go"), |circle: &mut Circle, pauses: u64| {
            Box::pin(async move {
                for _ in 0..pauses {
                    smol::future::yield_now().await;
                }
                match circle.next.take() {
                    Some(next) => next.call1::<_, Result<u64, CallError>>("go", pauses).await?,
                    None => Ok(pauses),
                }
            })
        })
        .unwrap()
        .register0("next", |circle: &mut Circle, next: Option<Client>| circle.next = next)
        .unwrap();
    let functions = Arc::new(functions);
    let make = |name: &'static str| {
        let settings = ServerSettings::default().name(name);
        let server = Server::with_settings(Circle { next: None }, functions.clone(), settings);
        (server.client(), thread::spawn(move || smol::block_on(server.run())))
    };
    let ((a, of_a), (b, of_b)) = (make("a"), make("b"));
    for pauses in [0, 3] {
        a.call0("next", Some(b.clone())).wait().unwrap();
        b.call0("next", Some(a.clone())).wait().unwrap();
        let result = a.call1::<_, Result<u64, CallError>>("go", pauses).timeout(LIMIT).wait().unwrap();
        let Err(CallError::WouldDeadlock { chain }) = result else { panic!("{result:?}") };
        assert_eq!(chain.join(" -> "), "b -> a -> b");
        // Both have ended, so one may wait for the other again.
        a.call0("next", Some(b.clone())).wait().unwrap();
        let result = a.call1::<_, Result<u64, CallError>>("go", pauses).timeout(LIMIT).wait().unwrap();
        assert_eq!(result.unwrap(), pauses);
    }
    drop((a, b));
    ended(of_a);
    ended(of_b);
}

#[test]
fn typed_and_untyped_ids_select_the_same_functions() {
    const WRITE: Id0<u64> = Id0::new("write");
    const PUSH: Id1<u64, usize> = Id1::number(3);
    struct Pair(u64);
    let pair = IdN::<Pair, (u64, u64)>::of_arguments();
    let mut functions = Functions::new();
    functions
        .register(WRITE, |list: &mut Vec<u64>, n| list.push(n))
        .unwrap()
        .register(PUSH, |list, n| {
            list.push(n);
            list.len()
        })
        .unwrap()
        .register(pair.clone(), |_, Pair(n)| (n, n + 1))
        .unwrap();
    assert_eq!(
        functions.register0("write", |_, ()| ()).unwrap_err(),
        RegisterError::Duplicate("write".into())
    );
    assert_eq!(functions.kind(&FunctionId::of::<Pair>()), Some(Kind::Many));
    let ids: Vec<_> = functions.ids().cloned().collect();
    assert_eq!(ids, ["write".into(), 3.into(), FunctionId::of::<Pair>()]);
    let server = Server::new(Vec::new(), functions);
    let client = server.client();
    let mut run = asleep(server.run());
    client.call(WRITE, 1).wait().unwrap();
    client.call0("write", 2_u64).wait().unwrap();
    assert_eq!(client.call(PUSH, 3).wait().unwrap(), 3);
    assert_eq!(client.call1::<_, usize>(3, 4_u64).wait().unwrap(), 4);
    assert_eq!(client.call(pair, Pair(7)).wait().unwrap(), (7, 8));
    client.go(WRITE, 5).unwrap();
    let mut callbacks = Callbacks::new(1);
    callbacks.call(&client, PUSH, 6).then(|len: &mut usize, result| *len = result.unwrap()).unwrap();
    turns(&mut run);
    let mut len = 0;
    callbacks.try_next().unwrap().run(&mut len);
    assert_eq!(len, 6);
}

#[test]
fn statistics_count_every_outcome() {
    let mut server = server(3);
    let client = server.client();
    let mut calls: Vec<_> = (0..5_u64).map(|n| Box::pin(client.call0("write", n))).collect();
    for call in &mut calls {
        assert!(poll(call).is_pending());
    }
    let stats = client.stats();
    assert_eq!((stats.queued, stats.capacity, stats.waiting, stats.high_water), (3, 3, 2, 3));
    assert!(matches!(client.go("write", 9_u64).unwrap_err().error(), CallError::Full));
    drop((calls.remove(0), calls.pop()));
    assert_eq!(client.stats().waiting, 1);
    let late = client.call0("write", 9_u64).deadline(std::time::Instant::now()).wait();
    assert!(matches!(late, Err(CallError::Deadline)));
    while exec(&mut server) {}
    let stats = client.stats();
    assert_eq!((stats.queued, stats.waiting, stats.high_water), (0, 0, 3));
    assert_eq!((stats.executed, stats.cancelled, stats.in_place), (3, 1, 0));
    assert_eq!((stats.refused, stats.timed_out, stats.panicked), (1, 1, 0));
    assert_eq!(server.state().entries, [1, 2, 3]);
    // Calls that run in place are not queued.
    let run = asleep(server.run());
    client.call0("write", 4_u64).wait().unwrap();
    assert!(matches!(client.call0("panic", String::new()).wait(), Err(CallError::Panicked(_))));
    let stats = client.stats();
    assert_eq!((stats.executed, stats.in_place, stats.panicked, stats.high_water), (5, 2, 1, 3));
    drop(run);
}

/// A state that records the thread that uses it and when it is dropped.
struct Placed {
    client: Option<Client>,
    closer: Option<chanrpc::chan::Closer>,
    order: Vec<u64>,
    _guard: DropGuard,
}

type Gate = Arc<Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>>;

fn placed(drops: &Drops, gate: &Gate) -> Server<Placed> {
    let gate = gate.clone();
    let mut functions = Functions::new();
    functions
        .register1("where", |_: &mut Placed, (): ()| thread::current().id())
        .unwrap()
        .register0("order", |placed, n: u64| placed.order.push(n))
        .unwrap()
        .register0("block", move |placed, n: u64| {
            placed.order.push(n);
            let (begins, gate) = gate.lock().unwrap().take().unwrap();
            begins.send(()).unwrap();
            let _ = gate.recv_timeout(LIMIT);
        })
        .unwrap()
        .register1("close", |placed, ()| {
            placed.closer.take().unwrap().close();
            7_u64
        })
        .unwrap()
        .register1("self", |placed, ()| {
            placed.client.take().unwrap().call1::<_, thread::ThreadId>("where", ()).wait().is_err()
        })
        .unwrap()
        .register_deferred(Id1::new("later"), |_, (): (), responder: Responder<thread::ThreadId>| {
            responder.reply(thread::current().id());
        })
        .unwrap();
    let state = Placed { client: None, closer: None, order: Vec::new(), _guard: drops.guard() };
    let mut server = Server::new(state, functions);
    let (client, closer) = (server.client(), server.closer());
    server.state_mut().client = Some(client);
    server.state_mut().closer = Some(closer);
    server
}

#[test]
fn function_runs_in_place_only_if_its_server_is_idle_and_lends_its_state() {
    let (drops, gate) = (Drops::default(), Gate::default());
    let here = thread::current().id();
    // A call that ran in place at the end of a turn is ready on the second poll.
    let place = |client: &Client| {
        let mut call = Box::pin(client.call1::<_, thread::ThreadId>("where", ()));
        let first = poll(&mut call);
        if first.is_ready() { first } else { poll(&mut call) }
    };
    let server = placed(&drops, &gate);
    let client = server.client();
    assert!(place(&client).is_pending(), "it is not running yet");
    let mut run = asleep(server.run());
    assert!(matches!(place(&client), Poll::Ready(Ok(thread)) if thread == here));
    assert!(poll(&mut Box::pin(client.call1::<_, thread::ThreadId>("later", ()))).is_pending());
    assert!(place(&client).is_pending(), "one is queued, and not overtaken");
    turns(&mut run);
    assert!(matches!(place(&client), Poll::Ready(Ok(_))));
    // From within itself.
    assert!(client.call1::<_, bool>("self", ()).wait().unwrap());
    // Closing from within.
    assert_eq!(client.call1::<_, u64>("close", ()).wait().unwrap(), 7);
    assert!(matches!(place(&client), Poll::Ready(Err(CallError::Closed))));
    let Placed { .. } = end(&mut run);
    assert_eq!(drops.count(), 1);

    // Never the state of a pinned server or of one driven by another loop.
    let server = placed(&drops, &gate);
    let client = server.client();
    let run = asleep(server.run_pinned());
    assert!(place(&client).is_pending());
    drop(run);
    let mut server = placed(&drops, &gate);
    let client = server.client();
    assert!(poll(&mut Box::pin(server.ready())).is_pending());
    assert!(place(&client).is_pending());
}

#[test]
fn pinned_server_ends_with_its_last_client() {
    let server = server(4);
    let client = server.client();
    let owner = thread::spawn(move || smol::block_on(server.run_pinned()));
    client.call0("write", 1_u64).wait().unwrap();
    drop(client);
    assert_eq!(ended(owner).entries, [1]);
}

#[test]
fn calls_keep_their_order_around_a_call_in_place() {
    let (drops, gate) = (Drops::default(), Gate::default());
    let server = placed(&drops, &gate);
    let client = server.client();
    let closer = server.closer();
    let mut run = asleep(server.run());
    let (begins, begun) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    *gate.lock().unwrap() = Some((begins, opened));
    let other = client.clone();
    let caller = thread::spawn(move || other.call0("block", 1_u64).wait());
    got(&begun);
    // It runs on that thread, so later calls wait in the queue.
    let mut second = client.call0("order", 2_u64);
    assert!(poll(&mut second).is_pending());
    client.go("order", 3_u64).unwrap();
    turns(&mut run);
    drop(open);
    ended(caller).unwrap();
    let mut fourth = client.call0("order", 4_u64);
    assert!(poll(&mut fourth).is_pending(), "it does not overtake");
    turns(&mut run);
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(()))));
    assert!(matches!(poll(&mut fourth), Poll::Ready(Ok(()))));
    client.call0("order", 5_u64).wait().unwrap();
    closer.close();
    let placed = end(&mut run);
    assert_eq!(placed.order, [1, 2, 3, 4, 5]);
    assert_eq!(client.stats().in_place, 2);
}

#[test]
fn borrowed_state_outlives_its_server_until_returned() {
    for closed in [false, true] {
        let (drops, gate) = (Drops::default(), Gate::default());
        let server = placed(&drops, &gate);
        let (client, closer) = (server.client(), server.closer());
        let mut run = asleep(server.run());
        let (begins, begun) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        *gate.lock().unwrap() = Some((begins, opened));
        let other = client.clone();
        let caller = thread::spawn(move || other.call0("block", 1_u64).wait());
        got(&begun);
        let mut queued = client.call0("order", 2_u64);
        assert!(poll(&mut queued).is_pending());
        if closed {
            closer.close();
            turns(&mut run);
        } else {
            drop(run);
            assert_eq!(drops.count(), 0, "a function is at work on it");
            run = asleep(placed(&Drops::default(), &gate).run());
        }
        assert!(matches!(poll(&mut queued), Poll::Ready(Err(CallError::Closed))));
        drop(open);
        ended(caller).unwrap();
        if closed {
            assert_eq!(end(&mut run).order, [1]);
        }
        eventually("the state is dropped", || drops.count() == 1);
    }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Call,
    Keep,
    Go,
    Async,
    Panic,
    Exec,
    DropOldest,
    AnswerKept,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Call),
        2 => Just(Step::Keep),
        3 => Just(Step::Go),
        3 => Just(Step::Async),
        1 => Just(Step::Panic),
        8 => Just(Step::Exec),
        1 => Just(Step::DropOldest),
        2 => Just(Step::AnswerKept),
        1 => Just(Step::Close),
    ];
    proptest::collection::vec(step, 0..60)
}

/// Returns `true` if the queue has capacity. Calls never overtake those waiting for capacity.
fn has_room(client: &Client) -> bool {
    let stats = client.stats();
    stats.queued < stats.capacity && stats.waiting == 0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: scale(512), failure_persistence: None, ..ProptestConfig::default() })]

    /// In any order of events, every call is answered exactly once, with its own value or a matching error, and all
    /// calls run in the order in which they were queued.
    #[test]
    fn every_call_is_answered_exactly_once(steps in steps(), capacity in 1..6_usize) {
        let order: Arc<Mutex<Vec<u64>>> = Arc::default();
        let mut functions = functions();
        functions.register1("trace", {
            let order = order.clone();
            move |_: &mut Ledger, value: u64| {
                order.lock().unwrap().push(value);
                value
            }
        }).unwrap();
        let settings = ServerSettings::default().capacity(capacity).backtrace_limit(0);
        let mut server = Server::with_settings(Ledger::default(), functions, settings);
        let client = server.client();
        let mut callbacks: Callbacks<Vec<(u64, Result<u64, CallError>)>> = Callbacks::new(100);
        let (mut started, mut serial) = (0, 0_u64);
        let mut calls = Vec::new();
        let mut expected = Vec::new();
        let mut closed = false;

        for step in steps {
            serial += 1;
            match step {
                Step::Call => {
                    let mut call = Box::pin(client.call1::<_, u64>("trace", serial));
                    let first = poll(&mut call);
                    prop_assert_eq!(first.is_ready(), closed);
                    if first.is_pending() {
                        expected.push(serial);
                        calls.push((serial, call));
                    }
                }
                Step::Keep => {
                    let mut call = Box::pin(client.call1::<_, u64>("keep", serial));
                    if poll(&mut call).is_pending() {
                        calls.push((serial, call));
                    }
                }
                Step::Go => {
                    if client.go("trace", serial).is_ok() {
                        expected.push(serial);
                    }
                }
                Step::Async => {
                    if has_room(&client) && !closed {
                        expected.push(serial);
                    }
                    let this = serial;
                    callbacks.call1(&client, "trace", serial).then(move |log: &mut Vec<_>, result| log.push((this, result))).unwrap();
                    started += 1;
                }
                Step::Panic => drop(client.go("panic", String::new())),
                Step::Exec => drop(exec(&mut server)),
                Step::DropOldest => if !calls.is_empty() {
                    let (dropped, _) = calls.remove(0);
                    let has_run = order.lock().unwrap().contains(&dropped);
                    if !has_run {
                        expected.retain(|value| *value != dropped);
                    }
                },
                Step::AnswerKept => if let Some(responder) = server.state_mut().kept.pop() {
                    responder.reply(u64::MAX);
                },
                Step::Close => {
                    server.close();
                    closed = true;
                }
            }
        }

        // Calls that waited for capacity are queued while others run.
        while exec(&mut server) {}
        drop(server);
        let ran = order.lock().unwrap().clone();
        for (serial, call) in &mut calls {
            prop_assert!(matches!(poll(call), Poll::Ready(_)), "call {} was never answered", serial);
        }
        let mut by_callback = Vec::new();
        while let Some(callback) = callbacks.try_next() {
            callback.run(&mut by_callback);
        }
        prop_assert_eq!(by_callback.len(), started, "each async call has one callback");
        for (serial, result) in by_callback {
            match result {
                Ok(value) => prop_assert_eq!(value, serial),
                Err(error) => prop_assert!(matches!(error, CallError::Full | CallError::Closed), "{}", error),
            }
        }
        if !closed {
            let in_order: Vec<_> = ran.iter().filter(|value| expected.contains(value)).copied().collect();
            prop_assert_eq!(in_order, expected);
        }
    }
}

#[test]
fn concurrent_calls_keep_their_order_after_their_turn_ends() {
    let executor = smol::LocalExecutor::new();
    let server = server(64);
    let client = server.client();
    let owner = executor.spawn(server.run());
    block_on(executor.run(async {
        for pair in 0..500_u64 {
            let (first, second) = (client.call0("write", 2 * pair), client.call0("write", 2 * pair + 1));
            let (first, second) = smol::future::zip(first, second).await;
            first.and(second).unwrap();
        }
    }));
    assert!(client.stats().in_place > 0, "some were run in place, so that both ways were taken");
    drop(client);
    let entries = block_on(executor.run(owner)).entries;
    assert_eq!(entries, (0..1000).collect::<Vec<u64>>());
}

#[test]
fn functions_may_call_others_in_place_any_number_of_times() {
    let (inner, owner) = running(4);
    let mut functions = Functions::new();
    functions
        .register1("both", |inner: &mut Client, value: u64| {
            let two = [0, 1].map(|_| inner.call1::<_, u64>("echo", value).wait().unwrap());
            two.iter().sum::<u64>()
        })
        .unwrap();
    let server = Server::new(inner, functions);
    let client = server.client();
    let executor = smol::LocalExecutor::new();
    let outer = executor.spawn(server.run());
    block_on(executor.run(async {
        for value in 0..1000_u64 {
            assert_eq!(client.call1::<_, u64>("both", value).await.unwrap(), 2 * value);
        }
    }));
    drop(client);
    drop(block_on(executor.run(outer)));
    owner.join().unwrap();
}

#[test]
fn waiting_for_capacity_in_the_own_queue_is_a_deadlock() {
    let mut functions = Functions::new();
    functions
        .register1("fill", |me: &mut Option<Client>, (): ()| {
            let me = me.as_ref().unwrap();
            me.go("nothing", ()).unwrap();
            me.go_when_room("nothing", ()).wait()
        })
        .unwrap()
        .register0("nothing", |_, ()| {})
        .unwrap();
    let settings = ServerSettings::default().capacity(1);
    let mut server = Server::with_settings(None, functions, settings);
    let client = server.client();
    *server.state_mut() = Some(client.clone());
    let mut call = client.call1::<_, Result<(), CallError>>("fill", ());
    assert!(poll(&mut call).is_pending());
    assert!(exec(&mut server));
    let Poll::Ready(Ok(Err(CallError::WouldDeadlock { chain }))) = poll(&mut call) else {
        panic!("no error")
    };
    assert_eq!(chain.len(), 2);
}

#[test]
fn async_function_queued_behind_a_close_never_starts() {
    let begun = Arc::new(AtomicUsize::new(0));
    let mut functions = Functions::new();
    functions
        .register0("close", |closer: &mut Option<Closer>, (): ()| closer.as_ref().unwrap().close())
        .unwrap()
        .register_async(Id0::new("begin"), {
            let begun = begun.clone();
            move |_, (): ()| {
                begun.fetch_add(1, Ordering::SeqCst);
                Box::pin(async {})
            }
        })
        .unwrap();
    let mut server = Server::new(None, functions);
    *server.state_mut() = Some(server.closer());
    let client = server.client();
    let (mut close, mut begin) = (client.call0("close", ()), client.call0("begin", ()));
    assert!(poll(&mut close).is_pending() && poll(&mut begin).is_pending());
    block_on(server.run());
    assert!(matches!(poll(&mut close), Poll::Ready(Ok(()))));
    assert!(matches!(poll(&mut begin), Poll::Ready(Err(CallError::Closed))));
    assert_eq!(begun.load(Ordering::SeqCst), 0);
}

#[test]
fn server_is_idle_again_after_an_await() {
    let (server, values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    let mut run = asleep(server.run());
    let mut call = client.call0("take", ());
    assert!(poll(&mut call).is_pending());
    turns(&mut run);
    values.try_send(1).unwrap();
    turns(&mut run);
    assert!(matches!(poll(&mut call), Poll::Ready(Ok(()))));
    closer.close();
    end(&mut run);
    drop(run);
    assert!(block_on(closer.drain(Duration::MAX)), "nothing was left to do when it was closed");
}

#[test]
fn weak_client_does_not_keep_its_server_alive() {
    struct Own {
        me: Option<WeakClient>,
        runs: u32,
    }
    let mut functions = Functions::new();
    functions
        .register0("again", |own: &mut Own, more: u32| {
            own.runs += 1;
            if more > 0 {
                let me = own.me.as_ref().unwrap().upgrade().expect("a client is left");
                me.go("again", more - 1).unwrap();
            }
        })
        .unwrap();
    let mut server = Server::new(Own { me: None, runs: 0 }, functions);
    let client = server.client();
    let weak = client.downgrade();
    server.state_mut().me = Some(weak.clone());
    assert!(weak.upgrade().unwrap().same_server(&client));
    assert!(!client.same_server(&Server::new((), Functions::new()).client()));

    let owner = thread::spawn(|| block_on(server.run()));
    client.call0("again", 2_u32).wait().unwrap();
    // The second run was queued by the first, so this call runs third or fourth and the last one before the end.
    client.call0("again", 0_u32).wait().unwrap();
    drop(client);
    assert_eq!(owner.join().unwrap().runs, 4);
    assert!(weak.upgrade().is_none());
}
