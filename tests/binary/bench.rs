//! `chanrpc bench` against real nodes, and against servers that behave in ways that nodes do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::support::{Client, Ended, Node, Process, binary, eventually, fake_node, listen, run};

/// The measuring time of most runs, in seconds: short, but enough for every test.
const SHORT: &str = "0.2";

fn bench(address: SocketAddr, arguments: &[&str]) -> Ended {
    bench_for(SHORT, address, arguments)
}

fn bench_for(seconds: &str, address: SocketAddr, arguments: &[&str]) -> Ended {
    let address = address.to_string();
    let first = ["bench", "--to", &address, "--json", "--duration", seconds, "--warmup", "0"];
    run(first.iter().chain(arguments))
}

/// Returns the results of a run that ended with the given exit code.
#[track_caller]
fn figures(ended: &Ended, code: i32) -> Value {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

fn count(figures: &Value, name: &str) -> u64 {
    figures[name].as_u64().unwrap_or_else(|| panic!("{name} in {figures}"))
}

/// Asserts that the node has run as many calls of a function as `bench` reports.
#[track_caller]
fn assert_counted(node: &Node, function: &str, figures: &Value) {
    let stats = node.connect().call("rpc.stats", &json!([])).unwrap();
    let functions = stats["functions"].as_array().unwrap();
    let function = functions.iter().find(|stats| stats["name"] == function).unwrap();
    let (calls, errors) = (count(figures, "calls"), count(figures, "errors"));
    assert_eq!(count(figures, "unanswered"), 0, "{figures}");
    assert_eq!(function["num_requests"], calls + errors, "{figures}");
    assert_eq!(function["num_errors"], errors, "{figures}");
}

#[test]
fn closed_loop_counts_the_same_calls_as_the_node() {
    for dialect in ["lines", "http", "websocket"] {
        for (connections, in_flight, threads) in [("1", "1", "1"), ("1", "32", "1"), ("5", "8", "2")] {
            let node = Node::demo();
            let figures = figures(
                &bench(
                    node.address(),
                    &[
                        "--dialect",
                        dialect,
                        "--connections",
                        connections,
                        "--in-flight",
                        in_flight,
                        "--threads",
                        threads,
                        "demo.count",
                        "1",
                    ],
                ),
                0,
            );
            let calls = count(&figures, "calls");
            assert!(calls > 0, "{dialect}: {figures}");
            assert_counted(&node, "demo.count", &figures);
            let counted = node.connect().call("demo.count", &json!([0])).unwrap();
            assert_eq!(counted, calls, "{dialect}: {figures}");
            for (share, next) in [("p50", "p90"), ("p90", "p99"), ("p99", "p99.9"), ("p99.9", "max")] {
                let latency = |share: &str| figures["latency_us"][share].as_f64().unwrap();
                assert!(latency(share) > 0.0 && latency(share) <= latency(next), "{figures}");
            }
            assert_eq!((&figures["schedule"], &figures["lost_connections"]), (&Value::Null, &json!(0)));
        }
    }
}

#[test]
fn open_loop_makes_the_calls_that_are_due() {
    for dialect in ["lines", "http", "websocket"] {
        let node = Node::demo();
        let arguments = ["--dialect", dialect, "--connections", "3", "--rate", "500", "demo.count"];
        let figures = figures(&bench(node.address(), &arguments), 0);
        // 500 per second for 0.2 seconds, with enough slots.
        assert_eq!((count(&figures, "calls"), &figures["schedule"]["unsent"]), (100, &json!(0)), "{figures}");
        assert_counted(&node, "demo.count", &figures);
    }
}

#[test]
fn errors_are_counted_separately_and_determine_the_exit_code() {
    let node = Node::demo();
    for dialect in ["lines", "http", "websocket"] {
        let failed = bench(node.address(), &["--dialect", dialect, "demo.divide", "1", "0"]);
        let failed_figures = figures(&failed, 1);
        assert_eq!(count(&failed_figures, "calls"), 0);
        assert!(count(&failed_figures, "errors") > 0, "{failed:?}");
        assert!(failed.stderr.contains("must not be 0"), "{failed:?}");
        let absent = bench(node.address(), &["--dialect", dialect, "demo.nothing"]);
        assert!(count(&figures(&absent, 3), "errors") > 0, "{absent:?}");
    }
    // Some of each.
    let fickle = fake_node(|request| {
        let id = &request["id"];
        if id.as_u64().unwrap() / 2 % 2 == 0 {
            json!({ "jsonrpc": "2.0", "id": id, "result": 1 })
        } else {
            json!({ "jsonrpc": "2.0", "error": { "code": 7, "message": "odd" }, "id": id })
        }
    });
    let mixed = bench(fickle, &["--connections", "1", "--in-flight", "2"]);
    let figures = figures(&mixed, 0);
    let (calls, errors) = (count(&figures, "calls"), count(&figures, "errors"));
    assert!(calls > 0 && errors > 0 && calls.abs_diff(errors) <= 2, "{figures}");
    assert!(mixed.stderr.contains("odd"), "{mixed:?}");
}

#[test]
fn replies_may_arrive_out_of_order() {
    let address = listen(|stream| {
        let mut client = Client::new(stream);
        let ask = |client: &mut Client| serde_json::from_str::<Value>(&client.full_line()?).ok();
        while let Some(requests) = (0..4).map(|_| ask(&mut client)).collect::<Option<Vec<_>>>() {
            for request in requests.iter().rev() {
                // The members are in another order than nodes use, too.
                let answer =
                    format!("{{\"result\": [1], \"id\": {}, \"jsonrpc\": \"2.0\"}}\n", request["id"]);
                if client.try_send(answer).is_err() {
                    return;
                }
            }
        }
    });
    let figures = figures(&bench(address, &["--connections", "2", "--in-flight", "4"]), 0);
    assert!(count(&figures, "calls") >= 8, "{figures}");
    assert_eq!((count(&figures, "strays"), count(&figures, "errors")), (0, 0), "{figures}");
}

#[test]
fn content_length_framing_is_supported() {
    let address = listen(|stream| {
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = String::new();
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            let length: usize = head.strip_prefix("Content-Length: ").unwrap().trim().parse().unwrap();
            let mut rest = vec![0; 2 + length];
            reader.read_exact(&mut rest).unwrap();
            let request: Value = serde_json::from_slice(&rest[2..]).unwrap();
            assert_eq!((&request["method"], &request["params"]), (&json!("add"), &json!([2, "x"])));
            let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": 5 }).to_string();
            if write!(reader.get_mut(), "Content-Length: {}\r\n\r\n{answer}", answer.len()).is_err() {
                return;
            }
        }
    });
    let figures = figures(&bench(address, &["--dialect", "headers", "add", "2", "x"]), 0);
    assert!(count(&figures, "calls") > 0 && count(&figures, "errors") == 0, "{figures}");
}

#[test]
fn messagepack_rpc_is_supported() {
    let address = listen(|mut stream: TcpStream| {
        // [0, 4-byte id, "add", [2]]
        let mut request = [0; 13];
        while stream.read_exact(&mut request).is_ok() {
            assert_eq!((&request[..3], &request[7..]), (&b"\x94\x00\xce"[..], &b"\xa3add\x91\x02"[..]));
            // [1, id, nil, 5], and for some [1, id, "no", nil].
            let id = &request[3..7];
            let tail = if id[3] % 4 == 0 { &b"\xa2no\xc0"[..] } else { b"\xc0\x05" };
            if stream.write_all(&[b"\x94\x01\xce", id, tail].concat()).is_err() {
                return;
            }
        }
    });
    let figures = figures(&bench(address, &["--dialect", "msgpack", "add", "2"]), 0);
    assert!(count(&figures, "calls") > count(&figures, "errors"), "{figures}");
    assert!(count(&figures, "errors") > 0, "{figures}");
}

#[test]
fn token_is_presented_before_the_first_call() {
    let address = fake_node(|request| {
        let id = &request["id"];
        if request["method"] == "rpc.auth" && request["params"] != json!(["secret"]) {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32002, "message": "wrong token" } })
        } else {
            json!({ "jsonrpc": "2.0", "id": id, "result": true })
        }
    });
    assert!(count(&figures(&bench(address, &["--token", "secret"]), 0), "calls") > 0);
    let denied = bench(address, &["--token", "guessed"]);
    assert!(denied.failed(5).contains("wrong token"), "{denied:?}");
}

#[test]
fn server_dying_during_a_run_ends_it() {
    let address = listen(|stream| {
        let mut client = Client::new(stream);
        for _ in 0..10 {
            let Some(line) = client.full_line() else { return };
            let request: Value = serde_json::from_str(&line).unwrap();
            client.send(format!("{}\n", json!({ "jsonrpc": "2.0", "id": request["id"], "result": 1 })));
        }
    });
    for places in [["1", "1"], ["1", "2"], ["3", "1"]] {
        let arguments = ["--connections", places[0], "--in-flight", places[1]];
        let ended = bench_for("600", address, &arguments);
        let figures = figures(&ended, 3);
        assert_eq!(count(&figures, "calls"), 10 * places[0].parse::<u64>().unwrap(), "{figures}");
        assert_eq!(figures["lost_connections"].to_string(), places[0], "{figures}");
        assert!(ended.stderr.contains("connections ended early"), "{ended:?}");
    }
}

#[test]
fn server_without_replies_does_not_delay_the_end() {
    let address = listen(|mut stream: TcpStream| {
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    for (loops, unanswered, unsent) in
        [(&["--in-flight", "3"][..], 6, None), (&["--rate", "100", "--in-flight", "3"], 6, Some(14))]
    {
        let arguments = [&["--connections", "2"], loops].concat();
        let figures = figures(&bench(address, &arguments), 4);
        assert_eq!((count(&figures, "calls"), count(&figures, "unanswered")), (0, unanswered), "{figures}");
        assert_eq!(figures["schedule"]["unsent"].as_u64(), unsent, "{figures}");
        // They count with their age, so that the server does not appear fast.
        assert!(figures["latency_us"]["p50"].as_f64().unwrap() > 1e6, "{figures}");
    }
}

#[test]
fn invalid_reply_closes_the_connection() {
    let address = listen(|stream| {
        let mut client = Client::new(stream);
        while client.full_line().is_some() && client.try_send("\u{1}\u{2} what?\n").is_ok() {}
    });
    for connections in ["1", "3"] {
        let ended = bench_for("600", address, &["--connections", connections]);
        let figures = figures(&ended, 3);
        assert_eq!(figures["lost_connections"].to_string(), connections);
        assert!(ended.stderr.contains("not JSON-RPC"), "{ended:?}");
    }
    let web = bench(address, &["--dialect", "websocket", "--timeout", "1s"]);
    assert!(web.failed(3).contains(&address.to_string()), "{web:?}");
}

#[test]
fn default_output_is_a_table() {
    let node = Node::demo();
    let ended = node.run("bench", &["--duration", "0.2", "--warmup", "0.1"]);
    let table = ended.result();
    for word in
        ["rpc.ping at 127.0.0.1", "lines", "calls/s", "errors", "p50", "p99.9", "max", "slowest / median"]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert_eq!(ended.stderr, "");
}

#[test]
fn failures_have_their_exit_codes() {
    let dead = run(["bench", "--to", "127.0.0.1:1"]);
    assert!(dead.failed(3).contains("chanrpc serve"), "{dead:?}");
    for (arguments, told) in [
        (&["--dialect", "morse"][..], "lines, headers, msgpack"),
        (&["--connections", "0"], "connections must be at least 1"),
        (&["--in-flight", "0"], "must be at least 1"),
        (&["--threads", "0"], "threads must be from 1"),
        (&["--connections", "many"], "connections"),
        (&["--connections", "100000", "--in-flight", "100000"], "1,000,000"),
        (&["--rate", "0"], "rate"),
        (&["--rate", "nan"], "rate"),
        (&["--duration", "0"], "duration"),
        (&["--duration", "-1"], "duration"),
        (&["--duration", "1e300"], "duration"),
        (&["--warmup", "inf"], "warmup"),
        (&["--params", "3"], "--params"),
        (&["--params", "[1]", "f", "2"], "--params"),
        (&["--to", "here:there"], "--to"),
        (&["--token", "a b"], "token"),
    ] {
        let failed = run(["bench"].iter().chain(arguments));
        assert!(failed.failed(2).contains(told), "{arguments:?}: {failed:?}");
    }
}

#[test]
fn interrupt_prints_the_results_so_far() {
    for places in ["1", "4"] {
        let node = Node::demo();
        let mut command = binary();
        let address = node.address().to_string();
        command.args(["bench", "--to", &address, "--json", "--duration", "600", "--warmup", "0"]);
        command.args(["--connections", places, "--in-flight", places]);
        let process = Process::start(command);
        eventually("calls are made", || node.metric("chanrpc_calls_total") > 0);
        process.signal("INT");
        let figures = figures(&process.finish(), 130);
        assert_eq!(figures["interrupted"], true, "{figures}");
        assert!(figures["seconds"].as_f64().unwrap() < 600.0, "{figures}");
    }
}
