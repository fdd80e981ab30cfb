//! The user's services by their descriptors: messages as JSON, functions and topics that answer, what a caller sees.

use std::sync::{Arc, Mutex};

use chanrpc::config::Config;
use chanrpc::internals::codec::protobuf::{MessageType, Schema, TranscodeError};
use chanrpc::node::RunningNode;
use chanrpc::{Fault, Functions, Id1, Node, Responder};
use serde::{Deserialize, Serialize};

use crate::peer::{Peer, Reply, texts};
use crate::support::{Folder, eventually};
use crate::{address, metric};

pub(crate) const SET: &[u8] = include_bytes!("proto/shop.binpb");

fn schema() -> Schema {
    let mut schema = Schema::default();
    schema.add(SET).unwrap();
    schema
}

fn message(name: &str) -> MessageType {
    schema().message(&format!("shop.v1.{name}")).unwrap()
}

/// Returns a message as bytes.
fn encoded(name: &str, json: &str) -> Vec<u8> {
    message(name).of_params(Some(json)).unwrap()
}

/// Returns a message as JSON.
fn decoded(name: &str, bytes: &[u8]) -> String {
    message(name).to_json(bytes, 1 << 20).unwrap()
}

#[derive(Serialize, Deserialize)]
struct Find {
    name: String,
    limit: Option<i64>,
}

#[derive(Serialize)]
struct Item {
    name: String,
    price_in_cents: i64,
    shelf: u8,
}

/// Writes the descriptors into a folder, and returns their path in quotes.
pub(crate) fn set_in(folder: &Folder) -> String {
    let path = folder.path("shop.binpb");
    std::fs::write(&path, SET).unwrap();
    serde_json::to_string(&path).unwrap()
}

/// Starts a node with functions for the shop. `config` follows `[grpc]`.
pub(crate) fn shop(config: &str) -> RunningNode {
    let held = Arc::new(Mutex::new(Vec::<Responder<i64>>::new()));
    let mut functions = Functions::exported();
    functions
        .register1("shop.add", |_: &mut (), (a, b): (i64, i64)| a.wrapping_add(b))
        .unwrap()
        .register_n("shop.divide", |_, (a, b): (i64, i64)| (a / b, a % b))
        .unwrap()
        .register1("shop.find", |_, find: Find| {
            let count = usize::try_from(find.limit.unwrap_or(2)).unwrap();
            vec![(); count]
                .into_iter()
                .map(|()| Item { name: find.name.clone(), price_in_cents: 1 << 53 | 1, shelf: 3 })
                .collect::<Vec<_>>()
        })
        .unwrap()
        .register1("shop.fail", |_, code: i64| -> Result<(), Fault> {
            Err(Fault::new(code, format!("code {code}")).with_data(&[code]))
        })
        .unwrap()
        .register0("shop.reset", |_, ()| ())
        .unwrap()
        .register1("shop.any", |_, value: String| value)
        .unwrap()
        .register_deferred(Id1::new("shop.wait"), move |_, (), responder| {
            held.lock().unwrap().push(responder);
        })
        .unwrap();
    let folder = Folder::new();
    let path = set_in(&folder);
    let methods = "[grpc.methods]\n\"shop.v1.Shop/Echo\" = \"rpc.echo\"\n\"shop.v1.Shop/Watch\" = { topic = \"room.{room}\" }\n";
    let text = format!("{config}\n[grpc]\ndescriptors = [{path}]\n{methods}");
    let node = Node::from_config(Config::parse(&text, "test.toml").unwrap()).serve(functions, ());
    let node = if config.contains("[[listen]]") { node } else { node.listen("127.0.0.1:0") };
    node.start().unwrap()
}

async fn call(peer: &mut Peer, method: &str, message: &[u8]) -> Reply {
    peer.reply(&format!("/shop.v1.Shop/{method}"), &[], message).await
}

const EVERYTHING: &str = r#"{"a_double":0.1,"a_float":0.5,"an_int32":-2147483648,"an_int64":-9223372036854775808,
    "a_uint32":4294967295,"a_uint64":18446744073709551615,"a_sint32":-3,"a_sint64":-9007199254740993,"a_fixed32":7,
    "a_fixed64":9007199254740993,"an_sfixed32":-8,"an_sfixed64":-9,"a_bool":true,"a_string":"ä\n\"",
    "some_bytes":"AP8=","color":"COLOR_RED","inner":{"a_string":"inner"},"numbers":[1,-1],"many":[{"a_bool":true}],
    "by_name":{"x":9007199254740993},"by_number":{"-1":{"a_string":"y"}},"number":5,"maybe":0,
    "object":{"a":[1.5,null,{"b":"c"}]},"value":[true],"at":"2026-11-30T12:00:00Z","lasting":"1.500s","wrapped":77}"#;

#[test]
fn every_kind_of_field_passes_in_both_directions() {
    let bytes = encoded("Everything", EVERYTHING);
    let json: serde_json::Value = serde_json::from_str(&decoded("Everything", &bytes)).unwrap();
    let given: serde_json::Value = serde_json::from_str(EVERYTHING).unwrap();
    for (name, value) in given.as_object().unwrap() {
        if !matches!(&**name, "inner" | "many" | "by_number") {
            assert_eq!(&json[name], value, "{name}");
        }
    }
    // Fields with their default value are present, those that are absent are not.
    let inner = &json["inner"];
    assert_eq!(inner["a_string"], "inner");
    assert_eq!(
        (&inner["an_int64"], &inner["numbers"], &inner["color"]),
        (&0.into(), &serde_json::json!([]), &"COLOR_UNSPECIFIED".into())
    );
    assert!(inner.get("maybe").is_none() && inner.get("text").is_none() && inner.get("inner").is_none());
    // 64 bits are exact, as numbers.
    assert!(decoded("Everything", &bytes).contains(r#""a_uint64":18446744073709551615"#));
    // Both names, and texts for numbers, are understood.
    assert_eq!(encoded("Item", r#"{"priceInCents":"3"}"#), encoded("Item", r#"{"price_in_cents":3}"#));
    // Positions are in the order of numbers.
    assert_eq!(encoded("Item", r#"["x",3]"#), encoded("Item", r#"{"name":"x","price_in_cents":3}"#));
    // Doubles keep each bit.
    let exact = encoded("Reading", r#"{"celsius":2.2250738585072011e-308}"#);
    assert_eq!(exact[1..], 0x000f_ffff_ffff_ffff_u64.to_le_bytes());
}

#[test]
fn what_is_wrong_is_told_with_the_field() {
    for (json, expected) in [
        (r#"{"a_strin":1}"#, "a_strin: unrecognized field name"),
        (r#"{"a_string":1}"#, "a_string: invalid type: integer `1`"),
        (r#"{"inner":{"inner":{"an_int32":3000000000}}}"#, "inner.inner.an_int32: "),
        (r#"{"color":"BLUE"}"#, "color: "),
        (r#"{"numbers":[1,"x"]}"#, "numbers: "),
        (r#"{"text":"a","number":1}"#, "shop.v1.Everything: "),
        ("[1,2", "EOF while parsing"),
        (&format!("[{}1]", "1,".repeat(29)), "30 values; shop.v1.Everything has 29 fields"),
    ] {
        let error = message("Everything").of_params(Some(json)).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
        assert!(!error.contains("line 1"), "{error}");
    }
    for (bytes, expected) in [
        (&b"\x72\x01\xff"[..], "a_string (field 14 of shop.v1.Everything): invalid string value"),
        (b"\x8a\x01\x03\x72\x01\xff", "inner.a_string (field 14 of"),
        (b"\x70\x01", "a_string (field 14 of shop.v1.Everything): invalid wire type"),
        (b"\x0a", "shop.v1.Everything: "),
        (&[0x8a, 0x01, 0x05].repeat(3), "inner"),
    ] {
        let Err(TranscodeError::Wrong(error)) = message("Everything").to_json(bytes, 1000) else {
            panic!("{bytes:?}")
        };
        assert!(error.contains(expected), "{bytes:?}: {error}");
    }
    // Small messages that are long as JSON.
    let many = [0x9a, 0x01, 0x00].repeat(1000);
    assert_eq!(message("Everything").to_json(&many, 100_000), Err(TranscodeError::TooLong));
    // No depth overflows the stack.
    let mut deep = Vec::new();
    for _ in 0..10_000 {
        deep = [&[0x8a, 0x01][..], &varint(deep.len()), &deep].concat();
    }
    assert!(matches!(message("Everything").to_json(&deep, 1 << 20), Err(TranscodeError::Wrong(_))));
    let deep = format!("{}1{}", r#"{"inner":"#.repeat(10_000), "}".repeat(10_000));
    assert!(message("Everything").of_params(Some(&deep)).is_err());
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

#[test]
fn results_of_each_kind_become_messages() {
    for (name, result, expected) in [
        ("Sum", "7", r#"{"sum":7}"#),
        ("Sum", r#"{"sum":7}"#, r#"{"sum":7}"#),
        ("Sum", "null", r#"{"sum":0}"#),
        ("Sum", "[7]", r#"{"sum":7}"#),
        ("Quotient", "[3,1]", r#"{"quotient":3,"remainder":1}"#),
        ("Quotient", "[3]", r#"{"quotient":3,"remainder":0}"#),
        ("FindReply", r#"[{"name":"a"}]"#, r#"{"items":[{"name":"a","price_in_cents":0}]}"#),
        ("Reading", "2", r#"{"celsius":2.0}"#),
    ] {
        let (bytes, dropped) = message(name).of_result(result, true).unwrap();
        assert_eq!((&*decoded(name, &bytes), dropped), (expected, None), "{result}");
    }
    for (name, result, expected) in [
        ("Quotient", "3", "shop.v1.Quotient has 2 fields, so it must be an object with them"),
        ("Sum", "\"x\"", "sum: "),
        ("Sum", r#"{"sum":1,"more":2}"#, "more: unrecognized field name"),
    ] {
        let error = message(name).of_result(result, true).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let (bytes, dropped) = message("Sum").of_result(r#"{"sum":1,"more":2}"#, false).unwrap();
    assert_eq!(decoded("Sum", &bytes), r#"{"sum":1}"#);
    assert!(dropped.unwrap().starts_with("more: "));
    assert!(message("Sum").of_result(r#"{"sum":"x","more":2}"#, false).unwrap_err().starts_with("sum: "));
    let empty = schema().message("google.protobuf.Empty").unwrap();
    assert_eq!(empty.of_result("[1]", true).unwrap(), (Vec::new(), None));
}

#[test]
fn functions_answer_methods() {
    let node = shop("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let large = encoded("Everything", &format!(r#"{{"a_string":"{}"}}"#, "x".repeat(500_000)));
        for everything in [encoded("Everything", EVERYTHING), large] {
            let reply = call(&mut peer, "Echo", &everything).await;
            assert_eq!(reply.status, 0, "{}", reply.text);
            assert_eq!(decoded("Everything", &reply.messages[0]), decoded("Everything", &everything));
        }
        let numbers = encoded("Numbers", "[9007199254740993,-3]");
        let reply = call(&mut peer, "Add", &numbers).await;
        assert_eq!(decoded("Sum", &reply.messages[0]), r#"{"sum":9007199254740990}"#);
        let reply = call(&mut peer, "Divide", &numbers).await;
        assert_eq!(
            decoded("Quotient", &reply.messages[0]),
            r#"{"quotient":-3002399751580331,"remainder":0}"#
        );
        for (request, count) in [(r#"{"name":"a"}"#, 2), (r#"{"name":"a","limit":0}"#, 0)] {
            let reply = call(&mut peer, "Find", &encoded("FindRequest", request)).await;
            let items = decoded("FindReply", &reply.messages[0]);
            assert_eq!(items.matches("9007199254740993").count(), count, "{items}");
        }
        // The member `shelf` is not in the message.
        assert_eq!(metric(&node, "chanrpc_grpc_results_cut_total"), 1);
        assert_eq!(call(&mut peer, "Reset", b"").await.messages, [b""]);
        let text = schema().message("google.protobuf.Value").unwrap().of_result("\"x\"", true).unwrap().0;
        assert_eq!(call(&mut peer, "Any", &text).await.messages, [text]);

        for (method, message, status, expected) in [
            ("Fail", &encoded("FailRequest", "[5]")[..], 5, "code 5"),
            ("Fail", &encoded("FailRequest", "[-32013]"), 2, "code -32013"),
            ("Divide", &encoded("Numbers", "[1,0]"), 13, "divide by zero"),
            ("Missing", &numbers, 12, "shop.missing"),
            ("Upload", &numbers, 12, "the client sends a stream"),
            ("Untold", b"", 12, "[grpc.methods] must name a topic"),
            ("Absent", b"", 12, "no method"),
            ("Add", b"\x0a\x01x", 3, "a (field 1 of shop.v1.Numbers): invalid wire type"),
            ("Watch", b"", 3, "room: "),
            ("Watch", &texts(&[(1, "*")]), 3, "room: "),
        ] {
            let reply = call(&mut peer, method, message).await;
            assert_eq!(reply.status, status, "{method}: {}", reply.text);
            assert!(reply.text.contains(expected), "{method}: {}", reply.text);
        }
        let long = [0x9a, 0x01, 0x00].repeat(100_000);
        assert_eq!(call(&mut peer, "Echo", &long).await.status, 8);
        let late = peer.reply("/shop.v1.Shop/Wait", &[("grpc-timeout", "30m")], b"").await;
        assert_eq!(late.status, 4);
        let (_response, mut stream) = peer.call("/shop.v1.Shop/Wait", &[], b"").await;
        eventually("the call runs", || metric(&node, "chanrpc_calls_in_flight") == 1);
        stream.send_reset(h2::Reason::CANCEL);
        eventually("the call is cancelled", || metric(&node, "chanrpc_calls_in_flight") == 0);
    });
}

#[test]
fn topics_answer_streaming_methods() {
    let node = shop("[[topic]]\nname = \"room.*\"\nkeep = 1\n");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let topics = node.node().topics();
        topics.publish("room.attic", &21.5).unwrap();
        topics.publish("room.cellar", &9).unwrap();
        let (response, _stream) = peer.call("/shop.v1.Shop/Watch", &[], &texts(&[(1, "attic")])).await;
        let mut body = response.await.unwrap().into_body();
        let reading = async |body: &mut h2::RecvStream| {
            let data = body.data().await.unwrap().unwrap();
            decoded("Reading", &data[5..])
        };
        assert_eq!(reading(&mut body).await, r#"{"celsius":21.5}"#);
        topics.publish("room.attic", &serde_json::json!({"celsius": -1})).unwrap();
        assert_eq!(reading(&mut body).await, r#"{"celsius":-1.0}"#);
        // What is no such message ends the stream.
        topics.publish("room.attic", "warm").unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "13");
        eventually("the subscription ends", || metric(&node, "chanrpc_subscriptions") == 0);
    });
}

#[test]
fn callers_see_the_services_that_they_may_call() {
    // The SHA-256 of "good".
    let config = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['shop.add', 'rpc.list']\n\
                  token = 'sha256:770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c'\n\
                  [[access]]\nfunctions = ['rpc.list']\n";
    let node = shop(config);
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let good = [("authorization", "Bearer good")];
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let ask = async |peer: &mut Peer, headers: &[(&str, &str)], question: &[u8]| {
            let reply = peer.reply(reflection, headers, question).await;
            String::from_utf8_lossy(&reply.messages[0]).into_owned()
        };
        let list = b"\x3a\0";
        let seen = ask(&mut peer, &good, list).await;
        assert!(seen.contains("shop.v1.Shop") && !seen.contains("shop.v1.Hidden"), "{seen}");
        assert!(!ask(&mut peer, &[], list).await.contains("shop"));
        let symbol = texts(&[(4, "shop.v1.Shop")]);
        let seen = ask(&mut peer, &good, &symbol).await;
        assert!(seen.contains("\x03Add") && seen.contains("FindReply"), "{seen:?}");
        assert!(!seen.contains("Divide") && !seen.contains("Hidden") && !seen.contains("Secret"), "{seen:?}");
        assert!(ask(&mut peer, &[], &symbol).await.contains("not found"));
        for (question, is_found) in [
            (texts(&[(3, "shop.proto")]), true),
            (texts(&[(3, "google/protobuf/struct.proto")]), true),
            (texts(&[(3, "google/protobuf/type.proto")]), false),
            (texts(&[(4, "shop.v1.Shop.Add")]), true),
            (texts(&[(4, "shop.v1.Shop.Divide")]), false),
            (texts(&[(4, "shop.v1.Hidden")]), false),
            (texts(&[(4, "shop.v1.Everything.an_int64")]), true),
        ] {
            assert_eq!(
                !ask(&mut peer, &good, &question).await.contains("not found"),
                is_found,
                "{question:?}"
            );
        }
        let health = "/grpc.health.v1.Health/Check";
        for (service, headers, status) in
            [("shop.v1.Shop", &good[..], 0), ("shop.v1.Hidden", &good, 5), ("shop.v1.Shop", &[], 5)]
        {
            assert_eq!(
                peer.reply(health, headers, &texts(&[(1, service)])).await.status,
                status,
                "{service}"
            );
        }
        let numbers = encoded("Numbers", "[1,2]");
        for (method, headers, status) in
            [("Add", &good[..], 0), ("Add", &[], 16), ("Divide", &good, 7), ("Watch", &good, 7)]
        {
            let message = if method == "Watch" { texts(&[(1, "a")]) } else { numbers.clone() };
            let reply = peer.reply(&format!("/shop.v1.Shop/{method}"), headers, &message).await;
            assert_eq!(reply.status, status, "{method}: {}", reply.text);
        }
    });
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let folder = Folder::new();
    let set = set_in(&folder);
    let text = serde_json::to_string(&folder.write("shop.proto", "syntax = \"proto3\";")).unwrap();
    let start = |grpc: &str| {
        let config =
            Config::parse(&format!("[grpc]\n{grpc}"), "test.toml").map_err(|error| error.to_string())?;
        Node::from_config(config).listen("127.0.0.1:0").start().map(drop).map_err(|error| error.to_string())
    };
    let methods = |methods: &str| start(&format!("descriptors = [{set}]\n[grpc.methods]\n{methods}"));
    for (result, expected) in [
        (start(""), "needs descriptors"),
        (start("descriptors = []"), "protoc --include_imports"),
        (start("descriptors = ['absent.binpb']"), "descriptors absent.binpb: "),
        (start(&format!("descriptors = [{text}]")), "protoc --descriptor_set_out makes descriptors of"),
        (
            methods("\"shop.v1.Shop/Ad\" = 'a'"),
            "have no method \"shop.v1.Shop/Ad\"; did you mean \"shop.v1.Shop/Add\"?",
        ),
        (methods("\"absent/*\" = 'a.*'"), "no method"),
        (methods("\"shop.v1.Shop/Add\" = { topic = 'a' }"), "gives one message"),
        (methods("\"shop.v1.Shop/Watch\" = 'a'"), "gives a stream"),
        (methods("\"shop.v1.Shop/*\" = 'a'"), "become a family"),
        (methods("\"shop.v1.Shop/Add\" = 'a.*'"), "becomes one function"),
        (methods("\"shop.v1.Shop/Add\" = true"), "or false"),
        (methods("\"shop.v1.Shop\" = 'a'"), "package.Service/Method"),
        (methods("\"shop.v1.Shop/Add\" = { function = 'a', params = 'x' }"), "\"positional\" or \"named\""),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    let all = "\"shop.v1.Shop/*\" = 'math.*'\n\"shop.v1.Hidden/*\" = false\n\"shop.v1.Shop/Add\" = { function = 'plus', params = 'named' }";
    assert_eq!(methods(all), Ok(()));
}
