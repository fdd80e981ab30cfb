//! Topics, from outside: subscribers in every dialect, slow ones, lost ones, limits and rights.

mod forward;
mod local;
mod rights;
mod sequence;
mod sse;

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{Client, Fault, Folder, Node, await_some, eventually, post, request, scale};
use crate::wires::{Peer, WIRES, Wire};
use chanrpc::message::code;

const FAMILY: &str = "[[topic]]\nname = \"chat.*\"\nkeep = 3\n";

/// Returns the parameters of the next notification, which has the given method.
#[track_caller]
fn next(client: &mut Client, method: &str) -> Value {
    let message = client.reply();
    assert_eq!((message["method"].as_str(), message.get("id")), (Some(method), None), "{message}");
    message["params"].clone()
}

/// Returns the next notification, with its parameters as an object in every dialect.
#[track_caller]
fn notification(peer: &mut Peer) -> Value {
    let mut message = peer.receive();
    if peer.wire.is_packed() {
        message["params"] = message["params"][0].take();
    }
    message
}

#[track_caller]
fn publish(client: &mut Client, topic: &str, data: &Value) -> u64 {
    client.call("rpc.publish", &json!([topic, data])).unwrap().as_u64().unwrap()
}

#[track_caller]
fn subscribe(client: &mut Client, params: &Value) -> Value {
    client.call("rpc.subscribe", params).unwrap()
}

#[test]
fn every_dialect_receives_events() {
    let node = Node::demo();
    let data = json!({ "from": "Ann", "text": "hé\nthere", "n": [1.5, null] });
    let mut peers: Vec<Peer> = WIRES
        .into_iter()
        .filter(|wire| *wire != Wire::Http)
        .map(|wire| {
            let mut peer = Peer::connect(wire, node.address());
            let subscribed = peer.call("rpc.subscribe", &json!({ "topic": "chat.lobby" })).unwrap();
            assert_eq!((&subscribed["seq"], &subscribed["missed"]), (&json!(0), &json!(false)), "{wire:?}");
            peer
        })
        .collect();
    let count = peers.len() as u64;
    let mut client = node.connect();
    for seq in 1..=2 {
        assert_eq!(publish(&mut client, "chat.lobby", &data), count);
        for peer in &mut peers {
            let event = json!({ "topic": "chat.lobby", "seq": seq, "data": data });
            let expected = json!({ "jsonrpc": "2.0", "method": "rpc.event", "params": event });
            assert_eq!(notification(peer), expected, "{:?}", peer.wire);
        }
    }
    // Each may publish, and receives its own event after the reply.
    for at in 0..peers.len() {
        assert_eq!(peers[at].call("rpc.publish", &json!(["chat.lobby", at])), Ok(json!(count)));
        for peer in &mut peers {
            assert_eq!(notification(peer)["params"]["data"], at);
        }
    }
    for peer in &mut peers {
        assert_eq!(peer.call("rpc.unsubscribe", &json!({ "topic": "chat.lobby" })), Ok(json!(true)));
        assert_eq!(peer.call("rpc.unsubscribe", &json!({ "topic": "chat.lobby" })), Ok(json!(false)));
    }
    assert_eq!(publish(&mut client, "chat.lobby", &json!(0)), 0);
    assert_eq!(node.metric("chanrpc_events_sent_total"), count * (2 + count));
    assert_eq!(node.metric("chanrpc_events_published_total{topic=\"\"}"), 3 + count);
}

#[test]
fn event_is_one_line_with_data_unchanged() {
    let node = Node::demo();
    let mut client = node.connect();
    subscribe(&mut client, &json!(["a"]));
    let mut other = node.connect();
    other.send("{\"jsonrpc\":\"2.0\",\"method\":\"rpc.publish\",\"params\":[\"a\",{ \"z\":1.50, \"a\":12345678901234567890123}]}\n");
    assert_eq!(
        client.line().unwrap(),
        "{\"jsonrpc\":\"2.0\",\"method\":\"rpc.event\",\"params\":{\"topic\":\"a\",\"seq\":1,\
         \"data\":{ \"z\":1.50, \"a\":12345678901234567890123}}}\n"
    );
    // MessagePack has no such number: the event is told as missed.
    let mut packed = Peer::connect(Wire::MessagePack, node.address());
    packed.call("rpc.subscribe", &json!(["a"])).unwrap();
    other.send(
        "{\"jsonrpc\":\"2.0\",\"method\":\"rpc.publish\",\"params\":[\"a\",12345678901234567890123]}\n",
    );
    publish(&mut other, "a", &json!(3));
    assert_eq!(notification(&mut packed)["params"], json!({ "topic": "a", "count": 1, "next": 3 }));
    assert_eq!(notification(&mut packed)["params"], json!({ "topic": "a", "seq": 3, "data": 3 }));
}

#[test]
fn families_receive_each_event_once() {
    let node = Node::demo();
    let mut client = node.connect();
    assert_eq!(subscribe(&mut client, &json!(["chat.*"]))["seq"], Value::Null);
    subscribe(&mut client, &json!(["chat.lobby"]));
    let mut other = node.connect();
    for (topic, reached) in [("chat.lobby", 1), ("chat.a.b", 1), ("chat", 0), ("chatter.x", 0)] {
        assert_eq!(publish(&mut other, topic, &json!(topic)), reached, "{topic}");
    }
    assert_eq!(next(&mut client, "rpc.event")["topic"], "chat.lobby");
    assert_eq!(next(&mut client, "rpc.event")["topic"], "chat.a.b");
    // The other subscription remains.
    assert_eq!(client.call("rpc.unsubscribe", &json!(["chat.*"])), Ok(json!(true)));
    assert_eq!(publish(&mut other, "chat.a.b", &json!(0)), 0);
    assert_eq!(publish(&mut other, "chat.lobby", &json!(1)), 1);
    assert_eq!(next(&mut client, "rpc.event")["data"], 1);
}

#[test]
fn kept_events_come_after_the_reply_and_before_new_ones() {
    let node = Node::with(Folder::new(), FAMILY);
    let mut publisher = node.connect();
    for n in 1..=5 {
        publish(&mut publisher, "chat.lobby", &json!(n));
    }
    let seen = |params: Value, missed: bool, kept: &[u64]| {
        let mut client = node.connect();
        let subscribed = subscribe(&mut client, &params);
        assert_eq!((&subscribed["seq"], &subscribed["missed"]), (&json!(5), &json!(missed)), "{params}");
        for seq in kept {
            let event = next(&mut client, "rpc.event");
            assert_eq!((&event["seq"], &event["data"]), (&json!(seq), &json!(seq)), "{params}");
            assert!(event["age_ms"].is_u64(), "{event}");
        }
        assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")));
        subscribed["epoch"].as_str().unwrap().to_owned()
    };
    let epoch = seen(json!({ "topic": "chat.lobby" }), false, &[3, 4, 5]);
    let since = |since: u64, epoch: &str| json!({ "topic": "chat.lobby", "since": since, "epoch": epoch });
    seen(since(5, &epoch), false, &[]);
    seen(since(4, &epoch), false, &[5]);
    seen(since(2, &epoch), false, &[3, 4, 5]);
    seen(since(1, &epoch), true, &[3, 4, 5]);
    seen(since(5, "another"), true, &[3, 4, 5]);
    // A number that was not given yet is of another epoch.
    seen(json!({ "topic": "chat.lobby", "since": 9 }), true, &[3, 4, 5]);

    let mut family = node.connect();
    subscribe(&mut family, &json!(["chat.*"]));
    let kept: Vec<_> = (0..3).map(|_| next(&mut family, "rpc.event")["seq"].clone()).collect();
    assert_eq!(kept, [3, 4, 5]);
    publish(&mut publisher, "chat.lobby", &json!(6));
    assert_eq!(next(&mut family, "rpc.event"), json!({ "topic": "chat.lobby", "seq": 6, "data": 6 }));
    assert_eq!(node.metric("chanrpc_events_published_total{topic=\"chat.*\"}"), 6);
}

#[test]
fn numbers_never_repeat_while_a_topic_has_no_subscribers() {
    let node = Node::demo();
    let (mut client, mut publisher) = (node.connect(), node.connect());
    let epoch = subscribe(&mut client, &json!(["a"]))["epoch"].clone();
    publish(&mut publisher, "a", &json!(1));
    let seen = next(&mut client, "rpc.event")["seq"].clone();
    client.call("rpc.unsubscribe", &json!(["a"])).unwrap();
    let since = json!({ "topic": "a", "since": seen, "epoch": epoch });
    assert_eq!(subscribe(&mut client, &since)["missed"], false);
    client.call("rpc.unsubscribe", &json!(["a"])).unwrap();
    assert_eq!(publish(&mut publisher, "a", &json!(2)), 0);
    assert_eq!(subscribe(&mut client, &since)["missed"], true);
}

#[test]
fn subscriptions_end_with_their_connection() {
    let node = Node::demo();
    let mut publisher = node.connect();
    let clients: Vec<Client> = (0..20)
        .map(|n| {
            let mut client = node.connect();
            subscribe(&mut client, &json!(["a"]));
            subscribe(&mut client, &json!([format!("b.{n}")]));
            subscribe(&mut client, &json!(["b.*"]));
            client
        })
        .collect();
    assert_eq!(node.metric("chanrpc_subscriptions"), 60);
    assert_eq!(publish(&mut publisher, "b.7", &json!(0)), 20);
    drop(clients);
    eventually("all subscriptions end", || node.metric("chanrpc_subscriptions") == 0);
    assert_eq!(publish(&mut publisher, "a", &json!(0)), 0);
    assert_eq!(publish(&mut publisher, "b.7", &json!(0)), 0);
}

/// A client that subscribes and then reads nothing until told.
fn deaf(node: &Node, params: &Value) -> Client {
    let mut client = node.connect();
    subscribe(&mut client, params);
    client
}

#[test]
fn slow_subscribers_harm_nobody_and_learn_what_they_missed() {
    let node =
        Node::with(Folder::new(), "[limits]\nevents = 8\noutput = \"4 KiB\"\nstall_timeout = \"1h\"\n");
    let policies = ["oldest", "latest", "end"];
    let slow: Vec<Client> =
        policies.iter().map(|policy| deaf(&node, &json!({ "topic": "a", "when_full": policy }))).collect();
    let (mut quick, mut publisher) = (deaf(&node, &json!(["a"])), node.connect());
    let (count, text) = (u64::from(scale(20_000)), "x".repeat(1000));
    for n in 1..=count {
        publish(&mut publisher, "a", &json!(text));
        assert_eq!(next(&mut quick, "rpc.event")["seq"], n);
    }
    for (mut client, policy) in slow.into_iter().zip(policies) {
        let (mut expected, mut missed) = (1, 0);
        while expected <= count {
            let message = client.reply();
            let params = &message["params"];
            match message["method"].as_str().unwrap() {
                "rpc.event" => {
                    assert_eq!(params["seq"], expected, "{policy}");
                    expected += 1;
                }
                "rpc.missed" => {
                    assert_ne!(policy, "end");
                    missed += params["count"].as_u64().unwrap();
                    assert_eq!(params["next"], expected + params["count"].as_u64().unwrap(), "{policy}");
                    expected = params["next"].as_u64().unwrap();
                }
                "rpc.ended" => {
                    assert_eq!((policy, &params["topic"]), ("end", &json!("a")));
                    assert_eq!(params["reason"], "the subscriber was too slow");
                    break;
                }
                other => panic!("{other}"),
            }
        }
        assert!(policy == "end" || missed > 0 || count < 1000, "{policy}: the test is too short");
        // Ended or not, it may subscribe again, and receives what comes then.
        client.begin(7, "rpc.subscribe", &json!({ "topic": "a", "when_full": policy }));
        while client.reply()["id"] != 7 {}
        publish(&mut publisher, "a", &json!(policy));
        assert_eq!(next(&mut client, "rpc.event")["data"], policy);
    }
    if count >= 1000 {
        assert_eq!(node.metric("chanrpc_subscriptions_ended_total"), 1);
        assert!(node.metric("chanrpc_events_dropped_total") > 0);
    }
}

#[test]
fn many_subscribers_of_whom_some_never_read() {
    let node =
        Node::with(Folder::new(), "[limits]\nevents = 16\noutput = \"16 KiB\"\nstall_timeout = \"1h\"\n");
    let (count, events) = (scale(200), scale(200));
    let mut clients: Vec<Client> = (0..count).map(|_| deaf(&node, &json!(["a"]))).collect();
    let _never = (0..count / 20).map(|_| deaf(&node, &json!(["a"]))).collect::<Vec<_>>();
    let mut publisher = node.connect();
    let text = "x".repeat(2000);
    // Each of those who never read holds its queue and its output.
    node.assert_growth_below(u64::from(2 + count / 20), || {
        for n in 1..=events {
            publish(&mut publisher, "a", &json!(text));
            for client in &mut clients {
                assert_eq!(next(client, "rpc.event")["seq"], n);
            }
        }
    });
}

#[test]
fn limits_are_named() {
    let node = Node::with(
        Folder::new(),
        "[limits]\ntopics = 2\nsubscriptions = 3\nmessage = \"1 KiB\"\noutput = \"64 KiB\"\n",
    );
    let mut client = node.connect();
    for topic in ["a", "b"] {
        subscribe(&mut client, &json!([topic]));
    }
    let refused = |result: Result<Value, Fault>, code: i64, limit: &str| {
        let fault = result.unwrap_err();
        assert_eq!((fault.code, fault.message.contains(limit)), (code, true), "{fault:?}");
    };
    refused(client.call("rpc.subscribe", &json!(["c"])), code::BUSY, "limits.topics");
    subscribe(&mut client, &json!(["x.*"]));
    refused(client.call("rpc.publish", &json!(["x.1", 0])), code::BUSY, "limits.topics");
    refused(client.call("rpc.subscribe", &json!(["y.*"])), code::BUSY, "limits.subscriptions");
    // Another subscription to the same takes its place.
    subscribe(&mut client, &json!({ "topic": "b", "when_full": "latest" }));
    client.call("rpc.unsubscribe", &json!(["a"])).unwrap();
    assert_eq!(publish(&mut node.connect(), "x.1", &json!(0)), 1);
    assert_eq!(next(&mut client, "rpc.event")["topic"], "x.1");
    for (name, count) in [("topics_refused", 2), ("subscriptions_refused", 1), ("subscriptions", 2)] {
        let total = if name == "subscriptions" { "" } else { "_total" };
        assert_eq!(node.metric(&format!("chanrpc_{name}{total}")), count, "{name}");
    }
}

#[test]
fn invalid_requests_are_explained() {
    let node = Node::demo();
    let mut client = node.connect();
    for (method, params, expected) in [
        (
            "rpc.subscribe",
            json!([]),
            "(topic: string, since?: integer, epoch?: string, when_full?: string, via?: string)",
        ),
        ("rpc.subscribe", json!([7]), "must be of type string"),
        ("rpc.subscribe", json!([""]), "is no topic"),
        ("rpc.subscribe", json!(["*"]), "is no topic"),
        ("rpc.subscribe", json!(["rpc.x"]), "is no topic"),
        ("rpc.subscribe", json!(["a", -1]), "since is the number of an event"),
        ("rpc.subscribe", json!(["a.*", 1]), "not of a family"),
        ("rpc.subscribe", json!(["a", 0, "", "newest"]), "\"oldest\", \"latest\" or \"end\""),
        ("rpc.publish", json!(["a"]), "got 1 parameter"),
        ("rpc.publish", json!(["a.*", 1]), "publish to one topic"),
        ("rpc.publish", json!(["a".repeat(200), 1]), "is no topic"),
    ] {
        let fault = client.call(method, &params).unwrap_err();
        assert_eq!(fault.code, code::INVALID_PARAMS, "{fault:?}");
        assert!(fault.message.contains(expected), "{method} {params}: {fault:?}");
    }
}

#[test]
fn http_publishes_and_is_told_how_to_subscribe() {
    let node = Node::demo();
    let mut subscriber = deaf(&node, &json!(["a"]));
    let http = |method: &str, params: &Value| {
        let mut client = node.connect();
        client.send(post(&request(1, method, params)));
        client.http().json()
    };
    assert_eq!(http("rpc.publish", &json!(["a", "over HTTP"]))["result"], 1);
    assert_eq!(next(&mut subscriber, "rpc.event")["data"], "over HTTP");
    let error = &http("rpc.subscribe", &json!(["a"]))["error"];
    assert_eq!(error["code"], code::UNKNOWN_FUNCTION);
    assert!(error["message"].as_str().unwrap().contains("GET /events"), "{error}");
}

#[test]
fn rules_allow_topics() {
    let rules = "[[listen]]\naddress = \"127.0.0.1:0\"\n[[access]]\nsubscribe = [\"chat.*\"]\n\
                 [[access]]\npublish = [\"chat.lobby\"]\nfunctions = [\"rpc.stats\"]\n\
                 token = \"sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"\n\
                 [[topic]]\nname = \"secret\"\n[[topic]]\nname = \"chat.*\"\n";
    let node = Node::with(Folder::new(), rules);
    let mut client = node.connect();
    let code_of = |result: Result<Value, Fault>| result.map_or_else(|fault| fault.code, |_| 0);
    assert_eq!(code_of(client.call("rpc.publish", &json!(["chat.lobby", 0]))), code::DENIED);
    for (topic, expected) in
        [("chat.lobby", 0), ("chat.*", 0), ("secret", code::DENIED), ("*", code::INVALID_PARAMS)]
    {
        let code = code_of(client.call("rpc.subscribe", &json!([topic])));
        assert!(code == expected || (topic == "*" && code == code::DENIED), "{topic}: {code}");
    }
    assert_eq!(code_of(client.call("rpc.auth", &json!({ "token": "secret" }))), 0);
    assert_eq!(code_of(client.call("rpc.publish", &json!(["chat.other", 0]))), code::DENIED);
    client.begin(9, "rpc.publish", &json!(["chat.lobby", 0]));
    let replies = [client.reply(), client.reply()];
    assert!(replies.iter().any(|reply| reply["result"] == 1), "{replies:?}");
}

#[test]
fn reply_in_a_batch_precedes_the_events() {
    let node = Node::demo();
    let mut client = node.connect();
    let batch = format!(
        "[{},{},{}]\n",
        request(1, "rpc.subscribe", &json!(["a"])),
        request(2, "rpc.publish", &json!(["a", 1])),
        request(3, "demo.sleep", &json!([0.01]))
    );
    client.send(batch);
    assert_eq!(client.reply().as_array().unwrap().len(), 3);
    assert_eq!(next(&mut client, "rpc.event")["data"], 1);
}

#[test]
fn stopping_node_ends_subscriptions() {
    let mut node = Node::demo();
    let mut clients: Vec<Peer> = [Wire::Lines, Wire::MessagePack, Wire::WebSocketText]
        .into_iter()
        .map(|wire| {
            let mut peer = Peer::connect(wire, node.address());
            peer.call("rpc.subscribe", &json!(["a.*"])).unwrap();
            peer
        })
        .collect();
    node.signal("TERM");
    for peer in &mut clients {
        let ended = notification(peer);
        assert_eq!((&ended["method"], &ended["params"]["topic"]), (&json!("rpc.ended"), &json!("a.*")));
        assert_eq!(ended["params"]["reason"], "the node is stopping");
    }
    drop(clients);
    assert_eq!(node.wait(), Some(0));
}

/// A storm of connections that subscribe and vanish while others publish.
#[test]
fn vanishing_subscribers_leave_nothing() {
    let node = Node::demo();
    let address = node.address();
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || storm(address, n));
        }
        scope.spawn(move || {
            let mut publisher = Client::connect(address);
            for n in 0..scale(400) {
                publish(&mut publisher, &format!("s.{}", n % 7), &json!("x".repeat(100)));
            }
        });
    });
    eventually("all subscriptions end", || node.metric("chanrpc_subscriptions") == 0);
    assert_eq!(publish(&mut node.connect(), "s.1", &json!(0)), 0);
}

fn storm(address: SocketAddr, n: u32) {
    for round in 0..scale(100) {
        let mut client = Client::connect(address);
        let topic = if round % 2 == 0 { "s.*".to_owned() } else { format!("s.{n}") };
        client.begin(1, "rpc.subscribe", &json!([topic]));
        await_some("the reply", || (client.reply()["id"] == 1).then_some(()));
    }
}
