//! What a function learns of its caller.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use chanrpc::chan::{Functions, Id1, Server};
use chanrpc::config::{Config, Workers};
use chanrpc::internals::route::{Registration, RegistryInternals as _, token_hash};
use chanrpc::message::RawJson;
use chanrpc::node::{Node, RunningNode};
use chanrpc::route::{Call, Caller, Description, Exports, Provider, Responder, WithCaller};
use serde_json::{Value, json};

use crate::support::{Client, post};
use crate::wires::{Peer, TOKEN, WIRES, Wire, upgrade};

fn told(caller: &Caller) -> Value {
    json!({
        "connection": caller.connection(),
        "peer": caller.address().map(|address| address.to_string()),
        "dialect": caller.dialect(),
        "rules": caller.rules(),
    })
}

/// Answers who calls: at once.
struct Who;

impl Provider for Who {
    fn call(&self, call: Call<'_>) {
        let told = told(call.caller());
        call.reply(Ok(RawJson::of(&told).unwrap()));
    }
}

/// Answers who calls when the next call of `release` comes.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<(Responder, Caller)>>>);

impl Provider for Held {
    fn call(&self, call: Call<'_>) {
        if call.method() == "hold" {
            let caller = call.caller().clone();
            self.0.lock().unwrap().push((call.defer(), caller));
            return;
        }
        let held = self.0.lock().unwrap().pop();
        let is_held = held.is_some();
        if let Some((responder, caller)) = held {
            responder.send(Ok(RawJson::of(&told(&caller)).unwrap()));
        }
        call.reply(Ok(RawJson::of(&is_held).unwrap()));
    }
}

const NATIVE: Id1<WithCaller<(String, u8)>, Value> = Id1::new("native");
const LATER: Id1<WithCaller<()>, Value> = Id1::new("later");

fn functions() -> Exports<()> {
    let mut functions = Functions::exported();
    functions
        .register(NATIVE, |(), WithCaller(caller, (text, number))| json!([text, number, told(&caller)]))
        .unwrap()
        .register_deferred(LATER, |(), WithCaller(caller, ()), responder| responder.reply(told(&caller)))
        .unwrap();
    functions
}

fn start() -> (RunningNode, [Registration; 3]) {
    let token: String = token_hash(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "[[listen]]\naddress = '127.0.0.1:0'\n\
         [[access]]\nname = 'everybody'\nfunctions = ['*']\n\
         [[access]]\nname = 'expired'\nfunctions = ['*']\ntoken = 'sha256:{token}'\nexpires = 2001-01-01T00:00:00Z\n\
         [[access]]\nname = 'admin'\nfunctions = ['*']\ntoken = 'sha256:{token}'\n"
    );
    let node =
        Node::from_config(Config::parse(&text, "test").unwrap()).serve(functions(), ()).start().unwrap();
    let registry = node.node().registry();
    let held = Held::default();
    let one = Description::default().workers(Workers::new(1));
    let who = registry.register("who", Description::default(), Who).unwrap();
    let hold = registry.register("hold", one, held.clone()).unwrap();
    let release = registry.register("release", Description::default(), held).unwrap();
    (node, [who, hold, release])
}

#[test]
fn every_function_learns_who_calls_in_every_dialect() {
    let (node, registrations) = start();
    let address = node.addresses()[0];
    let mut connections = BTreeSet::new();
    let mut open = Vec::new();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, address);
        let first = peer.call("who", &json!([])).unwrap();
        let connection = first["connection"].as_u64().unwrap();
        assert!(connection > 0 && connections.insert(connection), "{wire:?}: {first}");
        let dialect = match wire {
            Wire::Lines => "lines",
            Wire::Headers => "headers",
            Wire::MessagePack => "msgpack",
            Wire::WebSocketText | Wire::WebSocketBinary | Wire::WebSocketPacked => "websocket",
            Wire::Http => "http",
        };
        let own = peer.client.stream().local_addr().unwrap().to_string();
        let expected = |rules: &[&str]| json!({ "connection": connection, "peer": own, "dialect": dialect, "rules": rules });
        let before = expected(&["everybody"]);
        assert_eq!(first, before, "{wire:?}");
        assert_eq!(peer.call("native", &json!(["a", 7])).unwrap(), json!(["a", 7, before]), "{wire:?}");
        assert_eq!(peer.call("later", &json!([])).unwrap(), before, "{wire:?}");

        peer.present(TOKEN);
        let after = expected(&["everybody", "admin"]);
        assert_eq!(peer.call("who", &json!([])).unwrap(), after, "{wire:?}");
        assert_eq!(peer.call("later", &json!([])).unwrap(), after, "{wire:?}");
        // So that no number may come twice.
        open.push(peer);
    }
    drop(registrations);
}

#[test]
fn queued_call_keeps_its_caller() {
    let (node, registrations) = start();
    let mut queued = Peer::connect(Wire::Lines, node.addresses()[0]);
    let mut other = Peer::connect(Wire::MessagePack, node.addresses()[0]);
    let who = queued.call("who", &json!([])).unwrap();
    for id in 1..=2 {
        queued.send(&json!({ "id": id, "method": "hold", "params": [] }));
    }
    // The first one runs, and the second one starts when that has been answered.
    for id in 1..=2 {
        while other.call("release", &json!([])) != Ok(json!(true)) {}
        let reply = queued.receive();
        assert_eq!((&reply["id"], &reply["result"]), (&json!(id), &who));
    }
    drop(registrations);
}

#[test]
fn websocket_is_the_connection_that_was_upgraded() {
    let (node, registrations) = start();
    let mut client = Client::connect(node.addresses()[0]);
    client.send(post(r#"{"jsonrpc":"2.0","id":1,"method":"who"}"#));
    let before = client.http().json()["result"].clone();
    upgrade(&mut client);
    let mut peer = Peer::over(Wire::WebSocketText, client);
    let mut after = peer.call("who", &json!([])).unwrap();
    assert_eq!((&before["dialect"], after["dialect"].take()), (&json!("http"), json!("websocket")));
    after["dialect"] = json!("http");
    assert_eq!(after, before);
    drop(registrations);
}

#[test]
fn function_that_learns_its_caller_is_described_by_what_callers_give() {
    let (node, _registrations) = start();
    let mut client = Client::connect(node.addresses()[0]);
    let listed = client.call("rpc.list", &json!({ "pattern": "native", "verbose": true })).unwrap();
    let types: Vec<_> =
        listed[0]["params"].as_array().unwrap().iter().map(|param| &param["schema"]["type"]).collect();
    assert_eq!(types, ["string", "integer"], "{listed}");
    let fault = client.call("native", &json!(["a", "b"])).unwrap_err();
    assert_eq!(fault.code, -32602);
}

#[test]
fn callers_in_this_process_say_who_they_are() {
    let server = Server::new((), functions());
    let client = server.client();
    std::thread::spawn(|| smol::block_on(server.run()));
    let answer = client.call(NATIVE, WithCaller(Caller::local(), ("a".into(), 7))).wait().unwrap();
    assert_eq!(answer, json!(["a", 7, { "connection": 0, "peer": null, "dialect": "local", "rules": [] }]));
}
