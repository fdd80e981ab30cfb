//! Functions that connections offer: what they, their callers and others learn, whatever happens to the connection.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::config::{Config, Limits, ListenerConfig};
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::config::rules;
use chanrpc::internals::route::{AccessInternals as _, Grants, RegistryInternals as _, token_hash};
use chanrpc::internals::session::Session;
use chanrpc::node::{self, Listener, Node, RunningNode};
use chanrpc::route::{Access, Registry};
use serde_json::{Value, json};

use crate::spec::run;
use crate::support::{Client, Fault, eventually, scale};
use crate::wires::{Peer, TOKEN, WIRES, Wire, take_frame};

const SECOND: Duration = Duration::from_secs(1);
const OTHER_TOKEN: &str = "the token of somebody else";

/// The first wires that can offer anything.
fn two_way() -> impl Iterator<Item = Wire> {
    WIRES.into_iter().filter(|wire| *wire != Wire::Http)
}

fn start(config: &str) -> RunningNode {
    let text = format!("name = 'hub'\n{config}\n[[listen]]\naddress = '127.0.0.1:0'\n");
    Node::from_config(Config::parse(&text, "hub.toml").unwrap()).start().unwrap()
}

fn connect(node: &RunningNode, wire: Wire) -> Peer {
    Peer::connect(wire, node.addresses()[0])
}

/// Returns a peer that speaks lines, and offers a function.
#[track_caller]
fn offering(node: &RunningNode, params: &Value) -> Peer {
    let mut peer = connect(node, Wire::Lines);
    assert_eq!(peer.call("rpc.offer", params), Ok(json!(true)));
    peer
}

/// Begins a call, and returns it as it arrives at a peer.
#[track_caller]
fn passed_on(caller: &mut Peer, id: u64, method: &str, to: &mut Peer) -> Value {
    caller.send(&json!({ "id": id, "method": method, "params": [id] }));
    let call = to.receive();
    assert_eq!((&call["method"], &call["params"]), (&json!(method), &json!([id])));
    call
}

#[track_caller]
fn refused(result: Result<Value, Fault>, code: i64, words: &str) -> Fault {
    let fault = result.expect_err(words);
    assert_eq!(fault.code, code, "{fault:?}");
    assert!(fault.message.contains(words), "{fault:?}");
    fault
}

fn metric(node: &RunningNode, name: &str) -> u64 {
    let metrics = node.node().registry().metrics();
    metrics.values().find(|(other, _)| *other == name).unwrap().1
}

/// Waits until the node no longer knows a function.
#[track_caller]
fn withdrawn(node: &RunningNode, method: &str) {
    let mut client = Client::connect(node.addresses()[0]);
    eventually("the function is withdrawn", || {
        client.call(method, &json!([])).is_err_and(|fault| fault.code == -32601)
    });
}

#[test]
fn peer_of_every_dialect_answers_what_it_offers() {
    let node = start("");
    let mut caller = connect(&node, Wire::Lines);
    for wire in two_way() {
        let mut peer = connect(&node, wire);
        let params = json!([{ "name": "a", "schema": { "type": "integer" } }, "b"]);
        let offer = json!({ "name": "py.add", "description": "adds", "params": params });
        assert_eq!(peer.call("rpc.offer", &offer), Ok(json!(true)), "{wire:?}");
        let listed = caller.call("rpc.list", &json!(["py.*", true])).unwrap();
        let expected = json!([{
            "name": "py.add", "provider": "peer", "target": "127.0.0.1", "description": "adds",
            "params": [
                { "name": "a", "schema": { "type": "integer" }, "required": true },
                { "name": "b", "schema": {}, "required": true },
            ],
        }]);
        assert_eq!(listed, expected, "{wire:?}");

        let meta = json!({ "deadline_ms": 15_000 });
        caller.send(&json!({ "id": 7, "method": "py.add", "params": [2, 3], "meta": meta }));
        let call = peer.receive();
        assert_eq!((&call["method"], &call["params"]), (&json!("py.add"), &json!([2, 3])), "{wire:?}");
        // Servers of MessagePack-RPC may reject a fifth element.
        assert_eq!(call.get("meta").is_none(), wire.is_packed(), "{wire:?}: {call}");
        if !wire.is_packed() {
            assert_eq!(call["meta"]["hops"], 1, "{wire:?}: {call}");
            assert!(
                (1..=15_000).contains(&call["meta"]["deadline_ms"].as_u64().unwrap()),
                "{wire:?}: {call}"
            );
        }
        peer.answer(&call, Ok(json!(5)));
        assert_eq!(caller.receive(), json!({ "jsonrpc": "2.0", "id": 7, "result": 5 }), "{wire:?}");

        let call = passed_on(&mut caller, 8, "py.add", &mut peer);
        let error = json!({ "code": 7, "message": "no luck", "data": { "dice": 1 } });
        peer.answer(&call, Err(error.clone()));
        assert_eq!(caller.receive()["error"], error, "{wire:?}");

        caller.notify("py.add", &json!([1]));
        let told = peer.receive();
        assert_eq!((&told["method"], told.get("id")), (&json!("py.add"), None), "{wire:?}: {told}");

        let knows_meta = json!({ "name": "py.add", "meta": true });
        assert_eq!(peer.call("rpc.offer", &knows_meta), Ok(json!(true)), "{wire:?}");
        let call = passed_on(&mut caller, 10, "py.add", &mut peer);
        assert_eq!(call["meta"]["hops"], 1, "{wire:?}: {call}");
        peer.answer(&call, Ok(json!(null)));
        assert_eq!(caller.receive()["result"], Value::Null, "{wire:?}");

        // Calls and answers of both sides may cross.
        let call = passed_on(&mut caller, 9, "py.add", &mut peer);
        assert_eq!(peer.call("rpc.echo", &json!([1])), Ok(json!([1])), "{wire:?}");
        peer.answer(&call, Ok(json!(9)));
        assert_eq!(caller.receive()["result"], 9, "{wire:?}");

        let name = json!(["py.add"]);
        assert_eq!(peer.call("rpc.withdraw", &name), Ok(json!(true)), "{wire:?}");
        assert_eq!(peer.call("rpc.withdraw", &name), Ok(json!(false)), "{wire:?}");
        refused(caller.call("py.add", &json!([])), -32601, "no function");
    }
    assert_eq!(metric(&node, "offers"), 0);
}

#[test]
fn nothing_is_offered_over_http() {
    let node = start("");
    let mut peer = connect(&node, Wire::Http);
    for method in ["rpc.offer", "rpc.withdraw"] {
        refused(peer.call(method, &json!(["py.add"])), -32601, "over HTTP; use TCP or WebSocket");
    }
}

#[test]
fn wrong_offers_say_what_is_right() {
    let node = start("[[function]]\nname = 'far.*'\nforward = '127.0.0.1:1'\n[limits]\nin_flight = 8");
    let mut peer = connect(&node, Wire::Lines);
    for (params, words) in [
        (json!([]), "takes (name: string"),
        (json!(["rpc.mine"]), "reserved"),
        (json!(["$/mine"]), "reserved"),
        (json!(["py.*.x"]), "1 to 128 visible"),
        (json!([""]), "1 to 128 visible"),
        (json!({ "name": "a", "in_flight": 9 }), "in_flight is 1 to 8 (limits.in_flight)"),
        (json!({ "name": "a", "in_flight": 0 }), "in_flight is 1 to 8"),
        (json!({ "name": "a", "share": "all" }), "\"one\" or \"any\""),
        (json!({ "name": "a", "description": "x".repeat(1025) }), "1024 bytes"),
        (json!({ "name": "a", "params": vec!["x"; 2000] }), "4096 bytes"),
        (json!({ "name": "a", "params": [3] }), "list of names"),
        (json!({ "name": "a", "params": [{ "nmae": "x" }] }), "\"nmae\" is unknown"),
    ] {
        refused(peer.call("rpc.offer", &params), -32602, words);
    }
    for name in ["far.near", "far.*"] {
        let fault = refused(peer.call("rpc.offer", &json!([name])), -32015, "taken by hub");
        assert_eq!(fault.data, json!({ "by": "hub" }));
    }
    assert_eq!((metric(&node, "offers"), metric(&node, "offers_refused")), (0, 14));
}

#[test]
fn exact_names_come_before_families_and_configured_ones_before_all() {
    let node = start("[[function]]\nname = 'py.fixed'\nforward = '127.0.0.1:1'");
    let mut family = offering(&node, &json!(["py.*"]));
    let mut longer = offering(&node, &json!(["py.db.*"]));
    let mut exact = offering(&node, &json!(["py.db.get"]));
    let mut caller = connect(&node, Wire::Lines);
    for (method, peer) in [("py.x", &mut family), ("py.db.set", &mut longer), ("py.db.get", &mut exact)] {
        let call = passed_on(&mut caller, 1, method, peer);
        peer.answer(&call, Ok(json!(method)));
        assert_eq!(caller.receive()["result"], method);
    }
    refused(caller.call("py.fixed", &json!([])), -32001, "no connection to 127.0.0.1:1");
    let listed = caller.call("rpc.list", &json!(["py.*"])).unwrap();
    assert_eq!(listed, json!(["py.fixed", "py.db.get", "py.*", "py.db.*"]));
}

#[test]
fn numbers_of_offers_are_limited() {
    let node = start("[limits]\noffers = 2\noffered = 3");
    let mut first = connect(&node, Wire::Lines);
    assert_eq!(first.call("rpc.offer", &json!(["a"])), Ok(json!(true)));
    assert_eq!(first.call("rpc.offer", &json!(["b"])), Ok(json!(true)));
    assert_eq!(first.call("rpc.offer", &json!(["b"])), Ok(json!(true)), "renewed");
    refused(first.call("rpc.offer", &json!(["c"])), -32009, "offers 2 functions (limits.offers)");
    let mut second = offering(&node, &json!(["c"]));
    refused(second.call("rpc.offer", &json!(["d"])), -32009, "offer 3 functions (limits.offered)");
    assert_eq!(metric(&node, "offers"), 3);
    assert_eq!(first.call("rpc.withdraw", &json!(["a"])), Ok(json!(true)));
    assert_eq!(second.call("rpc.offer", &json!(["d"])), Ok(json!(true)));
    drop((first, second));
    eventually("all offers end with their connections", || metric(&node, "offers") == 0);
    assert_eq!(metric(&node, "offers_refused"), 2);
}

#[test]
fn same_owner_takes_over_and_running_calls_are_still_answered() {
    let node = start("");
    let mut caller = connect(&node, Wire::Lines);
    for wire in two_way() {
        let mut first = connect(&node, wire);
        assert_eq!(first.call("rpc.offer", &json!(["py.add"])), Ok(json!(true)));
        let running = passed_on(&mut caller, 1, "py.add", &mut first);
        let mut second = offering(&node, &json!(["py.add"]));
        let told = first.receive();
        assert_eq!(told["method"], "rpc.withdrawn", "{wire:?}");
        assert_eq!(told["params"], json!({ "name": "py.add", "reason": "taken over" }), "{wire:?}");
        let call = passed_on(&mut caller, 2, "py.add", &mut second);
        second.answer(&call, Ok(json!("second")));
        assert_eq!(caller.receive()["result"], "second", "{wire:?}");
        first.answer(&running, Ok(json!("first")));
        assert_eq!(caller.receive()["result"], "first", "{wire:?}");
        // What it lost, it cannot withdraw; and its end withdraws nothing.
        assert_eq!(first.call("rpc.withdraw", &json!(["py.add"])), Ok(json!(false)), "{wire:?}");
        let before = metric(&node, "connections");
        drop(first);
        eventually("the first peer is gone", || metric(&node, "connections") < before);
        let call = passed_on(&mut caller, 3, "py.add", &mut second);
        second.answer(&call, Ok(json!("second")));
        assert_eq!(caller.receive()["result"], "second", "{wire:?}");
        drop(second);
        withdrawn(&node, "py.add");
    }
    assert_eq!(metric(&node, "offers_taken_over"), two_way().count() as u64);
}

fn hash(token: &str) -> String {
    token_hash(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn access_rules_decide_who_offers_and_who_takes_over() {
    let (token, other) = (hash(TOKEN), hash(OTHER_TOKEN));
    let node = start(&format!(
        "[[access]]\nfunctions = ['py.*', 'rpc.list']\n\
         [[access]]\nname = 'worker'\noffer = ['py.*']\ntoken = 'sha256:{token}'\n\
         [[access]]\nname = 'second'\noffer = ['py.*', 'go.*']\ntoken = 'sha256:{other}'\n"
    ));
    let mut worker = connect(&node, Wire::Lines);
    refused(worker.call("rpc.offer", &json!(["py.add"])), -32002, "needs a token");
    worker.present(TOKEN);
    refused(worker.call("rpc.offer", &json!(["go.add"])), -32002, "offering \"go.add\" is not allowed");
    refused(worker.call("rpc.offer", &json!(["*"])), -32002, "not allowed");
    assert_eq!(worker.call("rpc.offer", &json!(["py.add"])), Ok(json!(true)));

    let mut second = connect(&node, Wire::MessagePack);
    second.present(OTHER_TOKEN);
    let fault = refused(second.call("rpc.offer", &json!(["py.add"])), -32015, "taken by worker");
    assert_eq!(fault.data, json!({ "by": "worker" }));
    // Another one must not share what is not shared, nor take it by sharing it.
    let shared = json!({ "name": "py.add", "share": "any" });
    refused(second.call("rpc.offer", &shared), -32015, "taken by worker");
    assert_eq!(second.call("rpc.offer", &json!(["go.add"])), Ok(json!(true)));
    let mut again = connect(&node, Wire::Lines);
    again.present(TOKEN);
    assert_eq!(again.call("rpc.offer", &json!(["py.add"])), Ok(json!(true)));
    assert_eq!(worker.receive()["method"], "rpc.withdrawn");

    // Who may not call a function does not see it.
    let mut anybody = connect(&node, Wire::Lines);
    assert_eq!(anybody.call("rpc.list", &json!(["*o.add"])), Ok(json!([])));
    assert_eq!(anybody.call("rpc.list", &json!(["py.*"])), Ok(json!(["py.add"])));
    let listed = anybody.call("rpc.list", &json!(["py.*", true])).unwrap();
    assert_eq!(listed[0].get("target"), None, "{listed}");
    refused(anybody.call("go.add", &json!([])), -32002, "needs a token");
    let call = passed_on(&mut anybody, 1, "py.add", &mut again);
    again.answer(&call, Ok(json!(1)));
    assert_eq!(anybody.receive()["result"], 1);
}

#[test]
fn tokens_make_an_owner_and_names_of_rules_do_not() {
    let (token, other) = (hash(TOKEN), hash(OTHER_TOKEN));
    let node = start(&format!(
        "[[access]]\nfunctions = ['*']\noffer = ['all.*']\n\
         [[access]]\nname = 'w'\noffer = ['py.*']\ntoken = 'sha256:{token}'\n\
         [[access]]\nname = 'w'\noffer = ['py.*']\ntoken = 'sha256:{other}'\n\
         [[access]]\nname = 'v'\noffer = ['go.*']\ntoken = 'sha256:{token}'\n"
    ));
    let mut first = offering(&node, &json!(["all.f"]));
    first.present(TOKEN);
    // Its owner is another one now, its connection is not.
    assert_eq!(first.call("rpc.offer", &json!(["all.f"])), Ok(json!(true)));
    assert_eq!(first.call("rpc.offer", &json!(["py.f"])), Ok(json!(true)));
    let mut second = connect(&node, Wire::Lines);
    refused(second.call("rpc.offer", &json!(["all.f"])), -32015, "taken by v, w");
    second.present(OTHER_TOKEN);
    refused(second.call("rpc.offer", &json!(["py.f"])), -32015, "taken by v, w");
    let mut again = connect(&node, Wire::Lines);
    again.present(TOKEN);
    assert_eq!(again.call("rpc.offer", &json!(["py.f"])), Ok(json!(true)));
    assert_eq!(first.receive()["method"], "rpc.withdrawn");
}

#[test]
fn offer_ends_with_the_right_to_it() {
    let text = format!(
        "[[access]]\nfunctions = ['*']\n\
         [[access]]\noffer = ['work']\ntoken = 'sha256:{}'\nexpires = 2027-01-01T00:00:00Z\n\
         [[access]]\noffer = ['work']\ntoken = 'sha256:{}'\n",
        hash(TOKEN),
        hash(OTHER_TOKEN)
    );
    let config = Config::parse(&text, "test").unwrap();
    let end = rules(&config)[1].expires.unwrap();
    // Seconds before it expires.
    let left = Arc::new(AtomicU64::new(1));
    let clock = {
        let left = left.clone();
        move || end - Duration::from_secs(left.load(Ordering::Relaxed))
    };
    let access = Arc::new(Access::new(&config).with_clock(clock));
    run(async |executor| {
        let socket = smol::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let node = node::Node::new(executor.clone(), Registry::builder("hub").build(), Limits::default());
        let listener = Listener::new(socket, &ListenerConfig::new("127.0.0.1:0"), &access).unwrap();
        let _serving =
            executor.spawn(async move { node.serve(vec![listener], std::future::pending()).await });
        smol::unblock(move || {
            let connect = || Peer::connect(Wire::Lines, address);
            let (mut peer, mut other, mut caller) = (connect(), connect(), connect());
            peer.present(TOKEN);
            other.present(OTHER_TOKEN);
            assert_eq!(peer.call("rpc.offer", &json!(["work"])), Ok(json!(true)));
            let call = passed_on(&mut caller, 1, "work", &mut peer);
            peer.answer(&call, Ok(json!(1)));
            assert_eq!(caller.receive()["result"], 1);
            refused(other.call("rpc.offer", &json!(["work"])), -32015, "taken by");
            left.store(0, Ordering::Relaxed);
            let fault = refused(caller.call("work", &json!([])), -32001, "may no longer offer it");
            assert_eq!(fault.data["sent"], false);
            // Now others may.
            assert_eq!(other.call("rpc.offer", &json!(["work"])), Ok(json!(true)));
            assert_eq!(peer.receive()["method"], "rpc.withdrawn");
            passed_on(&mut caller, 2, "work", &mut other);
        })
        .await;
    });
}

/// Sends a call that waits for a place.
fn queue(node: &RunningNode, caller: &mut Peer, id: u64) {
    let before = waiting(node);
    caller.send(&json!({ "id": id, "method": "work", "params": [id] }));
    eventually("the call waits", || waiting(node) == before + 1);
}

#[test]
fn calls_that_wait_remain_when_an_offer_is_renewed() {
    let node = start("");
    let offer = json!({ "name": "work", "in_flight": 1 });
    let mut peer = offering(&node, &offer);
    let mut caller = connect(&node, Wire::Lines);
    let mut running = passed_on(&mut caller, 1, "work", &mut peer);
    queue(&node, &mut caller, 2);
    queue(&node, &mut caller, 3);
    let renewed = json!({ "name": "work", "in_flight": 1, "description": "works" });
    assert_eq!(peer.call("rpc.offer", &renewed), Ok(json!(true)));
    // It still runs the first call, and so gets no second one.
    assert_eq!(peer.call("rpc.ping", &json!([])), Ok(json!("pong")));
    assert_eq!(waiting(&node), 2);
    for id in [2, 3] {
        peer.answer(&running, Ok(json!("done")));
        assert_eq!(caller.receive()["result"], "done");
        running = peer.receive();
        assert_eq!(running["params"], json!([id]));
    }
    // Room for more begins at once.
    queue(&node, &mut caller, 4);
    peer.send(&json!({ "id": 9, "method": "rpc.offer", "params": { "name": "work", "in_flight": 2 } }));
    let told = [peer.receive(), peer.receive()];
    assert!(told.iter().any(|told| told["params"] == json!([4])), "{told:?}");
}

#[test]
fn calls_that_wait_fail_when_the_function_is_withdrawn() {
    let node = start("");
    let mut peer = offering(&node, &json!({ "name": "work", "in_flight": 1 }));
    let mut caller = connect(&node, Wire::Lines);
    let running = passed_on(&mut caller, 1, "work", &mut peer);
    queue(&node, &mut caller, 2);
    assert_eq!(peer.call("rpc.withdraw", &json!(["work"])), Ok(json!(true)));
    let failed = caller.receive();
    assert_eq!((&failed["id"], &failed["error"]["code"]), (&json!(2), &json!(-32001)), "{failed}");
    assert_eq!(failed["error"]["data"]["sent"], false);
    peer.answer(&running, Ok(json!("done")));
    assert_eq!(caller.receive()["result"], "done");
}

#[test]
fn calls_that_wait_go_to_the_peer_that_takes_over() {
    let node = start("");
    let offer = json!({ "name": "work", "in_flight": 1 });
    let mut first = offering(&node, &offer);
    let mut caller = connect(&node, Wire::Lines);
    let running = passed_on(&mut caller, 1, "work", &mut first);
    queue(&node, &mut caller, 2);
    queue(&node, &mut caller, 3);
    queue(&node, &mut caller, 4);
    let mut second = offering(&node, &offer);
    let taken = second.receive();
    assert_eq!(taken["params"], json!([2]));
    // A call can still be cancelled where it waits now.
    caller.send(&json!({ "method": "$/cancelRequest", "params": { "id": 3 } }));
    assert_eq!(caller.receive()["error"]["code"], -32800);
    eventually("one call waits", || waiting(&node) == 1);
    // What the first one runs takes no place of the second one, nor does its answer free any.
    assert_eq!(first.receive()["method"], "rpc.withdrawn");
    first.answer(&running, Ok(json!("first")));
    assert_eq!(caller.receive()["result"], "first");
    assert_eq!(second.call("rpc.ping", &json!([])), Ok(json!("pong")));
    second.answer(&taken, Ok(json!("second")));
    assert_eq!(caller.receive()["result"], "second");
    assert_eq!(second.receive()["params"], json!([4]));
}

#[test]
fn peer_whose_function_is_taken_over_is_watched_no_longer() {
    let node = start("[limits]\noffer_keepalive = '300ms'\nkeepalive = 0");
    let mut first = offering(&node, &json!(["work"]));
    let mut second = offering(&node, &json!(["work"]));
    assert_eq!(first.receive()["method"], "rpc.withdrawn");
    // Neither gives a sign of life.
    assert_eq!(second.receive()["method"], "rpc.ping");
    second.client.assert_closed();
    assert_eq!(first.call("rpc.ping", &json!([])), Ok(json!("pong")));
    assert_eq!(first.call("rpc.offer", &json!(["work"])), Ok(json!(true)));
    assert_eq!(first.receive()["method"], "rpc.ping");
}

#[test]
fn descriptions_of_all_offers_together_are_limited() {
    let node = start("[limits]\nmessage = '16KiB'");
    let offer = |name: String| json!({ "name": name, "description": "x".repeat(1000) });
    let mut peers: Vec<_> = (0..3).map(|at| offering(&node, &offer(format!("f{at}")))).collect();
    let mut peer = connect(&node, Wire::Lines);
    let limit = "4096 bytes (a quarter of limits.message)";
    refused(peer.call("rpc.offer", &offer("g".into())), -32009, limit);
    // Names take space, too, and so does what is made of the parameters.
    let params = json!({ "name": "g", "params": vec!["x"; 100] });
    refused(peer.call("rpc.offer", &params), -32009, limit);
    assert_eq!(peers[0].call("rpc.offer", &offer("f0".into())), Ok(json!(true)), "renewed");
    assert_eq!(peers[0].call("rpc.withdraw", &json!(["f0"])), Ok(json!(true)));
    assert_eq!(peer.call("rpc.offer", &offer("g".into())), Ok(json!(true)));
    drop(peers.remove(1));
    withdrawn(&node, "f1");
    assert_eq!(peer.call("rpc.offer", &offer("h".into())), Ok(json!(true)));
    assert!(peer.call("rpc.list", &json!(["*", true])).is_ok());
}

#[test]
fn shared_function_goes_to_the_peer_with_the_fewest_calls() {
    let node = start("");
    let offer = json!({ "name": "work", "share": "any", "in_flight": 2 });
    let mut peers: Vec<_> = (0..3).map(|_| offering(&node, &offer)).collect();
    let mut caller = connect(&node, Wire::Lines);
    let mut running: Vec<Vec<Value>> = vec![Vec::new(); 3];
    for id in 0..6 {
        caller.send(&json!({ "id": id, "method": "work", "params": [id] }));
    }
    for (peer, running) in peers.iter_mut().zip(&mut running) {
        running.extend([peer.receive(), peer.receive()]);
    }
    // One more waits until a place is free, and goes there.
    caller.send(&json!({ "id": 6, "method": "work", "params": [6] }));
    let free = running[1].pop().unwrap();
    peers[1].answer(&free, Ok(json!("free")));
    assert_eq!(caller.receive()["result"], "free");
    let last = peers[1].receive();
    assert_eq!(last["params"], json!([6]));
    running[1].push(last);
    // What waits when a peer joins begins there.
    caller.send(&json!({ "id": 7, "method": "work", "params": [7] }));
    eventually("the call waits", || waiting(&node) == 1);
    let mut fourth = offering(&node, &offer);
    let call = fourth.receive();
    assert_eq!(call["params"], json!([7]));
    fourth.answer(&call, Ok(json!(7)));
    assert_eq!(caller.receive()["result"], 7);
    // Those that remain take the place of one that leaves.
    drop(peers.remove(0));
    for _ in 0..2 {
        let reply = caller.receive();
        assert_eq!(reply["error"]["code"], -32011, "{reply}");
    }
    let call = passed_on(&mut caller, 8, "work", &mut fourth);
    fourth.answer(&call, Ok(json!(8)));
    assert_eq!(caller.receive()["result"], 8);
    // Nobody is told that somebody else has left.
    for (peer, running) in peers.iter_mut().zip(&running[1..]) {
        for call in running {
            peer.answer(call, Ok(json!(null)));
            caller.receive();
        }
        assert_eq!(peer.call("rpc.ping", &json!([])), Ok(json!("pong")));
    }
}

/// Returns the number of calls that wait for a place.
fn waiting(node: &RunningNode) -> u64 {
    let mut client = Client::connect(node.addresses()[0]);
    let stats = client.call("rpc.stats", &json!([])).unwrap();
    stats["workers"].as_array().unwrap().iter().map(|workers| workers["waiting"].as_u64().unwrap()).sum()
}

#[test]
fn calls_beyond_the_places_of_a_peer_wait_and_then_are_refused() {
    let node = start("");
    let mut peer = offering(&node, &json!({ "name": "work", "in_flight": 1 }));
    let mut caller = connect(&node, Wire::Lines);
    for id in 0..18 {
        caller.send(&json!({ "id": id, "method": "work", "params": [id] }));
    }
    let reply = caller.receive();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(17), &json!(-32009)));
    assert!(reply["error"]["message"].as_str().unwrap().contains("in_flight of rpc.offer"), "{reply}");
    for id in 0..17 {
        let call = peer.receive();
        assert_eq!(call["params"], json!([id]));
        peer.answer(&call, Ok(json!(id)));
        assert_eq!(caller.receive()["result"], id);
    }
}

#[test]
fn lost_peer_leaves_nothing_behind() {
    let node = start("");
    for wire in two_way() {
        let mut caller = connect(&node, Wire::Lines);
        let mut peer = connect(&node, wire);
        let offer = json!({ "name": "work", "in_flight": 1 });
        assert_eq!(peer.call("rpc.offer", &offer), Ok(json!(true)));
        let _running = passed_on(&mut caller, 1, "work", &mut peer);
        caller.send(&json!({ "id": 2, "method": "work", "params": [] }));
        eventually("the second call waits", || waiting(&node) == 1);
        peer.client.stream().shutdown(Shutdown::Both).unwrap();
        let (first, second) = (caller.receive(), caller.receive());
        assert_eq!((&first["id"], &first["error"]["code"]), (&json!(1), &json!(-32011)), "{wire:?}");
        assert_eq!(first["error"]["data"]["sent"], true, "{wire:?}");
        assert_eq!((&second["id"], &second["error"]["code"]), (&json!(2), &json!(-32001)), "{wire:?}");
        withdrawn(&node, "work");
    }
    assert_eq!(metric(&node, "offers"), 0);
    assert_eq!(metric(&node, "in_flight"), 0);
}

#[test]
fn peer_that_has_finished_sending_cannot_answer() {
    let node = start("");
    let mut peer = offering(&node, &json!(["work"]));
    let mut other = offering(&node, &json!(["slow"]));
    let mut caller = connect(&node, Wire::Lines);
    let running = passed_on(&mut peer, 5, "slow", &mut other);
    let _ = passed_on(&mut caller, 1, "work", &mut peer);
    // It still waits for an answer.
    peer.client.end();
    assert_eq!(caller.receive()["error"]["code"], -32011);
    // So it offers nothing any longer, and others may.
    withdrawn(&node, "work");
    assert_eq!(metric(&node, "offers"), 1);
    other.answer(&running, Ok(json!(1)));
    // Instead of an answer the peer was told that its call has ended for the caller, or nothing.
    let reply = peer.receive();
    assert_eq!((&reply["id"], &reply["result"]), (&json!(5), &json!(1)), "{reply}");
}

#[test]
fn peer_of_whom_nothing_more_is_read_offers_nothing() {
    let node = start("");
    let mut peer = connect(&node, Wire::Headers);
    assert_eq!(peer.call("rpc.offer", &json!(["work"])), Ok(json!(true)));
    let mut other = offering(&node, &json!(["slow"]));
    let mut caller = connect(&node, Wire::Lines);
    let running = passed_on(&mut peer, 5, "slow", &mut other);
    let _ = passed_on(&mut caller, 1, "work", &mut peer);
    peer.client.send("this is no header\r\n\r\n");
    let lost = caller.receive();
    assert_eq!(lost["error"]["code"], -32011, "{lost}");
    assert!(lost["error"]["message"].as_str().unwrap().contains("framing"), "{lost}");
    withdrawn(&node, "work");
    other.answer(&running, Ok(json!(1)));
}

#[test]
fn withdrawal_leaves_running_calls_alone() {
    let node = start("");
    let mut peer = offering(&node, &json!(["work"]));
    let mut caller = connect(&node, Wire::Lines);
    let running = passed_on(&mut caller, 1, "work", &mut peer);
    assert_eq!(peer.call("rpc.withdraw", &json!(["work"])), Ok(json!(true)));
    peer.answer(&running, Ok(json!("done")));
    assert_eq!(caller.receive()["result"], "done");
    refused(caller.call("work", &json!([])), -32601, "no function");
}

#[test]
fn cancelled_and_late_calls_end_for_the_caller_and_the_peer_is_told() {
    let node = start("[limits]\noffer_keepalive = '1h'");
    let mut peer = offering(&node, &json!({ "name": "work", "in_flight": 1 }));
    let mut caller = connect(&node, Wire::Lines);
    let call = passed_on(&mut caller, 1, "work", &mut peer);
    caller.send(&json!({ "method": "$/cancelRequest", "params": { "id": 1 } }));
    assert_eq!(caller.receive()["error"]["code"], -32800);
    let told = peer.receive();
    assert_eq!((&told["method"], &told["params"]["id"]), (&json!("$/cancelRequest"), &call["id"]));

    let late = json!({ "id": 2, "method": "work", "params": [2], "meta": { "deadline_ms": 1 } });
    // It may be late before it is sent.
    loop {
        caller.send(&late);
        assert_eq!(caller.receive()["error"]["code"], -32003);
        caller.send(&json!({ "id": 3, "method": "work", "params": [3] }));
        let mut arrived = Vec::new();
        while arrived.last() != Some(&json!([3])) {
            let message = peer.receive();
            match message["method"].as_str().unwrap() {
                "work" => arrived.push(message["params"].clone()),
                // It is asked at once whether it is still there.
                "rpc.ping" => arrived.push(json!("ping")),
                other => assert_eq!(other, "$/cancelRequest"),
            }
            if message["params"] == json!([3]) {
                peer.answer(&message, Ok(json!(3)));
            }
        }
        assert_eq!(caller.receive()["result"], 3);
        if arrived.contains(&json!([2])) {
            assert!(arrived.contains(&json!("ping")), "{arrived:?}");
            break;
        }
    }
}

#[test]
fn peer_that_gives_no_sign_of_life_is_withdrawn() {
    let node = start("[limits]\noffer_keepalive = '300ms'\nkeepalive = 0");
    let mut silent = offering(&node, &json!(["silent"]));
    let mut caller = connect(&node, Wire::Lines);
    let _running = passed_on(&mut caller, 1, "silent", &mut silent);
    let reply = caller.receive();
    assert_eq!(reply["error"]["code"], -32011, "{reply}");
    assert_eq!(silent.receive()["method"], "rpc.ping");
    silent.client.assert_closed();
    withdrawn(&node, "silent");
    assert_eq!(metric(&node, "vanished"), 1);
}

/// The session of a connection that offers a function, without a transport, an executor or a clock.
struct Offering {
    session: Session,
    now: Instant,
}

impl Offering {
    fn start() -> Self {
        Self::of(Dialect::JsonLines)
    }

    fn of(dialect: Dialect) -> Self {
        let now = Instant::now();
        let registry = Registry::builder("hub").build();
        let session = Session::new(registry, Arc::default(), dialect, Grants::all(), now).reachable();
        let mut offering = Self { session, now };
        let told = offering.tell(&json!({ "id": 1, "method": "rpc.offer", "params": ["work"] }));
        assert_eq!(told[0]["result"], true);
        offering
    }

    /// Lets the peer send a message. Returns what it receives.
    fn tell(&mut self, message: &Value) -> Vec<Value> {
        let mut message = message.clone();
        message["jsonrpc"] = json!("2.0");
        self.session.input().extend_from_slice(format!("{message}\n").as_bytes());
        self.session.received(self.now);
        self.told()
    }

    fn told(&mut self) -> Vec<Value> {
        let cx = Context::from_waker(Waker::noop());
        while self.session.poll_replies(&cx, self.now).is_ready() {}
        let output = self.session.take_output();
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Lets time pass until the next deadline. Returns what the peer receives.
    fn wait(&mut self) -> Vec<Value> {
        self.now = self.session.next_deadline().expect("a deadline");
        self.session.expire(self.now);
        self.told()
    }
}

#[test]
fn any_answer_is_a_sign_of_life() {
    let mut offering = Offering::start();
    let start = offering.now;
    for round in 1..=5 {
        let ping = (0..3).flat_map(|_| offering.wait()).next_back().expect("a ping");
        assert_eq!((ping["method"].as_str(), offering.now - start), (Some("rpc.ping"), 15 * round * SECOND));
        let answer = json!({ "id": ping["id"], "error": { "code": -32601, "message": "what?" } });
        assert!(offering.tell(&answer).is_empty());
        assert!(!offering.session.has_vanished());
    }
    for _ in 0..4 {
        offering.wait();
    }
    assert!(offering.session.has_vanished());
    assert_eq!(offering.now - start, 95 * SECOND);
}

#[test]
fn peer_is_asked_at_once_when_a_call_is_late_and_only_once() {
    for dialect in [Dialect::JsonLines, Dialect::JsonPerFrame] {
        let mut offering = Offering::of(dialect);
        let call = |offering: &mut Offering| {
            let (peer, deadline) = (offering.session.peer(), Some(offering.now + SECOND));
            let id = peer.reserve();
            peer.call(id, "work".into(), None, deadline, 1, false, drop);
            assert_eq!(offering.told().last().unwrap()["method"], "work");
        };
        let pings = |offering: &mut Offering| {
            offering.now += SECOND;
            offering.session.expire(offering.now);
            // The transport of frames has pings of its own.
            let asked = u8::from(offering.session.take_ping());
            let told = offering.told();
            asked + u8::from(told.iter().any(|message| message["method"] == "rpc.ping"))
        };
        call(&mut offering);
        assert_eq!(pings(&mut offering), 1, "{dialect:?}");
        call(&mut offering);
        assert_eq!(pings(&mut offering), 0, "{dialect:?}");
        // It may be at work, and so has the whole time.
        assert!(!offering.session.has_vanished(), "{dialect:?}");
        for _ in 0..4 {
            offering.now += 5 * SECOND;
            offering.session.expire(offering.now);
        }
        assert!(offering.session.has_vanished(), "{dialect:?}");
    }
}

#[test]
fn peer_that_offers_nothing_any_longer_is_asked_nothing() {
    let mut offering = Offering::start();
    offering.tell(&json!({ "id": 2, "method": "rpc.withdraw", "params": ["work"] }));
    while offering.session.next_deadline().is_some() {
        assert_eq!(offering.wait(), Vec::<Value>::new());
    }
    // Until it offers again.
    offering.tell(&json!({ "id": 3, "method": "rpc.offer", "params": ["work"] }));
    let told: Vec<_> = (0..3).flat_map(|_| offering.wait()).collect();
    assert_eq!(told[0]["method"], "rpc.ping");
}

#[test]
fn websocket_that_offers_is_asked_by_its_own_pings() {
    let node = start("[limits]\noffer_keepalive = '3s'\nkeepalive = 0");
    let mut peer = connect(&node, Wire::WebSocketText);
    assert_eq!(peer.call("rpc.offer", &json!(["work"])), Ok(json!(true)));
    assert_eq!(take_frame(&mut peer.client, 9), b"");
    peer.client.send([0x8a, 0x80, 0, 0, 0, 0]);
    assert_eq!(take_frame(&mut peer.client, 9), b"");
    peer.client.assert_closed();
    withdrawn(&node, "work");
}

#[test]
fn call_that_too_many_nodes_have_forwarded_is_not_passed_on() {
    let node = start("");
    let _peer = offering(&node, &json!(["work"]));
    let mut caller = connect(&node, Wire::Lines);
    let fault = caller.ask(json!({ "method": "work", "params": [], "meta": { "hops": 8 } })).unwrap_err();
    assert_eq!((fault.code, fault.data), (-32012, json!({ "via": ["hub"] })));
}

#[test]
fn stopping_node_waits_for_peers_that_run_calls() {
    for wire in two_way() {
        let node = start("");
        let mut peer = connect(&node, wire);
        assert_eq!(peer.call("rpc.offer", &json!({ "name": "work", "in_flight": 1 })), Ok(json!(true)));
        let mut caller = connect(&node, Wire::Lines);
        let running = passed_on(&mut caller, 1, "work", &mut peer);
        caller.send(&json!({ "id": 2, "method": "work", "params": [2] }));
        eventually("the second call waits", || waiting(&node) == 1);
        let mut idle = offering(&node, &json!(["idle"]));
        let stopping = thread::spawn(|| smol::block_on(node.stop()));
        idle.client.assert_closed();
        peer.answer(&running, Ok(json!("first")));
        assert_eq!(caller.receive()["result"], "first", "{wire:?}");
        let waited = peer.receive();
        assert_eq!(waited["params"], json!([2]), "{wire:?}");
        peer.answer(&waited, Ok(json!("second")));
        assert_eq!(caller.receive()["result"], "second", "{wire:?}");
        stopping.join().unwrap();
    }
}

#[test]
fn every_call_is_answered_while_functions_are_offered_and_withdrawn() {
    const CALLERS: usize = 2;
    let node = start("");
    let (done, ended) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut counts = BTreeMap::<i64, u64>::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut peer = connect(&node, Wire::Lines);
            let mut id = 0;
            // Answers calls until the reply comes.
            let mut ask = |method: &str, params: Value| {
                id += 1;
                peer.send(&json!({ "id": id, "method": method, "params": params }));
                loop {
                    let message = peer.receive();
                    if message["method"] == "work" {
                        peer.answer(&message, Ok(message["params"][0].clone()));
                    } else {
                        assert_eq!(message["id"], id, "{message}");
                        return message["result"].clone();
                    }
                }
            };
            for _ in 0..scale(10_000) {
                assert_eq!(ask("rpc.offer", json!(["work"])), true);
                assert_eq!(ask("rpc.withdraw", json!(["work"])), true);
            }
            done.store(true, Ordering::Relaxed);
            while ended.load(Ordering::Relaxed) < CALLERS {
                ask("rpc.ping", json!([]));
            }
        });
        let call = || {
            let mut caller = connect(&node, Wire::Lines);
            let mut codes = Vec::new();
            while !done.load(Ordering::Relaxed) {
                codes.push(match caller.call("work", &json!(["mine"])) {
                    Ok(result) => {
                        assert_eq!(result, "mine");
                        0
                    }
                    Err(fault) => fault.code,
                });
            }
            ended.fetch_add(1, Ordering::Relaxed);
            codes
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
        for code in callers.into_iter().flat_map(|caller| caller.join().unwrap()) {
            *counts.entry(code).or_default() += 1;
        }
    });
    assert!(counts.keys().all(|code| [0, -32601].contains(code)), "{counts:?}");
    assert_eq!(metric(&node, "in_flight"), 0);
}
