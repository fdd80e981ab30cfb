//! Calls by others over NATS.

use chanrpc::message::code;
use serde_json::{Value, json};

use crate::node;
use crate::server::{Peer, Published, Server};
use crate::support::{Client, got};

const ALL: &str = "offer = [\"math.*\"]\nin_flight = 2";

/// Reads the subscriptions of a service. Returns their subjects.
fn subscriptions(peer: &mut Peer, count: usize) -> Vec<String> {
    let mut subjects = Vec::new();
    for number in 1..=9 + count {
        let line = peer.line();
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!((words[0], *words.last().unwrap()), ("SUB", &*format!("f{number}")), "{line}");
        assert_eq!(words.len(), if number <= 9 { 3 } else { 4 }, "{line}");
        subjects.push(words[1].to_owned());
    }
    subjects
}

fn code_of(reply: &Published) -> i64 {
    let (_, rest) =
        reply.headers.split_once("Nats-Service-Error-Code: ").unwrap_or_else(|| panic!("{reply:?}"));
    rest.lines().next().unwrap().parse().unwrap()
}

#[test]
fn functions_are_endpoints_of_a_service() {
    let server = Server::new();
    let (_node, _held) = node(&[&server], ALL, "");
    let mut peer = server.accept();
    let subjects = subscriptions(&mut peer, 3);
    for verb in ["PING", "INFO", "STATS"] {
        assert!(
            subjects.contains(&format!("$SRV.{verb}")) && subjects.contains(&format!("$SRV.{verb}.near"))
        );
    }
    let mut own = subjects[9..].to_vec();
    own.sort();
    assert_eq!(own, ["chanrpc.math.add", "chanrpc.math.fail", "chanrpc.math.hold"]);

    peer.deliver("$SRV.INFO.near", "f5", "_INBOX.a", "");
    let info: Value = serde_json::from_str(&peer.published().payload).unwrap();
    assert_eq!((&info["type"], &info["name"]), (&json!("io.nats.micro.v1.info_response"), &json!("near")));
    let endpoints = info["endpoints"].as_array().unwrap();
    let add = endpoints.iter().find(|one| one["name"] == "math_add").unwrap();
    assert_eq!((&add["subject"], &add["queue_group"]), (&json!("chanrpc.math.add"), &json!("q")));
    assert_eq!((&add["metadata"]["function"], &add["metadata"]["kind"]), (&json!("math.add"), &json!("1")));

    peer.deliver("chanrpc.math.add", "f10", "_INBOX.a", "[1,2]");
    let reply = peer.published();
    assert_eq!((&*reply.subject, &*reply.payload, &*reply.headers), ("_INBOX.a", "3", ""));
    peer.deliver("chanrpc.math.fail", "f11", "_INBOX.a", "null");
    let reply = peer.published();
    assert!(reply.headers.contains("Nats-Service-Error: no luck\r\n"), "{reply:?}");
    assert_eq!(code_of(&reply), 7);
    assert_eq!(reply.payload, r#"{"code":7,"message":"no luck","data":[1]}"#);

    peer.deliver("$SRV.STATS", "f3", "_INBOX.a", "");
    let stats: Value = serde_json::from_str(&peer.published().payload).unwrap();
    let endpoints = stats["endpoints"].as_array().unwrap();
    let fail = endpoints.iter().find(|one| one["name"] == "math_fail").unwrap();
    assert_eq!((&fail["num_requests"], &fail["num_errors"]), (&json!(1), &json!(1)));
}

#[test]
fn what_is_wrong_with_a_call_is_told_if_anybody_waits() {
    let server = Server::new();
    let rule = "[[access]]\nlisten = [\"nats\"]\nfunctions = [\"math.a*\", \"math.h*\"]\n";
    let (node, held) = node(&[&server], ALL, rule);
    let mut peer = server.accept();
    subscriptions(&mut peer, 3);
    let mut ask = |subject: &str, headers: &str, payload: &str| {
        peer.deliver_with(subject, "f10", "_INBOX.a", headers, payload);
        code_of(&peer.published())
    };
    assert_eq!(ask("chanrpc.math.fail", "", ""), code::DENIED);
    assert_eq!(ask("chanrpc.secret", "", ""), code::UNKNOWN_FUNCTION);
    assert_eq!(ask("chanrpc.rpc.list", "", ""), code::UNKNOWN_FUNCTION);
    assert_eq!(ask("other.math.add", "", ""), code::UNKNOWN_FUNCTION);
    assert_eq!(ask("chanrpc.math.add", "", "{"), code::PARSE);
    assert_eq!(ask("chanrpc.math.add", "", "\"x\""), code::INVALID_PARAMS);
    assert_eq!(ask("chanrpc.math.add", "\r\nRpc-Hops: 9", "[1,2]"), code::HOP_LIMIT);
    assert_eq!(ask("chanrpc.math.hold", "\r\nRpc-Deadline-Ms: 1", ""), code::DEADLINE);
    drop(got(&held));
    // Nobody is told of these, and they do not end the connection.
    for _ in 0..40 {
        peer.deliver("chanrpc.math.add", "f10", "", "{");
    }
    peer.deliver("chanrpc.math.add", "f10", "_INBOX.a", "[2,2]");
    assert_eq!(peer.published().payload, "4");
    drop(node);
}

#[test]
fn more_calls_than_it_may_answer_are_refused_and_read() {
    let server = Server::new();
    let (node, held) = node(&[&server], ALL, "");
    let mut peer = server.accept();
    subscriptions(&mut peer, 3);
    for number in 0..2 {
        peer.deliver("chanrpc.math.hold", "f12", &format!("_INBOX.{number}"), "");
    }
    let (first, second) = (got(&held), got(&held));
    peer.deliver("chanrpc.math.hold", "f12", "_INBOX.a", "");
    let busy = peer.published();
    assert_eq!((&*busy.subject, code_of(&busy)), ("_INBOX.a", code::BUSY));
    assert!(busy.payload.contains("nats.in_flight") && busy.payload.contains("\"sent\":false"), "{busy:?}");
    let mut client = Client::connect(node.addresses()[0]);
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(client.http().body.contains("\nchanrpc_messages_refused_total 1\n"));
    first.reply(1);
    assert_eq!(peer.published().subject, "_INBOX.0");
    second.reply(2);
    assert_eq!(peer.published().subject, "_INBOX.1");
}

#[test]
fn a_node_that_stops_answers_what_it_has_received() {
    let server = Server::new();
    let (node, held) = node(&[&server], ALL, "");
    let mut peer = server.accept();
    subscriptions(&mut peer, 3);
    peer.deliver("chanrpc.math.hold", "f12", "_INBOX.a", "");
    let first = got(&held);
    let stopped = std::thread::spawn(move || smol::block_on(node.stop()));
    for _ in 0..12 {
        let line = peer.line();
        assert!(line.starts_with("UNSUB f"), "{line}");
    }
    let flush = peer.published();
    assert!(flush.subject.starts_with("_INBOX."), "{flush:?}");
    // The server has sent this one before it knew.
    peer.deliver("chanrpc.math.add", "f10", "_INBOX.b", "[3,4]");
    assert_eq!(peer.published().payload, "7");
    peer.deliver(&flush.subject, "r", "", "");
    first.reply(1);
    assert_eq!(peer.published().subject, "_INBOX.a");
    assert!(peer.has_ended());
    crate::support::ended(stopped);
}
