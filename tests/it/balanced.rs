//! Several nodes as one client.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use chanrpc::chan::CallError;
use chanrpc::config::{Balance, Limits};
use chanrpc::message::code;
use chanrpc::node::RunningNode;
use chanrpc::remote::{Balanced, Policy};
use chanrpc::{Functions, Handle, Id1, LaneSettings, Lanes, Node, Remote, Responder, Scheduler};
use serde_json::{Value, json};
use smol::Executor;

use crate::support::{Client, LIMIT, ended, eventually, got, listen};

const WHO: Id1<(), String> = Id1::new("who");
const PLAYER: Id1<u32, String> = Id1::new("player");
const NOTE: Id1<u32, usize> = Id1::new("note");
const HOLD: Id1<(), u32> = Id1::new("hold");

struct State {
    name: &'static str,
    notes: usize,
    held: Sender<Responder<u32>>,
}

/// Starts a node that answers with its name. Calls of `hold` arrive at the receiver.
fn node(name: &'static str) -> (RunningNode, Receiver<Responder<u32>>) {
    let (held, holding) = mpsc::channel();
    let mut functions = Functions::exported();
    functions
        .register(WHO, |state: &mut State, ()| state.name.to_owned())
        .unwrap()
        .register(PLAYER, |state: &mut State, _| state.name.to_owned())
        .unwrap()
        .register(NOTE, |state: &mut State, _| {
            state.notes += 1;
            state.notes
        })
        .unwrap()
        .register_deferred(HOLD, |state: &mut State, (), responder| state.held.send(responder).unwrap())
        .unwrap();
    let state = State { name, notes: 0, held };
    (Node::builder(name).serve(functions, state).listen("127.0.0.1:0").start().unwrap(), holding)
}

fn balanced(nodes: &[&RunningNode], policy: Policy) -> Balanced {
    Balanced::connect(nodes.iter().map(|node| Remote::builder(node.addresses()[0].to_string())), policy)
}

/// Waits until all nodes have answered.
fn await_all(balanced: &Balanced, names: &[&str]) {
    for name in names {
        eventually(name, || balanced.call(WHO, ()).wait().unwrap() == *name);
    }
}

#[test]
fn calls_go_to_all_nodes_and_past_those_that_are_gone() {
    let ((a, _), (b, _), (c, _)) = (node("a"), node("b"), node("c"));
    let boards = balanced(&[&a, &b, &c], Policy::default().balance(Balance::Turns));
    await_all(&boards, &["a", "b", "c"]);
    let mut answers: Vec<_> = (0..30).map(|_| boards.call(WHO, ()).wait().unwrap()).collect();
    answers.sort();
    assert_eq!([&answers[0], &answers[9], &answers[10], &answers[20]], ["a", "a", "b", "c"]);
    // Nodes that stop take no call, and none is lost.
    smol::block_on(a.stop());
    for _ in 0..30 {
        assert_ne!(boards.call(WHO, ()).timeout(LIMIT).wait().unwrap(), "a");
    }
    smol::block_on(b.stop());
    assert_eq!(boards.call(WHO, ()).timeout(LIMIT).wait().unwrap(), "c");
    boards.go(NOTE, 1).wait().unwrap();
    smol::block_on(c.stop());
    let error = boards.call(WHO, ()).timeout(LIMIT).wait().unwrap_err();
    let fault = error.fault().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(fault.code, code::NO_PROVIDER);
    assert!(fault.data.as_ref().unwrap().get().contains("\"targets\":[{\"to\":\"127.0.0.1:"), "{fault:?}");
}

#[test]
fn a_key_has_one_node() {
    let ((a, _), (b, _)) = (node("a"), node("b"));
    let boards = balanced(&[&a, &b], Policy::default().key("0"));
    // Until both are connected, one may have all keys.
    let of = |player: u32| boards.call(PLAYER, player).wait().unwrap();
    eventually("both have players", || {
        (0..20).any(|player| of(player) == "a") && (0..20).any(|player| of(player) == "b")
    });
    for player in 0..20 {
        let name = of(player);
        assert!((0..10).all(|_| of(player) == name));
    }
}

/// Starts a node `a` that closes the connection when `hold` is called, or reads on and says nothing, ever again.
fn failing(closes: bool) -> SocketAddr {
    let is_frozen = Arc::<AtomicBool>::default();
    listen(move |stream| {
        let mut client = Client::new(stream.try_clone().unwrap());
        while let Some(line) = client.full_line() {
            // Blank lines are none.
            let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
            let is_called = request["method"] == "hold";
            if is_called && closes {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            if is_frozen.fetch_or(is_called, Ordering::SeqCst) || is_called {
                continue;
            }
            let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": "a" });
            client.send(format!("{answer}\n"));
        }
    })
}

#[test]
fn a_call_that_was_lost_is_repeated_only_if_it_may_run_twice() {
    for (closes, may_repeat) in [(true, false), (true, true), (false, false), (false, true)] {
        let (b, holding) = node("b");
        let policy = Policy::default().balance(Balance::First);
        let limits = Limits::default().forward_silence(Duration::from_millis(100));
        let remotes = [failing(closes), b.addresses()[0]]
            .map(|address| Remote::builder(address.to_string()).limits(limits.clone()));
        let boards = Balanced::connect(remotes, if may_repeat { policy.repeatable() } else { policy });
        eventually("the first one is connected", || boards.call(WHO, ()).wait().unwrap() == "a");
        let caller = boards.clone();
        let call = thread::spawn(move || caller.call(HOLD, ()).timeout(LIMIT).wait());
        if may_repeat {
            got(&holding).reply(7);
            assert_eq!(ended(call).unwrap(), 7);
        } else {
            let error = ended(call).unwrap_err();
            assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
            assert!(holding.try_recv().is_err());
        }
        // Nor does it get the next ones.
        if !closes {
            assert_eq!(boards.call(WHO, ()).timeout(LIMIT).wait().unwrap(), "b");
        }
    }
}

#[test]
fn a_second_node_is_asked_when_the_first_is_slow() {
    let ((a, holding), (b, others)) = (node("a"), node("b"));
    let policy = Policy::default().balance(Balance::First).hedged(Duration::from_millis(20));
    let boards = balanced(&[&a, &b], policy);
    eventually("the first one is connected", || boards.call(WHO, ()).wait().unwrap() == "a");
    let caller = boards.clone();
    let call = thread::spawn(move || caller.call(HOLD, ()).timeout(LIMIT).wait());
    let mut first = got(&holding);
    got(&others).reply(2);
    assert_eq!(ended(call).unwrap(), 2);
    // The other one is told that nobody waits.
    smol::block_on(first.abandoned());
}

#[test]
fn loops_and_lanes_call_through_it() {
    let ((a, _), (b, _)) = (node("a"), node("b"));
    let executor = Arc::new(Executor::new());
    let remotes = [&a, &b].map(|node| Remote::builder(node.addresses()[0].to_string()).executor(&executor));
    let boards = Balanced::connect(remotes, Policy::default());
    let scheduler = Scheduler::new(&executor, Functions::new(), |_: &Handle<Vec<String>>| Vec::new());
    let handle = scheduler.handle();
    handle
        .call(&boards, WHO, ())
        .timeout(LIMIT)
        .then(|names: &mut Vec<_>, name| names.push(name.unwrap()))
        .unwrap();
    handle
        .waterfall_with::<_, CallError>(())
        .call(&boards, WHO)
        .finish(|names: &mut Vec<String>, name| names.push(name.unwrap()))
        .unwrap();
    let owner = executor.spawn(scheduler.run());
    let lanes = Lanes::to_nodes(&executor, LaneSettings::default(), &boards);
    let last = smol::block_on(executor.run(async {
        let calls: Vec<_> = (0..20).map(|number| lanes.keyed("one").call(NOTE, number)).collect();
        let mut last = 0;
        for call in calls {
            last = last.max(call.await.unwrap());
        }
        assert!(handle.drain(LIMIT).await);
        assert_eq!(owner.await.len(), 2);
        last
    }));
    assert!(last <= 20);
}
