//! Bad input, bad peers, bad programs and lost nodes affect only the connection that causes them.
//!
//! Most tests here run beside a [`Witness`]: another connection with a call in flight, which must keep working.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chanrpc::config::Limits;
use serde_json::{Value, json};

use crate::programs::{assert_ends, await_begin, await_gate, endless, gate, program, program_of};
use crate::support::{
    Client, Folder, HttpReply, Node, Relay, Stderr, assert_fault, await_some, eventually, fake_node, fault,
    is_end, is_gone, outcome, post, request, run, scale,
};

/// Shorter than the default of each limit that a test lowers; anything that takes longer shows that the setting has no
/// effect.
const BELOW_DEFAULT: Duration = Duration::from_secs(8);
const MIB: usize = 1 << 20;

/// A well-behaved peer with a call in flight.
struct Witness {
    client: Client,
    calls: u64,
}

impl Witness {
    fn new(node: &Node) -> Self {
        let mut client = node.connect();
        client.begin("in flight", "gate", &json!([node.folder.name("open")]));
        await_gate(&node.folder, "open");
        let mut witness = Self { client, calls: 0 };
        witness.check();
        witness
    }

    /// Makes some calls and expects exactly their replies.
    #[track_caller]
    fn check(&mut self) {
        for _ in 0..10 {
            self.calls += 1;
            let params = json!([self.calls, "witness"]);
            assert_eq!(self.client.call("rpc.echo", &params), Ok(params));
        }
    }

    /// Lets the call in flight finish.
    #[track_caller]
    fn finish(mut self, node: &Node) {
        self.check();
        node.folder.write("open", "");
        let reply = self.client.reply();
        assert_eq!((&reply["id"], &reply["result"]), (&json!("in flight"), &json!("opened")), "{reply}");
    }
}

/// A node with these limits and a function that returns only when the test says so.
fn node(limits: &str) -> Node {
    let deadline = if limits.contains("deadline") { "" } else { "deadline = '1h'" };
    let config = format!("[limits]\n{deadline}\n{limits}\n{}", gate("concurrency = 100"));
    Node::with(Folder::new(), &config)
}

/// Runs `deed` on a node with these limits, beside a witness.
#[track_caller]
fn beside_a_witness(limits: &str, deed: impl FnOnce(&Node, &mut Witness)) {
    let node = node(limits);
    let mut witness = Witness::new(&node);
    deed(&node, &mut witness);
    witness.finish(&node);
}

/// Asserts that a connection still works.
#[track_caller]
fn assert_alive(client: &mut Client) {
    assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")));
}

// Invalid lines: the connection continues with the next one.

#[test]
fn invalid_lines_are_answered_and_the_next_is_handled() {
    let long_id = format!(r#"{{"jsonrpc":"2.0","method":"rpc.ping","id":"{}"}}"#, "x".repeat(200));
    let long_number = format!(r#"{{"jsonrpc":"2.0","method":"rpc.ping","id":{}}}"#, "1".repeat(200));
    let deep =
        |n: usize| request(1, "rpc.echo", &json!(["@"])).replace("\"@\"", &("[".repeat(n) + &"]".repeat(n)));
    let deep_objects = format!("{}1{}", "{\"a\":".repeat(1000), "}".repeat(1000));
    let batch = format!("[{}]", vec![request(1, "rpc.ping", &json!([])); 101].join(","));
    let lines: [(&[u8], i64); 29] = [
        (b"hello", -32700),
        (b"{", -32700),
        (b"}", -32700),
        (b"\"", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":1", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":1}{}", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":1,}", -32700),
        (b"{'jsonrpc':'2.0','method':'rpc.ping','id':1}", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":01}", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\xfe\",\"id\":null}", -32700),
        (b"\xc3\x28", -32700),
        (b"\xed\xa0\x80", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"a\0b", -32700),
        (b"null", -32600),
        (b"7", -32600),
        (b"\"text\"", -32600),
        (b"[]", -32600),
        (b"{}", -32600),
        (b"{\"jsonrpc\":\"1.0\",\"method\":\"rpc.ping\",\"id\":null}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"method\":7,\"id\":null}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":[1]}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":1,\"id\":2}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"method\":\"rpc.info\",\"id\":null}", -32600),
        (long_id.as_bytes(), -32600),
        (long_number.as_bytes(), -32600),
        (batch.as_bytes(), -32010),
        (&deep(1000).into_bytes(), -32700),
        (&deep(100_000).into_bytes(), -32700),
        (deep_objects.as_bytes(), -32700),
    ];
    beside_a_witness("", |node, witness| {
        let mut client = node.connect();
        assert_alive(&mut client);
        for (line, code) in lines {
            let reply = client.ask(line);
            assert_eq!(fault(&reply).code, code, "{}: {reply}", String::from_utf8_lossy(line));
            // The id of a message nested too deeply is known.
            let id = if line.starts_with(b"{\"id\":1,") { json!(1) } else { json!(null) };
            assert_eq!(reply["id"], id, "{reply}");
            assert_alive(&mut client);
            witness.check();
        }
        assert_eq!(client.ask(deep(120))["id"], 1);
    });
}

#[test]
fn line_of_2_mib_is_rejected_and_the_next_is_handled() {
    beside_a_witness("", |node, witness| {
        let mut client = node.connect();
        let within = request(1, "rpc.echo", &json!(["x".repeat(MIB - 100)]));
        assert_eq!(client.ask(within)["result"][0].as_str().unwrap().len(), MIB - 100);
        node.assert_growth_below(8, || {
            for _ in 0..10 {
                let reply = client.ask(request(1, "rpc.echo", &json!(["x".repeat(2 * MIB)])));
                // Its id is known or not, depending on how much was read.
                assert_eq!(fault(&reply).code, -32007, "{reply}");
                assert_alive(&mut client);
                witness.check();
            }
        });
        assert_eq!(node.metric("chanrpc_messages_too_large_total"), 10);
    });
}

#[test]
fn endless_line_is_not_buffered() {
    beside_a_witness("", |node, witness| {
        let mut client = node.connect();
        node.assert_growth_below(8, || {
            for _ in 0..64 {
                client.send("[".repeat(MIB));
            }
            witness.check();
        });
        // All of it was one line, so it gets one reply.
        assert_fault(&client.ask(""), &json!(null), -32007);
        assert_alive(&mut client);
    });
}

#[test]
fn last_line_may_lack_a_line_feed() {
    beside_a_witness("", |node, _| {
        let mut client = node.connect();
        client.send(request(1, "rpc.ping", &json!([])));
        client.end();
        assert_eq!(client.reply()["result"], "pong");
        client.assert_closed();
    });
}

#[test]
fn half_closed_connection_still_gets_its_replies() {
    let node = node("");
    let mut client = node.connect();
    client.begin(1, "gate", &json!([node.folder.name("open")]));
    client.end();
    eventually("the call is in flight", || node.metric("chanrpc_calls_in_flight") == 1);
    node.folder.write("open", "");
    assert_eq!(client.reply()["result"], "opened");
    client.assert_closed();
}

#[test]
fn random_bytes_do_no_harm() {
    beside_a_witness("", |node, witness| {
        let mut random = fastrand::Rng::with_seed(7300);
        for length in (0..40).map(|n| n * n * 4) {
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            let mut client = node.connect();
            // The node may end the connection before everything is sent.
            let _ = client.try_send(&bytes);
            client.end();
            client.rest();

            // Valid lines are answered and followed by others, unless there were too many invalid ones.
            bytes.push(b'\n');
            let lines =
                bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
            let mut client = node.connect();
            assert_alive(&mut client);
            let _ = client.try_send(&bytes);
            let _ = client.try_send(request("last", "rpc.ping", &json!([])) + "\n");
            if lines < 16 {
                while client.reply()["id"] != "last" {}
            } else {
                client.rest();
            }
        }
        witness.check();
    });
}

#[test]
fn randomly_mutated_requests_do_no_harm() {
    beside_a_witness("", |node, witness| {
        let mut random = fastrand::Rng::with_seed(2);
        let whole = r#"[{"jsonrpc":"2.0","method":"rpc.echo","params":{"a":[1,"\u00e9\"x"]},"meta":{"hops":1,"deadline_ms":9000},"id":"é"}]"#;
        let mut client = node.connect();
        assert_alive(&mut client);
        for n in 0..500 {
            let mut line = whole.as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..line.len());
                match random.u8(..3) {
                    0 => line[at] = random.u8(..),
                    1 => line.truncate(at.max(1)),
                    _ => line.insert(at, random.u8(..)),
                }
            }
            line.push(b'\n');
            client.send(&line);
            client.begin(n, "rpc.ping", &json!([]));
            while client.reply()["id"] != n {}
        }
        witness.check();
    });
}

// Slow, misbehaving and disconnected peers.

#[test]
fn connection_without_first_bytes_times_out() {
    beside_a_witness("head_timeout = '500ms'", |node, witness| {
        // Nothing, and prefixes common to several dialects.
        let mut clients: Vec<_> = ["", "P", "GE", "OPTION"]
            .into_iter()
            .map(|first| {
                let mut client = node.connect();
                client.set_limit(BELOW_DEFAULT);
                client.send(first);
                client
            })
            .collect();
        for client in &mut clients {
            client.assert_closed();
            witness.check();
        }
        // Counted just before or after they are closed.
        eventually("all are counted", || node.metric("chanrpc_slow_heads_total") == 4);
    });
}

#[test]
fn endless_http_head_times_out() {
    beside_a_witness("head_timeout = '500ms'", |node, witness| {
        let mut silent = node.connect();
        silent.set_limit(BELOW_DEFAULT);
        silent.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n");
        // A peer that sends a little from time to time.
        let mut trickling = node.connect();
        trickling.set_limit(Duration::from_millis(20));
        trickling.send("POST / HTTP/1.1\r\n");
        await_some("the trickling head is cut off", || {
            let sent = trickling.try_send("x: y\r\n");
            let mut byte = [0];
            match trickling.stream().peek(&mut byte) {
                Ok(0) => Some(()),
                Ok(_) => panic!("answered before its end"),
                Err(error) if is_end(&error) => Some(()),
                Err(_) => sent.is_err().then_some(()),
            }
        });
        silent.rest();
        witness.check();
        eventually("both are counted", || node.metric("chanrpc_slow_heads_total") == 2);
    });
}

/// Sends repeatedly without reading until the node closes the connection.
fn flood(mut client: Client, message: &[u8]) {
    client.set_limit(BELOW_DEFAULT);
    loop {
        if let Err(error) = client.try_send(message) {
            assert!(is_end(&error), "the node neither read nor ended the connection: {error}");
            return;
        }
    }
}

/// Floods the node from four peers concurrently.
fn assert_slow_readers_are_cut_off(message: &[u8], connect: impl Fn(&Node) -> Client) {
    beside_a_witness("stall_timeout = '300ms'", |node, witness| {
        node.assert_growth_below(48, || {
            thread::scope(|scope| {
                let floods: Vec<_> = (0..4)
                    .map(|_| connect(node))
                    .map(|client| scope.spawn(|| flood(client, message)))
                    .collect();
                while !floods.iter().all(thread::ScopedJoinHandle::is_finished) {
                    witness.check();
                }
            });
        });
        eventually("all are counted", || node.metric("chanrpc_slow_readers_total") == 4);
        assert_eq!(node.metric("chanrpc_calls_in_flight"), 1, "the witness's call");
    });
}

#[test]
fn peer_not_reading_large_replies_is_cut_off() {
    let message = request(1, "rpc.echo", &json!(["x".repeat(900_000)])) + "\n";
    assert_slow_readers_are_cut_off(message.as_bytes(), Node::connect);
}

#[test]
fn peer_not_reading_small_replies_is_cut_off() {
    let message = (request(1, "rpc.echo", &json!(["x".repeat(50)])) + "\n").repeat(1000);
    assert_slow_readers_are_cut_off(message.as_bytes(), Node::connect);
}

#[test]
fn peer_not_reading_batch_replies_is_cut_off() {
    let echo = request(1, "rpc.echo", &json!(["x".repeat(9_000)]));
    let message = format!("[{}]\n", vec![echo; 100].join(","));
    assert_slow_readers_are_cut_off(message.as_bytes(), Node::connect);
}

#[test]
fn content_length_peer_not_reading_is_cut_off() {
    let echo = request(1, "rpc.echo", &json!(["x".repeat(100_000)]));
    let message = format!("Content-Length: {}\r\n\r\n{echo}", echo.len());
    assert_slow_readers_are_cut_off(message.as_bytes(), Node::connect);
}

#[test]
fn messagepack_peer_not_reading_is_cut_off() {
    // [0, 1, "rpc.echo", [a text with a 32-bit length]]
    let mut message = b"\x94\x00\x01\xa8rpc.echo\x91\xdb".to_vec();
    message.extend(100_000_u32.to_be_bytes());
    message.extend([b'x'; 100_000]);
    assert_slow_readers_are_cut_off(&message, Node::connect);
}

#[test]
fn http_peer_not_reading_is_cut_off() {
    let message = post(&request(1, "rpc.echo", &json!(["x".repeat(100_000)])));
    assert_slow_readers_are_cut_off(message.as_bytes(), Node::connect);
}

#[test]
fn websocket_peer_not_reading_is_cut_off() {
    let message = frame(1, request(1, "rpc.echo", &json!(["x".repeat(100_000)])).as_bytes());
    assert_slow_readers_are_cut_off(&message, websocket);
}

/// At most the replies to the maximum number of calls in flight are buffered for a peer.
#[test]
fn unread_replies_are_bounded() {
    let node = programs(
        "limits.stall_timeout = '1h'\n".to_owned()
            + &program("big", "text", &["1000000"], "concurrency = 4\nqueue = 64"),
    );
    let mut client = node.connect();
    let calls = scale(64);
    node.assert_growth_below(64 + 16, || {
        // Sent together, so that all calls have started before the first reply.
        client.send((0..calls).map(|id| request(id, "big", &json!([])) + "\n").collect::<String>());
        let number =
            |name| node.metric(&format!("chanrpc_function_{name}{{function=\"big\",provider=\"exec\"}}"));
        eventually("all have ended", || {
            number("calls_total") == u64::from(calls) && number("in_flight") == 0
        });
    });
    // Whether or not the node has closed this connection, it serves the next.
    assert_alive(&mut node.connect());
}

#[test]
fn peer_that_reads_late_gets_all_replies() {
    beside_a_witness("", |node, witness| {
        let mut client = node.connect();
        // More than the node and the system buffer for one connection.
        let text = "x".repeat(100_000);
        thread::scope(|scope| {
            let stream = client.stream().try_clone().unwrap();
            scope.spawn(move || {
                for id in 0..200 {
                    let line = request(id, "rpc.echo", &json!([id, text])) + "\n";
                    std::io::Write::write_all(&mut &stream, line.as_bytes()).unwrap();
                }
            });
            witness.check();
            for id in 0..200 {
                let reply = client.reply();
                assert_eq!((&reply["id"], &reply["result"][0]), (&json!(id), &json!(id)));
            }
        });
    });
}

#[test]
fn peer_disconnecting_during_a_call() {
    beside_a_witness("", |node, witness| {
        for _ in 0..20 {
            let mut client = node.connect();
            for id in 0..3 {
                client.begin(id, "gate", &json!([node.folder.name("never")]));
            }
            client.reset();
            witness.check();
        }
        eventually("its calls are given up", || node.metric("chanrpc_calls_in_flight") == 1);
        let gates = || node.metric("chanrpc_function_in_flight{function=\"gate\",provider=\"exec\"}");
        eventually("their programs have ended", || gates() == 1);
        eventually("its connections are gone", || node.metric("chanrpc_connections") == 2);
    });
}

#[test]
fn connecting_and_disconnecting_500_times() {
    beside_a_witness("", |node, witness| {
        for n in 0..500 {
            let stream = TcpStream::connect(node.address()).unwrap();
            if n % 2 == 0 {
                std::io::Write::write_all(&mut &stream, b"{\"jsonrpc\"").unwrap();
            }
            drop(stream);
            if n % 100 == 0 {
                witness.check();
            }
        }
        eventually("all came", || node.metric("chanrpc_connections_accepted_total") >= 500);
        eventually("all are gone", || node.metric("chanrpc_connections") == 2);
    });
}

#[test]
fn tls_hello_is_rejected() {
    beside_a_witness("", |node, _| {
        let mut client = node.connect();
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
        client.rest();
        let mut client = node.connect();
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.rest();
        eventually("both are counted", || node.metric("chanrpc_foreign_dialects_total") == 2);
    });
}

#[test]
fn connections_above_the_limit_are_rejected() {
    let node = node("connections = 2");
    let (mut first, mut second) = (node.connect(), node.connect());
    assert_alive(&mut first);
    assert_alive(&mut second);
    let mut third = node.connect();
    assert_eq!(third.rest(), b"");
    let turned_away = first.call("rpc.stats", &json!({})).unwrap()["node"]["turned_away"].clone();
    assert_eq!(turned_away, 1);
    assert_alive(&mut first);
    drop(second);
    await_some("there is room again", || {
        let mut third = node.connect();
        let _ = third.try_send(request(1, "rpc.ping", &json!([])) + "\n");
        third.line().filter(|line| line.contains("pong"))
    });
    assert_alive(&mut first);
}

/// Prevents one host from exhausting all connections. By default this machine's own connections do not count.
#[test]
fn connections_above_the_limit_per_host_are_rejected() {
    let node = node("connections = 10\nper_host = 2");
    let (mut first, second) = (node.connect(), node.connect());
    assert_alive(&mut first);
    assert_eq!(node.connect().rest(), b"");
    drop(second);
    await_some("there is room again", || {
        let mut third = node.connect();
        let _ = third.try_send(request(1, "rpc.ping", &json!([])) + "\n");
        third.line().filter(|line| line.contains("pong"))
    });
    let turned_away = first.call("rpc.stats", &json!({})).unwrap()["node"]["turned_away"].clone();
    assert!(turned_away.as_u64() >= Some(1), "{turned_away}");

    let limits = Limits::default().connections(100);
    let of = |host: &str| limits.per_host_limit(host.parse().unwrap());
    assert_eq!(
        (of("192.0.2.1"), of("2001:db8::1"), of("127.0.0.1"), of("::1")),
        (75, 75, usize::MAX, usize::MAX)
    );
}

#[test]
fn calls_above_the_limit_in_flight_wait() {
    for in_a_batch in [false, true] {
        let config = format!("limits.in_flight = 2\n{}", program_of("turn", "turn", "concurrency = 10"));
        let node = Node::with(Folder::new(), &config);
        let order =
            || node.folder.read("order").unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        let mut client = node.connect();
        let calls =
            ["one", "two", "three"].map(|name| request(name, "turn", &json!([node.folder.name(name)])));
        client.send(if in_a_batch { format!("[{}]\n", calls.join(",")) } else { calls.join("\n") + "\n" });
        eventually("two have begun", || order().len() == 2);
        assert_eq!(node.metric("chanrpc_calls_in_flight"), 2);
        assert_eq!(node.metric("chanrpc_calls_total"), 3);
        node.folder.write("two", "");
        eventually("the third has begun", || order().len() == 4);
        assert_eq!(order()[2..], ["end two", "begin three"]);
        node.folder.write("one", "");
        node.folder.write("three", "");
        let replies = match in_a_batch {
            true => client.reply().as_array().unwrap().clone(),
            false => vec![client.reply(), client.reply(), client.reply()],
        };
        let mut ids: Vec<_> = replies.iter().map(|reply| reply["id"].as_str().unwrap()).collect();
        assert_eq!(ids[0], "two");
        ids.sort_unstable();
        assert_eq!(ids, ["one", "three", "two"]);
    }
}

#[test]
fn peer_disconnecting_with_all_slots_in_flight() {
    let node = programs("limits.in_flight = 1\n".to_owned() + &endless(""));
    let mut client = node.connect();
    // Answered before the next starts; unread, it makes the system send a reset.
    client.begin(1, "rpc.ping", &json!([]));
    client.begin(2, "endless", &json!([node.folder.name("state")]));
    await_begin(&node.folder, "state");
    assert_eq!(client.stream().peek(&mut [0]).unwrap(), 1);
    drop(client);
    assert_ends(&node.folder, "state");
}

#[test]
fn flood_of_notifications_is_handled() {
    let node = Node::demo();
    let notify =
        |method, params: Value| json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string();
    let mut client = node.connect();
    let counts = scale(5000);
    let flood: String = (0..4 * counts)
        .map(|n| match n % 4 {
            0 => notify("demo.count", json!([])) + "\n",
            1 => notify("no.such", json!([])) + "\n",
            2 => notify("demo.add", json!(["x"])) + "\n",
            _ => notify("rpc.echo", json!([n])) + "\n",
        })
        .collect();
    client.send(flood);
    // None is answered, and each has run.
    assert_eq!(client.call("demo.count", &json!([0])), Ok(json!(counts)));
    let batch = format!("[{}]", vec![notify("demo.count", json!([])); 100].join(","));
    client.send(format!("{batch}\n{batch}\n"));
    assert_eq!(client.call("demo.count", &json!([0])), Ok(json!(counts + 200)));
}

#[test]
fn unsolicited_replies_are_ignored() {
    beside_a_witness("", |node, _| {
        let mut client = node.connect();
        for line in [
            r#"{"jsonrpc":"2.0","result":1,"id":1}"#,
            r#"{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":1}"#,
            r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":99}}"#,
        ] {
            client.send(format!("{line}\n"));
        }
        assert_alive(&mut client);
    });
}

/// Ends a flood even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Unread pongs must not accumulate: the node stops reading pings.
#[test]
fn node_stops_reading_a_websocket_that_pings_without_reading() {
    let node = Node::with(Folder::new(), "limits.stall_timeout = '1h'\n");
    let client = websocket(&node);
    let stream = client.stream();
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let pings = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat().repeat(1000);
    let mut written = 0;
    while written < 128 * MIB {
        match std::io::Write::write(&mut &*stream, &pings) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    assert!(written < 128 * MIB, "the node takes in ping after ping");
    assert_alive(&mut node.connect());
}

/// Frames without a reply must not monopolise the node either.
#[test]
fn flooding_websocket_does_not_starve_others() {
    let unfinished = [0x01, 0x80, 0, 0, 0, 0];
    for flood in [[0x8a, 0x80, 0, 0, 0, 0], [0x00, 0x80, 0, 0, 0, 0], [0x89, 0x80, 0, 0, 0, 0]] {
        beside_a_witness("", |node, witness| {
            let frames = flood.repeat(10_000);
            let stopped = AtomicBool::new(false);
            let mut client = websocket(node);
            client.send(unfinished);
            let stream = client.stream().try_clone().unwrap();
            let reader = client.stream().try_clone().unwrap();
            thread::scope(|scope| {
                let stop = Stop(&stopped);
                scope.spawn(move || std::io::copy(&mut &reader, &mut std::io::sink()));
                scope.spawn(|| {
                    let mut taken = true;
                    while taken && !stopped.load(Ordering::Relaxed) {
                        taken = std::io::Write::write_all(&mut &stream, &frames).is_ok();
                    }
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
                witness.check();
                assert_alive(&mut node.connect());
                drop(stop);
            });
        });
    }
}

#[test]
fn flooding_connection_does_not_starve_others() {
    beside_a_witness("", |node, witness| {
        let chunk = (request(1, "rpc.ping", &json!([])) + "\n").repeat(1000);
        let stopped = AtomicBool::new(false);
        let mut client = node.connect();
        let reader = client.stream().try_clone().unwrap();
        thread::scope(|scope| {
            let stop = Stop(&stopped);
            scope.spawn(move || std::io::copy(&mut &reader, &mut std::io::sink()));
            let flooding = scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    client.send(&chunk);
                }
                client.end();
            });
            for _ in 0..3 {
                witness.check();
                assert_alive(&mut node.connect());
            }
            assert!(!flooding.is_finished());
            drop(stop);
        });
    });
}

// HTTP.

#[test]
fn http_body_too_large_is_rejected() {
    beside_a_witness("", |node, witness| {
        let body = request(1, "rpc.echo", &json!(["x".repeat(2 * MIB)]));
        let chunked = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        for message in [post(&body), chunked] {
            let mut client = node.connect();
            // The node may reply and close the connection before everything is sent.
            let _ = client.try_send(message);
            let reply = client.http();
            assert_eq!(reply.status, 413, "{reply:?}");
            assert_eq!(fault(&reply.json()).code, -32007, "{reply:?}");
            client.rest();
            witness.check();
        }
    });
}

#[test]
fn http_content_length_that_is_wrong() {
    beside_a_witness("", |node, witness| {
        let body = request(1, "rpc.ping", &json!([]));
        let head =
            |length: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        // Shorter than the body: the body is truncated, and the rest is not valid HTTP.
        let mut client = node.connect();
        client.send(head("10") + &body);
        assert_fault(&client.http().json(), &json!(null), -32700);
        assert!(client.try_http().is_none_or(|reply| reply.status == 400));
        client.rest();
        // Longer: the rest never arrives.
        let mut client = node.connect();
        client.send(head("1000") + &body);
        client.end();
        assert!(client.try_http().is_none_or(|reply| reply.status == 400));
        client.rest();
        // A missing length means zero.
        let mut client = node.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n{body}"));
        assert_fault(&client.http().json(), &json!(null), -32700);
        client.end();
        client.rest();
        for length in ["ten", "-1", "99999999999999999999999", "5, 6", "5\r\nContent-Length: 6"] {
            let mut client = node.connect();
            client.send(head(length) + &body);
            assert_eq!(client.http().status, 400, "{length}");
            client.rest();
            witness.check();
        }
    });
}

#[test]
fn http_body_that_never_arrives_times_out() {
    let node = node("stall_timeout = '300ms'");
    let mut client = node.connect();
    client.set_limit(BELOW_DEFAULT);
    client.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{");
    assert_eq!(client.http().status, 408);
    client.rest();
    assert_alive(&mut node.connect());
}

#[test]
fn invalid_http_chunks_are_rejected() {
    beside_a_witness("", |node, witness| {
        let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let good = request(1, "rpc.ping", &json!([]));
        let mut client = node.connect();
        client.send(format!("{head}{:x}\r\n{good}\r\n0\r\n\r\n", good.len()));
        assert_eq!(client.http().json()["result"], "pong");
        for chunks in [
            "zz\r\n{}\r\n",
            "-5\r\n{}\r\n",
            "ffffffffffffffffff\r\n{}\r\n",
            "2\r\n{}xx\r\n0\r\n\r\n",
            "\r\n\r\n",
        ] {
            let mut client = node.connect();
            client.send(format!("{head}{chunks}"));
            assert!(client.try_http().is_none_or(|reply| reply.status == 400), "{chunks:?}");
            client.end();
            client.rest();
            witness.check();
        }
    });
}

#[test]
fn invalid_http_heads_are_rejected() {
    beside_a_witness("", |node, witness| {
        let many = "x: y\r\n".repeat(1000);
        let long = format!("x: {}\r\n", "y".repeat(100_000));
        for head in [
            "GET\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET /\0 HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET /healthz HTTP/1.1\r\n: nameless\r\n\r\n",
            &format!("GET /healthz HTTP/1.1\r\n{many}\r\n"),
            &format!("GET /healthz HTTP/1.1\r\n{long}\r\n"),
            &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)),
        ] {
            let mut client = node.connect();
            let _ = client.try_send(head);
            client.end();
            let start: String = head.chars().take(60).collect();
            assert!(client.try_http().is_none_or(|reply| (400..500).contains(&reply.status)), "{start}");
            client.rest();
            witness.check();
        }
    });
}

#[test]
fn hundred_pipelined_http_requests_are_answered() {
    beside_a_witness("", |node, _| {
        let mut client = node.connect();
        let requests: String = (0..100).map(|id| post(&request(id, "rpc.echo", &json!([id])))).collect();
        client.send(requests);
        for id in 0..100 {
            let reply = client.http();
            assert_eq!((reply.status, &reply.json()["id"]), (200, &json!(id)), "{reply:?}");
        }
    });
}

#[test]
fn http_peer_disconnecting_during_a_call() {
    let node = programs(endless("") + &gate(""));
    let mut witness = Witness::new(&node);
    let mut client = node.connect();
    // The unread first response makes the system send a reset.
    client.send(post(&request(1, "rpc.ping", &json!([]))));
    client.send(post(&request(2, "endless", &json!([node.folder.name("state")]))));
    await_begin(&node.folder, "state");
    assert_eq!(client.stream().peek(&mut [0]).unwrap(), 1);
    drop(client);
    assert_ends(&node.folder, "state");
    witness.check();
    witness.finish(&node);
}

// WebSocket.

/// Opens a WebSocket connection.
pub(super) fn websocket(node: &Node) -> Client {
    let mut client = node.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let HttpReply { status, head, .. } = client.http();
    assert!(status == 101 && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    client
}

/// Returns a client's frame, with a mask of zeros.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[test]
fn invalid_websocket_frames_are_rejected() {
    beside_a_witness("", |node, witness| {
        let too_long = frame(1, "x".repeat(2 * MIB).as_bytes());
        let mut endless = vec![0x81, 0xff];
        endless.extend([0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        for (bytes, close) in [
            (frame(1, b"\xff\xfe"), 1007_u16),
            (vec![0x81, 0x02, b'{', b'}'], 1002),
            (frame(3, b"reserved"), 1002),
            (vec![0xf1, 0x80, 0, 0, 0, 0], 1002),
            (frame(0, b"continues nothing"), 1002),
            (too_long, 1009),
            (endless, 1009),
        ] {
            let mut client = websocket(node);
            let _ = client.try_send(&bytes);
            client.end();
            let rest = client.rest();
            // A close frame with the reason.
            assert_eq!(rest.first(), Some(&0x88), "{close}: {rest:?}");
            assert_eq!(rest.get(2..4), Some(&close.to_be_bytes()[..]), "{rest:?}");
            witness.check();
        }
        let mut client = websocket(node);
        client.send(frame(1, b"no JSON"));
        client.send(frame(9, b"still there?"));
        client.send(frame(8, &1000_u16.to_be_bytes()));
        let rest = client.rest();
        assert!(String::from_utf8_lossy(&rest).contains("-32700"), "{rest:?}");
        assert!(rest.windows(14).any(|bytes| bytes == b"\x8a\x0cstill there?"), "{rest:?}");
    });
}

#[test]
fn closing_websocket_gets_its_replies_and_a_close_frame() {
    let node = node("");
    let ping = request(1, "rpc.ping", &json!([]));
    let goodbye = frame(8, &1000_u16.to_be_bytes());
    let answer = br#"{"jsonrpc":"2.0","id":1,"result":"pong"}"#;
    let answer = [&[0x81, u8::try_from(answer.len()).unwrap()], &answer[..]].concat();
    for calls in [0, 1, 3] {
        let mut client = websocket(&node);
        // Sent together, so that nothing else flushes the replies before the close arrives.
        client.send([frame(1, ping.as_bytes()).repeat(calls), goodbye.clone()].concat());
        assert_eq!(client.rest(), [answer.repeat(calls), vec![0x88, 2, 3, 232]].concat());
    }
}

// Programs.

/// A node with the functions of `config`. Its own deadline ends no call that something else should end.
fn scripts(config: impl FnOnce(&Folder) -> String) -> Node {
    let folder = Folder::new();
    let config = format!("limits.deadline = '1h'\n{}", config(&folder));
    Node::with(folder, &config)
}

/// The same for functions that need no folder.
fn programs(config: impl AsRef<str>) -> Node {
    scripts(|_| config.as_ref().to_owned())
}

/// Calls with additional members in the request.
#[track_caller]
fn ask_with(client: &mut Client, method: &str, params: &Value, meta: &Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params, "meta": meta });
    client.ask(request.to_string())
}

#[test]
fn program_ignoring_sigterm_ends_at_its_timeout() {
    let node = scripts(|folder| folder.stubborn("timeout = '300ms'"));
    let mut client = node.connect();
    let failed = client.call("stubborn", &json!([node.folder.name("ids")])).unwrap_err();
    assert_eq!(failed.code, -32003, "{failed:?}");
    for id in node.folder.await_words("ids") {
        eventually("the program has ended", || is_gone(&id));
    }
    assert_alive(&mut client);
}

#[test]
fn program_ends_at_its_timeout() {
    let node = programs(endless("timeout = '1s'"));
    let mut client = node.connect();
    let failed = client.call("endless", &json!([node.folder.name("state")])).unwrap_err();
    assert_eq!(failed.code, -32003, "{failed:?}");
    assert_ends(&node.folder, "state");
    assert_alive(&mut client);
}

#[test]
fn program_ends_at_its_callers_deadline() {
    let node = programs(endless(""));
    let mut client = node.connect();
    let reply = ask_with(
        &mut client,
        "endless",
        &json!([node.folder.name("state")]),
        &json!({ "deadline_ms": 1000 }),
    );
    assert_fault(&reply, &json!(1), -32003);
    assert_ends(&node.folder, "state");
    assert_alive(&mut client);
}

#[test]
fn late_function_is_cancelled_at_its_callers_deadline() {
    let node = Node::demo();
    let mut client = node.connect();
    let reply = ask_with(&mut client, "demo.sleep", &json!([3000]), &json!({ "deadline_ms": 200 }));
    assert_fault(&reply, &json!(1), -32003);
    assert_eq!(node.metric("chanrpc_calls_deadline_total"), 1);
    assert_eq!(node.metric("chanrpc_calls_in_flight"), 0);
    assert_alive(&mut client);
}

#[test]
fn program_ends_when_its_call_is_cancelled() {
    let node = programs(endless(""));
    let mut client = node.connect();
    client.begin(5, "endless", &json!([node.folder.name("state")]));
    await_begin(&node.folder, "state");
    let cancel = |id: Value| {
        json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": id } }).to_string() + "\n"
    };
    // A different id that looks similar.
    client.send(cancel(json!("5")));
    assert_alive(&mut client);
    client.send(cancel(json!(5)));
    assert_fault(&client.reply(), &json!(5), -32800);
    assert_ends(&node.folder, "state");
    // A second cancel has no effect.
    client.send(cancel(json!(5)));
    assert_alive(&mut client);
}

#[test]
fn program_ends_when_its_caller_disconnects() {
    let node = programs(endless(""));
    let mut client = node.connect();
    client.begin(1, "endless", &json!([node.folder.name("state")]));
    await_begin(&node.folder, "state");
    client.reset();
    assert_ends(&node.folder, "state");
}

#[test]
fn program_of_a_notification_keeps_running() {
    let node = programs(program_of("outlast", "outlast", ""));
    let mut client = node.connect();
    let params = json!([node.folder.name("file")]);
    client.send(json!({ "jsonrpc": "2.0", "method": "outlast", "params": params }).to_string() + "\n");
    assert_alive(&mut client);
    client.reset();
    eventually("the connection is gone", || node.metric("chanrpc_connections") == 1);
    node.folder.write("file", "");
    assert_eq!(node.folder.await_words("file.done"), ["done"]);
}

#[test]
fn program_printing_100_mb_takes_no_memory_of_the_node() {
    let folder = Folder::new();
    let config = "[[function]]\nname = 'big'\nexec = ['head', '-c', '100000000', '/dev/zero']
[[function]]\nname = 'endless'\nexec = ['yes']\n"
        .to_owned()
        + &folder.script("chatty", "head -c 100000000 /dev/zero >&2; echo done", "")
        + &gate("");
    let node = Node::with(folder, &config);
    let mut witness = Witness::new(&node);
    let mut client = node.connect();
    node.assert_growth_below(24, || {
        for name in ["big", "endless"] {
            assert_eq!(client.call(name, &json!([])).unwrap_err().code, -32008, "{name}");
            witness.check();
        }
        assert_eq!(client.call("chatty", &json!([])), Ok(json!("done")));
    });
    witness.finish(&node);
}

#[test]
fn error_data_describes_how_a_program_failed() {
    let node = scripts(|folder| {
        folder.script("fail", "echo out; echo why >&2; exit 3", "")
            + &folder.script("talk", "yes | head -c 100000 >&2; echo the end >&2; exit 4", "")
            + &folder.script("kill", "echo last words >&2; kill -s KILL $$", "")
            + &folder.script("prose", "echo so-so", "output = \"json\"")
            + &folder.script("two", "echo 1; echo 2", "output = \"json\"")
            + &folder.script("nothing", "", "output = \"json\"")
    });
    let mut client = node.connect();
    let mut failed = |name| {
        let failed = client.call(name, &json!([])).unwrap_err();
        assert_eq!(failed.code, -32013, "{failed:?}");
        failed
    };
    assert_eq!(failed("fail").data, json!({ "exit": 3, "signal": null, "stderr": "why" }));
    assert_eq!(failed("kill").data, json!({ "exit": null, "signal": 9, "stderr": "last words" }));
    let talk = failed("talk").data;
    let tail = talk["stderr"].as_str().unwrap();
    assert!(tail.len() <= 2048 && tail.ends_with("y\nthe end") && talk["exit"] == 4, "{talk}");
    for name in ["prose", "two", "nothing"] {
        let failed = failed(name);
        assert!(failed.message.contains("JSON"), "{failed:?}");
        assert_eq!(failed.data["exit"], 0, "{failed:?}");
    }
}

#[test]
fn one_call_runs_one_waits_and_the_third_is_rejected() {
    let node = programs(gate("concurrency = 1\nqueue = 1"));
    let mut client = node.connect();
    let params = json!([node.folder.name("open")]);
    client.send((1..=3).map(|id| request(id, "gate", &params) + "\n").collect::<String>());
    assert_fault(&client.reply(), &json!(3), -32009);
    // The slot of a cancelled call is free again.
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":2}}\n");
    assert_fault(&client.reply(), &json!(2), -32800);
    let running = || node.metric("chanrpc_function_in_flight{function=\"gate\",provider=\"exec\"}");
    eventually("the second has given its place up", || running() == 1);
    client.begin(4, "gate", &params);
    client.begin(5, "gate", &params);
    assert_fault(&client.reply(), &json!(5), -32009);
    node.folder.write("open", "");
    for id in [1, 4] {
        let reply = client.reply();
        assert_eq!((&reply["id"], &reply["result"]), (&json!(id), &json!("opened")), "{reply}");
    }
    assert_eq!(node.metric("chanrpc_function_busy_total{function=\"gate\",provider=\"exec\"}"), 2);
}

#[test]
fn parameters_are_validated_before_a_program_starts() {
    let text = "params = { text = 'string' }";
    let config = [
        program(
            "show",
            "echo",
            &["{text}", "n={count}", "{ratio}", "{flag}"],
            "params = { text = 'string', count = 'integer', ratio = 'number', flag = 'boolean' }",
        ),
        program("after", "echo", &["--", "{0}"], text),
        program(
            "may",
            "echo",
            &["--", "{text}"],
            "params = { text = { type = 'string', leading_dash = true } }",
        ),
        program(
            "default",
            "echo",
            &["--", "{by}", "{text}"],
            "params = { by = { type = 'integer', default = -1 }, text = { type = 'string', default = '-n' } }",
        ),
        program("within", "echo", &["x={text}"], text),
        program("free", "echo", &["--params", "-"], ""),
        program("stdin", "echo", &["--params", "-"], "params = { text = 'string', count = 'integer' }"),
    ];
    let node = Node::with(Folder::new(), &config.concat());
    let mut client = node.connect();
    let mut call = |name: &str, params: Value| client.call(name, &params).map_err(|fault| fault.code);
    for (params, shown) in [
        (json!(["a b", 1, 1.5, true]), json!(["a b", "n=1", 1.5, true])),
        (json!({ "flag": false, "ratio": 1, "count": -2, "text": "" }), json!(["", "n=-2", 1, false])),
        (
            json!(["$(id) `id` %PATH% ; | > & * ~ \\ \\\" \" ' {count}", 0, 0, false]),
            json!(["$(id) `id` %PATH% ; | > & * ~ \\ \\\" \" ' {count}", "n=0", 0, false]),
        ),
        (json!(["é\n", 1, 1e3, true]), json!(["é\n", "n=1", 1000.0, true])),
    ] {
        assert_eq!(call("show", params.clone()), Ok(shown), "{params}");
    }
    for refused in [
        json!([1, 1, 1.5, true]),
        json!([null, 1, 1.5, true]),
        json!([["a"], 1, 1.5, true]),
        json!(["a", 1.5, 1.5, true]),
        json!(["a", "1", 1.5, true]),
        json!(["a", 1, "1.5", true]),
        json!(["a", 1, 1.5, "true"]),
        json!(["a", 1, 1.5, 1]),
        json!(["a", 1, 1.5]),
        json!(["a", 1, 1.5, true, 0]),
        json!([]),
        json!({}),
        json!({ "text": "a", "count": 1, "ratio": 1 }),
        json!({ "text": "a", "count": 1, "ratio": 1, "flag": true, "shell": true }),
        json!(["-n", 1, 1.5, true]),
        json!(["--help", 1, 1.5, true]),
        json!(["-", 1, 1.5, true]),
        json!(["a", 1, -1.5, true]),
        json!(["a", 1, -0.0, true]),
        json!(["a\u{0}b", 1, 1.5, true]),
    ] {
        assert_eq!(call("show", refused.clone()), Err(-32602), "{refused}");
    }
    // Only some programs treat arguments after "--" as non-options.
    assert_eq!(call("after", json!(["-n"])), Err(-32602));
    assert_eq!(call("may", json!(["-n"])), Ok(json!(["-n"])));
    assert_eq!(call("default", json!([])), Ok(json!([-1, "-n"])));
    assert_eq!(call("default", json!([1, "x"])), Ok(json!([1, "x"])));
    assert_eq!(call("default", json!([-2])), Err(-32602));
    assert_eq!(call("default", json!({ "text": "-e" })), Err(-32602));
    assert_eq!(call("within", json!(["-n"])), Ok(json!(["x=-n"])));
    // No parameter is declared, so none reaches the arguments; stdin gets all.
    assert_eq!(call("free", json!([1, "-rf"])), Ok(json!([1, "-rf"])));
    assert_eq!(call("stdin", json!(["a", 1])), Ok(json!({ "text": "a", "count": 1 })));
    assert_fault(&client.ask(r#"{"jsonrpc":"2.0","method":"show","id":7}"#), &json!(7), -32602);
}

// The log.

#[test]
fn node_without_stderr_keeps_running() {
    assert_goes_on(&Stderr::Broken);
}

#[test]
fn node_without_stderr_keeps_running_and_stops() {
    for stderr in [Stderr::Closed, Stderr::Broken] {
        let mut node = assert_goes_on(&stderr);
        node.signal("TERM");
        assert_eq!(node.wait(), Some(0));
    }
}

fn assert_goes_on(stderr: &Stderr) -> Node {
    let node = Node::launch(Folder::new(), None, &["--log", "trace"], stderr);
    for _ in 0..20 {
        assert_eq!(node.connect().call("demo.panic", &json!([])).unwrap_err().code, -32603);
        assert_fault(&node.connect().ask("nonsense"), &json!(null), -32700);
    }
    assert_eq!(node.connect().call("demo.add", &json!([1, 2])), Ok(json!(3)));
    node
}

#[test]
fn node_with_unread_stderr_keeps_running() {
    let node = Node::launch(Folder::new(), None, &["--log", "trace"], &Stderr::Stuck);
    let mut client = websocket(&node);
    // At this level the WebSocket library alone logs several lines per message.
    let ping = frame(1, request(1, "rpc.ping", &json!([])).as_bytes());
    let pong = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"pong\"}";
    for _ in 0..1000 {
        client.send(&ping);
        assert_eq!(client.take(2 + pong.len())[2..], *pong);
    }
    for _ in 0..20 {
        assert_eq!(node.connect().call("demo.panic", &json!([])).unwrap_err().code, -32603);
    }
    assert_eq!(node.connect().call("demo.add", &json!([1, 2])), Ok(json!(3)));
    assert!(node.unread().len() >= 4096, "the pipe was not full, which shows nothing");
}

#[test]
fn node_with_unread_stderr_stops() {
    let mut node = Node::launch(Folder::new(), None, &["--log", "trace"], &Stderr::Stuck);
    let mut client = websocket(&node);
    for _ in 0..2000 {
        client.send(frame(9, b"ping"));
        assert_eq!(client.take(6), b"\x8a\x04ping");
    }
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    assert!(node.unread().len() >= 4096, "the pipe was not full, which shows nothing");
}

// Other nodes.

/// Three nodes: a forwards to b, and b to c, which has the functions.
struct Chain {
    a: Node,
    b: Node,
    c: Node,
}

impl Chain {
    fn new() -> Self {
        let c = Self::last();
        let b = Self::link("b", &c.address().to_string());
        let a = Self::link("a", &b.address().to_string());
        Self { a, b, c }
    }

    fn last() -> Node {
        let functions = [
            gate("concurrency = 100"),
            endless("concurrency = 8"),
            program("fail", "fail", &["why"], ""),
            program_of("note", "note", ""),
            program("deep.show", "echo", &["--params", "-"], ""),
        ];
        programs("name = 'c'\n".to_owned() + &functions.concat())
    }

    fn link(name: &str, to: &str) -> Node {
        let forwards = ["gate", "endless", "fail", "note", "deep.*"]
            .map(|function| format!("[[function]]\nname = '{function}'\nforward = '{to}'\n"));
        Node::with(Folder::new(), &format!("name = '{name}'\n{}", forwards.concat()))
    }

    fn file(&self, name: &str) -> Value {
        json!([self.c.folder.name(name)])
    }
}

#[test]
fn call_is_forwarded_through_two_nodes() {
    let chain = Chain::new();
    let mut client = chain.a.connect();
    let params = json!({ "a": [1.0, "é\n", null] });
    assert_eq!(client.call("deep.show", &params), Ok(params));
    assert_eq!(chain.a.run("call", &["deep.show", "1"]).result(), "[1]");
    // In go mode as well.
    assert_eq!(chain.a.run("go", &["note", &chain.c.folder.name("note")]).code, Some(0));
    assert_eq!(chain.c.folder.await_words("note"), ["noted"]);
    // A whole family is forwarded, including unknown names.
    let unknown = client.call("deep.none", &json!([])).unwrap_err();
    assert_eq!((unknown.code, &unknown.data["via"]), (-32601, &json!(["a", "b"])), "{unknown:?}");
    assert_eq!(client.call("deep", &json!([])).unwrap_err().data, json!(null));
    chain.a.run("call", &["deep.none"]).failed(3);
}

#[test]
fn error_names_the_path_of_the_call() {
    let chain = Chain::new();
    let failed = chain.a.connect().call("fail", &json!([])).unwrap_err();
    assert_eq!(failed.code, -32013, "{failed:?}");
    let stderr = failed.data["stderr"].as_str().unwrap();
    assert!(stderr.contains("why"), "{failed:?}");
    assert_eq!(failed.data, json!({ "exit": 1, "signal": null, "stderr": stderr, "via": ["a", "b"] }));
    assert!(chain.a.run("call", &["fail"]).failed(1).contains(r#""via":["a","b"]"#));
    let failed = chain.b.connect().call("fail", &json!([])).unwrap_err();
    assert_eq!(failed.data["via"], json!(["b"]));
}

#[test]
fn forwarded_calls_share_a_connection_without_blocking() {
    let chain = Chain::new();
    let mut slow = chain.a.connect();
    slow.begin("slow", "gate", &chain.file("open"));
    eventually("the slow call is at c", || chain.c.metric("chanrpc_calls_in_flight") == 1);
    let mut clients: Vec<_> = (0..8).map(|_| chain.a.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send((0..20).map(|id| request(id, "rpc.ping", &json!([n])) + "\n").collect::<String>());
        client.begin("deep", "deep.show", &json!([n]));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        for id in 0..20 {
            assert_eq!(client.reply()["id"], id);
        }
        let reply = client.reply();
        assert_eq!(outcome(&reply), Ok(json!([n])));
    }
    // One from b, and the one of this request.
    assert_eq!(chain.c.metric("chanrpc_connections"), 2);
    chain.c.folder.write("open", "");
    assert_eq!(slow.reply()["result"], "opened");
}

/// Forwarding must not block another connection, and forwarded calls share one connection.
#[test]
fn caller_with_many_slow_calls_delays_no_other() {
    let chain = Chain::new();
    let calls = scale(64);
    let mut slow = chain.a.connect();
    slow.send((0..calls).map(|id| request(id, "gate", &chain.file("open")) + "\n").collect::<String>());
    eventually("the slow calls are at c", || chain.c.metric("chanrpc_calls_in_flight") == u64::from(calls));
    let mut quick = chain.a.connect();
    let reply = ask_with(&mut quick, "deep.show", &json!([1]), &json!({ "deadline_ms": 5000 }));
    assert_eq!(outcome(&reply), Ok(json!([1])));
    chain.c.folder.write("open", "");
    for _ in 0..calls {
        assert_eq!(slow.reply()["result"], "opened");
    }
}

#[test]
fn deadline_and_hops_are_forwarded() {
    let told =
        fake_node(|request| json!({ "jsonrpc": "2.0", "id": request["id"], "result": request["meta"] }));
    let b = Chain::link("b", &told.to_string());
    let a = Chain::link("a", &b.address().to_string());
    let mut client = a.connect();
    let reply = ask_with(&mut client, "deep.show", &json!([]), &json!({ "deadline_ms": 20_000, "hops": 3 }));
    let meta = outcome(&reply).unwrap();
    assert_eq!(meta["hops"], 5, "{meta}");
    let left = meta["deadline_ms"].as_u64().unwrap();
    assert!((1..=20_000).contains(&left), "{meta}");
    // Without a deadline, the first node's own applies.
    let meta = client.call("deep.show", &json!([])).unwrap();
    assert_eq!(meta["hops"], 2, "{meta}");
    assert!((20_001..=30_000).contains(&meta["deadline_ms"].as_u64().unwrap()), "{meta}");
}

#[test]
fn deadline_ends_the_call_on_every_node() {
    let chain = Chain::new();
    let mut client = chain.a.connect();
    let reply = ask_with(&mut client, "endless", &chain.file("state"), &json!({ "deadline_ms": 1000 }));
    assert_fault(&reply, &json!(1), -32003);
    assert_ends(&chain.c.folder, "state");
    for node in [&chain.a, &chain.b, &chain.c] {
        eventually("the call has ended", || node.metric("chanrpc_calls_in_flight") == 0);
    }
    chain.a.run("call", &["--timeout", "0.3", "gate", &chain.c.folder.name("never")]).failed(4);
}

#[test]
fn cancelled_call_ends_on_every_node() {
    let chain = Chain::new();
    let mut client = chain.a.connect();
    client.begin(1, "endless", &chain.file("state"));
    await_begin(&chain.c.folder, "state");
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n");
    assert_fault(&client.reply(), &json!(1), -32800);
    assert_ends(&chain.c.folder, "state");
}

#[test]
fn call_of_a_disconnected_caller_ends_on_every_node() {
    let chain = Chain::new();
    let mut client = chain.a.connect();
    client.begin(1, "endless", &chain.file("state"));
    await_begin(&chain.c.folder, "state");
    client.reset();
    assert_ends(&chain.c.folder, "state");
}

#[test]
fn cycle_of_nodes_ends_at_the_hop_limit() {
    let (relay, back) = Relay::new();
    let link = |name: &str, to: &str| {
        let config =
            format!("name = '{name}'\nlimits.hops = 3\n[[function]]\nname = 'round'\nforward = '{to}'\n");
        Node::with(Folder::new(), &config)
    };
    let b = link("b", &back.to_string());
    let a = link("a", &b.address().to_string());
    relay.lead_to(a.address());
    // The connection back may still have to be opened.
    let failed = await_some("the cycle is closed", || {
        let failed = a.connect().call("round", &json!([])).unwrap_err();
        (!matches!(failed.code, -32001 | -32011)).then_some(failed)
    });
    assert_eq!((failed.code, &failed.data["via"]), (-32012, &json!(["a", "b", "a", "b"])), "{failed:?}");
    let failed = a.run("call", &["round"]);
    assert!(failed.failed(1).contains("-32012"), "{failed:?}");
    // A call with too many hops is not forwarded.
    let reply = ask_with(&mut a.connect(), "round", &json!([]), &json!({ "hops": 3 }));
    assert_eq!((fault(&reply).code, &fault(&reply).data["via"]), (-32012, &json!(["a"])));
    // The same for a notification, and nothing is left of it.
    a.run("go", &["round"]);
    for node in [&a, &b] {
        eventually("the call has ended", || node.metric("chanrpc_calls_in_flight") == 0);
    }
}

#[test]
fn killing_a_node_fails_its_calls_immediately() {
    let Chain { a, b, mut c } = Chain::new();
    let mut client = a.connect();
    client.begin(1, "gate", &json!([c.folder.name("never")]));
    eventually("the call is at c", || c.metric("chanrpc_calls_in_flight") == 1);
    c.kill();
    let reply = client.reply();
    // It was sent, so it may have run.
    assert_fault(&reply, &json!(1), -32011);
    assert_eq!(fault(&reply).data, json!({ "sent": true, "via": ["a", "b"] }), "{reply}");
    assert_eq!(a.metric("chanrpc_calls_lost_total"), 1);
    // The next call fails as fast, before its deadline, and has not been sent.
    let failed = client.call("gate", &json!(["x"])).unwrap_err();
    let data = json!({ "sent": false, "via": ["a", "b"] });
    assert_eq!((failed.code, &failed.data), (-32001, &data), "{failed:?}");
    assert_eq!(a.metric("chanrpc_calls_not_sent_total"), 1);
    let told = a.run("call", &["gate", "x"]);
    assert!(told.failed(3).contains("safe to repeat"), "{told:?}");
    assert_alive(&mut b.connect());
}

#[test]
fn restarted_node_is_reconnected() {
    let (relay, to_c) = Relay::new();
    let mut c = Chain::last();
    relay.lead_to(c.address());
    let b = Chain::link("b", &to_c.to_string());
    let a = Chain::link("a", &b.address().to_string());
    let mut client = a.connect();
    let mut call = || client.call("deep.show", &json!([7])).map_err(|fault| fault.code);
    assert_eq!(call(), Ok(json!([7])));
    for _ in 0..2 {
        c.kill();
        // Calls in flight when it was killed are lost; later ones were not sent.
        eventually("c is missed", || call() == Err(-32001));
        c = Chain::last();
        relay.lead_to(c.address());
        eventually("c is found again", || call() == Ok(json!([7])));
    }
}

#[test]
fn nodes_may_start_in_any_order() {
    let (relay, to_b) = Relay::new();
    let a = Chain::link("a", &to_b.to_string());
    let failed = a.connect().call("deep.show", &json!([7])).unwrap_err();
    // The relay accepts the connection and closes it, possibly during the call.
    assert!(matches!(failed.code, -32001 | -32011), "{failed:?}");
    assert_eq!(failed.data["via"], json!(["a"]), "{failed:?}");
    let c = Chain::last();
    let b = Chain::link("b", &c.address().to_string());
    relay.lead_to(b.address());
    let mut client = a.connect();
    eventually("the chain works", || client.call("deep.show", &json!([7])) == Ok(json!([7])));
}

#[test]
fn forward_to_a_server_with_invalid_replies() {
    let rude = crate::support::listen(|stream| {
        let mut first = [0; 512];
        while std::io::Read::read(&mut &stream, &mut first).is_ok_and(|count| count > 0) {
            // The call is the second request, after a ping.
            let noise = b"{\"jsonrpc\":\"2.0\",\"id\":2}\n\xff\xff\n[]\n{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":1}\n";
            let _ = std::io::Write::write_all(&mut &stream, noise);
        }
    });
    let a = Chain::link("a", &rude.to_string());
    let mut client = a.connect();
    let reply = ask_with(&mut client, "deep.show", &json!([]), &json!({ "deadline_ms": 30_000 }));
    assert_fault(&reply, &json!(1), -32603);
    assert_alive(&mut client);
    // A server that sends an endless reply.
    let endless =
        crate::support::listen(
            |stream| {
                while std::io::Write::write_all(&mut &stream, &[b'x'; 10_000]).is_ok() {}
            },
        );
    let a = Chain::link("a", &endless.to_string());
    let mut client = a.connect();
    a.assert_growth_below(16, || {
        eventually("it is given up", || {
            let reply = ask_with(&mut client, "deep.show", &json!([]), &json!({ "deadline_ms": 300 }));
            matches!(fault(&reply).code, -32001 | -32011)
        });
    });
    assert_alive(&mut client);
    assert_eq!(run(["call", "--to", &endless.to_string(), "--timeout", "60", "f"]).code, Some(3));
}
