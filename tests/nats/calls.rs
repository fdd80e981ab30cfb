//! Calls of others over NATS.

use std::thread;
use std::time::Duration;

use chanrpc::chan::CallError;
use chanrpc::config::Balance;
use chanrpc::message::code;
use chanrpc::remote::{Balanced, Policy, Remote};
use serde_json::json;

use crate::server::{Server, info};
use crate::support::{LIMIT, await_some, ended, eventually};
use crate::{fault, node, params, remote};

const FORWARD: &str = "[[function]]\nname = \"far.*\"\nforward = \"nats\"\n\
    [[function]]\nname = \"text\"\nforward = \"nats\"\nsubject = \"svc.text\"\noutput = \"text\"\n";

#[test]
fn a_call_is_a_message_and_its_reply_another() {
    let server = Server::new();
    let (node, _) = node(&[&server], "", FORWARD);
    let mut peer = server.accept();
    for (name, expected) in
        [("headers", json!(true)), ("no_responders", json!(true)), ("name", json!("near"))]
    {
        assert_eq!(peer.connect[name], expected);
    }
    let (first, second) = (remote(&node), remote(&node));
    let first = thread::spawn(move || first.call_raw("far.add", params("[1,2]")).wait());
    let one = peer.published();
    assert_eq!((&*one.subject, &*one.payload), ("chanrpc.far.add", "[1,2]"));
    assert!(one.headers.contains("Rpc-Hops: 1\r\n") && one.headers.contains("Rpc-Deadline-Ms: "), "{one:?}");
    let second = thread::spawn(move || second.call_raw("text", None).wait());
    let other = peer.published();
    assert_eq!((&*other.subject, &*other.payload), ("svc.text", ""));
    // Others know neither the number nor the token of a call.
    let inbox = one.reply.rsplitn(3, '.').last().unwrap();
    for wrong in [inbox.to_owned(), format!("{inbox}.1.0"), format!("{inbox}.99.{}", "0".repeat(16))] {
        peer.deliver(&wrong, "r", "", "\"wrong\"");
    }
    peer.deliver(&other.reply, "r", "", "plain text");
    peer.deliver(&one.reply, "r", "", " [3]");
    assert_eq!(ended(second).unwrap().get(), "\"plain text\"");
    assert_eq!(ended(first).unwrap().get(), "[3]");
    // Late ones harm nobody.
    peer.deliver(&one.reply, "r", "", "[4]");
    peer.send("PING\r\n");
    while peer.any_line() != "PONG" {}
}

#[test]
fn only_the_latest_call_of_a_subject_is_refused() {
    let server = Server::new();
    let (node, _) = node(&[&server], "", FORWARD);
    let mut peer = server.accept();
    let call = |name: &'static str| {
        let remote = remote(&node);
        thread::spawn(move || remote.call_raw(name, None).wait())
    };
    let first = call("far.a");
    let one = peer.published();
    let other = call("far.b");
    let two = peer.published();
    let refused = call("far.a");
    peer.published();
    peer.send("-ERR 'Permissions Violation for Publish to \"chanrpc.far.a\"'\r\n");
    let refused = fault(ended(refused));
    assert_eq!((refused.code, refused.message.contains("chanrpc.far.a")), (code::DENIED, true));
    peer.deliver_with(&one.reply, "r", "", " 503", "");
    let absent = fault(ended(first));
    assert_eq!(absent.code, code::NO_PROVIDER);
    assert_eq!(absent.data.unwrap().get(), r#"{"sent":false,"via":["near"]}"#);
    let error = "\r\nNats-Service-Error: no luck\r\nNats-Service-Error-Code: 503";
    peer.deliver_with(&two.reply, "r", "", error, "{}");
    assert_eq!((fault(ended(other)).code), 503);
}

#[test]
fn what_is_too_long_or_no_subject_is_not_sent() {
    let server = Server::new();
    let (node, _) = node(&[&server], "", FORWARD);
    let mut peer = server.accept();
    let remote = remote(&node);
    let long = fault(remote.call_raw("far.a", params(&format!("[\"{}\"]", "x".repeat(1000)))).wait());
    assert_eq!((long.code, long.message.contains("max_payload")), (code::REQUEST_TOO_LARGE, true));
    assert_eq!(fault(remote.call_raw("far.a..b", None).wait()).code, code::UNKNOWN_FUNCTION);
    let call = thread::spawn(move || remote.call_raw("far.c", None).wait());
    let next = peer.published();
    assert_eq!(next.subject, "chanrpc.far.c");
    // A long reply is refused, and what follows it is read.
    peer.deliver(&next.reply, "r", "", &format!("\"{}\"", "x".repeat(2 << 20)));
    assert_eq!(fault(ended(call)).code, code::REPLY_TOO_LARGE);
}

#[test]
fn a_connection_that_is_lost_fails_what_was_sent_and_what_is_not() {
    let server = Server::new();
    let (node, _) = node(&[&server], "", FORWARD);
    let mut peer = server.accept();
    let caller = remote(&node);
    let call = thread::spawn(move || caller.call_raw("far.a", None).wait());
    peer.published();
    drop(peer);
    assert_eq!(fault(ended(call)).code, code::LOST);
    // The next attempt fails: this is no server that it can use.
    let mut info = info();
    info["headers"] = json!(false);
    drop(server.greet(&info));
    let caller = remote(&node);
    let told = await_some("the reason", || {
        let fault = fault(caller.call_raw("far.a", None).wait());
        assert_eq!(fault.code, code::NO_PROVIDER);
        fault.message.contains("version 2.2").then_some(fault)
    });
    assert_eq!(told.data.unwrap().get(), r#"{"sent":false,"via":["near"]}"#);
    let mut peer = server.accept();
    let call = thread::spawn(move || {
        await_some("a result", || caller.call_raw("far.a", None).wait().ok());
    });
    let published = peer.published();
    peer.deliver(&published.reply, "r", "", "1");
    ended(call);
}

#[test]
fn a_server_that_does_not_let_it_in_is_told_with_its_reason() {
    for (answer, reason) in [
        ("-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        ("-ERR 'Permissions Violation for Subscription to \"_INBOX.x.>\"'\r\n", "inbox under [nats]"),
        ("HTTP/1.1 400\r\n", "no NATS server"),
    ] {
        assert_told(info(), answer, reason);
    }
    let mut info = info();
    info["tls_required"] = json!(true);
    assert_told(info, "", "requires TLS");
}

/// Asserts that callers learn why a server lets nobody in, at each attempt.
fn assert_told(info: serde_json::Value, answer: &'static str, reason: &str) {
    let server = Server::new();
    let (node, _) = node(&[&server], "", FORWARD);
    server.answer_all(info, answer);
    let caller = remote(&node);
    let told = || fault(caller.call_raw("far.a", None).wait()).message.contains(reason);
    eventually(reason, told);
}

#[test]
fn calls_move_to_another_server_before_theirs_stops() {
    let (first, second) = (Server::new(), Server::new());
    let (node, _) = node(&[&first], "", FORWARD);
    let mut old = first.accept();
    let caller = remote(&node);
    let call = thread::spawn(move || caller.call_raw("far.a", None).wait());
    let one = old.published();
    let mut told = info();
    told["ldm"] = json!(true);
    told["connect_urls"] = json!([second.address().to_string()]);
    drop(first);
    old.send(&format!("INFO {told}\r\n"));
    let mut info = info();
    info["server_id"] = json!("two");
    let mut new = second.accept_with(&info);
    // The old connection answers what it has.
    let flush = old.published();
    assert!(flush.subject.starts_with("_INBOX.") && flush.reply.is_empty(), "{flush:?}");
    old.deliver(&flush.subject, "r", "", "");
    old.deliver(&one.reply, "r", "", "1");
    assert_eq!(ended(call).unwrap().get(), "1");
    assert!(old.has_ended());
    let caller = remote(&node);
    let call = thread::spawn(move || caller.call_raw("far.a", None).wait());
    let two = new.published();
    new.deliver(&two.reply, "r", "", "2");
    assert_eq!(ended(call).unwrap().get(), "2");
}

#[test]
fn topics_are_subscribed_to_as_long_as_anybody_does() {
    let server = Server::new();
    let topics = "[[topic]]\nname = \"chat.*\"\nforward = \"nats\"\n\
                  [[topic]]\nname = \"attic\"\nforward = \"nats\"\nsubject = \"sensors.attic\"\n";
    let (node, _) = node(&[&server], "", topics);
    let mut peer = server.accept();
    let lobby = node.node().topics().subscribe::<serde_json::Value>("chat.lobby").unwrap();
    assert_eq!(peer.line(), "SUB chanrpc.chat.lobby t1");
    let mut family = node.node().topics().subscribe::<serde_json::Value>("chat.*").unwrap();
    // Two subscriptions would bring each event twice.
    assert_eq!((peer.line(), peer.line()), ("UNSUB t1".to_owned(), "SUB chanrpc.chat.> t2".to_owned()));
    peer.deliver("chanrpc.chat.lobby", "t2", "", "not JSON");
    let published = await_some("an event", || match smol::block_on(family.next()).unwrap() {
        chanrpc::route::TopicEvent::Published { topic, data, .. } => Some((topic.to_string(), data)),
        _ => None,
    });
    assert_eq!(published, ("chat.lobby".to_owned(), json!("not JSON")));
    drop(family);
    assert_eq!((peer.line(), peer.line()), ("UNSUB t2".to_owned(), "SUB chanrpc.chat.lobby t1".to_owned()));
    drop(lobby);
    assert_eq!(peer.line(), "UNSUB t1");
    let attic = node.node().topics().subscribe::<serde_json::Value>("attic").unwrap();
    assert_eq!(peer.line(), "SUB sensors.attic t3");
    assert_eq!(node.node().topics().publish("attic", &21.5).unwrap(), 0);
    let event = peer.published();
    assert_eq!((&*event.subject, &*event.payload, &*event.reply), ("sensors.attic", "21.5", ""));
    // It is subscribed to again, and told what may be missed.
    drop(peer);
    let mut peer = server.accept();
    assert_eq!(peer.line(), "SUB sensors.attic t3");
    drop(attic);
}

/// A client without a node in between.
#[test]
fn a_remote_at_an_address_of_nats_calls_functions_and_lists_those_of_all_services() {
    let server = Server::new();
    let client = Remote::builder(format!("nats://{}", server.address())).token("a token").connect();
    let mut peer = server.accept();
    assert_eq!(peer.connect["auth_token"], "a token");
    let caller = client.clone();
    let call = thread::spawn(move || caller.call_raw("far.add", params("[1,2]")).wait());
    let one = peer.published();
    assert_eq!(one.subject, "chanrpc.far.add");
    peer.deliver(&one.reply, "r", "", "3");
    assert_eq!(ended(call).unwrap().get(), "3");
    let caller = client.clone();
    let call = thread::spawn(move || caller.call_raw("rpc.list", params("[\"far*\", true]")).wait());
    let (subject, subscription) = peer.inquiry();
    let endpoint = json!({ "name": "far_add", "subject": "chanrpc.far.add",
                           "metadata": { "kind": "1", "description": "adds", "params": "[]" } });
    let info = |service: &str, more| {
        json!({ "name": service, "endpoints": [endpoint, { "name": "x", "subject": more }] }).to_string()
    };
    for told in
        [info("a", "chanrpc.near"), info("b", "else.far.x"), info("b", "chanrpc.far.more.>"), "{".to_owned()]
    {
        peer.deliver(&subject, &subscription, "", &told);
    }
    let listed: serde_json::Value = serde_json::from_str(ended(call).unwrap().get()).unwrap();
    assert_eq!(
        listed,
        json!([
            { "name": "far.add", "provider": "nats", "kind": "1", "params": [], "description": "adds", "target": "a, b x2" },
            { "name": "far.more.*", "provider": "nats", "target": "b" },
        ])
    );
    assert_eq!(fault(client.call_raw("rpc.publish", None).wait()).code, code::UNKNOWN_FUNCTION);
}

#[test]
fn a_list_waits_for_slow_services_and_tells_what_it_lacks() {
    let server = Server::new();
    let client = Remote::builder(format!("nats://{}", server.address())).connect();
    let mut peer = server.accept();
    let list = |timeout| {
        let client = client.clone();
        thread::spawn(move || client.call_raw("rpc.list", None).timeout(timeout).wait())
    };
    let service = |function: &str| json!({ "name": "a", "endpoints": [{ "subject": function }] }).to_string();
    // A slow service, and one that is slower.
    let listed = list(LIMIT);
    let (subject, subscription) = peer.inquiry();
    for function in ["chanrpc.one", "chanrpc.two"] {
        thread::sleep(Duration::from_millis(700));
        peer.deliver(&subject, &subscription, "", &service(function));
    }
    assert_eq!(ended(listed).unwrap().get(), "[\"one\",\"two\"]");
    // Nobody is there, as the server says.
    let listed = list(LIMIT);
    let (subject, subscription) = peer.inquiry();
    peer.deliver_with(&subject, &subscription, "", " 503", "");
    assert_eq!(ended(listed).unwrap().get(), "[]");
    // Somebody is there, and does not answer.
    let listed = list(Duration::from_millis(300));
    peer.inquiry();
    let late = fault(ended(listed));
    assert_eq!((late.code, late.message.contains("no service has answered")), (code::DEADLINE, true));
    let listed = list(LIMIT);
    peer.inquiry();
    peer.send("-ERR 'Permissions Violation for Publish to \"$SRV.INFO\"'\r\n");
    assert_eq!(fault(ended(listed)).code, code::DENIED);
}

/// Calls of several servers of NATS and a node, which have the same function.
#[test]
fn a_balanced_client_calls_servers_of_nats_too() {
    let (first, second) = (Server::new(), Server::new());
    let (node, _) = node(&[], "", "");
    let addresses = [format!("nats://{}", first.address()), format!("nats://{}", second.address())];
    let remotes = addresses.into_iter().chain([node.addresses()[0].to_string()]).map(Remote::builder);
    let fleet = Balanced::connect(remotes, Policy::default().balance(Balance::First));
    let (mut one, mut two) = (first.accept(), second.accept());
    let call = || {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.call1::<_, i64>("math.add", (1, 2)).timeout(LIMIT).wait())
    };
    let answered = call();
    let request = one.published();
    assert_eq!((&*request.subject, &*request.payload), ("chanrpc.math.add", "[1,2]"));
    one.deliver(&request.reply, "r", "", "4");
    assert_eq!(ended(answered).unwrap(), 4);
    // Nobody is there: the call has not run, and goes on.
    let passed_on = call();
    let request = one.published();
    one.deliver_with(&request.reply, "r", "", " 503", "");
    let request = two.published();
    two.deliver(&request.reply, "r", "", "5");
    assert_eq!(ended(passed_on).unwrap(), 5);
    // It was sent: it may have run. The first server has refused, and is not asked for a while.
    let lost = call();
    two.published();
    drop((two, second));
    let error = ended(lost).unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    // The servers are gone, and the node is left.
    drop((one, first));
    await_some("an answer of the node", || ended(call()).ok().filter(|sum| *sum == 3));
}
