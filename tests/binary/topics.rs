//! `chanrpc watch` and `chanrpc publish`.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Folder, Node, Process, binary, eventually};

/// Starts to watch, and waits until the node has the subscriptions.
fn watch(node: &Node, arguments: &[&str]) -> Process {
    let before = node.metric("chanrpc_subscriptions");
    let watching = Process::start(node.command("watch", arguments));
    eventually("it has subscribed", || node.metric("chanrpc_subscriptions") > before);
    watching
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_are_printed_one_a_line() {
    let node = Node::demo();
    let watching = watch(&node, &["--count", "3", "chat.*"]);
    let data = watch(&node, &["--data", "--count", "1", "chat.lobby"]);
    assert_eq!(node.run("publish", &["chat.lobby", "{ \"a\": [1,\n2] }"]).result(), "2");
    assert_eq!(node.run("publish", &["chat.x", "no JSON"]).result(), "1");
    assert_eq!(node.run("publish", &["other", "1"]).result(), "0");
    let mut from_stdin = node.command("publish", &["chat.x", "-"]);
    from_stdin.stdin(Stdio::null());
    let published = Process::run_with_input(from_stdin, "{\"from\": \"stdin\"}\n");
    assert_eq!(published.result(), "1");
    let printed = watching.finish();
    assert_eq!(
        lines(printed.result()),
        [
            json!({ "topic": "chat.lobby", "seq": 1, "data": { "a": [1, 2] } }),
            json!({ "topic": "chat.x", "seq": lines(&printed.stdout)[1]["seq"], "data": "no JSON" }),
            json!({ "topic": "chat.x", "seq": lines(&printed.stdout)[2]["seq"], "data": { "from": "stdin" } }),
        ]
    );
    assert_eq!(data.finish().result(), "{\"a\":[1,2]}");
}

#[test]
fn each_line_is_an_event() {
    let node = Node::demo();
    let watching = watch(&node, &["--data", "--count", "4", "a"]);
    let publish = node.command("publish", &["--each-line", "a"]);
    let published = Process::run_with_input(publish, "1\n\n[2, 3]\n{\"x\": 4}\nlast");
    assert_eq!(published.result(), "1\n1\n1\n1");
    assert_eq!(watching.finish().result(), "1\n[2,3]\n{\"x\":4}\n\"last\"");
}

#[test]
fn watching_continues_after_the_last_event() {
    let node = Node::with(Folder::new(), "[[topic]]\nname = \"a\"\nkeep = 5\n");
    for n in 1..=9 {
        node.run("publish", &["a", &n.to_string()]).result();
    }
    let seqs = |arguments: &[&str]| -> Vec<Value> {
        let printed = node.run("watch", arguments);
        lines(printed.result()).iter().map(|line| line["seq"].clone()).collect()
    };
    assert_eq!(seqs(&["--count", "5", "a"]), [5, 6, 7, 8, 9]);
    assert_eq!(seqs(&["--count", "2", "--since", "7", "a"]), [8, 9]);
    assert_eq!(seqs(&["--count", "1", "--since", "1", "a"]), [Value::Null, json!(5)]);
}

#[test]
fn node_that_stops_is_found_again_unless_once() {
    let mut node = Node::demo();
    let address = node.address().to_string();
    let watching = watch(&node, &["--count", "2", "a"]);
    let once = watch(&node, &["--once", "a"]);
    node.run("publish", &["a", "1"]).result();
    eventually("it is printed", || watching.printed().lines().count() == 1);
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    let once = once.finish();
    assert_eq!(once.code, Some(3), "{once:?}");
    assert!(once.stderr.contains("was lost"), "{once:?}");

    let again = Node::launch(Folder::new(), None, &["--listen", &address], &crate::support::Stderr::Read);
    eventually("it has subscribed again", || again.metric("chanrpc_subscriptions") == 1);
    again.run("publish", &["a", "2"]).result();
    let printed = lines(watching.finish().result());
    assert_eq!(printed[0]["data"], 1);
    // The numbers of the new node are others.
    assert_eq!(printed[1], json!({ "missed": null, "topic": "a" }));
    assert_eq!(printed[2]["data"], 2);
}

#[test]
fn exit_codes_of_watch_and_publish() {
    let rules = "[[listen]]\naddress = \"127.0.0.1:0\"\n[[access]]\nfunctions = [\"rpc.stats\"]\n";
    let node = Node::with(Folder::new(), rules);
    node.run("watch", &["a"]).failed(5);
    node.run("publish", &["a", "1"]).failed(5);
    node.run("publish", &["a"]).failed(2);
    node.run("watch", &["--since", "3", "a", "b"]).failed(2);
    node.run("watch", &["--since", "3", "a.*"]).failed(2);
    let demo = Node::demo();
    assert!(demo.run("watch", &["not a topic"]).failed(1).contains("is no topic"));
    let mut gone = Node::demo();
    gone.kill();
    gone.run("watch", &["--timeout", "5", "a"]).failed(3);
}

#[test]
fn watching_ends_when_stdout_is_closed() {
    let node = Node::demo();
    let mut command = node.command("watch", &["a"]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer).stderr(Stdio::piped());
    let watching = Process::start_with(command);
    eventually("it has subscribed", || node.metric("chanrpc_subscriptions") == 1);
    drop(reader);
    node.run("publish", &["a", "1"]).result();
    let ended = watching.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn killed_subscribers_and_nodes_leave_no_subscription() {
    let hub = Node::demo();
    let text = format!("[[topic]]\nname = \"chat.*\"\nforward = \"{}\"\n", hub.address());
    let mut edge = Node::with(Folder::new(), &text);
    let watching = watch(&edge, &["chat.lobby"]);
    eventually("the hub has it", || hub.metric("chanrpc_subscriptions") == 1);
    drop(watching);
    eventually("nobody has it", || edge.metric("chanrpc_subscriptions") == 0);
    eventually("the hub has it no more", || hub.metric("chanrpc_subscriptions") == 0);

    let again = watch(&edge, &["--count", "1", "chat.lobby"]);
    eventually("the hub has it", || hub.metric("chanrpc_subscriptions") == 1);
    assert_eq!(edge.run("publish", &["chat.lobby", "1"]).result(), "1");
    assert_eq!(lines(again.finish().result())[0]["data"], 1);
    let _left = watch(&edge, &["chat.lobby"]);
    eventually("the hub has it", || hub.metric("chanrpc_subscriptions") == 1);
    edge.kill();
    eventually("the hub has it no more", || hub.metric("chanrpc_subscriptions") == 0);
}

#[test]
fn frozen_subscriber_is_given_up() {
    let node = Node::with(Folder::new(), "[limits]\nstall_timeout = \"1s\"\nevents = 8\n");
    let watching = watch(&node, &["a"]);
    watching.signal("STOP");
    let mut client = node.connect();
    let event = json!({ "topic": "a", "data": "x".repeat(200_000) });
    // The system's buffers take some.
    eventually("it is given up", || {
        client.call("rpc.publish", &event).unwrap();
        node.metric("chanrpc_subscriptions") == 0
    });
    assert_eq!(node.metric("chanrpc_slow_readers_total"), 1);
    watching.signal("CONT");
}

#[test]
fn watching_over_another_dialect() {
    let node = Node::demo();
    let mut command = binary();
    command.args(["watch", "--count", "1", "--to", &format!("msgpack://{}", node.address()), "a"]);
    let watching = Process::start(command);
    eventually("it has subscribed", || node.metric("chanrpc_subscriptions") == 1);
    node.run("publish", &["a", "{\"n\": 1}"]).result();
    assert_eq!(lines(watching.finish().result()), [json!({ "topic": "a", "seq": 1, "data": { "n": 1 } })]);
}
