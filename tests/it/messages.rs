//! Messages as real clients write them, messages that cannot be parsed, and values that must not change in transit.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::support::{Client, Folder, Node, assert_fault, fault, listen, post};
use super::wires::{Fixture, Peer, WIRES, Wire};

const LIMITS: &str =
    "[limits]\nmessage = 4096\nbatch = 4\ndepth = 16\n[[listen]]\naddress = \"127.0.0.1:0\"\n";
/// The dialects that reply to a message that is too long, instead of closing the connection with a code.
const UNFRAMED: [Wire; 3] = [Wire::Lines, Wire::Headers, Wire::Http];

fn node() -> Fixture {
    Fixture::start("t", LIMITS)
}

/// Returns the reply to one message on a new connection.
fn answer(wire: Wire, address: SocketAddr, body: &[u8]) -> Value {
    let mut peer = Peer::connect(wire, address);
    peer.send_body(body);
    peer.receive()
}

fn is_json(wire: &Wire) -> bool {
    !wire.is_packed()
}

/// Messages with an id at various places, and `{}` for parameters.
const ORDERS: [&str; 8] = [
    r#"{"jsonrpc":"2.0","id":7,"method":"t.add","params":{}}"#,
    r#"{"jsonrpc": "2.0", "id": 7, "method": "t.add", "params": {}}"#,
    r#"{"id":7,"jsonrpc":"2.0","method":"t.add","params":{}}"#,
    r#"{"jsonrpc":"2.0","method":"t.add","id":7,"params":{}}"#,
    "{\t\"method\" :\"t.add\",\r\n \"\\u0069d\" :\t7 ,\"params\":{}}",
    r#"{"method":"\"id\":8","params":{"id":9},"x":[{"id":10}],"id":7,"jsonrpc":"2.0","more":{}}"#,
    r#"{"x":"}],\"id\":8,","id":7,"jsonrpc":"2.0","params":{}}"#,
    "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":7,\"params\":{}}",
];

fn with_params(order: &str, params: &str) -> String {
    let at = order.rfind("{}").unwrap();
    // A line contains no line breaks.
    format!("{}{params}{}", &order[..at], &order[at + 2..]).replace(['\r', '\n'], " ")
}

#[test]
fn message_too_long_is_answered_with_its_id() {
    let node = node();
    let long = format!("[\"{}\"]", "x".repeat(5000));
    for wire in UNFRAMED {
        for order in ORDERS {
            let reply = answer(wire, node.address(), with_params(order, &long).as_bytes());
            assert_fault(&reply, &json!(7), -32007);
        }
        // An id after the part that is read is unknown, and text that looks like one is not one.
        for unknown in [
            format!(r#"{{"jsonrpc":"2.0","method":"f","params":["{}"],"id":7}}"#, "x".repeat(300_000)),
            format!(r#"{{"jsonrpc":"2.0","method":"f","params":[{{"id":7}},{long}]}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":7,"id":8,"params":{long}}}"#),
        ] {
            assert_fault(&answer(wire, node.address(), unknown.as_bytes()), &Value::Null, -32007);
        }
        let batch = format!(r#"[{{"id":1}},{{"method":"f"}},{{"params":[],"id":"b"}},{{"params":{long}"#);
        let batch = answer(wire, node.address(), batch.as_bytes());
        for (reply, id) in batch.as_array().unwrap().iter().zip([json!(1), json!("b"), json!(null)]) {
            assert_fault(reply, &id, -32007);
        }
    }
    // For HTTP it makes no difference how the length is given.
    let mut client = Client::connect(node.address());
    client.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = with_params(ORDERS[1], &long);
    client.send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let reply = client.http();
    assert_eq!(reply.status, 413, "{reply:?}");
    assert_fault(&reply.json(), &json!(7), -32007);
    // In MessagePack the id comes first.
    let packed = [&b"\x94\x00\x07\xa1f\x91\xc5\x14\x00"[..], &[0; 0x1400]].concat();
    assert_fault(&answer(Wire::MessagePack, node.address(), &packed), &json!(7), -32007);
}

#[test]
fn message_nested_too_deeply_is_answered_with_its_id() {
    let node = node();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for wire in WIRES.into_iter().filter(is_json) {
        for order in ORDERS {
            let reply = answer(wire, node.address(), with_params(order, &deep).as_bytes());
            assert_fault(&reply, &json!(7), -32700);
        }
        let behind = format!(r#"{{"jsonrpc":"2.0","method":"f","params":{deep},"id":7}}"#);
        assert_fault(&answer(wire, node.address(), behind.as_bytes()), &json!(7), -32700);
        // No call of an invalid batch runs, and each gets an error.
        let batch = format!(
            r#"[{{"jsonrpc":"2.0","id":1,"method":"t.note","params":[1]}},{{"params":{deep},"id":"b"}}]"#
        );
        let batch = answer(wire, node.address(), batch.as_bytes());
        assert_eq!(batch.as_array().unwrap().len(), 2, "{batch}");
        for (reply, id) in batch.as_array().unwrap().iter().zip([json!(1), json!("b")]) {
            assert_fault(reply, &id, -32700);
        }
        let count = Peer::connect(wire, node.address()).call("t.count", &json!([]));
        assert_eq!(count, Ok(json!(0)), "{wire:?}");
        let other = answer(wire, node.address(), r#"{"id":7,"method":"é"}"#.replace('é', "\u{1}").as_bytes());
        assert_fault(&other, &Value::Null, -32700);
    }
    let packed = [&b"\x94\x00\x07\xa1f"[..], &[0x91; 200], b"\xc0"].concat();
    for wire in WIRES.into_iter().filter(|wire| wire.is_packed()) {
        assert_fault(&answer(wire, node.address(), &packed), &json!(7), -32700);
    }
}

#[test]
fn invalid_utf_8_is_answered_with_its_id() {
    let node = node();
    for wire in [Wire::Lines, Wire::Headers, Wire::Http, Wire::WebSocketBinary] {
        let body = b"{\"jsonrpc\": \"2.0\", \"id\": 7, \"method\": \"t.echo\", \"params\": [\"caf\xe9\"]}";
        assert_fault(&answer(wire, node.address(), body), &json!(7), -32700);
    }
}

#[test]
fn messages_of_real_clients_are_accepted() {
    let node = node();
    for wire in WIRES.into_iter().filter(is_json) {
        for (members, result) in [
            (r#""method":"rpc.ping","params":null"#, json!("pong")),
            (r#""method":"rpc.ping","meta":null"#, json!("pong")),
            (r#""method":"rpc.ping","meta":{"deadline_ms":1500.0}"#, json!("pong")),
            (r#""method":"rpc.ping","meta":{"deadline_ms":1.5e3,"hops":0.0}"#, json!("pong")),
            (r#""method":"rpc.ping","meta":{"deadline_ms":null,"hops":null}"#, json!("pong")),
            (r#""method":"t.add","params":[20.0,2.2e1]"#, json!(42)),
            (r#""method":"t.add","params":[-0,-2.50e1]"#, json!(-25)),
            (r#""method":"t.divide","params":[17.0,5]"#, json!([3, 2])),
            (r#""method":"t.note","params":0.0"#, json!(-32600)),
            (r#""method":"t.note","params":[0.0]"#, json!(null)),
            (r#""method":"t.add","params":[20.5,1]"#, json!(-32602)),
            (r#""method":"t.add","params":[20.00000000000000000001,1]"#, json!(-32602)),
            (r#""method":"t.add","params":[1e19,1]"#, json!(-32602)),
            // Functions that take numbers as text get them unchanged.
            (r#""method":"t.echo","params":[5.0]"#, json!(5.0)),
        ] {
            for mark in ["", "\u{feff}"] {
                let text = format!(r#"{mark}{{"jsonrpc":"2.0","id":1,{members}}}"#);
                let mut peer = Peer::connect(wire, node.address());
                // The first line determines the dialect.
                if !mark.is_empty() {
                    assert_eq!(peer.call("rpc.ping", &json!([])), Ok(json!("pong")));
                }
                peer.send_body(text.as_bytes());
                let reply = peer.receive();
                let told = reply.get("result").cloned().unwrap_or_else(|| fault(&reply).code.into());
                assert_eq!((told, &reply["id"]), (result.clone(), &json!(1)), "{wire:?}: {text}: {reply}");
            }
        }
    }
    // 20.0 and 22 as MessagePack floats.
    let packed = b"\x94\x00\x07\xa5t.add\x92\xca\x41\xa0\x00\x00\xcb\x40\x36\x00\x00\x00\x00\x00\x00";
    for wire in WIRES.into_iter().filter(|wire| wire.is_packed()) {
        let reply = answer(wire, node.address(), packed);
        assert_eq!((&reply["result"], &reply["id"]), (&json!(42), &json!(7)), "{reply}");
    }
}

/// A node that returns the first parameter of each call, except for one that is not valid in JSON-RPC: the text of a
/// result.
fn texts() -> SocketAddr {
    listen(|stream| {
        for line in BufReader::new(&stream).lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
            let request: Value = serde_json::from_str(&line).unwrap();
            // A ping has none.
            let Some(text) = request["params"][0].as_str() else { continue };
            let reply = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},{text}}}\n", request["id"]);
            let _ = (&stream).write_all(reply.as_bytes());
        }
    })
}

#[test]
fn numbers_and_texts_never_change_without_an_error() {
    let config = format!("{LIMITS}[[function]]\nname = \"far.text\"\nforward = \"{}\"\n", texts());
    let node = Fixture::start("t", &config);
    for result in [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "-1e400",
        "1e-400",
        "0.1234567890123456789",
        "[{\"a\":[123456789012345678901234567890]}]",
        "\"\\ud800\"",
        "{\"\\udc00x\":1}",
    ] {
        for wire in WIRES {
            let mut peer = Peer::connect(wire, node.address());
            let params = json!([format!("\"result\":{result}")]);
            if wire.is_packed() {
                let told = peer.call("far.text", &params).unwrap_err();
                assert_eq!(told.code, -32603, "{result}: {told:?}");
                assert!(told.message.contains("cannot be converted to MessagePack"), "{told:?}");
                // Neither does the data of an error.
                let data = json!([format!("\"error\":{{\"code\":5,\"message\":\"m\",\"data\":{result}}}")]);
                let told = peer.call("far.text", &data).unwrap_err();
                assert_eq!((told.code, &told.data), (5, &Value::Null), "{told:?}");
                assert!(told.message.contains("cannot be converted to MessagePack"), "{told:?}");
            }
        }
        // JSON passes unchanged, in errors too.
        let mut lines = Client::connect(node.address());
        for (text, expected) in [
            (format!("\"result\":{result}"), format!("\"result\":{result}}}")),
            (
                format!("\"error\":{{\"code\":5,\"message\":\"m\",\"data\":{{\"z\":{result},\"a\":0}}}}"),
                format!("\"data\":{{\"z\":{result},\"a\":0,\"via\":[\"chanrpc\"]}}"),
            ),
        ] {
            lines.begin(1, "far.text", &json!([text]));
            let line = lines.line().unwrap();
            assert!(line.contains(&expected), "{line}");
        }
    }
    // Values that exist in all encodings are the same in all.
    for result in
        ["18446744073709551615", "-9223372036854775808", "0.1", "1e300", "0.30000000000000004", "\"\\u00e9\""]
    {
        let value: Value = serde_json::from_str(result).unwrap();
        for wire in WIRES {
            let told = Peer::connect(wire, node.address())
                .call("far.text", &json!([format!("\"result\":{result}")]));
            assert_eq!(told, Ok(value.clone()), "{wire:?}: {result}");
        }
    }
}

/// A server that replies to each call with the text of its first parameter, with `$ID` replaced; with nothing if it is
/// empty.
fn rude() -> SocketAddr {
    listen(|stream| {
        for line in BufReader::new(&stream).lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
            let request: Value = serde_json::from_str(&line).unwrap();
            let text = request["params"][0].as_str().unwrap_or_default();
            if !text.is_empty() {
                let reply = text.replace("$ID", &request["id"].to_string()) + "\n";
                let _ = (&stream).write_all(reply.as_bytes());
            }
        }
    })
}

#[test]
fn replies_of_other_servers_are_accepted_liberally() {
    let config = format!("[[function]]\nname = \"far\"\nforward = \"{}\"\n", rude());
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    for (answer, expected) in [
        (r#"{"jsonrpc":"2.0","id":$ID,"result":7}"#, Ok(json!(7))),
        (r#"{"id":$ID,"result":7,"error":null}"#, Ok(json!(7))),
        (r#"{"jsonrpc":"2.0","id":$ID.0,"result":7}"#, Ok(json!(7))),
        (r#"{"jsonrpc":"2.0","id":"$ID","result":7}"#, Ok(json!(7))),
        (r#"[{"jsonrpc":"2.0","id":$ID,"result":7}]"#, Ok(json!(7))),
        (r#"{"id":$ID,"error":null}"#, Ok(Value::Null)),
        (r#"{"id":$ID,"result":null,"error":{"code":5.0,"message":"m"}}"#, Err(5)),
        (r#"{"id":$ID,"result":null,"error":"no"}"#, Err(-32603)),
        // Each of these fails immediately rather than at its deadline.
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#, Err(-32700)),
        (r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"m"}}"#, Err(-32600)),
        (r#"{"jsonrpc":"2.0","id":null,"result":7}"#, Err(-32603)),
        (r#"{"jsonrpc":"2.0","id":"other","result":7}"#, Err(-32603)),
        (r#"{"jsonrpc":"2.0","id":99999,"result":7}"#, Err(-32603)),
        (r#"{"jsonrpc":"2.0","id":$ID}"#, Err(-32603)),
        (r#"{"jsonrpc":"2.0","id":$ID,"result":NaN}"#, Err(-32603)),
    ] {
        let told = client.call("far", &json!([answer])).map_err(|fault| fault.code);
        assert_eq!(told, expected, "{answer}");
    }
    // The reply cannot be matched among several calls, so all of them fail instead of waiting.
    client.begin(1, "far", &json!([""]));
    client.begin(2, "far", &json!([r#"{"id":null,"error":{"code":-32700,"message":"m"}}"#]));
    for _ in 0..2 {
        let reply = client.reply();
        assert_eq!((fault(&reply).code, &fault(&reply).data["sent"]), (-32011, &json!(true)), "{reply}");
    }
}

#[test]
fn batch_does_not_starve_other_connections() {
    let node = Fixture::start("t", "[limits]\nbatch = 100\n[[listen]]\naddress = \"127.0.0.1:0\"\n");
    for wire in [Wire::Lines, Wire::WebSocketText, Wire::Http] {
        let mut busy = Peer::connect(wire, node.address());
        let calls: Vec<Value> =
            (0..100).map(|id| json!({ "jsonrpc": "2.0", "id": id, "method": "t.spin" })).collect();
        busy.send_body(json!(calls).to_string().as_bytes());
        let mut other = Client::connect(node.address());
        let mut count = 0;
        while count == 0 {
            count += other.call("t.count", &json!([])).unwrap().as_i64().unwrap();
        }
        assert!(count < 100, "{wire:?}: the whole batch went before");
        let replies = busy.receive();
        let replies: Vec<&Value> = replies.as_array().unwrap().iter().map(|reply| &reply["id"]).collect();
        assert_eq!(replies, (0..100).map(Value::from).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        other.call("t.count", &json!([])).unwrap();
    }
}

#[test]
fn text_quoted_in_an_error_is_bounded() {
    let node = Fixture::start("t", "[[listen]]\naddress = \"127.0.0.1:0\"\n");
    let mut client = Client::connect(node.address());
    let long = "\u{1}".repeat(150_000);
    for (method, params) in [
        (long.as_str(), json!([])),
        ("t.add", json!([long, 1])),
        ("rpc.list", json!([long])),
        ("rpc.list", json!({ long.as_str(): 1 })),
    ] {
        let told = client.call(method, &params).unwrap_err();
        assert!(told.message.len() < 6 * 500, "{} bytes", told.message.len());
    }
    for (stars, fits) in [(256, true), (257, false), (1_000_000, false)] {
        match client.call("rpc.list", &json!(["*".repeat(stars)])) {
            Ok(names) => assert!(fits && names.as_array().unwrap().len() > 10, "{names}"),
            Err(told) => {
                assert!(!fits && told.code == -32602, "{told:?}");
                assert!(told.message.contains("the limit is 256"), "{told:?}");
            }
        }
    }
}

#[test]
fn non_finite_numbers_are_an_error() {
    let node = node();
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        for method in ["t.ratios", "t.ratios_later"] {
            for (params, result) in [
                (json!([1.0, 4.0]), Some(json!([null, { "ratio": 0.25 }]))),
                (json!([1.0, 0.0]), None),
                (json!([-1.0, 0.0]), None),
                (json!([0.0, 0.0]), None),
                (json!([1e308, 1e-308]), None),
            ] {
                match (peer.call(method, &params), result) {
                    (Ok(told), Some(result)) => assert_eq!(told, result, "{wire:?}"),
                    (Err(told), None) => {
                        assert_eq!(told.code, -32603, "{wire:?}: {told:?}");
                        assert!(told.message.contains("NaN or infinite"), "{told:?}");
                    }
                    (told, expected) => panic!("{wire:?}: {params}: {told:?} instead of {expected:?}"),
                }
            }
        }
    }
    let demo = Node::demo();
    let told = demo.run("call", &["demo.add", "1e308", "1e308"]);
    assert!(told.failed(1).contains("NaN or infinite"), "{told:?}");
}

#[test]
fn byte_order_mark_before_params_is_ignored() {
    let node = Node::demo();
    let folder = Folder::new();
    let file = folder.path("params");
    for (bytes, code) in [
        (&b"\xef\xbb\xbf[2, 3]\r\n"[..], Some(0)),
        (b"\xff\xfe[\x002\x00]\x00", Some(0)),
        (b"[\"\xe9\"]", Some(2)),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let mut command = node.command("call", &["--params", "-", "rpc.echo"]);
        let ended = command.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
        let [stdout, stderr] = [ended.stdout, ended.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(ended.status.code(), code, "{stderr}");
        match bytes[0] {
            0xef => assert_eq!(stdout.trim(), "[2,3]"),
            0xff => assert_eq!(stdout.trim(), "[2]"),
            _ => assert!(stderr.contains("UTF-8"), "{stderr}"),
        }
    }
    let mut reply = Client::connect(node.address());
    reply.send(post("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}"));
    assert_eq!(reply.http().json()["result"], "pong");
}
