//! Every kind of call and every error in every dialect. Functions do not depend on their caller's dialect.

use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use super::support::{Client, Fault, assert_fault, eventually, fault, outcome};
use super::wires::{Fixture, Peer, TOKEN, WIRES, Wire, frame, pack, take_frame, upgrade};

const LIMITS: &str = "[limits]\nmessage = 4608\nbatch = 4\ndepth = 16\nhops = 3\ndrain = \"100ms\"\n";
const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";

/// A node that forwards to another and to an unreachable one, and runs programs.
fn nodes() -> (Fixture, Fixture) {
    let far = Fixture::start("far", &format!("name = \"far\"\n{LIMITS}{LISTEN}"));
    let near = Fixture::start(
        "t",
        &format!(
            "name = \"near\"\n{LIMITS}{LISTEN}
             [[function]]\nname = \"far.*\"\nforward = \"{}\"
             [[function]]\nname = \"nobody.*\"\nforward = \"{}\"
             [[function]]\nname = \"program.echo\"\nexec = [\"echo\", \"{{0}}\"]\nparams = {{ text = \"string\" }}
             [[function]]\nname = \"program.fails\"\nexec = [\"sh\", \"-c\", \"echo last words >&2; exit 3\"]
             [[function]]\nname = \"program.slow\"\nexec = [\"sleep\", \"60\"]\nconcurrency = 1\nqueue = 0\n",
            far.address(),
            nobody(),
        ),
    );
    (near, far)
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Edge cases of the values that both JSON and MessagePack can express.
fn values() -> Value {
    json!([
        null, true, false, 0, 127, 128, 255, 256, 65_535, 65_536, 4_294_967_296_u64, u64::MAX, -1, -32, -33, -128, -129,
        -32_768, -32_769, i64::MIN, 1.5, -0.25, 1e300, "", "é\u{2028}\u{1f980}\"\\\n", "x".repeat(31), "x".repeat(32),
        "x".repeat(300), [], [[1], {}], { "": 1, "é": { "a": [null] } }, (0..20).collect::<Vec<_>>(),
    ])
}

#[test]
fn calls_of_every_kind() {
    let (node, _far) = nodes();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        for (method, params, result) in [
            ("t.nothing", json!([]), Value::Null),
            ("t.add", json!([20, 22]), json!(42)),
            ("t.divide", json!([17, 5]), json!([3, 2])),
            ("t.echo", json!([values()]), values()),
            ("rpc.echo", json!({ "a": values() }), json!({ "a": values() })),
            ("rpc.ping", Value::Null, json!("pong")),
            ("far.nothing", json!([]), Value::Null),
            ("far.add", json!([20, 22]), json!(42)),
            ("far.divide", json!([17, 5]), json!([3, 2])),
            ("far.echo", json!([values()]), values()),
        ] {
            // JSON-RPC has no null parameters.
            let request = match params {
                Value::Null => json!({ "method": method }),
                params => json!({ "method": method, "params": params }),
            };
            assert_eq!(peer.ask(request), Ok(result), "{wire:?}: {method}");
        }
    }
}

#[test]
fn notifications() {
    let (node, _far) = nodes();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        for by in [1, 10, 100] {
            peer.notify("t.note", &json!([by]));
        }
        peer.notify("t.unknown", &json!([]));
        peer.notify("t.note", &json!(["wrong"]));
        peer.notify("t.panic", &json!(["nobody hears it"]));
        peer.notify("secret", &json!([]));
        assert_eq!(peer.call("t.count", &json!([])), Ok(json!(111)), "{wire:?}");

        peer.notify("far.note", &json!([7]));
        // It uses another connection.
        let mut total = 0;
        eventually("the other node is told", || {
            total += peer.call("far.count", &json!([])).unwrap().as_i64().unwrap();
            total == 7
        });
    }
}

/// A case whose request does not reveal the dialect.
struct Case {
    code: i64,
    /// A part of the message.
    says: &'static str,
    data: Value,
    request: Value,
}

fn case(code: i64, method: &str, params: &Value, says: &'static str) -> Case {
    Case { code, says, data: Value::Null, request: json!({ "method": method, "params": params }) }
}

impl Case {
    fn data(self, data: Value) -> Self {
        Self { data, ..self }
    }

    fn meta(mut self, meta: Value) -> Self {
        self.request["meta"] = meta;
        self
    }
}

/// Provokes errors in every dialect and asserts that they are the same.
fn assert_alike(address: SocketAddr, cases: &[Case]) {
    let mut seen: Vec<Option<Fault>> = vec![None; cases.len()];
    let mut wrong = Vec::new();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, address);
        for (Case { code, says, data, request }, seen) in cases.iter().zip(&mut seen) {
            let fault = peer.ask(request.clone()).expect_err("an error was expected");
            let same = *seen.get_or_insert_with(|| fault.clone()) == fault;
            if !same || fault.code != *code || !fault.message.contains(says) || fault.data != *data {
                wrong.push(format!("{wire:?}: {request}: {fault:?}"));
            }
        }
        assert_eq!(peer.call("t.add", &json!([1, 1])), Ok(json!(2)), "{wire:?} goes on");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_of_functions_and_nodes() {
    let (node, _far) = nodes();
    let data = json!({ "a": [null, 1.5, "é\"\n"], "b": -40_000 });
    assert_alike(
        node.address(),
        &[
            case(-32601, "t.unknown", &json!([]), "no function \"t.unknown\""),
            case(-32602, "t.add", &json!(["one", 1]), "parameter \"0\" must be of type integer, not \"one\""),
            case(
                -32602,
                "t.add",
                &json!([1]),
                "got 1 parameter; the function takes (0: integer, 1: integer)",
            ),
            case(-32603, "t.panic", &json!(["with é"]), "with é"),
            case(-5, "t.fail", &json!([null]), "an \"error\" of its own,\nin two lines: é"),
            case(-5, "t.fail", &json!([data]), "of its own").data(data.clone()),
            case(-32001, "nobody.home", &json!([]), "").data(json!({ "sent": false, "via": ["near"] })),
            case(-32002, "secret", &json!([]), "secret"),
            case(-32003, "t.hold", &json!([]), "deadline").meta(json!({ "deadline_ms": 1 })),
            case(-32004, "t.ask_itself", &json!([]), "wait"),
            case(-32008, "t.big", &json!([5000]), "limits.message"),
            case(-32012, "t.add", &json!([1, 2]), "limits.hops")
                .meta(json!({ "hops": 4 }))
                .data(json!({ "via": ["near"] })),
            case(-32014, "gone", &json!([]), ""),
            // The same through another node, which adds the path.
            case(-32601, "far.unknown", &json!([]), "far.unknown").data(json!({ "via": ["near"] })),
            case(-32603, "far.panic", &json!(["over there"]), "over there").data(json!({ "via": ["near"] })),
            case(-32012, "far.add", &json!([1, 2]), "limits.hops")
                .meta(json!({ "hops": 3 }))
                .data(json!({ "via": ["near"] })),
        ],
    );
}

#[test]
fn errors_of_programs() {
    let (node, _far) = nodes();
    let mut holder = Client::connect(node.address());
    holder.begin(1, "program.slow", &json!([]));
    holder.begin(2, "program.slow", &json!([]));
    assert_fault(&holder.reply(), &json!(2), -32009);
    assert_alike(
        node.address(),
        &[
            case(-32013, "program.fails", &json!([]), "3")
                .data(json!({ "exit": 3, "signal": null, "stderr": "last words" })),
            case(-32602, "program.echo", &json!([1]), "string"),
            case(-32009, "program.slow", &json!([]), "queue").data(json!({ "sent": false })),
        ],
    );
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        assert_eq!(peer.call("program.echo", &json!(["from a program"])), Ok(json!("from a program")));
    }
    holder.send("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n");
    assert_fault(&holder.reply(), &json!(1), -32800);
}

#[test]
fn cancelled() {
    let (node, _far) = nodes();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        for method in ["t.hold", "far.hold"] {
            let call = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": [] });
            let cancel = json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": 7 } });
            let reply = if wire == Wire::Http {
                // One HTTP exchange, so both are in one batch.
                peer.send_body(json!([call, cancel]).to_string().as_bytes());
                let Value::Array(mut replies) = peer.receive() else { panic!("no array") };
                assert_eq!(replies.len(), 1);
                replies.remove(0)
            } else {
                peer.send(&call);
                peer.send(&cancel);
                peer.receive()
            };
            assert_fault(&reply, &json!(7), -32800);
            assert!(fault(&reply).message.contains("cancelled"), "{wire:?}: {reply}");
        }
    }
}

#[test]
fn tokens() {
    let (node, _far) = nodes();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        assert_eq!(peer.call("secret", &json!([])).unwrap_err().code, -32002, "{wire:?}");
        if wire != Wire::Http {
            let wrong = peer.call("rpc.auth", &json!(["a wrong token"])).unwrap_err();
            assert_eq!(wrong.code, -32002, "{wire:?}: {wrong:?}");
        }
        peer.present(TOKEN);
        assert_eq!(peer.call("secret", &json!([])), Ok(json!("told")), "{wire:?}");
    }
}

#[test]
fn invalid_requests_in_every_dialect() {
    let (node, _far) = nodes();
    let deep = (0..20).fold(json!(1), |value, _| json!([value]));
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        let mut bodies =
            vec![json!({ "jsonrpc": "2.0", "id": 7, "method": "t.add", "params": 5 }).to_string().into()];
        if wire.is_packed() {
            bodies.clear();
            for wrong in [json!([0, 7, "t.add", 5]), json!([0, 7, 1, []]), json!([0, 7, "t.add", [], {}, 1])]
            {
                let mut body = Vec::new();
                pack(&wrong, &mut body);
                bodies.push(body);
            }
        } else {
            bodies.push(br#"{"jsonrpc":"2.0","id":7}"#.to_vec());
            bodies.push(br#"{"id":7,"method":"t.add"}"#.to_vec());
        }
        for body in bodies {
            peer.send_body(&body);
            assert_fault(&peer.receive(), &json!(7), -32600);
        }
        peer.send(&json!({ "id": 8, "method": "t.echo", "params": deep }));
        let reply = peer.receive();
        assert_eq!(fault(&reply).code, -32700, "{wire:?}: {reply}");
        assert!(fault(&reply).message.contains("limits.depth"), "{wire:?}: {reply}");
        if !wire.is_packed() {
            for (body, code) in
                [("{\"jsonrpc\":", -32700), ("no JSON", -32700), ("7", -32600), ("[]", -32600)]
            {
                peer.send_body(body.as_bytes());
                assert_fault(&peer.receive(), &Value::Null, code);
            }
        }
        assert_eq!(peer.call("t.add", &json!([1, 1])), Ok(json!(2)), "{wire:?} goes on");
    }
}

/// MessagePack-RPC clients do not expect a reply without an id: a message without one is not answered, and the
/// connection continues if possible.
#[test]
fn invalid_messagepack_messages() {
    let (node, _far) = nodes();
    for wire in [Wire::MessagePack, Wire::WebSocketPacked] {
        let mut peer = Peer::connect(wire, node.address());
        assert_eq!(peer.call("t.add", &json!([1, 1])), Ok(json!(2)), "{wire:?}");
        for no_message in
            [json!([]), json!([3, 1, "t.add", []]), json!([0, -1, "t.add", []]), json!([1, 7, null, 1])]
        {
            let mut body = Vec::new();
            pack(&no_message, &mut body);
            peer.send_body(&body);
        }
        assert_eq!(peer.call("t.add", &json!([1, 1])), Ok(json!(2)), "{wire:?}");
    }
    let mut peer = Peer::connect(Wire::MessagePack, node.address());
    peer.send_body(b"\x94\xc1");
    assert_eq!(peer.client.rest(), b"", "a byte that begins nothing ends it");
}

#[test]
fn requests_that_are_too_large() {
    let (node, _far) = nodes();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        peer.send(&json!({ "id": 7, "method": "t.echo", "params": ["x".repeat(5000)] }));
        if wire.is_websocket() {
            let close = peer.frame(8);
            assert_eq!(close[..2], 1009_u16.to_be_bytes(), "{wire:?}");
            assert!(String::from_utf8_lossy(&close[2..]).contains("limits.message"), "{wire:?}");
            continue;
        }
        let reply = peer.receive();
        let fault = fault(&reply);
        assert_eq!((fault.code, &reply["id"]), (-32007, &json!(7)), "{wire:?}: {reply}");
        assert!(fault.message.contains("limits.message"), "{wire:?}: {reply}");
        if wire == Wire::Http {
            // The end of the body is unknown, and so is the start of the next request.
            assert_eq!(peer.client.rest(), b"");
        } else {
            assert_eq!(peer.call("t.add", &json!([1, 1])), Ok(json!(2)), "{wire:?} goes on");
        }
    }
}

#[test]
fn batches() {
    let (node, _far) = nodes();
    for wire in WIRES.into_iter().filter(|wire| !wire.is_packed()) {
        let mut peer = Peer::connect(wire, node.address());
        let one = |id: u64, method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let note = json!({ "jsonrpc": "2.0", "method": "t.note", "params": [3] });
        let batch = json!([one(1, "t.add", json!([1, 2])), note, one(2, "far.add", json!([3, 4])), 1]);
        peer.send_body(batch.to_string().as_bytes());
        let replies = peer.receive();
        let replies = replies.as_array().unwrap();
        let find = |id: Value| replies.iter().find(|reply| reply["id"] == id).unwrap();
        assert_eq!(replies.len(), 3, "{wire:?}: {replies:?}");
        assert_eq!(outcome(find(json!(1))), Ok(json!(3)), "{wire:?}");
        assert_eq!(outcome(find(json!(2))), Ok(json!(7)), "{wire:?}");
        assert_fault(find(Value::Null), &Value::Null, -32600);
        assert_eq!(peer.call("t.count", &json!([])), Ok(json!(3)), "{wire:?}");

        peer.send_body(json!(vec![one(1, "rpc.ping", json!([])); 5]).to_string().as_bytes());
        let reply = peer.receive();
        assert_fault(&reply, &Value::Null, -32010);
        assert!(fault(&reply).message.contains("limits.batch"), "{wire:?}: {reply}");
    }
}

#[test]
fn stopping_node_reports_closed() {
    for wire in WIRES {
        let (mut node, _far) = nodes();
        let mut peer = Peer::connect(wire, node.address());
        peer.send(&json!({ "id": 7, "method": "t.hold", "params": [] }));
        // It is in flight before the node is told to stop.
        let mut other = Client::connect(node.address());
        eventually("the call is in flight", || {
            other.call("rpc.stats", &json!([])).unwrap()["node"]["in_flight"] == 1
        });
        node.stop();
        let reply = peer.receive();
        assert_fault(&reply, &json!(7), -32014);
    }
}

/// Replies use the frame type that the peer used last.
#[test]
fn websocket_replies_use_the_peers_frame_type() {
    let (node, _far) = nodes();
    let mut client = Client::connect(node.address());
    upgrade(&mut client);
    for opcode in [1, 2, 2, 1] {
        client.send(frame(opcode, br#"{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}"#));
        assert_eq!(take_frame(&mut client, opcode), br#"{"jsonrpc":"2.0","id":1,"result":"pong"}"#);
    }
    // The first frame determined the dialect.
    client.send(frame(2, b"\x94\x00\x01\xa8rpc.ping\x90"));
    let reply: Value = serde_json::from_slice(&take_frame(&mut client, 2)).unwrap();
    assert_fault(&reply, &Value::Null, -32700);

    let mut client = Client::connect(node.address());
    upgrade(&mut client);
    client.send(frame(2, b"\x94\x00\x01\xa8rpc.ping\x90"));
    assert_eq!(take_frame(&mut client, 2), b"\x94\x01\x01\xc0\xa4pong");
}

/// Works however the first bytes are split.
#[test]
fn first_bytes_arriving_one_by_one() {
    let (node, _far) = nodes();
    for (bytes, reply) in [
        (&b"\x94\x00\x01\xa8rpc.ping\x90"[..], &b"\x94\x01\x01\xc0\xa4pong"[..]),
        (
            b"content-length: 44\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}",
            b"Content-Length: 40\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"pong\"}",
        ),
    ] {
        let mut client = Client::connect(node.address());
        for byte in bytes {
            client.send([*byte]);
        }
        assert_eq!(client.take(reply.len()), reply);
    }
}
