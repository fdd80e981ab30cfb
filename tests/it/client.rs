//! Typed calls to another node: from tasks, threads, loops, waterfalls and lanes, and how they end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{CallError, FunctionId};
use chanrpc::config::Limits;
use chanrpc::message::{RawJson, code};
use chanrpc::node::{NodeError, RunningNode};
use chanrpc::remote::Remote;
use chanrpc::sched::Handle;
use chanrpc::{
    Callbacks, Fault, Functions, Id, Id0, Id1, IdN, LaneSettings, Lanes, Node, Responder, Scheduler,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol::Executor;

use crate::support::{LIMIT, got};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i64,
    y: i64,
}

const NEXT: Id1<(), u32> = Id1::new("next");
const ADD: Id1<(i64, i64), i64> = Id1::new("add");
const LENGTH: Id1<String, usize> = Id1::new("length");
const SUM: Id1<Vec<i64>, i64> = Id1::new("sum");
const TURN: Id1<Point, Point> = Id1::new("turn");
const HALF: Id1<Option<u32>, Option<u32>> = Id1::new("half");
const DIVIDE: IdN<(i64, i64), (i64, i64)> = IdN::new("divide");
const NOTE: Id0<String> = Id0::new("note");
const PAY: Id1<u64, u64> = Id1::new("pay");
const CHECK: Id1<u64, u64> = Id1::new("check");
const NEVER: Id1<u64, u64> = Id1::new("never");
const SLOW: Id1<u64, u64> = Id1::new("slow");

#[derive(Default)]
struct State {
    calls: u32,
    notes: Vec<String>,
    kept: Vec<Responder<u64>>,
}

fn node() -> RunningNode {
    let mut functions = Functions::exported();
    functions
        .register(NEXT, |state: &mut State, ()| {
            state.calls += 1;
            state.calls
        })
        .and_then(|functions| functions.register(ADD, |_, (a, b)| a + b))
        .and_then(|functions| functions.register(LENGTH, |_, text| text.len()))
        .and_then(|functions| functions.register(SUM, |_, numbers| numbers.iter().sum::<i64>()))
        .and_then(|functions| functions.register(TURN, |_, Point { x, y }| Point { x: y, y: x }))
        .and_then(|functions| functions.register(HALF, |_, n| n.map(|n| n / 2)))
        .and_then(|functions| {
            functions.register(DIVIDE, |_, (a, b)| if b == 0 { Err("by zero") } else { Ok((a / b, a % b)) })
        })
        .and_then(|functions| functions.register(NOTE, |state, text| state.notes.push(text)))
        .and_then(|functions| functions.register_n("notes", |state, ()| state.notes.clone()))
        .and_then(|functions| {
            functions.register(PAY, |_, n| if n > 9 { Err(Fault::new(402, "too much")) } else { Ok(n) })
        })
        .and_then(|functions| {
            functions.register1("text", |_, fail: bool| if fail { Err("no") } else { Ok(1) })
        })
        .and_then(|functions| {
            functions.register(CHECK, |_, n: u64| n.checked_sub(5).ok_or(CallError::Deadline))
        })
        .and_then(|functions| {
            functions.register_deferred(NEVER, |state, _, responder| state.kept.push(responder))
        })
        .and_then(|functions| {
            functions.register_async(SLOW, |_, n| {
                Box::pin(async move {
                    smol::future::yield_now().await;
                    if n == 0 { Err("nothing".to_owned()) } else { Ok(n) }
                })
            })
        })
        .unwrap();
    Node::builder("typed").serve(functions, State::default()).listen("127.0.0.1:0").start().unwrap()
}

fn address(node: &RunningNode) -> String {
    node.addresses()[0].to_string()
}

fn code_of(error: &CallError) -> Option<i64> {
    error.fault().map(|fault| fault.code)
}

#[test]
fn arguments_and_results_of_every_shape_arrive() {
    let node = node();
    let remote = Remote::connect(address(&node));
    assert_eq!(remote.call(NEXT, ()).wait(), Ok(1));
    assert_eq!(remote.call(ADD, (40, 2)).wait(), Ok(42));
    // A plain value travels as an array of one.
    assert_eq!(remote.call(LENGTH, "[\"é\"]".into()).wait(), Ok(6));
    assert_eq!(remote.call(SUM, vec![]).wait(), Ok(0));
    assert_eq!(remote.call(SUM, vec![7]).wait(), Ok(7));
    assert_eq!(remote.call(SUM, vec![1, 2, 3]).wait(), Ok(6));
    assert_eq!(remote.call(TURN, Point { x: 1, y: 2 }).wait(), Ok(Point { x: 2, y: 1 }));
    assert_eq!(remote.call(HALF, Some(8)).wait(), Ok(Some(4)));
    assert_eq!(remote.call(HALF, None).wait(), Ok(None));
    assert_eq!(remote.call(DIVIDE, (7, 2)).wait(), Ok((3, 1)));
    assert_eq!(remote.call(NOTE, "hello".into()).wait(), Ok(()));
    remote.go(NOTE, "go".into()).wait().unwrap();
    remote.go("note", "text").wait().unwrap();
    // One connection keeps its order.
    assert_eq!(remote.call_n("notes", ()).wait(), Ok(vec!["hello".to_owned(), "go".into(), "text".into()]));
    assert_eq!(remote.call1("add", (1, 2)).wait(), Ok(3));
    assert_eq!(remote.call(SLOW, 3).wait(), Ok(3));
    let raw = RawJson::of(&(20, 22)).unwrap();
    assert_eq!(remote.call_raw("add", Some(raw)).wait().unwrap().get(), "42");
    // The same client from other threads.
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let remote = remote.clone();
            thread::spawn(move || (0..50).all(|m| remote.call(ADD, (n, m)).wait() == Ok(n + m)))
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}

#[test]
fn errors_of_functions_and_of_calls_are_told_apart() {
    let node = node();
    let remote = Remote::connect(address(&node));
    let failed = remote.call(PAY, 10).wait().unwrap_err();
    assert_eq!((code_of(&failed), failed.to_string().contains("too much")), (Some(402), true));
    assert_eq!(remote.call(PAY, 9).wait(), Ok(9));
    for failed in [
        remote.call(DIVIDE, (1, 0)).wait().unwrap_err(),
        remote.call(SLOW, 0).wait().unwrap_err(),
        remote.call1::<_, i32>("text", true).wait().unwrap_err(),
    ] {
        assert_eq!(code_of(&failed), Some(code::FAILED), "{failed}");
    }
    assert_eq!(remote.call1("text", false).wait(), Ok(1));
    // A function that fails with the error of another call.
    let late = remote.call(CHECK, 4).wait().unwrap_err();
    assert_eq!((code_of(&late), late.is_deadline()), (Some(code::DEADLINE), true));
    let unknown: CallError = remote.call1::<_, i64>("absent", ()).wait().unwrap_err();
    assert_eq!(code_of(&unknown), Some(code::UNKNOWN_FUNCTION));
    let misfit = remote.call1::<_, i64>("add", "text").wait().unwrap_err();
    assert_eq!(code_of(&misfit), Some(code::INVALID_PARAMS));
    let other_type = remote.call1::<_, String>("add", (1, 2)).wait().unwrap_err();
    assert!(other_type.to_string().contains("does not fit"), "{other_type}");
    // Only texts name functions over the network.
    let number: Id<_, (), i64> = Id1::from_id(7);
    assert_eq!(remote.call(number, ()).wait(), Err(CallError::Unknown(FunctionId::from(7))));
    let not_finite = remote.call1::<_, f64>("add", (f64::NAN, 1.0)).wait().unwrap_err();
    assert!(not_finite.to_string().contains("no JSON form"), "{not_finite}");
}

#[test]
fn a_call_ends_at_its_timeout_and_the_client_goes_on() {
    let node = node();
    let remote = Remote::connect(address(&node));
    let late = remote.call(NEVER, 1).timeout(Duration::from_millis(30)).wait().unwrap_err();
    assert!(late.is_deadline(), "{late}");
    assert_eq!(remote.call(ADD, (1, 1)).timeout(Duration::MAX).wait(), Ok(2));
    // The default is the limit of the client.
    let mut limits = Limits::default();
    limits.deadline = Duration::from_millis(30);
    let hasty = Remote::builder(address(&node)).limits(limits).connect();
    assert!(hasty.call(NEVER, 1).wait().unwrap_err().is_deadline());
}

#[test]
fn calls_after_a_close_fail() {
    let node = node();
    let remote = Remote::connect(address(&node));
    assert_eq!(remote.call(ADD, (1, 1)).wait(), Ok(2));
    let other = remote.clone();
    smol::block_on(remote.close(LIMIT));
    for result in [remote.call(ADD, (1, 1)).wait(), other.call(ADD, (1, 1)).wait()] {
        assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    }
}

/// A loop that calls another node.
struct Caller {
    me: Handle<Caller>,
}

fn caller(executor: &Arc<Executor<'static>>) -> Scheduler<Caller> {
    Scheduler::new(executor, Functions::new(), |me| Caller { me: me.clone() })
}

#[test]
fn loops_waterfalls_and_lanes_call_another_node() {
    let node = node();
    let executor = Arc::new(Executor::new());
    let remote = Remote::builder(address(&node)).executor(&executor).connect();
    let scheduler = caller(&executor);
    let handle = scheduler.handle();
    smol::block_on(executor.run(async {
        let run = executor.spawn(scheduler.run());
        let (tell, told) = mpsc::channel();
        let (told_call, told_fall) = (tell.clone(), tell.clone());
        let called = handle.call(&remote, ADD, (1, 2)).timeout(LIMIT);
        called.then(move |caller, sum| drop((caller.me.clone(), told_call.send(sum)))).unwrap();
        let fall = handle.waterfall_with::<_, CallError>((20, 22));
        fall.call(&remote, ADD)
            .step(|_, sum| Ok((sum, 2)))
            .call(&remote, DIVIDE)
            .step(|_, (half, _)| Ok(half))
            .finish(move |_, half| drop(told_fall.send(half)))
            .unwrap();
        let lanes = Lanes::to_node(&executor, LaneSettings::default(), Remote::builder(address(&node)));
        assert_eq!(lanes.call(ADD, (3, 4)).await.unwrap(), 7);
        assert_eq!(lanes.keyed("Ann").call(LENGTH, "four".into()).await.unwrap(), 4);
        assert!(handle.drain(LIMIT).await);
        run.await;
        let mut results: Vec<_> = told.try_iter().map(Result::unwrap).collect();
        results.sort_unstable();
        assert_eq!(results, [3, 21]);
    }));
}

#[test]
fn callbacks_learn_of_a_timeout_and_of_a_lost_node() {
    // Accepts the call, and then drops the connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let lossy = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(stream);
            while !line.contains("method") {
                line.clear();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    break;
                }
            }
        }
    });
    let node = node();
    let mut callbacks = Callbacks::new(2);
    let mut ends: BTreeMap<&str, CallError> = BTreeMap::new();
    let (silent, lossy) = (Remote::connect(address(&node)), Remote::connect(lossy));
    let call = callbacks.call(&silent, NEVER, 1).timeout(Duration::from_millis(30));
    call.then(|ends: &mut BTreeMap<_, _>, result| drop(ends.insert("late", result.unwrap_err()))).unwrap();
    let call = callbacks.call(&lossy, NEVER, 1);
    call.then(|ends: &mut BTreeMap<_, _>, result| drop(ends.insert("lost", result.unwrap_err()))).unwrap();
    while callbacks.pending() > 0 {
        smol::block_on(callbacks.next()).run(&mut ends);
    }
    assert!(ends["late"].is_deadline(), "{ends:?}");
    assert!(matches!(ends["lost"], CallError::Lost { .. } | CallError::Unreachable { .. }), "{ends:?}");
}

/// Panics when it is encoded or decoded.
#[derive(Debug)]
struct Bad;

impl Serialize for Bad {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("it has no form")
    }
}

impl<'de> Deserialize<'de> for Bad {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("it has no value")
    }
}

#[test]
fn a_panic_while_encoding_or_decoding_reaches_the_callback() {
    let node = node();
    let remote = Remote::connect(address(&node));
    let mut callbacks = Callbacks::new(1);
    let mut panics: Vec<String> = Vec::new();
    let note = |panics: &mut Vec<String>, error: CallError| match error {
        CallError::Panicked(panic) => panics.push(panic.message().to_owned()),
        error => panic!("{error}"),
    };
    let call = callbacks.call1::<_, _, i64>(&remote, "add", Bad);
    call.then(move |panics, result| note(panics, result.unwrap_err())).unwrap();
    smol::block_on(callbacks.next()).run(&mut panics);
    let call = callbacks.call1::<_, _, Bad>(&remote, "add", (1, 2));
    call.then(move |panics, result| note(panics, result.unwrap_err())).unwrap();
    smol::block_on(callbacks.next()).run(&mut panics);
    assert_eq!(panics, ["it has no form", "it has no value"]);
    // The place of each call was released.
    assert_eq!(callbacks.pending(), 0);
}

#[test]
fn a_callback_comes_back_although_the_clients_executor_is_dropped() {
    let node = node();
    let executor = Arc::new(Executor::new());
    let remote = Remote::builder(address(&node)).executor(&executor).connect();
    smol::block_on(executor.run(remote.connected())).unwrap();
    let mut callbacks = Callbacks::new(1);
    let (tell, told) = mpsc::channel();
    callbacks.call(&remote, NEVER, 1).then(move |(), result| drop(tell.send(result))).unwrap();
    assert!(executor.try_tick());
    drop(executor);
    smol::block_on(callbacks.next()).run(&mut ());
    assert!(matches!(got(&told), Err(CallError::Lost { .. })));
    // Nor does a later call wait for it.
    let (tell, told) = mpsc::channel();
    callbacks.call(&remote, NEVER, 1).then(move |(), result| drop(tell.send(result))).unwrap();
    smol::block_on(callbacks.next()).run(&mut ());
    assert!(got(&told).is_err());
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let failed = Node::builder("late").listen(taken.as_str()).start().unwrap_err();
    assert!(failed.to_string().contains(&taken), "{failed}");
    assert!(matches!(Node::builder("odd").listen("here:there").start(), Err(NodeError::Bind { .. })));
    let mut functions = Functions::exported();
    functions.register(ADD, |(): &mut (), (a, b)| a + b).unwrap();
    let twice = Node::builder("twice").serve(functions.clone(), ()).serve(functions, ()).start();
    assert!(matches!(twice, Err(NodeError::Register(_))));
    let mut reserved = Functions::exported();
    reserved.register0("rpc.mine", |(): &mut (), (): ()| ()).unwrap();
    assert!(matches!(Node::builder("own").serve(reserved, ()).start(), Err(NodeError::Register(_))));
    // A name is listened on at each of its addresses, all with one port.
    let local = Node::builder("local").listen("localhost:0").start().unwrap();
    let ports: Vec<_> = local.addresses().iter().map(std::net::SocketAddr::port).collect();
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

#[test]
fn a_node_that_stops_answers_what_it_runs() {
    let mut functions = Functions::exported();
    let (begun, beginning) = smol::channel::bounded(1);
    functions
        .register_deferred(NEVER, move |(): &mut (), n, responder: Responder<u64>| {
            let begun = begun.clone();
            thread::spawn(move || {
                begun.send_blocking(()).unwrap();
                responder.reply(n);
            });
        })
        .unwrap();
    let node = Node::builder("stops").serve(functions, ()).listen("127.0.0.1:0").start().unwrap();
    let remote = Remote::connect(address(&node));
    let call = thread::spawn({
        let remote = remote.clone();
        move || remote.call(NEVER, 5).wait()
    });
    smol::block_on(async {
        beginning.recv().await.unwrap();
        node.stop().await;
    });
    assert_eq!(call.join().unwrap(), Ok(5));
    let gone = remote.call(NEVER, 5).wait();
    assert!(matches!(gone, Err(CallError::Unreachable { .. } | CallError::Lost { .. })), "{gone:?}");
}
