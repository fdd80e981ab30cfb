//! Functions that are registered and removed while the node runs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Waker};
use std::thread;
use std::time::Instant;

use chanrpc::config::{Config, Limits, Workers};
use chanrpc::internals::message::Outcome;
use chanrpc::internals::route::{Grants, Mailbox, Posts, Registration, RegistryInternals as _, responder};
use chanrpc::message::{Fault, RawJson, code};
use chanrpc::node::Node;
use chanrpc::route::{
    Call, Description, Provider, ProviderKind, Registry, RegistryBuilder, RegistryError, Responder,
};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{Client, LIMIT, scale};

/// Answers with its number: at once, or later through `later`.
struct Numbered {
    number: u64,
    later: Option<Sender<(Responder, u64)>>,
    /// Counts the providers that exist.
    alive: Arc<AtomicUsize>,
}

impl Numbered {
    fn new(number: u64, later: Option<Sender<(Responder, u64)>>, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self { number, later, alive: alive.clone() }
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Provider for Numbered {
    fn call(&self, call: Call<'_>) {
        match &self.later {
            None => call.reply(Ok(RawJson::of(&self.number).unwrap())),
            Some(later) => later.send((call.defer(), self.number)).unwrap(),
        }
    }
}

fn numbered(number: u64) -> Numbered {
    Numbered::new(number, None, &Arc::default())
}

fn described() -> Description {
    Description::default().provider(ProviderKind::Custom("test"))
}

/// One peer of a registry.
struct Peer<'a> {
    registry: &'a Registry,
    inbox: Arc<Mailbox>,
    last: u64,
}

impl<'a> Peer<'a> {
    fn new(registry: &'a Registry) -> Self {
        Self { registry, inbox: Arc::default(), last: 0 }
    }

    /// Begins a call, and returns its number and its answer if there is one at once.
    fn begin(&mut self, method: &str) -> (u64, Option<Result<u64, i64>>) {
        self.last += 1;
        let (deadline, defer) = (Instant::now() + LIMIT, || responder(&self.inbox, self.last, false));
        let answer = self.registry.begin(method, None, deadline, defer);
        (
            self.last,
            answer.map(|answer| number(answer.map(|json| RawValue::from_string(json).unwrap().into()))),
        )
    }

    fn answers(&self) -> Vec<(u64, Result<u64, i64>)> {
        let mut answers = VecDeque::new();
        let _ = self.inbox.poll(&Context::from_waker(Waker::noop()), &mut answers, &mut Posts::default());
        answers.into_iter().map(|(id, outcome)| (id, number(outcome))).collect()
    }

    /// Calls, and waits for the answer.
    fn call(&mut self, method: &str) -> Result<u64, i64> {
        let (id, answer) = self.begin(method);
        if let Some(answer) = answer {
            return answer;
        }
        let until = Instant::now() + LIMIT;
        loop {
            match self.answers()[..] {
                [] => assert!(Instant::now() < until, "no answer"),
                [(answered, answer)] => {
                    assert_eq!(answered, id);
                    return answer;
                }
                ref more => panic!("{more:?}"),
            }
            thread::yield_now();
        }
    }
}

fn number(outcome: Outcome) -> Result<u64, i64> {
    outcome.map(|json| serde_json::from_str(json.get()).unwrap()).map_err(|fault| fault.code)
}

fn stats(registry: &Registry) -> Value {
    let stats = registry.begin("rpc.stats", None, Instant::now(), || unreachable!());
    serde_json::from_str(&stats.unwrap().unwrap()).unwrap()
}

fn list(registry: &Registry) -> Vec<String> {
    let list = registry.begin("rpc.list", None, Instant::now(), || unreachable!());
    serde_json::from_str(&list.unwrap().unwrap()).unwrap()
}

fn registry(functions: &[&str], build: impl FnOnce(&mut RegistryBuilder)) -> Arc<Registry> {
    let mut builder = Registry::builder("test");
    for name in functions {
        builder.provide(name, described(), numbered(0)).unwrap();
    }
    build(&mut builder);
    builder.build()
}

#[test]
fn function_exists_until_its_registration_is_dropped() {
    let registry = registry(&["fixed"], |_| ());
    let mut peer = Peer::new(&registry);
    assert_eq!(peer.call("a"), Err(code::UNKNOWN_FUNCTION));
    let a = registry.register("a", described(), numbered(1)).unwrap();
    let family = registry.register("b.*", described(), numbered(2)).unwrap();
    assert_eq!([peer.call("a"), peer.call("b.x.y"), peer.call("fixed")], [Ok(1), Ok(2), Ok(0)]);
    assert_eq!(peer.call("b"), Err(code::UNKNOWN_FUNCTION));
    assert_eq!(list(&registry)[..3], ["fixed", "a", "b.*"]);
    let calls = |stats: &Value| -> BTreeMap<String, u64> {
        let functions = stats["functions"].as_array().unwrap().iter();
        functions.map(|f| (f["name"].as_str().unwrap().into(), f["num_requests"].as_u64().unwrap())).collect()
    };
    let expected = [("a".to_owned(), 1), ("b.*".to_owned(), 1), ("fixed".to_owned(), 1)];
    assert_eq!(calls(&stats(&registry)), expected.into());

    drop(a);
    assert_eq!([peer.call("a"), peer.call("b.x")], [Err(code::UNKNOWN_FUNCTION), Ok(2)]);
    drop(family);
    assert_eq!(peer.call("b.x"), Err(code::UNKNOWN_FUNCTION));
    assert_eq!(list(&registry)[..2], ["fixed", "rpc.discover"]);
    assert_eq!(calls(&stats(&registry)), [("fixed".to_owned(), 1)].into());
    let again = registry.register("a", described(), numbered(3)).unwrap();
    assert_eq!(peer.call("a"), Ok(3));
    assert_eq!(calls(&stats(&registry))["a"], 1);
    drop(registry);
    drop(again);
}

#[test]
fn metrics_count_answered_calls_by_duration() {
    let registry = registry(&["prompt", "unused"], |_| ());
    let (later, begun) = channel();
    let deferred = Numbered::new(1, Some(later), &Arc::default());
    let _registration = registry.register("deferred", described(), deferred).unwrap();
    let sample = |name: &str, labels: &str| -> Option<u64> {
        let metrics = registry.prometheus(&Grants::all());
        let line = format!("chanrpc_function_duration_seconds_{name}{{{labels}}} ");
        let value = metrics.lines().find_map(|metric| metric.strip_prefix(&*line));
        value.map(|value| value.parse().unwrap())
    };
    let count = |function: &str| sample("count", &format!("function=\"{function}\",provider=\"test\""));
    let mut peer = Peer::new(&registry);
    assert_eq!((peer.call("prompt"), peer.call("prompt")), (Ok(0), Ok(0)));
    assert_eq!(peer.begin("deferred").1, None);
    assert_eq!([count("prompt"), count("deferred"), count("unused")], [Some(2), None, None]);
    let (responder, number) = begun.recv().unwrap();
    responder.send(Ok(RawJson::of(&number).unwrap()));
    assert_eq!([count("prompt"), count("deferred"), count("unused")], [Some(2), Some(1), None]);
    let all = |function| sample("bucket", &format!("function=\"{function}\",provider=\"test\",le=\"+Inf\""));
    assert_eq!([all("prompt"), all("deferred")], [Some(2), Some(1)]);
    assert_eq!(registry.in_flight(), 0);
}

#[test]
fn taken_and_invalid_names_are_refused() {
    let registry = registry(&["one", "math.*"], |_| ());
    let taken = |name: &str| {
        let error = registry.register(name, described(), numbered(1)).unwrap_err();
        assert_eq!(error, RegistryError::Duplicate(name.to_owned()));
        assert_eq!(Fault::from(error).code, code::TAKEN);
    };
    // What the configuration names is never replaced, and no part of it.
    ["one", "math.*", "math.add", "math.sub.*"].into_iter().for_each(taken);
    let kept = registry.register("two", described(), numbered(2)).unwrap();
    let family = registry.register("text.*", described(), numbered(3)).unwrap();
    ["two", "text.*"].into_iter().for_each(taken);
    let exact = registry.register("text.join", described(), numbered(4)).unwrap();
    let mut peer = Peer::new(&registry);
    assert_eq!([peer.call("text.join"), peer.call("text.split")], [Ok(4), Ok(3)]);
    assert_eq!([peer.call("one"), peer.call("math.add"), peer.call("two")], [Ok(0), Ok(0), Ok(2)]);
    for (name, expected) in [
        ("rpc.mine", RegistryError::Reserved("rpc.mine".into())),
        ("$/mine", RegistryError::Reserved("$/mine".into())),
        ("a b", RegistryError::InvalidName("a b".into())),
        ("a*", RegistryError::InvalidName("a*".into())),
        ("", RegistryError::InvalidName(String::new())),
    ] {
        let error = registry.register(name, described(), numbered(1)).unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(Fault::from(error).code, code::INVALID_PARAMS);
    }
    assert_eq!(list(&registry)[..5], ["one", "math.*", "text.join", "two", "text.*"]);
    drop((kept, family, exact));
}

#[test]
fn calls_that_have_begun_are_answered_after_the_removal() {
    let registry = registry(&[], |_| ());
    let (later, begun) = channel();
    let alive = Arc::default();
    let limited = described().workers(Workers::new(1).queue(1));
    let provider = Numbered::new(7, Some(later), &alive);
    let registration = registry.register("slow", limited.clone(), provider).unwrap();
    let mut peer = Peer::new(&registry);
    for _ in 0..2 {
        assert_eq!(peer.begin("slow").1, None);
    }
    assert_eq!(peer.begin("slow").1, None, "refused through its responder");
    assert_eq!(peer.answers(), [(3, Err(code::BUSY))]);
    drop(registration);
    assert_eq!(peer.begin("slow").1, Some(Err(code::UNKNOWN_FUNCTION)));
    assert_eq!(registry.in_flight(), 2);
    assert_eq!(stats(&registry)["workers"], json!([]), "its limit is not reported any longer");

    // Another function of the same name has workers of its own.
    let successor = registry.register("slow", limited, numbered(8)).unwrap();
    assert_eq!(peer.begin("slow").1, Some(Ok(8)));
    let (first, number) = begun.recv().unwrap();
    assert!(begun.try_recv().is_err(), "the other one is queued");
    first.send(Ok(RawJson::of(&number).unwrap()));
    let (second, number) = begun.recv().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0, "no call needs the provider any longer");
    second.send(Ok(RawJson::of(&number).unwrap()));
    assert_eq!(peer.answers(), [(1, Ok(7)), (2, Ok(7))]);
    assert_eq!(registry.in_flight(), 0);
    drop(successor);
}

#[test]
fn limits_follow_the_functions_they_apply_to() {
    let kind = ProviderKind::Custom("test");
    let registry = registry(&[], |builder| {
        builder.node_workers(Workers::new(3)).provider_workers(kind, Workers::new(2));
    });
    let reported = || -> Vec<String> {
        let stats = stats(&registry);
        let of = |limit: &Value| format!("{} {}", limit["level"].as_str().unwrap(), limit["busy"]);
        stats["workers"].as_array().unwrap().iter().map(of).collect()
    };
    assert_eq!(reported(), ["node 0"]);
    let (later, begun) = channel();
    let register = |name: &str, description| {
        registry.register(name, description, Numbered::new(1, Some(later.clone()), &Arc::default())).unwrap()
    };
    let own = described().workers(Workers::new(5));
    let (first, second) = (register("first", own), register("second", described()));
    assert_eq!(reported(), ["node 0", "provider 0", "function 0"]);
    let mut peer = Peer::new(&registry);
    assert_eq!((peer.begin("first").1, peer.begin("first").1), (None, None));
    // Of the two workers of this kind of provider, one is for the other function.
    assert_eq!(reported(), ["node 1", "provider 1", "function 1"]);
    let one = begun.try_recv().unwrap();
    assert!(begun.try_recv().is_err());
    drop(second);
    let two = begun.try_recv().expect("there is no other function now");
    assert_eq!(reported(), ["node 2", "provider 2", "function 2"]);
    drop((one, two));
    assert_eq!(peer.answers().len(), 2);
    drop(first);
    assert_eq!(reported(), ["node 0"]);
}

#[test]
fn callers_see_what_they_may_call() {
    let text = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['open.*', 'rpc.list']\n";
    let node = Node::from_config(Config::parse(text, "test").unwrap()).start().unwrap();
    let registry = node.node().registry();
    let _open = registry.register("open.door", described(), numbered(1)).unwrap();
    let _closed = registry.register("closed.door", described(), numbered(2)).unwrap();
    let mut client = Client::connect(node.addresses()[0]);
    assert_eq!(client.call("rpc.list", &json!([])), Ok(json!(["open.door", "rpc.list", "rpc.ping"])));
    assert_eq!(client.call("open.door", &json!([])), Ok(json!(1)));
    assert_eq!(client.call("closed.door", &json!([])).unwrap_err().code, code::DENIED);
}

#[test]
fn open_connections_see_each_change() {
    let executor = Arc::new(smol::Executor::new());
    let node = Node::builder("test").limits(Limits::default()).executor(&executor);
    let node = node.listen("127.0.0.1:0").start().unwrap();
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            thread::spawn(move || {
                smol::block_on(executor.run(async { stopped.recv().await.unwrap_or_default() }));
            })
        })
        .collect();
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(node.addresses()[0])).collect();
    for round in 1..=u64::from(scale(50)) {
        let registration = node.node().registry().register("f", described(), numbered(round)).unwrap();
        for client in &mut clients {
            assert_eq!(client.call("f", &json!([])), Ok(json!(round)));
        }
        drop(registration);
        for client in &mut clients {
            assert_eq!(client.call("f", &json!([])).unwrap_err().code, code::UNKNOWN_FUNCTION);
        }
    }
    drop((clients, node));
    stop.close();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Registers and removes functions on some threads and calls them on others. Each call is answered once; none that
/// begins after a removal has returned reaches the removed provider, and none that begins and ends while a provider is
/// registered misses it.
fn check_concurrent_changes(names: usize, rounds: u64, later: bool, workers: Option<usize>) {
    let registry = registry(&[], |_| ());
    let alive = Arc::new(AtomicUsize::new(0));
    // For each registration, when its removal returned.
    let removed: Vec<_> = (0..=names as u64 * rounds).map(|_| AtomicU64::new(u64::MAX)).collect();
    // For each name, the number that is registered; 0 while it may be any or none.
    let current: Vec<_> = (0..names).map(|_| AtomicU64::new(0)).collect();
    let (clock, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sender, receiver) = channel::<(Responder, u64)>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for (responder, number) in receiver {
                responder.send(Ok(RawJson::of(&number).unwrap()));
            }
        });
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut peer, mut answered) = (Peer::new(&registry), 0_u64);
                    while !done.load(Ordering::SeqCst) || answered == 0 {
                        for (at, current) in current.iter().enumerate() {
                            let began = clock.load(Ordering::SeqCst);
                            let before = current.load(Ordering::SeqCst);
                            let answer = peer.call(&format!("f{at}"));
                            let same = before != 0 && current.load(Ordering::SeqCst) == before;
                            match answer {
                                Ok(number) => {
                                    answered += 1;
                                    let ended = removed[number as usize].load(Ordering::SeqCst);
                                    assert!(ended > began, "{number} was removed at {ended}, before {began}");
                                    assert!(!same || number == before, "{number} in place of {before}");
                                }
                                Err(code) => {
                                    assert_eq!(code, code::UNKNOWN_FUNCTION);
                                    assert!(!same, "{before} was registered all the time");
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let registrars: Vec<_> = (0..names)
            .map(|at| {
                let (registry, removed, current, clock, alive) =
                    (&registry, &removed, &current, &clock, &alive);
                let later = later.then(|| sender.clone());
                scope.spawn(move || {
                    for round in 0..rounds {
                        let number = 1 + at as u64 * rounds + round;
                        let mut description = described();
                        description.workers = workers.map(Workers::new);
                        let provider = Numbered::new(number, later.clone(), alive);
                        let registration =
                            registry.register(&format!("f{at}"), description, provider).unwrap();
                        current[at].store(number, Ordering::SeqCst);
                        thread::yield_now();
                        current[at].store(0, Ordering::SeqCst);
                        drop(registration);
                        let now = clock.fetch_add(1, Ordering::SeqCst) + 1;
                        removed[number as usize].store(now, Ordering::SeqCst);
                    }
                    // So that the callers find one at last.
                    if at == 0 {
                        let provider = Numbered::new(0, later, alive);
                        let last = registry.register("f0", described(), provider).unwrap();
                        Some(last)
                    } else {
                        None
                    }
                })
            })
            .collect();
        drop(sender);
        let last: Vec<Option<Registration>> =
            registrars.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::SeqCst);
        callers.into_iter().for_each(|thread| thread.join().unwrap());
        drop(last);
    });
    assert_eq!((registry.in_flight(), alive.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(stats(&registry)["workers"], json!([]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: scale(12), ..ProptestConfig::default() })]

    #[test]
    fn concurrent_calls_are_answered_once_by_who_is_registered(
        names in 1..4_usize, rounds in 20..120_u64, later: bool, workers in proptest::option::of(1..3_usize)
    ) {
        check_concurrent_changes(names, rounds, later, workers);
    }
}

/// What a test does to a registry.
#[derive(Clone, Copy, Debug)]
enum Step {
    Register(usize),
    Drop(usize),
    Call(usize),
}

const NAMES: [&str; 6] = ["a", "b.*", "b.c", "b.c.*", "b.c.d", "fixed.x"];
const CALLED: [&str; 7] = ["a", "b.c", "b.x", "b.c.d", "b.c.e.f", "fixed.x", "b."];

/// Returns the name that answers a call.
fn expected<'a>(registered: &BTreeMap<&'a str, (u64, Registration)>, called: &str) -> Option<&'a str> {
    let covers = |name: &&&str| match name.strip_suffix('*') {
        Some(prefix) => called.starts_with(prefix),
        None => called == **name,
    };
    let best = registered.keys().filter(covers).max_by_key(|name| (!name.ends_with('*'), name.len()));
    best.copied()
}

proptest! {
    #[test]
    fn any_sequence_of_changes_leaves_the_names_that_are_registered(
        steps in proptest::collection::vec(
            prop_oneof![
                (0..NAMES.len()).prop_map(Step::Register),
                (0..NAMES.len()).prop_map(Step::Drop),
                (0..CALLED.len()).prop_map(Step::Call),
            ],
            1..60,
        ),
        workers in proptest::option::of(1..3_usize),
    ) {
        let registry = registry(&["fixed.*"], |builder| {
            if let Some(count) = workers {
                builder.node_workers(Workers::new(count));
            }
        });
        let alive = Arc::default();
        let mut peer = Peer::new(&registry);
        let mut registered: BTreeMap<&str, (u64, Registration)> = BTreeMap::new();
        for (number, step) in (1..).zip(steps) {
            match step {
                Step::Register(at) => {
                    let mut description = described();
                    description.workers = (number % 2 == 0).then(|| Workers::new(1));
                    let provider = Numbered::new(number, None, &alive);
                    match registry.register(NAMES[at], description, provider) {
                        Ok(registration) => {
                            prop_assert!(NAMES[at] != "fixed.x" && !registered.contains_key(NAMES[at]));
                            registered.insert(NAMES[at], (number, registration));
                        }
                        Err(error) => {
                            prop_assert!(NAMES[at] == "fixed.x" || registered.contains_key(NAMES[at]));
                            prop_assert_eq!(error, RegistryError::Duplicate(NAMES[at].into()));
                        }
                    }
                }
                Step::Drop(at) => drop(registered.remove(NAMES[at])),
                Step::Call(at) if CALLED[at] == "fixed.x" => prop_assert_eq!(peer.call("fixed.x"), Ok(0)),
                Step::Call(at) => {
                    let answer = expected(&registered, CALLED[at]).map(|name| registered[name].0);
                    prop_assert_eq!(peer.call(CALLED[at]), answer.ok_or(code::UNKNOWN_FUNCTION));
                }
            }
            prop_assert_eq!(alive.load(Ordering::SeqCst), registered.len());
            let mut names = list(&registry);
            names.retain(|name| !name.starts_with("rpc.") && name != "fixed.*");
            names.sort();
            prop_assert_eq!(&names.iter().map(String::as_str).collect::<Vec<_>>(), &registered.keys().copied().collect::<Vec<_>>());
        }
    }
}

#[test]
fn removed_functions_leave_nothing_behind() {
    let registry = registry(&[], |builder| {
        builder.node_workers(Workers::new(4));
    });
    let (alive, listed) = (Arc::default(), list(&registry).len());
    let mut peer = Peer::new(&registry);
    let register = |number: u64| {
        let description = described().workers(Workers::new(1));
        registry.register(&format!("f{number}"), description, Numbered::new(number, None, &alive)).unwrap()
    };
    for number in 0..10_000 {
        let registration = register(number);
        assert_eq!(peer.call(&format!("f{number}")), Ok(number));
        drop(registration);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
    // And many at a time, removed in another order than they were registered.
    let mut many: BTreeMap<u64, Registration> =
        (0..1000).map(|number| (number * 7919 % 1000, register(number))).collect();
    assert_eq!(alive.load(Ordering::SeqCst), 1000);
    while let Some((_, registration)) = many.pop_first() {
        drop(registration);
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_eq!(stats(&registry)["workers"].as_array().unwrap().len(), 1, "the node's");
    assert_eq!(list(&registry).len(), listed);
    assert_eq!(registry.in_flight(), 0);
}
