//! Many concurrent peers, and peers that vanish without closing. `ci/soak` has more of them, for longer.

use std::net::{Shutdown, TcpStream};
use std::thread;

use serde_json::json;

use crate::programs::gate;
use crate::support::{Client, Folder, Node, Stderr, eventually, listen, request, scale};

/// A node whose metrics show when its connections are closed.
fn node(limits: &str) -> Node {
    Node::with(Folder::new(), &format!("[limits]\n{limits}\n{}", gate("concurrency = 100")))
}

/// Waits until only the connection that asks is open.
#[track_caller]
fn await_alone(node: &Node) {
    eventually("all places are given back", || node.metric("chanrpc_connections") == 1);
}

/// The first call in each dialect.
const FIRST: [&[u8]; 4] = [
    b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}  ",
    b"Content-Length: 44\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}",
    b"\x94\x00\x01\xa8rpc.ping\x90",
];

/// Asserts that a peer's call was answered, in any dialect: nothing else in the reply contains `pong`.
#[track_caller]
fn assert_answered(client: &mut Client) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"pong") {
        answer.extend(client.take(1));
    }
}

/// The number of connections that fits into most systems' limits of a process; `ci/soak` has 10,000.
#[test]
fn two_thousand_connections_from_one_host_are_served() {
    let peers = scale(2_000) as usize;
    let node = node(&format!("connections = {}\nhead_timeout = '1h'", peers + 10));
    let mut open: Vec<_> = (0..peers).map(|_| node.connect()).collect();
    for (index, client) in open.iter_mut().enumerate() {
        client.send(FIRST[index % FIRST.len()]);
    }
    open.iter_mut().for_each(assert_answered);
    assert_eq!(node.metric("chanrpc_connections"), peers as u64 + 1);
    assert_eq!(node.metric("chanrpc_connections_turned_away_total"), 0);
    drop(open);
    await_alone(&node);
}

/// Eight threads connect and disconnect, each at another stage of a call: before the first byte, in the middle of it,
/// before the reply, after it.
#[test]
fn storms_of_connecting_and_disconnecting_peers() {
    let node = node("connections = 5000");
    thread::scope(|scope| {
        for thread in 0..8 {
            let node = &node;
            scope.spawn(move || {
                for round in 0..scale(200) as usize {
                    let mut client = node.connect();
                    let first = FIRST[(thread + round) % FIRST.len()];
                    let _ = match round % 5 {
                        0 => Ok(()),
                        1 => client.try_send(&first[..first.len() / 2]),
                        2 => client.stream().shutdown(Shutdown::Both),
                        _ => client.try_send(first),
                    };
                    if round % 5 == 4 {
                        assert_answered(&mut client);
                    }
                }
            });
        }
    });
    await_alone(&node);
    assert_eq!(node.metric("chanrpc_connections_turned_away_total"), 0);
    let mut client = node.connect();
    assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")));
}

/// A vanished peer sends nothing, not even a close, like a proxy that stops forwarding.
#[test]
fn peers_vanishing_before_a_complete_head_time_out() {
    let node = node("head_timeout = '200ms'");
    let mut vanished = Vec::new();
    for first in ["", "P", "POST / HTTP/1.1\r\nHost: loc", "Content-L"] {
        let mut client = node.connect();
        client.send(first);
        vanished.push(client);
    }
    await_alone(&node);
    assert_eq!(node.metric("chanrpc_slow_heads_total"), 4);
}

/// A peer that vanishes while the node sends is cut off once its window is full.
#[test]
fn peer_vanishing_during_replies_is_cut_off() {
    let node = node("stall_timeout = '300ms'\nmessage = '2 MiB'\noutput = '1 MiB'\nin_flight = 64");
    let address = node.address();
    // Forwards what the peer sends, and nothing that the node sends. When it can forward no more, it closes the peer's
    // connection, whose write would otherwise block until its timeout; the node's connection stays open.
    let proxy = listen(move |near| {
        let far = TcpStream::connect(address).unwrap();
        let _ = std::io::copy(&mut &near, &mut &far);
        drop(near);
        thread::park();
        drop(far);
    });
    let mut client = Client::connect(proxy);
    let long = "x".repeat(1 << 20);
    for id in 0..32 {
        if client.try_send(request(id, "rpc.echo", &json!([long])) + "\n").is_err() {
            break;
        }
        if node.metric("chanrpc_slow_readers_total") > 0 {
            break;
        }
    }
    eventually("it is cut off", || node.metric("chanrpc_slow_readers_total") == 1);
    await_alone(&node);
}

// Exhausted resources.

/// Open connections keep working, new ones wait, and programs fail; once descriptors are available, all works again.
#[test]
fn node_survives_running_out_of_descriptors() {
    let config = format!("limits.head_timeout = '1h'\n{}", gate(""));
    // The system's limit for the node.
    let few = Stderr::Shell("ulimit -n 64 && exec \"$0\" \"$@\"");
    let node = Node::launch(Folder::new(), Some(&config), &["--listen", "127.0.0.1:0"], &few);
    eventually("the log tells what is too little", || {
        node.log().contains("the system allows 64 open files, but up to ")
    });
    let mut client = node.connect();
    assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")));
    // Connections without a free slot are closed immediately.
    let mut crowd: Vec<_> = (0..100).map(|_| node.connect()).collect();
    eventually("most are turned away", || {
        let node = client.call("rpc.stats", &json!([])).unwrap()["node"].clone();
        assert_eq!(node["accept_errors"], 0, "{node}");
        node["turned_away"].as_u64().unwrap() > 80
    });
    // Programs get descriptors nevertheless.
    node.folder.write("open", "");
    for id in 0..4 {
        client.begin(id, "gate", &json!([node.folder.name("open")]));
    }
    for _ in 0..4 {
        assert_eq!(client.reply()["result"], "opened");
    }
    crowd.clear();
    eventually("there is room again", || {
        client.call("rpc.stats", &json!([])).unwrap()["node"]["connections"] == 1
    });
    let mut late = node.connect();
    assert_eq!(late.call("rpc.ping", &json!([])), Ok(json!("pong")));
}

#[test]
fn soft_limit_of_descriptors_is_raised() {
    let few = Stderr::Shell("ulimit -S -n 64 && exec \"$0\" \"$@\"");
    let node = Node::launch(Folder::new(), None, &["--listen", "127.0.0.1:0"], &few);
    let mut crowd: Vec<_> = (0..100).map(|_| node.connect()).collect();
    for client in &mut crowd {
        assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")));
    }
    assert!(!node.log().contains("open files"), "{}", node.log());
}

#[test]
fn node_survives_a_full_disk_under_its_log() {
    let full = Stderr::Shell("exec \"$0\" \"$@\" 2>/dev/full");
    let mut node = Node::launch(Folder::new(), None, &["--log", "trace"], &full);
    let mut client = node.connect();
    for id in 0..500 {
        assert_eq!(client.call("rpc.echo", &json!([id])), Ok(json!([id])));
    }
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
}
