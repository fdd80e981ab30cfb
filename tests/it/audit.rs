//! Auditing: the access log, log lines that name a peer, and the delay for hosts that guess tokens.

use std::fmt::Write as _;

use chanrpc::internals::route::token_hash;
use chanrpc::message::code;
use serde_json::json;

use crate::support::{Client, Folder, Node, Stderr, await_some, eventually, request};
use crate::wires::{Peer, WIRES, Wire};

const TOKEN: &str = "chanrpc_the-token-of-these-tests";
const WRONG: &str = "chanrpc_another-token-of-these-tests";
const ACCESS: &str = "chanrpc::access] ";

/// Anyone may call echo and panic; callers with the token may also list.
fn rules() -> String {
    let digits = token_hash(TOKEN).iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    format!(
        "[[access]]\nname = \"all\"\nfunctions = [\"rpc.echo\", \"rpc.stats\", \"slow\"]\n\
         [[access]]\nname = \"who-has-it\"\nfunctions = [\"rpc.list\"]\ntoken = \"sha256:{digits}\"\n"
    )
}

fn node(settings: &str) -> Node {
    Node::with(Folder::new(), &format!("{settings}\n{}", rules()))
}

/// Returns the access log lines caused by a peer, without their common prefix.
fn lines_of(node: &Node, client: &Client) -> Vec<String> {
    let peer = format!("peer={} ", client.stream().local_addr().unwrap());
    let log = node.log();
    let lines = log.lines().filter_map(|line| line.split_once(ACCESS)?.1.strip_prefix(&peer));
    lines.map(str::to_owned).collect()
}

/// Waits for `count` lines and returns them without their times.
fn await_lines(node: &Node, client: &Client, count: usize) -> Vec<String> {
    let lines = await_some("the access log", || {
        let lines = lines_of(node, client);
        assert!(lines.len() <= count, "{lines:?}");
        (lines.len() == count).then_some(lines)
    });
    let without = |line: &String| {
        let (before, after) = line.split_once(" ms=").unwrap();
        let (ms, after) = after.split_once(' ').unwrap();
        assert!(ms.parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{line}");
        format!("{before} {after}")
    };
    lines.iter().map(without).collect()
}

#[test]
fn access_log_has_a_line_per_call_in_every_dialect() {
    let node = node("log.access = true");
    for wire in WIRES {
        let mut peer = Peer::connect(wire, node.address());
        assert_eq!(peer.call("rpc.echo", &json!([1])), Ok(json!([1])));
        peer.notify("rpc.echo", &json!([1]));
        let mut wanted = vec![
            r#"rule="all" outcome=ok function="rpc.echo""#,
            r#"rule="all" outcome=ok function="rpc.echo""#,
            r#"rule=- outcome=-32002 function="rpc.list""#,
        ];
        assert_eq!(peer.call("rpc.list", &json!([])).unwrap_err().code, code::DENIED);
        peer.present(TOKEN);
        if wire != Wire::Http {
            wanted.push(r#"rule=- outcome=ok function="rpc.auth""#);
        }
        assert!(peer.call("rpc.list", &json!([])).is_ok());
        wanted.push(r#"rule="who-has-it" outcome=ok function="rpc.list""#);
        assert_eq!(await_lines(&node, &peer.client, wanted.len()), wanted, "{wire:?}");
    }
}

#[test]
fn access_log_records_rejections_and_cannot_be_forged() {
    let node = node("log.access = true\nlimits.message = \"1 KiB\"");
    let mut client = node.connect();
    for (line, outcome) in [
        (
            request(1, "a\" outcome=ok\npeer=1.2.3.4:5 ", &json!([])),
            r#"-32002 function="a\" outcome=ok\npeer=1.2.3.4:5 ""#,
        ),
        (
            request(1, &"long".repeat(100), &json!([])),
            &*format!("-32002 function=\"{}\"…", "long".repeat(32)),
        ),
        (r#"[1, {"jsonrpc": "2.0", "id": 1, "method": "rpc.echo"}]"#.to_owned(), "-32600 function=-"),
        ("x".repeat(2000), "-32007 function=-"),
    ] {
        let before = lines_of(&node, &client).len();
        client.send(line.clone() + "\n");
        client.line();
        let is_batch = line.starts_with('[');
        let lines = await_lines(&node, &client, before + 1 + usize::from(is_batch));
        assert_eq!(lines[before], format!("rule=- outcome={outcome}"), "{line}");
    }

    // Over HTTP also rejections before a call.
    for (head, body, outcome) in [
        ("Host: evil.example\r\n", 0, "misdirected function=-"),
        ("Host: localhost\r\nAuthorization: Bearer wrong\r\n", 0, "-32002 function=\"rpc.auth\""),
        // Enough of it is read to find an id.
        ("Host: localhost\r\nContent-Length: 5000\r\n", 5000, "-32007 function=-"),
    ] {
        let mut client = node.connect();
        client.send(format!("POST / HTTP/1.1\r\n{head}\r\n{}", " ".repeat(body)));
        assert!(client.http().status >= 400);
        assert_eq!(await_lines(&node, &client, 1), [format!("rule=- outcome={outcome}")], "{head}");
    }
}

#[test]
fn access_log_records_the_outcome_of_slow_calls() {
    let folder = Folder::new();
    let gate = crate::programs::gate("");
    let rules = rules().replace("\"slow\"", "\"gate\"");
    let node = Node::with(folder, &format!("log.access = true\n{gate}\n{rules}"));
    let open = node.folder.name("open");
    let mut client = node.connect();
    client.begin(1, "gate", &json!([open]));
    client.begin(2, "gate", &json!([node.folder.name("never")]));
    eventually("they run", || node.metric("chanrpc_calls_in_flight") == 2);
    assert_eq!(lines_of(&node, &client), [""; 0]);
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":2}}\n");
    assert_eq!(client.reply()["error"]["code"], -32800);
    node.folder.write("open", "");
    assert_eq!(client.reply()["result"], "opened");
    let wanted = [r#"rule="all" outcome=-32800 function="gate""#, r#"rule="all" outcome=ok function="gate""#];
    assert_eq!(await_lines(&node, &client, 2), wanted);

    let mut client = node.connect();
    client.begin(1, "gate", &json!([node.folder.name("never")]));
    eventually("it runs", || node.metric("chanrpc_calls_in_flight") == 1);
    let peer = client.stream().local_addr().unwrap();
    client.reset();
    eventually("a caller that has gone is told", || {
        let log = node.log();
        log.lines().any(|line| line.contains(&format!("peer={peer} ")) && line.contains("outcome=gone"))
    });
}

#[test]
fn access_log_is_off_by_default() {
    let quiet = node("");
    let mut client = quiet.connect();
    assert_eq!(client.call("rpc.list", &json!([])).unwrap_err().code, code::DENIED);
    // A later line shows that none was written.
    client.call("rpc.auth", &json!([WRONG])).unwrap_err();
    let address = client.stream().local_addr().unwrap();
    eventually("the refusal is logged", || {
        quiet.log().contains(&format!("rejected a token from {address}: the token is unknown"))
    });
    assert!(!quiet.log().contains(ACCESS), "{}", quiet.log());

    // The option enables it too, whatever the level.
    let node = Node::launch(Folder::new(), None, &["--log", "error,access"], &Stderr::Read);
    let mut client = node.connect();
    assert!(client.call("demo.add", &json!([1, 2])).is_ok());
    assert_eq!(await_lines(&node, &client, 1), ["rule=- outcome=ok function=\"demo.add\""]);
    assert!(!node.log().contains("listening on"), "{}", node.log());
}

#[test]
fn log_lines_caused_by_a_peer_name_it() {
    let node = node("");
    let mut client = node.connect();
    client.send([0x16, 3, 1, 0, 5]);
    client.rest();
    let address = client.stream().local_addr().unwrap();
    eventually("the log names it", || node.log().contains(&format!("connection from {address} ended: ")));
}

/// Presents wrong tokens until the node delays the host.
fn guess(node: &Node) {
    let counter = "chanrpc_tokens_delayed_total";
    let mut waiting = Vec::new();
    while node.metric(counter) < 8 {
        let mut client = node.connect();
        client.begin(1, "rpc.auth", &json!([WRONG]));
        // The first few are answered immediately, and their effect is known by then.
        client.begin(2, "rpc.ping", &json!([]));
        waiting.push(client);
        assert!(waiting.len() < 100, "nobody waits");
    }
}

#[test]
fn guessing_host_is_delayed_increasingly_and_no_other() {
    for wire in [Wire::Lines, Wire::WebSocketPacked, Wire::Http] {
        let node = node("limits.token_delay = \"1h\"");
        // Authorized connections are unaffected.
        let mut inside = Peer::connect(wire, node.address());
        inside.present(TOKEN);
        assert!(inside.call("rpc.list", &json!([])).is_ok());
        let refused = |count: u64| {
            eventually("the tokens are refused", || node.metric("chanrpc_tokens_refused_total") == count);
        };
        let mut clients: Vec<_> = (0..6).map(|_| node.connect()).collect();
        for client in &mut clients {
            client.begin(1, "rpc.auth", &json!([WRONG]));
        }
        refused(6);
        assert_eq!(node.metric("chanrpc_tokens_delayed_total"), 0);
        // The next ones are delayed; if these are wrong as well, those after them are delayed 2,048 times as long.
        let mut clients: Vec<_> = (0..11).map(|_| node.connect()).collect();
        for client in &mut clients {
            client.begin(1, "rpc.auth", &json!([WRONG]));
        }
        refused(17);
        assert_eq!(node.metric("chanrpc_tokens_delayed_total"), 11);
        eventually("the log names it", || node.log().contains("many wrong tokens from 127.0.0.1"));

        let mut late = node.connect();
        late.begin(1, "rpc.auth", &json!([WRONG]));
        eventually("it waits", || node.metric("chanrpc_tokens_delayed_total") == 12);
        for _ in 0..20 {
            assert!(inside.call("rpc.list", &json!([])).is_ok(), "{wire:?}");
            assert!(node.connect().call("rpc.echo", &json!([1])).is_ok());
        }
        assert_eq!(node.metric("chanrpc_tokens_refused_total"), 17, "{wire:?}");
        assert_eq!(node.metric("chanrpc_tokens_delayed_total"), 12, "{wire:?}");
    }
}

#[test]
fn right_token_of_a_guessing_host_is_delayed_and_then_accepted() {
    let node = node("limits.token_delay = \"150ms\"");
    guess(&node);
    for wire in WIRES {
        let before = node.metric("chanrpc_tokens_delayed_total");
        let mut peer = Peer::connect(wire, node.address());
        peer.present(TOKEN);
        assert!(peer.call("rpc.list", &json!([])).is_ok(), "{wire:?}");
        assert!(peer.call("rpc.list", &json!([])).is_ok(), "{wire:?}");
        assert_eq!(node.metric("chanrpc_tokens_delayed_total"), before + 1, "{wire:?}");
    }
    // Requests that follow a token wait with it, in order; connections without a token do not.
    let mut client = node.connect();
    client.begin(1, "rpc.echo", &json!([1]));
    client.begin(2, "rpc.auth", &json!([TOKEN]));
    client.begin(3, "rpc.list", &json!([]));
    client.begin(4, "rpc.auth", &json!([WRONG]));
    client.begin(5, "rpc.echo", &json!([5]));
    for id in 1..=5 {
        let reply = client.reply();
        assert_eq!((&reply["id"], reply.get("error").is_some()), (&json!(id), id == 4), "{reply}");
    }
    // In a handshake and in a batch.
    let mut client = node.connect();
    let batch = [request(1, "rpc.auth", &json!([TOKEN])), request(2, "rpc.list", &json!([]))].join(",");
    let reply = client.ask(format!("[{batch}]"));
    assert!(reply[0]["result"].is_boolean() && reply[1]["result"].is_array(), "{reply}");
    let mut client = node.connect();
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: chanrpc, chanrpc.bearer.{WRONG}\r\n\r\n"
    ));
    let before = node.metric("chanrpc_tokens_delayed_total");
    assert_eq!(client.http().status, 401);
    assert!(node.metric("chanrpc_tokens_delayed_total") >= before);
}
