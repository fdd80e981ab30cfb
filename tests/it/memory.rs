//! Compares the stated memory of a configuration with a node driven to its limits.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use chanrpc::config::Config;
use serde_json::{Value, json};

use crate::pressure::{DIALECTS, start};
use crate::support::{Client, Folder, LIMIT, Node, eventually, listen, request, scale};

/// The length of a message, and about that of each reply, in bytes.
const MESSAGE: usize = 128 * 1024;

#[test]
fn node_at_its_limits_uses_no_more_memory_than_stated() {
    let answer = "x".repeat(MESSAGE - 4096);
    let far = listen(move |stream| {
        let mut client = Client::new(stream);
        while let Some(line) = client.full_line() {
            let id = &serde_json::from_str::<Value>(&line).unwrap()["id"];
            let reply = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"{answer}\"}}\n");
            if client.try_send(reply).is_err() {
                return;
            }
        }
    });
    let (connections, in_flight) = (6, scale(64));
    let text = format!(
        "[[function]]\nname = 'big'\nforward = '{far}'\n\
         [limits]\nmessage = '128 KiB'\noutput = '128 KiB'\nin_flight = {in_flight}\n\
         connections = {}\nstall_timeout = '1h'\n",
        2 * connections + 1
    );
    let bound = Config::parse(&text, "test").unwrap().worst_case_memory(1);
    let node = Node::with(Folder::new(), &text);

    // The maximum number of calls, with unread replies.
    let calls: String = (0..in_flight).map(|id| request(id, "big", &json!([])) + "\n").collect();
    let deaf: Vec<Client> = (0..connections)
        .map(|_| {
            let mut client = node.connect();
            client.send(&calls);
            client
        })
        .collect();
    let number =
        |name| node.metric(&format!("chanrpc_function_{name}{{function=\"big\",provider=\"forward\"}}"));
    let all = u64::from(connections * in_flight);
    eventually("all are answered", || number("calls_total") == all && number("in_flight") == 0);
    // And the maximum number of messages, each complete but for its end.
    let slow: Vec<Client> = (0..connections)
        .map(|_| {
            let mut client = node.connect();
            client.send("[\"".to_owned() + &"y".repeat(MESSAGE - 16));
            client
        })
        .collect();
    eventually("all are there", || node.metric("chanrpc_connections") > u64::from(2 * connections) - 1);

    if let Some(peak) = node.peak_kib() {
        let peak = peak * 1024;
        assert!(peak < bound, "{peak} bytes, and {bound} were said to be the most");
        assert!(peak > bound / 16, "{peak} of {bound} bytes show nothing");
    }
    drop((deaf, slow));
    assert_eq!(node.connect().call("rpc.ping", &json!([])), Ok(json!("pong")));
}

/// Peers that send without pause, some of which read the replies, in every dialect. Input beyond what is processed
/// stays in the system's buffers.
#[test]
fn pipelining_peers_use_no_more_memory_than_stated() {
    let each = 8;
    let limits = format!(
        "message = '16 KiB'\noutput = '16 KiB'\nin_flight = 8\nqueue = 64\nconnections = {}\nstall_timeout = '1h'\n",
        2 * each + 2
    );
    let bound = Config::parse(&format!("[limits]\n{limits}"), "test").unwrap().worst_case_memory(1);
    for dialect in DIALECTS {
        let node = start(&limits);
        let message = dialect.echo(&"x".repeat(15_000));
        // Far more than the limit, from each.
        let times = scale(400);
        let deaf: Vec<_> = (0..each).map(|_| dialect.connect(&node)).collect();
        let readers: Vec<_> = (0..each).map(|_| dialect.connect(&node)).collect();
        let deadline = Duration::from_millis(200);
        thread::scope(|scope| {
            for mut stream in &deaf {
                let message = &message;
                scope.spawn(move || {
                    stream.set_write_timeout(Some(deadline)).unwrap();
                    while stream.write_all(message).is_ok() {}
                });
            }
            for mut stream in &readers {
                let message = &message;
                scope.spawn(move || {
                    stream.set_write_timeout(Some(LIMIT)).unwrap();
                    (0..times).for_each(|_| stream.write_all(message).unwrap());
                });
                scope.spawn(move || {
                    let (mut left, mut buffer) = (times as usize * 15_000, vec![0; 1 << 16]);
                    while left > 0 {
                        left = left.saturating_sub(stream.read(&mut buffer).unwrap());
                    }
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        if let Some(peak) = node.peak_kib() {
            let peak = peak * 1024;
            assert!(peak < bound, "{dialect:?}: {peak} bytes, and {bound} were said to be the most");
        }
    }
}
