//! Workers: how many calls run concurrently, in which order waiting calls run, and what happens to the rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::config::{Limits, WhenFull, Workers};
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::message::Outcome;
use chanrpc::internals::route::{Grants, Mailbox, Posts, RegistryInternals as _, responder};
use chanrpc::internals::session::Session;
use chanrpc::message::{Fault, RawJson, code};
use chanrpc::node::Node;
use chanrpc::route::{
    Call, Description, Provider, ProviderKind, Registry, RegistryBuilder, RegistryError, Responder,
};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{Client, assert_fault, ended, eventually, request};

const HOUR: Duration = Duration::from_secs(3600);

/// How a test's provider handles its calls.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Holds them until the test replies.
    Keeps,
    /// Replies while accepting them, inline if possible.
    Answers,
    /// Panics.
    Panics,
}

/// Started calls in order: function and number.
#[derive(Clone, Default)]
struct Begun {
    log: Arc<Mutex<Vec<(String, u64)>>>,
    kept: Arc<Mutex<BTreeMap<u64, Responder>>>,
}

impl Begun {
    fn log(&self) -> MutexGuard<'_, Vec<(String, u64)>> {
        self.log.lock().unwrap()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, Responder>> {
        self.kept.lock().unwrap()
    }
}

struct Fake {
    manner: Manner,
    begun: Begun,
}

fn number(params: Option<&RawJson<'_>>) -> u64 {
    serde_json::from_str::<[u64; 1]>(params.unwrap().get()).unwrap()[0]
}

impl Provider for Fake {
    fn call(&self, call: Call<'_>) {
        let number = number(call.params());
        self.begun.log().push((call.method().to_owned(), number));
        match self.manner {
            Manner::Keeps => drop(self.begun.kept().insert(number, call.defer())),
            Manner::Answers => call.reply(Ok(RawJson::of(&number).unwrap())),
            Manner::Panics => panic!("as the test wants it"),
        }
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        if params.is_none() { Err(Fault::invalid_params("a number is missing")) } else { Ok(()) }
    }
}

fn of_kind(kind: &'static str) -> Description {
    Description::default().provider(ProviderKind::Custom(kind))
}

/// A registry and one peer that calls its functions.
struct Desk {
    registry: Arc<Registry>,
    begun: Begun,
    inbox: Arc<Mailbox>,
}

impl Desk {
    /// Registers functions by name, kind of provider and behaviour.
    fn new(functions: &[(&str, &'static str, Manner)], workers: impl FnOnce(&mut RegistryBuilder)) -> Self {
        let begun = Begun::default();
        let mut builder = Registry::builder("test");
        for (name, kind, manner) in functions {
            let fake = Fake { manner: *manner, begun: begun.clone() };
            builder.provide(name, of_kind(kind), fake).unwrap();
        }
        workers(&mut builder);
        Self { registry: builder.build(), begun, inbox: Arc::default() }
    }

    fn begin(&self, method: &str, number: u64) {
        self.begin_until(method, number, false, Instant::now() + HOUR);
    }

    fn begin_until(&self, method: &str, number: u64, notification: bool, deadline: Instant) {
        begin(&self.registry, method, number, responder(&self.inbox, number, notification), deadline);
    }

    fn answer(&self, number: u64) {
        let reply = self.begun.kept().remove(&number).expect("it is kept");
        reply.send(Ok(RawJson::NULL));
    }

    /// Returns the calls started since the last check, such as `slow 1`.
    fn begun(&self) -> Vec<String> {
        self.begun.log().drain(..).map(|(function, number)| format!("{function} {number}")).collect()
    }

    fn answers(&self) -> Vec<(u64, Outcome)> {
        let mut answers = VecDeque::new();
        let _ = self.inbox.poll(&Context::from_waker(Waker::noop()), &mut answers, &mut Posts::default());
        answers.into()
    }

    /// Returns the replies received: numbers with 0, or the code of an error.
    fn codes(&self) -> Vec<(u64, i64)> {
        let code = |outcome: Outcome| outcome.map_or_else(|fault| fault.code, |_| 0);
        self.answers().into_iter().map(|(number, outcome)| (number, code(outcome))).collect()
    }

    fn stats(&self) -> BTreeMap<String, Numbers> {
        stats(&self.registry)
    }

    #[track_caller]
    fn assert_idle(&self) {
        for (gate, numbers) in self.stats() {
            assert_eq!((numbers.busy, numbers.waiting), (0, 0), "{gate}");
        }
        assert_eq!(self.registry.in_flight(), 0);
    }
}

fn begin(registry: &Registry, method: &str, number: u64, reply: Responder, deadline: Instant) {
    let params = Some(RawJson::of(&[number]).unwrap());
    let mut reply = Some(reply);
    if let Some(result) = registry.begin(method, params, deadline, || reply.take().unwrap()) {
        let reply = reply.unwrap();
        reply.send(result.map(|json| RawValue::from_string(json).unwrap().into()));
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Numbers {
    workers: u64,
    busy: u64,
    waiting: u64,
    refused: u64,
    shed: u64,
}

/// Returns what `rpc.stats` reports for each limit.
fn numbers(registry: &Registry) -> BTreeMap<String, Numbers> {
    told(registry).iter().map(|gate| read(gate, |_, key| gate[key].as_u64().unwrap())).collect()
}

/// Returns the same, and asserts that `/metrics` agrees.
fn stats(registry: &Registry) -> BTreeMap<String, Numbers> {
    // Both must be from the same moment, because other threads may continue meanwhile.
    let (gates, metrics) = loop {
        let (gates, metrics) = (told(registry), registry.prometheus(&Grants::all()));
        if told(registry) == gates {
            break (gates, metrics);
        }
    };
    let of = |gate: &Value| {
        let mut labels = format!("level={}", gate["level"]);
        for key in ["function", "provider"] {
            labels += &gate[key].as_str().map_or_else(String::new, |text| format!(",{key}=\"{text}\""));
        }
        read(gate, |family, key| {
            let line = format!("{family}{{{labels}}} {}", gate[key]);
            assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
            gate[key].as_u64().unwrap()
        })
    };
    gates.iter().map(of).collect()
}

fn told(registry: &Registry) -> Vec<Value> {
    let out = registry.begin("rpc.stats", None, Instant::now(), || unreachable!()).unwrap().unwrap();
    let mut stats: Value = serde_json::from_str(&out).unwrap();
    match stats["workers"].take() {
        Value::Array(gates) => gates,
        other => panic!("{other}"),
    }
}

fn read(gate: &Value, number: impl Fn(&str, &str) -> u64) -> (String, Numbers) {
    let name = ["function", "provider", "level"].iter().find_map(|key| gate[key].as_str()).unwrap();
    let numbers = Numbers {
        workers: number("chanrpc_workers", "workers"),
        busy: number("chanrpc_workers_busy", "busy"),
        waiting: number("chanrpc_workers_waiting", "waiting"),
        refused: number("chanrpc_workers_refused_total", "refused"),
        shed: number("chanrpc_workers_shed_total", "shed"),
    };
    (name.to_owned(), numbers)
}

fn workers(count: usize, queue: usize, when_full: WhenFull) -> Workers {
    Workers::new(count).queue(queue).when_full(when_full)
}

const SLOW_AND_QUICK: [(&str, &str, Manner); 2] =
    [("slow", "fake", Manner::Keeps), ("quick", "fake", Manner::Keeps)];

// Fairness

#[test]
fn flood_delays_other_functions_by_one_round() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(Workers::new(1));
    });
    (0..100).for_each(|number| desk.begin("slow", number));
    (100..103).for_each(|number| desk.begin("quick", number));
    for number in [0, 1, 100, 2, 101, 3, 102, 4, 5] {
        desk.answer(number);
    }
    let expected = [
        "slow 0",
        "slow 1",
        "quick 100",
        "slow 2",
        "quick 101",
        "slow 3",
        "quick 102",
        "slow 4",
        "slow 5",
        "slow 6",
    ];
    assert_eq!(desk.begun(), expected);
    let answered: Vec<_> = desk.answers().into_iter().map(|(number, _)| number).collect();
    assert_eq!(answered, [0, 1, 100, 2, 101, 3, 102, 4, 5]);
}

#[test]
fn one_function_leaves_a_worker_for_the_others() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(Workers::new(3));
    });
    (0..10).for_each(|number| desk.begin("slow", number));
    assert_eq!(desk.begun(), ["slow 0", "slow 1"], "the third worker is for others");
    (10..13).for_each(|number| desk.begin("quick", number));
    [10, 11, 12].into_iter().for_each(|number| desk.answer(number));
    assert_eq!(desk.begun(), ["quick 10", "quick 11", "quick 12"], "none of the slow ones has ended");
    assert_eq!(desk.stats()["node"], Numbers { workers: 3, busy: 2, waiting: 8, ..Numbers::default() });

    let share = |share, expected: u64| {
        let mut workers = Workers::new(3);
        workers.share = share;
        let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
            builder.provider_workers(ProviderKind::Custom("fake"), workers);
        });
        (0..10).for_each(|number| desk.begin("slow", number));
        assert_eq!(desk.stats()["fake"].busy, expected, "{share:?}");
    };
    share(Some(3), 3);
    share(Some(1), 1);
    share(None, 2);
    // Without other functions, no worker is reserved.
    let alone = Desk::new(&SLOW_AND_QUICK[..1], |builder| {
        builder.node_workers(Workers::new(3));
    });
    (0..10).for_each(|number| alone.begin("slow", number));
    assert_eq!(alone.stats()["node"].busy, 3);
}

/// A call waiting for its function's own workers holds no shared worker.
#[test]
fn waiting_call_holds_no_worker() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(Workers::new(2).share(2));
        builder.provider_workers(ProviderKind::Custom("fake"), Workers::new(2).share(2));
        builder.function_workers("slow", Workers::new(1)).unwrap();
    });
    (0..3).for_each(|number| desk.begin("slow", number));
    (3..5).for_each(|number| desk.begin("quick", number));
    assert_eq!(desk.begun(), ["slow 0", "quick 3"]);
    desk.answer(3);
    assert_eq!(desk.begun(), ["quick 4"], "not slow 1: its function's worker is held");
    desk.answer(0);
    assert_eq!(desk.begun(), ["slow 1"]);
    let stats = desk.stats();
    assert_eq!(stats["slow"], Numbers { workers: 1, busy: 1, waiting: 1, ..Numbers::default() });
    assert_eq!(stats["fake"], Numbers { workers: 2, busy: 2, waiting: 1, ..Numbers::default() });
    assert_eq!(stats["node"], stats["fake"]);
    for number in [1, 2, 4] {
        desk.answer(number);
    }
    desk.assert_idle();
}

#[test]
fn function_without_a_limit_is_unbounded() {
    let functions = [("free", "other", Manner::Keeps), ("bound", "fake", Manner::Keeps)];
    let desk = Desk::new(&functions, |builder| {
        builder.provider_workers(ProviderKind::Custom("fake"), Workers::new(1));
    });
    (0..50).for_each(|number| desk.begin("free", number));
    (50..60).for_each(|number| desk.begin("bound", number));
    assert_eq!(desk.begun().len(), 51);
    assert_eq!(desk.stats().keys().collect::<Vec<_>>(), ["fake"]);
    let mut builder = Registry::builder("test");
    let absent = builder.function_workers("bound", Workers::new(1)).map(drop).unwrap_err();
    assert_eq!(absent, RegistryError::Unknown("bound".into()));
    assert!(absent.to_string().contains("\"bound\""), "{absent}");
}

#[test]
fn quick_functions_are_answered_inline_while_a_worker_is_free() {
    let functions = [("at.once", "fake", Manner::Answers), ("slow", "fake", Manner::Keeps)];
    let desk = Desk::new(&functions, |builder| {
        builder.node_workers(workers(1, 1, WhenFull::Refuse));
    });
    let prompt = |number: u64| {
        let params = Some(RawJson::of(&[number]).unwrap());
        let reply = || responder(&desk.inbox, number, false);
        let answer = desk.registry.begin("at.once", params, Instant::now() + HOUR, reply);
        answer.map(|answer| answer.map_err(|fault| fault.code))
    };
    for number in 0..3 {
        assert_eq!(prompt(number), Some(Ok(number.to_string())), "the worker is free again each time");
    }
    desk.begin("slow", 3);
    assert_eq!(prompt(4), None, "it has to wait");
    assert_eq!(prompt(5), None);
    assert_eq!(desk.codes(), [(5, code::BUSY)]);
    desk.answer(3);
    assert_eq!(desk.codes(), [(3, 0), (4, 0)], "each answer before those that it makes possible");
    assert_eq!(prompt(6), Some(Ok("6".into())));
    desk.assert_idle();
}

/// A call that is answered while starting makes room for the next; thousands in a row need no deeper stack than one.
#[test]
fn chain_of_calls_answered_inline_does_not_recurse() {
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(|| {
        let functions = [("at.once", "fake", Manner::Answers), ("slow", "fake", Manner::Keeps)];
        let desk = Desk::new(&functions, |builder| {
            builder.node_workers(workers(1, 0, WhenFull::Wait));
        });
        desk.begin("slow", 0);
        (1..=20_000).for_each(|number| desk.begin("at.once", number));
        assert_eq!(desk.begun(), ["slow 0"]);
        desk.answer(0);
        let answered: Vec<_> = desk.codes();
        assert!(answered.iter().copied().eq((0..=20_000).map(|number| (number, 0))));
        desk.assert_idle();
    });
    ended(thread.unwrap());
}

#[test]
fn panicking_provider_answers_its_call() {
    for limited in [false, true] {
        let desk = Desk::new(&[("broken", "fake", Manner::Panics)], |builder| {
            if limited {
                builder.node_workers(Workers::new(1));
            }
        });
        desk.begin("broken", 0);
        desk.begin("broken", 1);
        assert_eq!(desk.codes(), [(0, code::INTERNAL), (1, code::INTERNAL)]);
        desk.assert_idle();
    }
}

#[test]
fn panicking_provider_returns_its_worker() {
    let functions = [("slow", "fake", Manner::Keeps), ("broken", "fake", Manner::Panics)];
    let desk = Desk::new(&functions, |builder| {
        builder.node_workers(Workers::new(1));
    });
    desk.begin("slow", 0);
    (1..4).for_each(|number| desk.begin("broken", number));
    desk.begin("slow", 4);
    desk.answer(0);
    assert_eq!(desk.codes(), [(0, 0), (1, code::INTERNAL)]);
    let kept = std::mem::take(&mut *desk.begun.kept());
    assert_eq!(kept.keys().copied().collect::<Vec<_>>(), [4]);
    drop(kept);
    assert_eq!(desk.codes(), [(4, code::INTERNAL), (2, code::INTERNAL), (3, code::INTERNAL)]);
    desk.assert_idle();
}

// Policies

#[test]
fn full_queue_rejects_calls_and_names_the_setting() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 2, WhenFull::Refuse));
    });
    (0..4).for_each(|number| desk.begin("slow", number));
    let answers = desk.answers();
    let [(3, Err(fault))] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(fault.code, code::BUSY);
    assert_eq!(
        fault.message,
        "the node is busy: 1 call runs (count = 1 in [workers]), 2 wait (queue = 2); try again later"
    );
    assert_eq!(desk.stats()["node"], Numbers { workers: 1, busy: 1, waiting: 2, refused: 1, shed: 0 });
    // The flooding function is shed: its newest call makes room for one of another function; then both have the same
    // number.
    desk.begin("quick", 4);
    assert_eq!(desk.codes(), [(2, code::BUSY)]);
    desk.begin("quick", 5);
    assert_eq!(desk.codes(), [(5, code::BUSY)]);
    for number in [0, 1, 4] {
        desk.answer(number);
    }
    assert_eq!(desk.begun(), ["slow 0", "slow 1", "quick 4"]);

    let setting = |set: fn(&mut RegistryBuilder), expected: &str| {
        let desk = Desk::new(&SLOW_AND_QUICK, set);
        (0..2).for_each(|number| desk.begin("slow", number));
        let answers = desk.answers();
        let [(1, Err(fault))] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(fault.message, format!("{expected}, 0 wait (queue = 0); try again later"));
    };
    setting(
        |builder| {
            builder.provider_workers(ProviderKind::Custom("fake"), workers(1, 0, WhenFull::Refuse));
        },
        "the node is busy: 1 call runs (count = 1 in [workers.fake])",
    );
    setting(
        |builder| {
            builder.function_workers("slow", workers(1, 0, WhenFull::Shed)).unwrap();
        },
        "slow is busy: 1 call runs (workers = 1)",
    );
}

#[test]
fn full_queue_sheds_the_oldest_call_of_the_longest_queue() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 3, WhenFull::Shed));
    });
    (0..5).for_each(|number| desk.begin("slow", number));
    let answers = desk.answers();
    let [(1, Err(fault))] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(
        (fault.code, &*fault.message),
        (
            code::BUSY,
            "the node is busy: 1 call runs (count = 1 in [workers]), 2 wait (queue = 3); a newer call took this one's place"
        )
    );
    desk.begin("quick", 5);
    desk.begin("quick", 6);
    desk.begin("quick", 7);
    assert_eq!(desk.codes(), [(2, code::BUSY), (3, code::BUSY), (5, code::BUSY)]);
    assert_eq!(desk.stats()["node"], Numbers { workers: 1, busy: 1, waiting: 3, refused: 0, shed: 4 });
    for number in [0, 4, 6, 7] {
        desk.answer(number);
    }
    assert_eq!(desk.begun(), ["slow 0", "slow 4", "quick 6", "quick 7"]);
    desk.assert_idle();
}

#[test]
fn with_policy_wait_only_notifications_are_bounded_by_the_queue() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 2, WhenFull::Wait));
    });
    (0..500).for_each(|number| desk.begin("slow", number));
    let later = Instant::now() + HOUR;
    (500..504).for_each(|number| desk.begin_until("slow", number, true, later));
    (504..507).for_each(|number| desk.begin_until("quick", number, true, later));
    assert_eq!(desk.codes(), [(502, code::BUSY), (503, code::BUSY), (506, code::BUSY)]);
    assert_eq!(desk.stats()["node"], Numbers { workers: 1, busy: 1, waiting: 503, refused: 3, shed: 0 });
}

#[test]
fn first_full_queue_of_several_decides() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 3, WhenFull::Refuse));
        builder.function_workers("slow", workers(1, 2, WhenFull::Shed)).unwrap();
    });
    (0..4).for_each(|number| desk.begin("slow", number));
    assert_eq!(desk.codes(), [(1, code::BUSY)], "the function's queue is full, and sheds");
    (4..6).for_each(|number| desk.begin("quick", number));
    assert_eq!(desk.codes(), [(5, code::BUSY)], "the node's is, and refuses");
    let stats = desk.stats();
    assert_eq!(stats["slow"], Numbers { workers: 1, busy: 1, waiting: 2, refused: 0, shed: 1 });
    assert_eq!(stats["node"], Numbers { workers: 1, busy: 1, waiting: 3, refused: 1, shed: 0 });
}

#[test]
fn invalid_call_fails_before_it_waits() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 0, WhenFull::Refuse));
    });
    desk.begin("slow", 0);
    let refused = desk.registry.begin("slow", None, Instant::now() + HOUR, || unreachable!());
    assert_eq!(refused.unwrap().unwrap_err().code, code::INVALID_PARAMS);
}

// Cancellation

#[test]
fn cancelled_waiter_leaves_the_queue_immediately() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 2, WhenFull::Refuse));
    });
    (0..3).for_each(|number| desk.begin("slow", number));
    desk.inbox.cancel(1);
    assert_eq!(desk.stats()["node"].waiting, 1);
    desk.begin("slow", 3);
    assert_eq!(desk.codes(), [], "there was room, and nobody is told of what is given up");
    // A started call keeps its worker until the function ends.
    desk.inbox.cancel(0);
    assert_eq!(desk.stats()["node"], Numbers { workers: 1, busy: 1, waiting: 2, ..Numbers::default() });
    desk.answer(0);
    assert_eq!(desk.begun(), ["slow 0", "slow 2"]);
    // The calls of a disconnected peer are removed; its notifications stay.
    desk.begin_until("slow", 4, true, Instant::now() + HOUR);
    desk.inbox.close();
    assert_eq!(desk.stats()["node"], Numbers { workers: 1, busy: 1, waiting: 1, ..Numbers::default() });
    desk.begin("slow", 5);
    assert_eq!(desk.stats()["node"].waiting, 1, "who is gone already need not wait");
    desk.answer(2);
    assert_eq!(desk.begun(), ["slow 4"]);
    desk.answer(4);
    desk.assert_idle();
}

#[test]
fn expired_waiter_leaves_the_queue() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 2, WhenFull::Refuse));
    });
    desk.begin("slow", 0);
    let now = Instant::now();
    desk.begin_until("slow", 1, true, now);
    desk.begin_until("slow", 2, true, now);
    desk.begin("slow", 3);
    assert_eq!(desk.codes(), [(1, code::DEADLINE), (2, code::DEADLINE)], "both made room");
    desk.begin_until("slow", 4, true, now);
    assert_eq!(desk.stats()["node"].waiting, 1, "who asks for numbers is told none that are dead");
    desk.begin_until("slow", 5, true, now);
    desk.answer(0);
    desk.answer(3);
    assert_eq!(desk.begun(), ["slow 0", "slow 3"], "what is late does not begin");
    assert_eq!(desk.codes(), [(4, code::DEADLINE), (0, 0), (3, 0), (5, code::DEADLINE)]);
    desk.assert_idle();
}

/// Covers a session with waiting calls: slots in flight, deadlines, batches, notifications, and the peer's end.
#[test]
fn session_with_waiting_calls() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(workers(1, 8, WhenFull::Refuse));
    });
    let session = || {
        let limits = Arc::new(Limits::default().in_flight(3));
        Session::new(desk.registry.clone(), limits, Dialect::JsonLines, Grants::all(), Instant::now())
    };
    let now = Instant::now();
    let feed = |session: &mut Session, text: &str| {
        session.input().extend_from_slice(text.as_bytes());
        session.received(now);
        while session.has_yielded() {
            session.received(now);
        }
    };
    let lines = |session: &mut Session| {
        while session.poll_replies(&Context::from_waker(Waker::noop()), now).is_ready() {}
        let text = String::from_utf8(session.output().to_vec()).unwrap();
        session.consume_output(text.len());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let call = |id: u64, meta: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"slow","params":[{id}]{meta}}}"#)
    };
    let (mut first, mut other) = (session(), session());
    let short = ",\"meta\":{\"deadline_ms\":100}";
    feed(&mut first, &format!("{}\n{}\n{}\n{}\n", call(1, ""), call(2, short), call(3, ""), call(4, "")));
    let node = || desk.stats()["node"];
    assert_eq!((node().busy, node().waiting), (1, 2), "the fourth has no place in flight");
    feed(&mut other, &format!("[{},{}]\n", call(11, ""), call(12, "")));
    feed(&mut other, "{\"jsonrpc\":\"2.0\",\"method\":\"quick\",\"params\":[13]}\n");
    assert_eq!(node().waiting, 5);
    first.expire(now + Duration::from_millis(100));
    let late = lines(&mut first);
    assert_eq!((&late[0]["id"], &late[0]["error"]["code"]), (&json!(2), &json!(code::DEADLINE)), "{late:?}");
    assert_eq!(node().waiting, 5, "the second has left, and the fourth has come");
    feed(&mut first, "{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":3}}\n");
    assert_eq!(lines(&mut first)[0]["error"]["code"], code::CANCELLED);
    assert_eq!(node().waiting, 4);
    // The peer disconnects; the function ends its running call.
    drop(first);
    assert_eq!((node().busy, node().waiting), (1, 3));
    desk.answer(1);
    for number in [11, 13, 12] {
        desk.answer(number);
    }
    assert_eq!(desk.begun(), ["slow 1", "slow 11", "quick 13", "slow 12"]);
    let batch = lines(&mut other);
    assert_eq!((batch.len(), batch[0].as_array().unwrap().len()), (1, 2), "{batch:?}");
    assert!(other.is_idle());
    desk.assert_idle();
}

#[test]
fn stopped_or_dropped_registry_answers_waiting_calls() {
    let one = |builder: &mut RegistryBuilder| {
        builder.node_workers(Workers::new(1));
    };
    let desk = Desk::new(&SLOW_AND_QUICK, one);
    (0..3).for_each(|number| desk.begin("slow", number));
    smol::block_on(desk.registry.stop());
    assert_eq!(desk.codes(), [(1, code::CLOSED), (2, code::CLOSED)]);
    desk.begin("slow", 3);
    assert_eq!(desk.codes(), [(3, code::CLOSED)]);
    desk.answer(0);
    desk.assert_idle();

    let Desk { registry, begun, inbox } = Desk::new(&SLOW_AND_QUICK, one);
    for number in 0..3 {
        begin(&registry, "slow", number, responder(&inbox, number, false), Instant::now() + HOUR);
    }
    drop(registry);
    begun.kept().remove(&0).unwrap().send(Ok(RawJson::NULL));
    let mut answers = VecDeque::new();
    assert!(inbox.poll(&Context::from_waker(Waker::noop()), &mut answers, &mut Posts::default()).is_ready());
    assert_eq!(answers.len(), 3);
}

// Over the network

/// A node with demo functions on its own port, until told to stop.
struct Running {
    address: SocketAddr,
    stop: smol::channel::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Running {
    fn new(desk: &Desk, limits: Limits) -> Self {
        let executor = Arc::new(smol::Executor::new());
        let node = Node::new(executor.clone(), desk.registry.clone(), limits);
        let listener = smol::block_on(smol::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let thread = thread::spawn(move || {
            let shutdown = async {
                let _ = stopped.recv().await;
            };
            smol::block_on(executor.run(async { node.serve(vec![listener], shutdown).await }));
        });
        Self { address, stop, thread }
    }
}

fn call(id: u64, method: &str) -> String {
    request(id, method, &json!([id])) + "\n"
}

/// The flood never ends, and its calls are cancelled and repeated: it is still bounded, and the other client's calls
/// are answered in order.
#[test]
fn flood_over_the_network_does_not_starve_others() {
    let functions = [("slow", "fake", Manner::Keeps), ("quick", "fake", Manner::Answers)];
    let desk = Desk::new(&functions, |builder| {
        builder.node_workers(workers(4, 10, WhenFull::Refuse));
    });
    let node = Running::new(&desk, Limits::default());
    let mut flood = Client::connect(node.address);
    flood.send((0..60).map(|id| call(id, "slow")).collect::<String>());
    for id in 13..60 {
        assert_fault(&flood.reply(), &json!(id), code::BUSY);
    }
    let mut other = Client::connect(node.address);
    other.send((100..150).map(|id| call(id, "quick")).collect::<String>());
    for id in 100..150 {
        assert_eq!(other.reply()["result"], id);
    }
    // A cancelled call that still runs keeps its worker, so no more calls of the flood start.
    flood.reset();
    eventually("those that wait have left", || desk.registry.in_flight() == 3);
    let mut flood = Client::connect(node.address);
    flood.send((60..80).map(|id| call(id, "slow")).collect::<String>());
    for id in 70..80 {
        assert_fault(&flood.reply(), &json!(id), code::BUSY);
    }
    assert_eq!(desk.begun.kept().keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(other.ask(call(150, "quick"))["result"], 150);
    desk.answer(1);
    assert_eq!(desk.begun.kept().keys().copied().collect::<Vec<_>>(), [0, 2, 60]);
    flood.reset();
    eventually("those that wait have left", || desk.registry.in_flight() == 3);
    for number in [0, 2, 60] {
        desk.answer(number);
    }
    desk.assert_idle();
    node.stop.close();
    ended(node.thread);
}

#[test]
fn stopping_node_runs_waiting_calls() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(Workers::new(1));
    });
    let node = Running::new(&desk, Limits::default().drain(HOUR));
    let mut client = Client::connect(node.address);
    client.send((0..3).map(|id| call(id, "slow")).collect::<String>());
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"quick\",\"params\":[3]}\n");
    eventually("all but one wait", || desk.stats()["node"].waiting == 3);
    node.stop.close();
    eventually("the node accepts nothing more", || std::net::TcpStream::connect(node.address).is_err());
    [0, 1, 3, 2].into_iter().for_each(|number| desk.answer(number));
    let answered: Vec<_> = (0..3).map(|_| client.reply()["id"].clone()).collect();
    assert_eq!(answered, [0, 1, 2]);
    client.assert_closed();
    ended(node.thread);
    desk.assert_idle();
}

#[test]
fn call_waiting_past_the_drain_gets_closed() {
    let desk = Desk::new(&SLOW_AND_QUICK, |builder| {
        builder.node_workers(Workers::new(1));
    });
    let node = Running::new(&desk, Limits::default().drain(Duration::ZERO));
    let mut client = Client::connect(node.address);
    client.send((0..2).map(|id| call(id, "slow")).collect::<String>());
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"quick\",\"params\":[2]}\n");
    eventually("all but one wait", || desk.stats()["node"].waiting == 2);
    node.stop.close();
    let mut told = [client.reply(), client.reply()];
    told.sort_by_key(|reply| reply["id"].as_u64());
    for (id, reply) in told.iter().enumerate() {
        assert_fault(reply, &json!(id), code::CLOSED);
    }
    ended(node.thread);
    assert_eq!(desk.begun(), ["slow 0"]);
    desk.answer(0);
    desk.assert_idle();
}

// Random orders of events

/// The documented behaviour of workers as a simple model.
struct Model {
    /// Path, running calls, waiting calls.
    lanes: Vec<(Vec<usize>, usize, Vec<u64>)>,
    /// Limits, share, and counters.
    gates: Vec<(Workers, usize, Numbers)>,
    turns: Vec<usize>,
    begun: Vec<u64>,
    answered: BTreeMap<u64, i64>,
}

impl Model {
    fn fits(&self, lane: usize) -> bool {
        let (path, busy, _) = &self.lanes[lane];
        path.iter().all(|gate| {
            let (bounds, share, numbers) = &self.gates[*gate];
            numbers.busy < bounds.count as u64 && busy < share
        })
    }

    fn run(&mut self, lane: usize, number: u64) {
        self.lanes[lane].1 += 1;
        for gate in self.lanes[lane].0.clone() {
            self.gates[gate].2.busy += 1;
        }
        self.begun.push(number);
    }

    fn begin(&mut self, lane: usize, number: u64) {
        if self.lanes[lane].2.is_empty() && self.fits(lane) {
            return self.run(lane, number);
        }
        for gate in self.lanes[lane].0.clone() {
            let (bounds, _, numbers) = &self.gates[gate];
            if bounds.when_full == WhenFull::Wait || numbers.waiting < bounds.queue as u64 {
                continue;
            }
            let sheds = bounds.when_full == WhenFull::Shed;
            let mut most: Option<usize> = None;
            for other in (0..self.lanes.len()).filter(|other| self.lanes[*other].0.contains(&gate)) {
                let key =
                    |lane: usize| (self.lanes[lane].2.len(), std::cmp::Reverse(self.lanes[lane].2.first()));
                if !self.lanes[other].2.is_empty() && most.is_none_or(|most| key(other) > key(most)) {
                    most = Some(other);
                }
            }
            let most = most.filter(|most| sheds || self.lanes[*most].2.len() > self.lanes[lane].2.len() + 1);
            let numbers = &mut self.gates[gate].2;
            *if sheds && most.is_some() { &mut numbers.shed } else { &mut numbers.refused } += 1;
            let Some(most) = most else {
                self.answered.insert(number, code::BUSY);
                return;
            };
            let queue = &self.lanes[most].2;
            let loser = if sheds { queue[0] } else { queue[queue.len() - 1] };
            self.leave(loser);
            self.answered.insert(loser, code::BUSY);
        }
        if self.lanes[lane].2.is_empty() {
            self.turns.push(lane);
        }
        self.lanes[lane].2.push(number);
        for gate in self.lanes[lane].0.clone() {
            self.gates[gate].2.waiting += 1;
        }
    }

    /// Removes a call from its queue.
    fn leave(&mut self, number: u64) {
        let lane = self.lanes.iter().position(|lane| lane.2.contains(&number)).unwrap();
        self.lanes[lane].2.retain(|waiting| *waiting != number);
        for gate in self.lanes[lane].0.clone() {
            self.gates[gate].2.waiting -= 1;
        }
        if self.lanes[lane].2.is_empty() {
            self.turns.retain(|turn| *turn != lane);
        }
    }

    fn end(&mut self, lane: usize) {
        self.lanes[lane].1 -= 1;
        for gate in self.lanes[lane].0.clone() {
            self.gates[gate].2.busy -= 1;
        }
        while let Some(next) = self.turns.iter().copied().find(|lane| self.fits(*lane)) {
            let number = self.lanes[next].2[0];
            self.leave(number);
            self.turns.retain(|turn| *turn != next);
            if !self.lanes[next].2.is_empty() {
                self.turns.push(next);
            }
            self.run(next, number);
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Call(usize),
    Answer(Index),
    Drop(Index),
    Cancel(Index),
    AnswerOldest,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_usize..4).prop_map(Event::Call),
        2 => any::<Index>().prop_map(Event::Answer),
        1 => any::<Index>().prop_map(Event::Drop),
        1 => any::<Index>().prop_map(Event::Cancel),
    ]
}

fn bounds() -> impl Strategy<Value = Option<Workers>> {
    let when_full = prop_oneof![Just(WhenFull::Refuse), Just(WhenFull::Shed), Just(WhenFull::Wait)];
    let share = proptest::option::of(1_usize..4);
    let workers = (1_usize..4, 0_usize..5, when_full, share);
    proptest::option::of(workers.prop_map(|(count, queue, when_full, share)| {
        let share = share.map(|share| share.min(count));
        let mut workers = Workers::new(count).queue(queue).when_full(when_full);
        workers.share = share;
        workers
    }))
}

const FUNCTIONS: [(&str, &str, Manner); 4] = [
    ("a", "one", Manner::Keeps),
    ("b", "one", Manner::Keeps),
    ("c", "two", Manner::Keeps),
    ("d", "two", Manner::Keeps),
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// For all limits and all orders of calls, replies, drops and cancels: the running, waiting, rejected and shed
    /// calls match the model, nothing is lost, and in the end every worker is free.
    #[test]
    fn random_events_match_the_model(
        node in bounds(),
        one in bounds(),
        of_a in bounds(),
        of_c in bounds(),
        events in proptest::collection::vec(event(), 1..80),
    ) {
        let desk = Desk::new(&FUNCTIONS, |builder| {
            node.iter().for_each(|node| { builder.node_workers(node.clone()); });
            one.iter().for_each(|one| { builder.provider_workers(ProviderKind::Custom("one"), one.clone()); });
            of_a.iter().for_each(|of_a| { builder.function_workers("a", of_a.clone()).unwrap(); });
            of_c.iter().for_each(|of_c| { builder.function_workers("c", of_c.clone()).unwrap(); });
        });
        let mut model = Model {
            lanes: Vec::new(), gates: Vec::new(), turns: Vec::new(), begun: Vec::new(), answered: BTreeMap::new(),
        };
        let mut names = Vec::new();
        let mut gate = |name: &'static str, bounds: &Option<Workers>, shared: bool| {
            bounds.as_ref().map(|bounds| {
                let share = if shared { (bounds.count - 1).max(1) } else { bounds.count };
                let numbers = Numbers { workers: bounds.count as u64, ..Numbers::default() };
                names.push(name);
                model.gates.push((bounds.clone(), bounds.share.unwrap_or(share), numbers));
                names.len() - 1
            })
        };
        let (a, c) = (gate("a", &of_a, false), gate("c", &of_c, false));
        let (one, node) = (gate("one", &one, true), gate("node", &node, true));
        for own in [[a, one, node], [None, one, node], [c, None, node], [None, None, node]] {
            model.lanes.push((own.into_iter().flatten().collect(), 0, Vec::new()));
        }

        let mut lane_of = Vec::new();
        let mut given_up = BTreeSet::new();
        let mut told = BTreeMap::new();
        let done = events.len();
        // Finally everything is answered.
        for event in events.into_iter().chain(std::iter::repeat_n(Event::AnswerOldest, done)) {
            let kept: Vec<u64> = desk.begun.kept().keys().copied().collect();
            match event {
                Event::Call(lane) => {
                    let number = lane_of.len() as u64;
                    lane_of.push(lane);
                    model.begin(lane, number);
                    desk.begin(FUNCTIONS[lane].0, number);
                }
                Event::Answer(_) | Event::Drop(_) | Event::AnswerOldest if kept.is_empty() => {}
                Event::Answer(_) | Event::AnswerOldest => {
                    let number = if let Event::Answer(index) = event { *index.get(&kept) } else { kept[0] };
                    model.end(lane_of[number as usize]);
                    if !given_up.contains(&number) {
                        model.answered.insert(number, 0);
                    }
                    desk.answer(number);
                }
                Event::Drop(index) => {
                    let number = *index.get(&kept);
                    model.end(lane_of[number as usize]);
                    if !given_up.contains(&number) {
                        model.answered.insert(number, code::INTERNAL);
                    }
                    let reply = desk.begun.kept().remove(&number);
                    drop(reply);
                }
                Event::Cancel(index) => {
                    let open = |number: &u64| !model.answered.contains_key(number) && !given_up.contains(number);
                    let open: Vec<u64> = (0..lane_of.len() as u64).filter(open).collect();
                    if open.is_empty() {
                        continue;
                    }
                    let number = *index.get(&open);
                    given_up.insert(number);
                    if model.lanes.iter().any(|lane| lane.2.contains(&number)) {
                        model.leave(number);
                    }
                    desk.inbox.cancel(number);
                }
            }
            for (number, code) in desk.codes() {
                prop_assert_eq!(told.insert(number, code), None, "{} is answered twice", number);
            }
            prop_assert_eq!(&told, &model.answered);
            let begun: Vec<u64> = desk.begun.log().iter().map(|(_, number)| *number).collect();
            prop_assert_eq!(&begun, &model.begun);
            let stats = numbers(&desk.registry);
            prop_assert_eq!(stats.len(), names.len());
            for (name, (.., numbers)) in names.iter().zip(&model.gates) {
                prop_assert_eq!(&stats[*name], numbers, "{}", name);
            }
        }
        prop_assert_eq!(told.len() + given_up.len(), lane_of.len(), "every call has one end");
        prop_assert_eq!(desk.stats(), numbers(&desk.registry));
        prop_assert_eq!(desk.registry.in_flight(), 0);
    }
}

/// The number of concurrently running calls.
#[derive(Clone, Default)]
struct Count(Arc<(AtomicUsize, AtomicUsize)>);

impl Count {
    fn begin(&self) {
        let running = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(running, Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// Replies to some calls inline and to others on a thread.
struct Threaded {
    counts: [Count; 2],
    later: Sender<(Responder, [Count; 2])>,
}

impl Provider for Threaded {
    fn call(&self, call: Call<'_>) {
        self.counts.iter().for_each(Count::begin);
        let number = number(call.params());
        if !number.is_multiple_of(5) && number.is_multiple_of(3) {
            return self.later.send((call.defer(), self.counts.clone())).unwrap();
        }
        self.counts.iter().for_each(Count::end);
        call.reply(Ok(RawJson::NULL));
    }
}

#[test]
fn concurrent_threads_lose_no_worker_and_no_call() {
    const CALLS: u64 = 3000;
    let (later, replies) = channel::<(Responder, [Count; 2])>();
    let (all, of_a) = (Count::default(), Count::default());
    let mut builder = Registry::builder("test");
    for (name, own) in [("a", of_a.clone()), ("b", Count::default()), ("c", Count::default())] {
        let provider = Threaded { counts: [own, all.clone()], later: later.clone() };
        builder.provide(name, of_kind("threaded"), provider).unwrap();
    }
    drop(later);
    builder.node_workers(workers(3, 0, WhenFull::Wait));
    builder.function_workers("a", workers(1, 0, WhenFull::Wait)).unwrap();
    let registry = builder.build();
    let answerer = thread::spawn(move || {
        for (reply, counts) in replies {
            counts.iter().for_each(Count::end);
            reply.send(Ok(RawJson::NULL));
        }
    });
    let callers: Vec<_> = (0..4_u64)
        .map(|caller| {
            let registry = registry.clone();
            thread::spawn(move || {
                let inbox = Arc::<Mailbox>::default();
                let mut open = BTreeSet::new();
                for call in 0..CALLS {
                    let method = ["a", "b", "c"][(call + caller) as usize % 3];
                    let params = Some(RawJson::of(&[call]).unwrap());
                    let reply = || responder(&inbox, call, false);
                    if registry.begin(method, params, Instant::now() + HOUR, reply).is_some() {
                        continue;
                    }
                    open.insert(call);
                    if call % 7 == 0 && open.remove(&call) {
                        inbox.cancel(call);
                    }
                }
                // Calls answered before they were cancelled count as answered.
                let mut answers = VecDeque::new();
                while !open.is_empty() {
                    smol::block_on(std::future::poll_fn(|cx| {
                        inbox.poll(cx, &mut answers, &mut Posts::default())
                    }));
                    for (call, outcome) in answers.drain(..) {
                        assert!(outcome.is_ok(), "{outcome:?}");
                        assert!(open.remove(&call), "{call} is answered twice");
                    }
                }
            })
        })
        .collect();
    callers.into_iter().for_each(ended);
    // Cancelled calls may still run.
    eventually("all calls have ended", || registry.in_flight() == 0);
    for (gate, numbers) in stats(&registry) {
        assert_eq!((numbers.busy, numbers.waiting, numbers.refused), (0, 0, 0), "{gate}");
    }
    assert!((1..=3).contains(&all.most()) && of_a.most() == 1, "{} and {}", all.most(), of_a.most());
    drop(registry);
    ended(answerer);
}
