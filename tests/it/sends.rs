//! Messages that functions send to their callers, at any time and in every dialect.

use std::time::Instant;

use chanrpc::chan::{Functions, Id0, Id1};
use chanrpc::config::{Config, Limits};
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::route::PeerName;
use chanrpc::internals::session::{Dialled, Session};
use chanrpc::message::RawJson;
use chanrpc::node::{Node, RunningNode};
use chanrpc::route::{Call, Caller, Description, Exports, Provider, Registry, SendError, WithCaller};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{Client, eventually, post};
use crate::wires::{Peer, WIRES, Wire, frame, take_frame, upgrade};

/// Sends a message to the caller. Returns why it was not sent.
const TELL: Id1<WithCaller<(String, Box<RawValue>)>, Option<String>> = Id1::new("tell");
/// Keeps the caller.
const JOIN: Id0<WithCaller<()>> = Id0::new("join");
/// Sends to all kept callers, and returns why a message was not sent.
const TELL_ALL: Id1<(Box<RawValue>,), Vec<Option<String>>> = Id1::new("tell_all");
/// Sends a text of a length to the caller.
const FILL: Id1<WithCaller<(String, usize)>, Option<String>> = Id1::new("fill");
/// Sends messages of 1000 bytes to the first kept caller until that fails. Returns their number, and why it failed.
const FLOOD: Id1<(), (u32, String)> = Id1::new("flood");
/// Closes the connection of the caller after a last message. Returns why no more is sent.
const LEAVE: Id1<WithCaller<()>, String> = Id1::new("leave");

fn reason(result: Result<(), SendError>) -> Option<String> {
    result.err().map(|error| error.to_string())
}

fn functions() -> Exports<Vec<Caller>> {
    let mut functions = Functions::exported();
    functions
        .register(TELL, |_: &mut Vec<Caller>, WithCaller(caller, (method, data))| {
            reason(caller.send(&method, &data))
        })
        .unwrap()
        .register(JOIN, |callers, WithCaller(caller, ())| callers.push(caller))
        .unwrap()
        .register(TELL_ALL, |callers, (data,)| {
            callers.iter().map(|caller| reason(caller.send("told", &data))).collect::<Vec<_>>()
        })
        .unwrap()
        .register(FILL, |_, WithCaller(caller, (method, length))| {
            reason(caller.send(&method, &"x".repeat(length)))
        })
        .unwrap()
        .register(FLOOD, |callers, ()| {
            let text = "x".repeat(1000);
            let mut count = 0;
            loop {
                match callers[0].send("flood", &(count, &text)) {
                    Ok(()) => count += 1,
                    Err(error) => break (count, error.to_string()),
                }
            }
        })
        .unwrap()
        .register(LEAVE, |_, WithCaller(caller, ())| {
            caller.send("last", "words").unwrap();
            caller.close();
            caller.send("later", "").unwrap_err().to_string()
        })
        .unwrap();
    functions
}

/// Starts a node with a regular listener, one for Leaf's frames, and one for Leaf's messages over WebSocket.
fn start(limits: Limits) -> RunningNode {
    let listen = "[[listen]]\naddress = '127.0.0.1:0'\n";
    let leaf = "dialect = 'leaf'\n[listen.leaf]\nwebsocket = ";
    let access = "[[access]]\nfunctions = ['*']\n";
    let text = format!("{listen}{listen}{leaf}false\n{listen}{leaf}true\n{access}");
    let config = Config::parse(&text, "test").unwrap();
    Node::from_config(config).limits(limits).serve(functions(), Vec::new()).start().unwrap()
}

/// Returns the message that a call of `tell` makes a node send, and the result of the call. Their order is undefined.
fn told(peer: &mut Peer, data: &str) -> (Value, Value) {
    let data: Value = serde_json::from_str(data).unwrap();
    peer.send(&json!({ "id": 7, "method": "tell", "params": ["news", data] }));
    let mut received = [peer.receive(), peer.receive()];
    received.sort_by_key(|message| message.get("id").is_some());
    let [message, reply] = received;
    (message, reply["result"].clone())
}

#[test]
fn messages_arrive_in_every_dialect() {
    let node = start(Limits::default());
    for wire in WIRES.into_iter().filter(|wire| *wire != Wire::Http) {
        let mut peer = Peer::connect(wire, node.addresses()[0]);
        for (data, params) in [
            (r#"[1,"two",null]"#, json!([1, "two", null])),
            (r#"{"text":"é\n"}"#, json!({ "text": "é\n" })),
            (r#""hello""#, json!(["hello"])),
            ("-7.5", json!([-7.5])),
            ("false", json!([false])),
        ] {
            let (message, result) = told(&mut peer, data);
            assert_eq!(result, Value::Null, "{wire:?}");
            let expected = json!({ "jsonrpc": "2.0", "method": "news", "params": params });
            assert_eq!(message, expected, "{wire:?}");
        }
        let (message, _) = told(&mut peer, "null");
        let params = if wire.is_packed() { json!([]) } else { Value::Null };
        assert_eq!(message["params"], params, "{wire:?}: {message}");
    }
}

/// The bytes that a real Leaf gate was observed to send.
#[test]
fn leaf_clients_get_what_a_gate_sends() {
    let node = start(Limits::default());
    let mut client = Client::connect(node.addresses()[1]);
    let mut websocket = Client::connect(node.addresses()[2]);
    upgrade(&mut websocket);
    for (data, message) in [
        (r#"{"Name":"leaf"}"#, r#"{"Hello":{"Name":"leaf"}}"#),
        ("[1,2]", r#"{"Hello":[1,2]}"#),
        (r#""text""#, r#"{"Hello":"text"}"#),
        ("12.50", r#"{"Hello":12.50}"#),
        ("null", r#"{"Hello":null}"#),
    ] {
        let call = format!(r#"{{"tell":["Hello",{data}]}}"#);
        let framed =
            |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
        client.send(framed(&call));
        let reply = framed(r#"{"tell":null}"#);
        let both = client.take(framed(message).len() + reply.len());
        let orders = [[framed(message), reply.clone()].concat(), [reply, framed(message)].concat()];
        assert!(orders.contains(&both), "{}", String::from_utf8_lossy(&both));

        websocket.send(frame(2, call.as_bytes()));
        let mut frames = [take_frame(&mut websocket, 2), take_frame(&mut websocket, 2)];
        frames.sort_by_key(|frame| frame.starts_with(b"{\"tell\""));
        assert_eq!(frames, [message.as_bytes(), b"{\"tell\":null}"]);
    }
}

#[test]
fn length_of_a_message_is_limited_by_the_dialect_and_the_node() {
    let node = start(Limits::default().message(5000));
    let mut leaf = Client::connect(node.addresses()[1]);
    let mut ask = |length: usize| {
        let call = format!(r#"{{"fill":["big",{length}]}}"#);
        leaf.send([&[0, u8::try_from(call.len()).unwrap()], call.as_bytes()].concat());
        let prefix = leaf.take(2);
        let message = leaf.take(usize::from(prefix[0]) * 256 + usize::from(prefix[1]));
        String::from_utf8(message).unwrap()
    };
    // {"big":"…"}
    let reason = "a message of 4097 bytes; the peer takes 1 to 4096 (limits.message, leaf.max)";
    assert_eq!(ask(4096 - 9), format!(r#"{{"fill":"{reason}"}}"#));
    assert_eq!(ask(4096 - 10), r#"{"fill":null}"#);
    assert!(leaf.take(2 + 4096)[2..] == *format!(r#"{{"big":"{}"}}"#, "x".repeat(4086)).as_bytes());

    let mut lines = Peer::connect(Wire::Lines, node.addresses()[0]);
    let envelope = r#"{"jsonrpc":"2.0","method":"big","params":[""]}"#.len();
    let reason = "a message of 5001 bytes; the peer takes 0 to 5000 (limits.message, leaf.max)";
    assert_eq!(lines.call("fill", &json!(["big", 5001 - envelope])), Ok(json!(reason)));
    lines.notify("fill", &json!(["big", 5000 - envelope]));
    assert_eq!(lines.receive()["params"][0].as_str().map(str::len), Some(5000 - envelope));
}

#[test]
fn message_that_a_dialect_cannot_express_is_refused() {
    let node = start(Limits::default());
    let wires = [Wire::MessagePack, Wire::Lines, Wire::WebSocketPacked];
    let mut peers = wires.map(|wire| Peer::connect(wire, node.addresses()[0]));
    for peer in &mut peers {
        peer.call("join", &json!([])).unwrap();
    }
    // JSON has numbers of any size.
    let huge = "1".repeat(400);
    let mut other = Client::connect(node.addresses()[0]);
    let reply = other.ask(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tell_all","params":[[{huge}]]}}"#));
    let reason = "the peer's dialect cannot express a number or a text in it";
    assert_eq!(reply["result"], json!([reason, null, reason]));
    let line = peers[1].client.line().unwrap();
    assert_eq!(line, format!("{{\"jsonrpc\":\"2.0\",\"method\":\"told\",\"params\":[{huge}]}}\n"));
}

#[test]
fn single_requests_and_local_callers_cannot_be_reached() {
    let node = start(Limits::default());
    let mut client = Client::connect(node.addresses()[0]);
    client.send(post(r#"{"jsonrpc":"2.0","id":1,"method":"tell","params":["news",1]}"#));
    assert_eq!(client.http().json()["result"], "the caller has no connection that takes messages");
    assert_eq!(Caller::local().send("news", &1), Err(SendError::Unreachable));
}

#[test]
fn callers_are_reached_at_any_time_until_they_are_gone() {
    let node = start(Limits::default());
    let mut peers: Vec<_> =
        [Wire::Lines, Wire::WebSocketText].map(|wire| Peer::connect(wire, node.addresses()[0])).into();
    for peer in &mut peers {
        assert_eq!(peer.call("join", &json!([])), Ok(Value::Null));
    }
    let mut teller = Peer::connect(Wire::Headers, node.addresses()[0]);
    assert_eq!(teller.call("tell_all", &json!(["one"])), Ok(json!([null, null])));
    for peer in &mut peers {
        assert_eq!(peer.receive(), json!({ "jsonrpc": "2.0", "method": "told", "params": ["one"] }));
    }
    peers.pop();
    eventually("the node notices the end", || {
        teller.call("tell_all", &json!(["two"])) == Ok(json!([null, "the connection is closed"]))
    });
}

#[test]
fn peer_that_does_not_read_is_told_apart_and_loses_nothing_that_was_sent() {
    let node = start(Limits::default().output(10_000));
    let mut slow = Peer::connect(Wire::Lines, node.addresses()[0]);
    assert_eq!(slow.call("join", &json!([])), Ok(Value::Null));
    let mut other = Peer::connect(Wire::Lines, node.addresses()[0]);
    let flooded = other.call("flood", &json!([])).unwrap();
    assert_eq!(flooded[1], "too much waits for the peer already (limits.output)");
    for number in 0..flooded[0].as_u64().unwrap() {
        assert_eq!(slow.receive()["params"][0], number);
    }
    assert_eq!(other.call("tell_all", &json!(["again"])), Ok(json!([null])));
    assert_eq!(slow.receive()["params"], json!(["again"]));
}

#[test]
fn connection_is_closed_after_what_was_sent() {
    let node = start(Limits::default());
    let mut lines = Client::connect(node.addresses()[0]);
    lines.send("{\"jsonrpc\":\"2.0\",\"method\":\"leave\"}\n");
    assert_eq!(lines.rest(), b"{\"jsonrpc\":\"2.0\",\"method\":\"last\",\"params\":[\"words\"]}\n");
    let mut websocket = Peer::connect(Wire::WebSocketText, node.addresses()[0]);
    websocket.notify("leave", &json!([]));
    assert_eq!(websocket.receive()["method"], "last");
    assert_eq!(websocket.frame(8), b"\x03\xe8closed by the node");
    let mut leaf = Client::connect(node.addresses()[1]);
    leaf.send(b"\0\x0e{\"leave\":null}");
    assert!(leaf.rest().ends_with(b"\0\x10{\"last\":\"words\"}"));
}

/// Answers who calls.
struct Who;

impl Provider for Who {
    fn call(&self, call: Call<'_>) {
        let caller = call.caller();
        caller.send("known", &[caller.dialect()]).unwrap();
        let who = (caller.connection() > 0, caller.address(), caller.dialect());
        let who = RawJson::of(&who).unwrap();
        call.reply(Ok(who));
    }
}

#[test]
fn node_that_was_dialled_is_a_caller_like_any_other() {
    let now = Instant::now();
    for (dialect, name) in [(Dialect::JsonLines, "lines"), (Dialect::JsonContentLength, "headers")] {
        let mut registry = Registry::builder("test");
        registry.provide("who", Description::default(), Who).unwrap();
        let resolved = PeerName(Some(([192, 0, 2, 1], 7300).into()));
        let dialled = Dialled { address: "far:7300".into(), resolved, ..Dialled::default() };
        let limits = Limits::default().into();
        let mut session = Session::dialled(registry.build(), limits, dialect, dialled, now);
        let body = r#"{"jsonrpc":"2.0","id":"n1","method":"who"}"#;
        let request = match dialect {
            Dialect::JsonLines => format!("{body}\n"),
            _ => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        };
        session.input().extend_from_slice(request.as_bytes());
        session.received(now);
        let cx = std::task::Context::from_waker(std::task::Waker::noop());
        while session.poll_replies(&cx, now).is_ready() {}
        let output = String::from_utf8(session.take_output()).unwrap();
        assert!(output.contains(&format!("[true,\"192.0.2.1:7300\",\"{name}\"]")), "{output}");
        assert!(
            output.contains(&format!(r#"{{"jsonrpc":"2.0","method":"known","params":["{name}"]}}"#)),
            "{output}"
        );
    }
}
