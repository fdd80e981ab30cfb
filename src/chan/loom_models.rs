//! Models of the core's locks and atomics. Loom runs each of them in every order of threads that a bounded number of
//! preemptions allows, and also finds waits that never end.
//!
//! ```sh
//! RUSTFLAGS="--cfg chanrpc_loom --cfg chanrpc_core" cargo test --profile checked --lib --no-default-features loom -- --test-threads=1
//! ```
//!
//! A wait that never ends may abort the tests; with one test at a time, the last test printed is the culprit.
#![allow(clippy::unwrap_used)]

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
use loom::thread::spawn;

use super::callbacks::Callbacks;
use super::client::Client;
use super::error::CallError;
use super::functions::Functions;
use super::pending::Prepared;
use super::reply::{ReplyTo, Responder, Slot};
use super::server::Server;
use super::settings::ServerSettings;
use super::target::Submit;

/// Tries every order of threads with at most three preemptions, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
pub(crate) fn model(f: impl Fn() + Send + Sync + 'static) {
    check(3, f);
}

/// Like [`model`] with two preemptions, for models whose threads interact so often that three would take minutes.
pub(crate) fn large_model(f: impl Fn() + Send + Sync + 'static) {
    check(2, f);
}

fn check(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(f);
}

/// Wakes a thread of a model.
#[derive(Default)]
struct Alarm {
    rang: Mutex<bool>,
    bell: Condvar,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rang.lock().unwrap() = true;
        self.bell.notify_one();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rang = alarm.rang.lock().unwrap();
        while !*rang {
            rang = alarm.bell.wait(rang).unwrap();
        }
        *rang = false;
    }
}

/// Counts dropped values. Loom runs a model on one thread, so the counter is not part of the model.
#[derive(Clone, Debug, Default)]
struct Drops(Arc<AtomicUsize>);

impl Drops {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn value(&self, number: u64) -> Value {
        Value { number, drops: self.clone() }
    }
}

#[derive(Debug)]
struct Value {
    number: u64,
    drops: Drops,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.drops.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A state that records the calls.
struct Log {
    numbers: Vec<u64>,
    /// Gives other threads a chance in the middle of a function.
    step: Mutex<()>,
    _end: Value,
}

struct Made {
    server: Server<Log>,
    client: Client,
    /// Counts the states and the arguments.
    states: Drops,
    values: Drops,
}

fn made(capacity: usize) -> Made {
    let mut functions = Functions::new();
    functions
        .register1("add", |log: &mut Log, value: Value| {
            drop(log.step.lock());
            log.numbers.push(value.number);
            value
        })
        .unwrap();
    let (states, values) = (Drops::default(), Drops::default());
    let log = Log { numbers: Vec::new(), step: Mutex::new(()), _end: states.value(0) };
    let settings = ServerSettings { capacity, backtrace_limit: 0, name: None };
    let server = Server::with_settings(log, functions, settings);
    Made { client: server.client(), server, states, values }
}

/// Calls "add" and returns `true` if it ran; otherwise the server was closed.
fn add(client: &Client, value: Value) -> bool {
    let number = value.number;
    match block_on(client.call1::<_, Value>("add", value)) {
        Ok(value) => {
            assert_eq!(value.number, number, "the answer of another call");
            true
        }
        Err(CallError::Closed) => false,
        Err(error) => panic!("{error}"),
    }
}

fn assert_before(log: &Log, first: u64, second: u64) {
    let at = |number| log.numbers.iter().position(|&n| n == number);
    assert!(at(first) < at(second), "{first} must come before {second}: {:?}", log.numbers);
}

fn reply_place() -> (Responder<Value>, Arc<Slot<Value>>) {
    let slot = Arc::new(Slot::new());
    (Responder::new(ReplyTo::Slot(slot.clone())), slot)
}

// The place of a reply.

#[test]
fn an_answer_reaches_the_one_who_polls() {
    model(|| {
        let drops = Drops::default();
        let (responder, slot) = reply_place();
        let value = drops.value(7);
        let worker = spawn(move || responder.reply(value));
        assert_eq!(block_on(poll_fn(|cx| slot.poll(cx))).unwrap().number, 7);
        worker.join().unwrap();
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn a_responder_that_is_dropped_answers() {
    model(|| {
        let (responder, slot) = reply_place();
        let worker = spawn(move || drop(responder));
        assert!(matches!(block_on(poll_fn(|cx| slot.poll(cx))), Err(CallError::Unanswered)));
        worker.join().unwrap();
    });
}

#[test]
fn an_answer_to_nobody_is_dropped_once() {
    model(|| {
        let drops = Drops::default();
        let (responder, slot) = reply_place();
        let value = drops.value(7);
        let worker = spawn(move || responder.reply(value));
        let polled = slot.poll(&Context::from_waker(Waker::noop()));
        slot.abandon();
        worker.join().unwrap();
        drop(polled);
        assert_eq!(drops.count(), 1, "the answer outlived the one who asked, in the slot");
    });
}

#[test]
fn who_works_on_an_answer_learns_that_it_is_abandoned() {
    model(|| {
        let (mut responder, slot) = reply_place();
        let worker = spawn(move || {
            block_on(responder.abandoned());
            assert!(responder.is_abandoned());
        });
        slot.abandon();
        worker.join().unwrap();
    });
}

// The queue, and the loop that sleeps.

#[test]
fn a_sleeping_loop_is_woken_by_every_push() {
    model(|| {
        let Made { server, client, states, values } = made(4);
        let owner = spawn(move || block_on(server.run_pinned()));
        let other = spawn({
            let (client, values) = (client.clone(), values.clone());
            move || {
                client.go("add", values.value(1)).unwrap();
                client.go("add", values.value(2)).unwrap();
            }
        });
        assert!(add(&client, values.value(10)));
        other.join().unwrap();
        drop(client);
        let log = owner.join().unwrap();
        assert_eq!(log.numbers.len(), 3);
        assert_before(&log, 1, 2);
        assert_eq!((values.count(), states.count()), (3, 0));
    });
}

#[test]
fn a_loop_that_polls_between_calls_misses_none() {
    model(|| {
        let Made { mut server, client, values, .. } = made(4);
        let caller = spawn({
            let values = values.clone();
            move || {
                assert!(add(&client, values.value(1)));
                client.go("add", values.value(2)).unwrap();
            }
        });
        while server.state().numbers.len() < 2 {
            assert!(block_on(server.ready()));
            assert!(block_on(server.exec()));
        }
        caller.join().unwrap();
        assert_eq!(server.state().numbers, [1, 2]);
        assert_eq!(values.count(), 2);
    });
}

// Calls in place.

#[test]
fn the_state_is_lent_and_comes_back() {
    large_model(|| {
        let Made { server, client, states, values } = made(4);
        let owner = spawn(move || block_on(server.run()));
        let other = spawn({
            let (client, values) = (client.clone(), values.clone());
            move || {
                client.go("add", values.value(1)).unwrap();
                assert!(add(&client, values.value(2)));
            }
        });
        assert!(add(&client, values.value(10)));
        other.join().unwrap();
        let stats = client.stats();
        drop(client);
        let log = owner.join().unwrap();
        assert_eq!(log.numbers.len(), 3);
        assert_before(&log, 1, 2);
        assert_eq!((values.count(), states.count(), stats.queued), (3, 0, 0));
    });
}

#[test]
fn a_call_in_go_mode_is_not_overtaken_in_place() {
    model(|| {
        let Made { server, client, values, .. } = made(4);
        let owner = spawn(move || block_on(server.run()));
        for number in [1, 3] {
            client.go("add", values.value(number)).unwrap();
            assert!(add(&client, values.value(number + 1)));
        }
        drop(client);
        assert_eq!(owner.join().unwrap().numbers, [1, 2, 3, 4]);
    });
}

#[test]
fn a_loop_that_is_dropped_while_the_state_is_lent_drops_it_once() {
    model(|| {
        let Made { server, client, states, values } = made(4);
        let owner = spawn(move || {
            let mut run = Box::pin(server.run());
            assert!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(run);
        });
        let ran = add(&client, values.value(1));
        owner.join().unwrap();
        assert_eq!((values.count(), states.count()), (1, 1));
        assert_eq!(u64::from(ran), client.stats().executed);
    });
}

#[test]
fn closing_while_the_state_is_lent_gives_it_back() {
    large_model(|| {
        let Made { server, client, states, values } = made(4);
        let closer = server.closer();
        let owner = spawn(move || block_on(server.run()));
        let closes = spawn(move || closer.close());
        let ran = add(&client, values.value(1));
        closes.join().unwrap();
        let log = owner.join().unwrap();
        assert_eq!(log.numbers.len(), usize::from(ran));
        assert!(!add(&client, values.value(2)), "nothing runs after the end");
        assert_eq!((values.count(), states.count()), (2, 0));
    });
}

// A full queue.

#[test]
fn those_who_wait_for_room_get_in_or_get_away() {
    large_model(|| {
        let Made { server, client, values, .. } = made(1);
        client.go("add", values.value(1)).unwrap();
        let owner = spawn(move || block_on(server.run_pinned()));
        let other = spawn({
            let (client, values) = (client.clone(), values.clone());
            move || block_on(client.go_when_room("add", values.value(2))).unwrap()
        });
        let mut given_up = Box::pin(client.call1::<_, Value>("add", values.value(3)));
        let polled = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(given_up);
        drop(polled);
        assert!(add(&client, values.value(4)));
        other.join().unwrap();
        let stats = client.stats();
        drop(client);
        let log = owner.join().unwrap();
        assert_eq!(stats.waiting, 0);
        assert!([1, 2, 4].iter().all(|number| log.numbers.contains(number)), "{:?}", log.numbers);
        assert_eq!(values.count(), 4);
    });
}

#[test]
fn who_gives_up_waiting_for_room_leaves_the_line() {
    model(|| {
        let Made { mut server, client, values, .. } = made(1);
        client.go("add", values.value(1)).unwrap();
        let owner = spawn(move || {
            assert!(block_on(server.exec()));
            server
        });
        let mut given_up = Box::pin(client.call1::<_, Value>("add", values.value(2)));
        let polled = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(given_up);
        drop(polled);
        let server = owner.join().unwrap();
        assert_eq!(client.stats().waiting, 0);
        drop(server);
        assert_eq!(values.count(), 2);
    });
}

#[test]
fn a_call_in_go_mode_that_is_overdue_was_either_queued_or_never_runs() {
    model(|| {
        let Made { mut server, client, values, .. } = made(1);
        client.go("add", values.value(1)).unwrap();
        let owner = spawn(move || {
            assert!(block_on(server.exec()));
            server
        });
        let mut call = client.go_when_room("add", values.value(2));
        let polled = Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
        let ended = if polled.is_ready() { polled } else { call.expire() };
        let result = match ended {
            Poll::Ready(result) => result,
            Poll::Pending => block_on(call),
        };
        let mut server = owner.join().unwrap();
        while block_on(server.exec()) {}
        assert_eq!(server.state().numbers.contains(&2), result.is_ok(), "{result:?}");
        assert_eq!((client.stats().waiting, values.count()), (0, 2));
    });
}

#[test]
fn closing_answers_those_who_wait_for_room() {
    large_model(|| {
        let Made { server, client, values, .. } = made(1);
        client.go("add", values.value(1)).unwrap();
        let closer = server.closer();
        let owner = spawn(move || block_on(server.run_pinned()));
        let other = spawn({
            let (client, values) = (client.clone(), values.clone());
            move || block_on(client.go_when_room("add", values.value(2))).is_ok()
        });
        let closes = spawn(move || closer.close());
        let ran = add(&client, values.value(3));
        let entered = other.join().unwrap();
        closes.join().unwrap();
        let log = owner.join().unwrap();
        assert_eq!(log.numbers.contains(&3), ran);
        assert!(entered || !log.numbers.contains(&2), "what was refused has run");
        assert_eq!((values.count(), client.stats().waiting), (3, 0));
    });
}

// The end.

#[test]
fn closing_answers_every_caller_once() {
    large_model(|| {
        let Made { server, client, values, .. } = made(2);
        let closer = server.closer();
        let owner = spawn(move || block_on(server.run_pinned()));
        let other = spawn({
            let (client, values) = (client.clone(), values.clone());
            move || add(&client, values.value(1))
        });
        let closes = spawn(move || closer.close());
        let ran = usize::from(add(&client, values.value(2)));
        let other_ran = usize::from(other.join().unwrap());
        closes.join().unwrap();
        let log = owner.join().unwrap();
        assert_eq!(log.numbers.len(), ran + other_ran);
        assert_eq!((values.count(), client.stats().queued), (2, 0));
    });
}

#[test]
fn draining_runs_what_was_taken_and_ends() {
    large_model(|| {
        let Made { server, client, values, .. } = made(2);
        let shared = client.shared().clone();
        let owner = spawn(move || block_on(server.run()));
        let drains = spawn(move || {
            shared.drain();
            block_on(poll_fn(|cx| shared.poll_ended(cx)));
        });
        let posted = usize::from(client.go("add", values.value(1)).is_ok());
        let ran = usize::from(add(&client, values.value(2)));
        assert!(ran <= posted, "what came later was taken");
        drains.join().unwrap();
        let log = owner.join().unwrap();
        assert_eq!(log.numbers.len(), posted + ran);
        assert_eq!(values.count(), 2);
    });
}

#[test]
fn a_drain_knows_what_a_loop_that_is_dropped_has_left() {
    large_model(|| {
        let Made { server, client, values, .. } = made(2);
        let shared = client.shared().clone();
        let owner = spawn(move || {
            let mut run = Box::pin(server.run());
            assert!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(run);
        });
        let posted = client.go("add", values.value(1)).is_ok();
        let ran = add(&client, values.value(2));
        owner.join().unwrap();
        let all = block_on(poll_fn(|cx| shared.poll_ended(cx)));
        let executed = client.stats().executed;
        assert!(!all || executed == u64::from(posted) + u64::from(ran), "{executed}, {posted}, {ran}");
        assert_eq!(values.count(), 2);
    });
}

#[test]
fn the_last_client_ends_the_loop() {
    model(|| {
        let Made { server, client, states, .. } = made(2);
        let owner = spawn(move || block_on(server.run()));
        let other = spawn({
            let client = client.clone();
            move || drop(client)
        });
        drop(client);
        other.join().unwrap();
        drop(owner.join().unwrap());
        assert_eq!(states.count(), 1);
    });
}

// Async calls.

type Got = Vec<Result<u64, CallError>>;

/// Prepares an async call, and returns the right to answer it later.
fn prepared(
    callbacks: &mut Callbacks<Got>,
    client: &Client,
    time: Option<Duration>,
    held: Value,
) -> Responder<Value> {
    let callback = move |got: &mut Got, result: Result<Value, CallError>| {
        let _held = held;
        got.push(result.map(|value| value.number));
    };
    match callbacks.prepare(|| Submit::<(), Value>::counter(client), time, callback) {
        Ok(Prepared::Plain(sink)) => Responder::new(ReplyTo::Sink(Box::new(sink))),
        Ok(Prepared::Timed(sink)) => Responder::new(ReplyTo::Sink(Box::new(sink))),
        Err(_) => panic!("no room"),
    }
}

#[test]
fn an_answer_wakes_the_loop_that_waits_for_callbacks() {
    model(|| {
        let Made { client, values, server: _server, .. } = made(2);
        let mut callbacks = Callbacks::new(2);
        let responders = [1, 2].map(|_| prepared(&mut callbacks, &client, None, values.value(0)));
        let answers = spawn({
            let values = values.clone();
            move || {
                let [first, second] = responders;
                first.reply(values.value(1));
                second.reply(values.value(2));
            }
        });
        let mut got = Vec::new();
        for _ in 0..2 {
            block_on(callbacks.next()).run(&mut got);
        }
        answers.join().unwrap();
        assert!(matches!(got[..], [Ok(1), Ok(2)]), "{got:?}");
        assert_eq!((callbacks.pending(), values.count()), (0, 4));
    });
}

#[test]
fn callbacks_that_are_gone_are_dropped_once() {
    model(|| {
        for time in [None, Some(Duration::ZERO)] {
            let Made { client, values, server: _server, .. } = made(2);
            let mut callbacks = Callbacks::new(2);
            let responder = prepared(&mut callbacks, &client, time, values.value(0));
            let answers = spawn({
                let values = values.clone();
                move || responder.reply(values.value(1))
            });
            drop(callbacks);
            answers.join().unwrap();
            assert_eq!(values.count(), 2, "the callback and the result");
        }
    });
}

#[test]
fn who_works_for_callbacks_learns_that_they_are_gone() {
    model(|| {
        for time in [None, Some(Duration::ZERO)] {
            let Made { client, values, server: _server, .. } = made(2);
            let mut callbacks = Callbacks::new(2);
            let mut responder = prepared(&mut callbacks, &client, time, values.value(0));
            let worker = spawn(move || {
                block_on(responder.abandoned());
                assert!(responder.is_abandoned());
            });
            drop(callbacks);
            worker.join().unwrap();
            assert_eq!(values.count(), 1);
        }
    });
}

#[test]
fn either_the_answer_or_the_deadline_ends_an_async_call() {
    model(|| {
        let Made { client, values, server: _server, .. } = made(2);
        let mut callbacks = Callbacks::new(2);
        let responder = prepared(&mut callbacks, &client, Some(Duration::ZERO), values.value(0));
        let answers = spawn({
            let values = values.clone();
            move || responder.reply(values.value(1))
        });
        let mut got = Vec::new();
        block_on(callbacks.next()).run(&mut got);
        answers.join().unwrap();
        assert!(callbacks.try_next().is_none() && callbacks.pending() == 0, "it ended twice");
        let late = match got[..] {
            [Ok(1)] => 0,
            [Err(CallError::Deadline)] => 1,
            _ => panic!("{got:?}"),
        };
        assert_eq!((client.stats().timed_out, values.count()), (late, 2));
    });
}

#[test]
fn who_works_for_an_async_call_learns_of_its_deadline() {
    model(|| {
        let Made { client, values, server: _server, .. } = made(2);
        let mut callbacks = Callbacks::new(2);
        let mut responder = prepared(&mut callbacks, &client, Some(Duration::ZERO), values.value(0));
        let worker = spawn(move || block_on(responder.abandoned()));
        let mut got = Vec::new();
        block_on(callbacks.next()).run(&mut got);
        worker.join().unwrap();
        assert!(matches!(got[..], [Err(CallError::Deadline)]), "{got:?}");
        assert_eq!(values.count(), 1);
    });
}

#[test]
fn a_new_deadline_wakes_the_loop_that_waits_for_callbacks() {
    model(|| {
        let Made { client, values, server: _server, .. } = made(2);
        let callbacks = Arc::new(Mutex::new(Callbacks::new(2)));
        let waits = spawn({
            let callbacks = callbacks.clone();
            move || {
                let mut got = Vec::new();
                block_on(poll_fn(|cx| callbacks.lock().unwrap().poll_next(cx))).run(&mut got);
                assert!(matches!(got[..], [Err(CallError::Deadline)]), "{got:?}");
            }
        });
        let responder =
            prepared(&mut callbacks.lock().unwrap(), &client, Some(Duration::ZERO), values.value(0));
        waits.join().unwrap();
        drop(responder);
        assert_eq!(values.count(), 1);
    });
}
