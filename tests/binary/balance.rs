//! Functions that several nodes provide.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Client, Folder, Node, eventually, fake_node, got, listen};

/// Starts a node that answers each call with its own name, and counts them.
fn named(name: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    let address = fake_node(move |request| {
        if request["method"] == "far" {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        json!({ "jsonrpc": "2.0", "id": request["id"], "result": name })
    });
    (address, count)
}

/// Starts a node that answers each call with an error.
fn failing(code: i64, data: Value) -> SocketAddr {
    fake_node(move |request| {
        let error = json!({ "code": code, "message": "no", "data": data });
        json!({ "jsonrpc": "2.0", "id": request["id"], "error": error })
    })
}

/// Starts a node that closes the connection when it is called.
fn losing() -> SocketAddr {
    listen(|stream: TcpStream| {
        let mut client = Client::new(stream.try_clone().unwrap());
        while client.full_line().is_some_and(|line| !line.contains("\"method\":\"far\"")) {
            client.send("{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":null}\n");
        }
        let _ = stream.shutdown(Shutdown::Both);
    })
}

/// Returns an address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn forwarding(to: &[SocketAddr], more: &str) -> Node {
    let to: Vec<_> = to.iter().map(ToString::to_string).collect();
    let config = format!("[[function]]\nname = 'far'\nforward = {to:?}\n{more}\n");
    Node::with(Folder::new(), &config)
}

#[test]
fn calls_pass_over_a_node_that_is_absent() {
    let ((a, by_a), (b, by_b)) = (named("a"), named("b"));
    let node = forwarding(&[nobody(), a, b], "balance = 'turns'");
    let mut client = node.connect();
    for _ in 0..50 {
        assert!(["a", "b"].map(Value::from).contains(&client.call("far", &json!([])).unwrap()));
    }
    let (a, b) = (by_a.load(Ordering::SeqCst), by_b.load(Ordering::SeqCst));
    assert_eq!(a + b, 50);
    assert!(a >= 10 && b >= 10, "{a} and {b}");
}

/// A node that refuses is quick, and so has the fewest calls in flight.
#[test]
fn node_that_refuses_is_passed_over() {
    for balance in ["first", "least", "turns"] {
        let (b, by_b) = named("b");
        let refusing = failing(-32001, json!({ "sent": false }));
        let node = forwarding(&[refusing, b], &format!("balance = '{balance}'"));
        let mut client = node.connect();
        for _ in 0..300 {
            assert_eq!(client.call("far", &json!([])).unwrap(), "b", "{balance}");
        }
        assert_eq!(by_b.load(Ordering::SeqCst), 300);
    }
}

#[test]
fn first_takes_all_while_it_is_there() {
    let ((a, by_a), (b, by_b)) = (named("a"), named("b"));
    let node = forwarding(&[a, b], "balance = 'first'");
    let mut client = node.connect();
    // Until it is connected, the other one may be asked.
    while client.call("far", &json!([])).unwrap() != "a" {}
    let before = by_b.load(Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(client.call("far", &json!([])).unwrap(), "a");
    }
    assert!(by_a.load(Ordering::SeqCst) >= 20);
    assert_eq!(by_b.load(Ordering::SeqCst), before);
}

#[test]
fn error_names_every_node_if_none_is_there() {
    let (a, b) = (nobody(), nobody());
    let node = forwarding(&[a, b], "");
    let fault = node.connect().call("far", &json!([])).unwrap_err();
    assert_eq!(fault.code, -32001, "{fault:?}");
    assert_eq!(fault.data["sent"], false);
    let mut to: Vec<_> =
        fault.data["targets"].as_array().unwrap().iter().map(|one| one["to"].clone()).collect();
    let mut expected = [a, b].map(|address| Value::from(address.to_string()));
    to.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(to, expected);
}

#[test]
fn call_that_was_not_run_is_tried_at_another_node() {
    for code in [-32009, -32014, -32001] {
        let (b, _) = named("b");
        let node = forwarding(&[failing(code, json!({ "sent": false })), b], "balance = 'first'");
        for _ in 0..5 {
            assert_eq!(node.connect().call("far", &json!([])).unwrap(), "b", "{code}");
        }
    }
}

/// It may have run: functions and other servers choose their codes.
#[test]
fn any_other_error_is_passed_on() {
    for code in [-32001, -32009, -32014, -32603, 7, -32003] {
        let (b, by_b) = named("b");
        let node = forwarding(&[failing(code, Value::Null), b], "balance = 'first'");
        let mut client = node.connect();
        while !matches!(client.call("far", &json!([])), Err(fault) if fault.code == code) {}
        let before = by_b.load(Ordering::SeqCst);
        assert_eq!(client.call("far", &json!([])).unwrap_err().code, code);
        assert_eq!(by_b.load(Ordering::SeqCst), before);
    }
}

#[test]
fn error_of_the_last_node_is_the_callers_if_all_are_busy() {
    let busy = || failing(-32009, json!({ "sent": false }));
    let node = forwarding(&[busy(), busy()], "");
    assert_eq!(node.connect().call("far", &json!([])).unwrap_err().code, -32009);
}

#[test]
fn lost_call_is_repeated_only_if_it_may_run_twice() {
    let (b, _) = named("b");
    let node = forwarding(&[losing(), b], "balance = 'first'\nrepeatable = true");
    for _ in 0..5 {
        assert_eq!(node.connect().call("far", &json!([])).unwrap(), "b");
    }
    let node = forwarding(&[losing(), b], "balance = 'first'");
    let mut client = node.connect();
    while client.call("far", &json!([])).is_ok() {}
    // A node that is lost again and again is also absent for a while.
    let fault = std::iter::repeat_with(|| client.call("far", &json!([]))).find_map(Result::err).unwrap();
    assert_eq!(fault.code, -32011, "{fault:?}");
}

#[test]
fn calls_with_the_same_key_go_to_the_same_node() {
    let ((a, _), (b, _)) = (named("a"), named("b"));
    let node = forwarding(&[a, b], "key = 'player'");
    let mut client = node.connect();
    let mut call = |player: u32| client.call("far", &json!({ "player": player })).unwrap();
    // Until both are connected, a key may be elsewhere.
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for player in 0..20 {
            let answer = call(player);
            if !seen.contains(&answer) {
                seen.push(answer);
            }
        }
    }
    let of_each: Vec<_> = (0..20).map(&mut call).collect();
    for _ in 0..3 {
        for player in 0..20 {
            assert_eq!(call(player), of_each[player as usize]);
        }
    }
    assert!(of_each.contains(&"a".into()) && of_each.contains(&"b".into()), "{of_each:?}");
}

/// Starts a node that answers pings until it is called, and nothing from then on: it is frozen.
fn freezing() -> SocketAddr {
    let is_frozen = Arc::<AtomicBool>::default();
    listen(move |stream: TcpStream| {
        let mut client = Client::new(stream);
        while let Some(line) = client.full_line() {
            // Blank lines are none.
            let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
            let is_called = request["method"] == "far";
            if is_frozen.fetch_or(is_called, Ordering::SeqCst) || is_called {
                continue;
            }
            let pong = json!({ "jsonrpc": "2.0", "id": request["id"], "result": "pong" });
            client.send(format!("{pong}\n"));
        }
    })
}

#[test]
fn frozen_node_costs_only_the_calls_that_it_has() {
    let (b, _) = named("b");
    let more = "balance = 'turns'\n[limits]\nforward_silence = '200ms'";
    let node = forwarding(&[freezing(), b], more);
    let mut client = node.connect();
    // Found out by a call that is lost, it is passed over from then on.
    while client.call("far", &json!([])).is_ok() {}
    for _ in 0..50 {
        assert_eq!(client.call("far", &json!([])).unwrap(), "b");
    }
}

/// Also without another node to ask.
#[test]
fn single_frozen_node_costs_only_the_calls_that_it_has() {
    let node = forwarding(&[freezing()], "[limits]\nforward_silence = '200ms'");
    let mut client = node.connect();
    assert_eq!(client.call("far", &json!([])).unwrap_err().code, -32011);
    for _ in 0..50 {
        assert_eq!(client.call("far", &json!([])).unwrap_err().code, -32001);
    }
}

/// More calls than a node takes at a time are no sign of life.
#[test]
fn frozen_node_is_found_out_under_load() {
    let (b, _) = named("b");
    let more = "balance = 'first'\n[limits]\nforward_silence = '200ms'\nin_flight = 2\ndeadline = '2s'";
    let node = forwarding(&[freezing(), b], more);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = node.connect();
                eventually("the other node answers", || client.call("far", &json!([])).is_ok());
            });
        }
    });
}

/// A server that answers one call at a time answers no ping meanwhile.
#[test]
fn server_that_is_slow_and_knows_no_ping_is_waited_for() {
    let (asked, asking) = mpsc::channel();
    let slow = fake_node(move |request| {
        if request["method"] == "rpc.ping" {
            let error = json!({ "code": -32601, "message": "no such method" });
            return json!({ "jsonrpc": "2.0", "id": request["id"], "error": error });
        }
        // Longer than the silence after which a node is taken for frozen.
        let _ = asked.send(());
        thread::sleep(Duration::from_millis(500));
        json!({ "jsonrpc": "2.0", "id": request["id"], "result": "slow" })
    });
    let node = forwarding(&[slow], "[limits]\nforward_silence = '50ms'");
    assert_eq!(node.connect().call("far", &json!([])).unwrap(), "slow");
    got(&asking);
}

/// The second node is asked, and the first one told that nobody waits any longer.
#[test]
fn slow_node_is_overtaken_by_another() {
    let (slow, told) = silent();
    let (b, by_b) = named("b");
    let node = forwarding(&[slow, b], "balance = 'first'\nrepeatable = true\nhedge = '20ms'");
    let mut client = node.connect();
    eventually("the slow node is asked first", || {
        assert_eq!(client.call("far", &json!([])).unwrap(), "b");
        node.metric("chanrpc_forward_hedges_won_total") > 0
    });
    assert_eq!(got(&told), "$/cancelRequest");
    assert!(by_b.load(Ordering::SeqCst) > 0);
    assert_eq!(target_in_flight(&mut client), 0);
}

/// A call that both nodes leave unanswered ends at its deadline, and one that its caller cancels ends at once.
#[test]
fn call_that_two_nodes_leave_unanswered_ends_once() {
    let ((one, told_one), (other, told_other)) = (silent(), silent());
    let node = forwarding(&[one, other], "repeatable = true\nhedge = '20ms'\ntimeout = '300ms'");
    let mut client = node.connect();
    assert_eq!(client.call("far", &json!([])).unwrap_err().code, -32003);
    for told in [told_one, told_other] {
        assert_eq!(got(&told), "$/cancelRequest");
    }
    assert_eq!(target_in_flight(&mut client), 0);
}

#[test]
fn call_that_may_not_run_twice_has_one_node() {
    let (slow, _told) = silent();
    let (b, by_b) = named("b");
    let node = forwarding(&[slow, b], "balance = 'first'\ntimeout = '300ms'");
    let mut client = node.connect();
    while client.call("far", &json!([])).is_ok() {}
    assert_eq!(node.metric("chanrpc_forward_hedges_total"), 0);
    let before = by_b.load(Ordering::SeqCst);
    assert_eq!(client.call("far", &json!([])).unwrap_err().code, -32003);
    assert_eq!(by_b.load(Ordering::SeqCst), before);
}

/// The first node has taken the call, and still answers.
#[test]
fn second_node_that_refuses_does_not_end_the_call() {
    let slow = fake_node(|request| {
        if request["method"] == "far" {
            thread::sleep(Duration::from_millis(100));
        }
        json!({ "jsonrpc": "2.0", "id": request["id"], "result": "slow" })
    });
    let refusing = failing(-32001, json!({ "sent": false }));
    let node = forwarding(&[slow, refusing], "balance = 'first'\nrepeatable = true\nhedge = '10ms'");
    let mut client = node.connect();
    for _ in 0..30 {
        assert_eq!(client.call("far", &json!([])).unwrap(), "slow");
    }
    assert!(node.metric("chanrpc_forward_hedges_total") > 0);
    assert_eq!(node.metric("chanrpc_forward_hedges_won_total"), 0);
}

/// If no node is there, that is told without waiting for the second one's turn.
#[test]
fn absent_nodes_are_told_at_once_also_with_a_second_one() {
    let node = forwarding(&[nobody(), nobody()], "repeatable = true\nhedge = '1h'");
    assert_eq!(node.connect().call("far", &json!([])).unwrap_err().code, -32001);
}

/// Starts a node that answers all but calls of `far`, and tells what cancels them.
fn silent() -> (SocketAddr, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let address = listen(move |stream: TcpStream| {
        let mut client = Client::new(stream);
        while let Some(line) = client.full_line() {
            let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
            match request["method"].as_str() {
                Some("far") => {}
                Some(method) if request["id"].is_null() => tell.send(method.to_owned()).unwrap_or_default(),
                _ => {
                    let pong = json!({ "jsonrpc": "2.0", "id": request["id"], "result": "pong" });
                    client.send(format!("{pong}\n"));
                }
            }
        }
    });
    (address, told)
}

/// Returns the number of calls that the nodes of the only function have not answered.
fn target_in_flight(client: &mut Client) -> u64 {
    let stats = client.call("rpc.stats", &json!([])).unwrap();
    let targets = stats["forwards"][0]["targets"].as_array().unwrap().clone();
    targets.iter().map(|target| target["in_flight"].as_u64().unwrap()).sum()
}

/// A node that stops answers what it has taken, and nothing else was run.
#[test]
fn node_that_stops_costs_no_call() {
    let nodes = [Node::demo(), Node::demo()];
    let to: Vec<_> = nodes.iter().map(|node| node.address().to_string()).collect();
    let config = format!("[[function]]\nname = 'demo.*'\nforward = {to:?}\n");
    let front = Node::with(Folder::new(), &config);
    let [mut first, _second] = nodes;
    let (stop, stopped) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = front.connect();
                let mut after = 0;
                while after < 20 {
                    assert_eq!(client.call("demo.add", &json!([20, 22])).unwrap(), 42);
                    stopped.fetch_add(1, Ordering::Relaxed);
                    after += u32::from(stop.load(Ordering::Relaxed));
                }
            });
        }
        eventually("calls are under way", || stopped.load(Ordering::Relaxed) > 100);
        first.signal("TERM");
        assert_eq!(first.wait(), Some(0));
        stop.store(true, Ordering::Relaxed);
    });
}

/// It has nothing to wait for.
#[test]
fn idle_node_that_was_forwarded_to_stops_at_once() {
    let mut node = Node::with(Folder::new(), "[limits]\ndrain = '1h'");
    let mut client = node.connect();
    client.send(
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.echo\",\"params\":[1],\"meta\":{\"hops\":1}}\n",
    );
    assert!(client.full_line().is_some());
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    let said: Vec<_> = std::iter::from_fn(|| client.full_line()).collect();
    assert!(said[0].contains("rpc.closing") && said[1].contains("rpc.closed"), "{said:?}");
}
