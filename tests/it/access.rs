//! Access control: rules, tokens and all ways to present them, and which web pages may call.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use chanrpc::config::{Config, Limits, ListenerConfig};
use chanrpc::internals::config::rules;
use chanrpc::internals::route::{AccessInternals as _, Grants, token_hash};
use chanrpc::lanes::{LaneError, LaneSettings, Lanes};
use chanrpc::message::code;
use chanrpc::node::{self, Listener};
use chanrpc::remote::Remote;
use chanrpc::route::{Access, Registry};
use serde_json::{Value, json};
use smol::Executor;

use crate::programs::program;
use crate::spec::run;
use crate::support::{
    self, Client, Ended, Folder, HttpReply, Node, Process, assert_fault, binary, fault, request,
};

/// The tokens of these tests.
const TOKEN: &str = "chanrpc_the-token-of-these-tests";
const OTHER: &str = "chanrpc_another-token-of-these-tests";
/// The lines of a handshake, without its end.
const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Returns the line of a rule that names a token.
pub(super) fn token(token: &str) -> String {
    let digits = token_hash(token).iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    format!("token = \"sha256:{digits}\"\n")
}

/// Returns a rule.
pub(super) fn rule(functions: &str, more: &str) -> String {
    format!("[[access]]\nfunctions = {functions}\n{more}\n")
}

/// A node where anyone may list and count, and callers with the token may also call `rpc.e*`.
fn guarded() -> Node {
    let rules = rule("[\"rpc.list\", \"rpc.stats\"]", "") + &rule("[\"rpc.e*\"]", &token(TOKEN));
    Node::with(Folder::new(), &rules)
}

/// Sends one HTTP request on a new connection.
fn http(address: SocketAddr, head: &str, body: &str) -> HttpReply {
    let mut client = Client::connect(address);
    client.send(format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()));
    client.http()
}

fn post(address: SocketAddr, headers: &str, body: &str) -> HttpReply {
    http(address, &format!("POST / HTTP/1.1\r\nHost: localhost\r\n{headers}"), body)
}

fn header<'a>(reply: &'a HttpReply, name: &str) -> Option<&'a str> {
    reply.head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Opens a WebSocket with additional handshake lines; returns the node's response and the connection.
fn handshake(node: &Node, lines: &str) -> (HttpReply, Client) {
    let mut client = node.connect();
    client.send(format!("{HANDSHAKE}{lines}\r\n"));
    (client.http(), client)
}

/// Sends a message in a text frame and reads one.
fn exchange(client: &mut Client, text: &str) -> Value {
    let length = u8::try_from(text.len()).unwrap();
    let length = if length < 126 { vec![0x80 | length] } else { vec![0x80 | 126, 0, length] };
    client.send([&[0x81], &*length, &[0; 4], text.as_bytes()].concat());
    let head = client.take(2);
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(client.take(2).try_into().unwrap())),
        length => usize::from(length),
    };
    serde_json::from_slice(&client.take(length)).unwrap()
}

/// Runs a command against a node with a token in the environment.
fn run_with_token(node: &Node, token: &str, command: &str, arguments: &[&str]) -> Ended {
    let mut command = node.command(command, arguments);
    command.env("CHANRPC_TOKEN", token);
    Process::start(command).finish()
}

/// Creates a token; returns it and the rule to paste.
fn made(arguments: &[&str]) -> (String, String) {
    let ended = support::run([&["token"], arguments].concat());
    (ended.result().to_owned(), ended.stderr)
}

// Visibility.

#[test]
fn caller_sees_only_what_it_may_call() {
    let folder = Folder::new();
    let config = program("disk.free", "echo", &["free"], "")
        + &program("disk.wipe", "echo", &["wiped"], "")
        + "[[function]]\nname = 'math.*'\nforward = '127.0.0.1:9'\n\
           [[function]]\nname = 'far'\nforward = '127.0.0.1:9'\n"
        + &rule("[\"disk.f*\", \"math.add\", \"rpc.list\", \"rpc.stats\", \"rpc.info\"]", "")
        + &rule("[\"*\"]", &token(TOKEN));
    let node = Node::with(folder, &config);
    let few = json!(["disk.free", "math.*", "rpc.info", "rpc.list", "rpc.ping", "rpc.stats"]);
    let all = json!([
        "disk.free",
        "disk.wipe",
        "far",
        "math.*",
        "rpc.discover",
        "rpc.echo",
        "rpc.info",
        "rpc.list",
        "rpc.offer",
        "rpc.ping",
        "rpc.publish",
        "rpc.stats",
        "rpc.subscribe",
        "rpc.unsubscribe",
        "rpc.withdraw"
    ]);
    let mut client = node.connect();
    for (names, targets) in [(few, 0), (all, 4)] {
        assert_eq!(client.call("rpc.list", &json!([])).unwrap(), names);
        let verbose = client.call("rpc.list", &json!({ "verbose": true })).unwrap();
        let told: Vec<&Value> = verbose.as_array().unwrap().iter().map(|told| &told["name"]).collect();
        assert_eq!(json!(told), names);
        let shown = verbose.as_array().unwrap().iter().filter(|told| told.get("target").is_some()).count();
        assert_eq!(shown, targets, "{verbose}");
        let info = client.call("rpc.info", &json!([])).unwrap();
        assert_eq!(info["functions"], names.as_array().unwrap().len());
        let stats = client.call("rpc.stats", &json!([])).unwrap();
        for part in ["functions", "workers"] {
            let text = stats[part].to_string();
            assert_eq!(text.contains("disk.wipe"), targets > 0, "{text}");
            assert!(text.contains("disk.free"), "{text}");
        }
        let head = if targets > 0 { format!("Authorization: Bearer {TOKEN}\r\n") } else { String::new() };
        let metrics =
            http(node.address(), &format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{head}"), "");
        assert!(metrics.body.contains("disk.free"), "{metrics:?}");
        assert_eq!(metrics.body.contains("disk.wipe"), targets > 0, "{metrics:?}");
        assert_eq!(client.call("rpc.auth", &json!([TOKEN])).unwrap(), true);
    }
    // Without rules, no token is checked, and the reply says so.
    let open = Node::demo();
    assert_eq!(open.connect().call("rpc.auth", &json!([TOKEN])).unwrap(), false);
}

// Ways to present a token.

#[test]
fn token_in_the_first_message() {
    let node = guarded();
    let mut client = node.connect();
    let echo = request(1, "rpc.echo", &json!([7]));
    assert_fault(&client.ask(&echo), &json!(1), code::DENIED);
    assert_eq!(client.call("rpc.ping", &json!([])).unwrap(), "pong");
    assert!(client.call("rpc.list", &json!([])).is_ok());
    assert_eq!(client.call("rpc.auth", &json!([TOKEN])).unwrap(), true);
    assert_eq!(client.ask(&echo)["result"], json!([7]));
    assert_eq!(client.call("rpc.info", &json!([])).unwrap_err().code, code::DENIED);

    let mut by_name = node.connect();
    assert_eq!(by_name.call("rpc.auth", &json!({"token": TOKEN})).unwrap(), true);
    assert_eq!(by_name.ask(&echo)["result"], json!([7]));

    // It applies to the connection that presented it.
    assert_fault(&node.connect().ask(&echo), &json!(1), code::DENIED);
    assert_eq!(node.metric("chanrpc_calls_denied_total"), 3);
    assert_eq!(node.metric("chanrpc_tokens_refused_total"), 0);
}

#[test]
fn requests_may_be_pipelined_behind_the_token() {
    let node = guarded();
    let mut client = node.connect();
    let auth = json!({"jsonrpc": "2.0", "method": "rpc.auth", "params": [TOKEN]});
    client.send(format!("{auth}\n{}\n", request(1, "rpc.echo", &json!([7]))));
    // The notification is not answered.
    assert_eq!(client.reply()["result"], json!([7]));
}

#[test]
fn token_in_a_header() {
    let node = guarded();
    let echo = request(1, "rpc.echo", &json!([7]));
    for (headers, status, result) in [
        ("", 200, Err(code::DENIED)),
        ("Authorization: Basic dXNlcjpwYXNz\r\n", 200, Err(code::DENIED)),
        (&format!("Authorization: Bearer {TOKEN}\r\n"), 200, Ok(json!([7]))),
        (&format!("authorization: bearer   {TOKEN} \r\n"), 200, Ok(json!([7]))),
        (&format!("Authorization: Bearer {OTHER}\r\n"), 401, Err(code::DENIED)),
        ("Authorization: Bearer \r\n", 401, Err(code::DENIED)),
    ] {
        let reply = post(node.address(), headers, &echo);
        assert_eq!(reply.status, status, "{headers}: {reply:?}");
        assert_eq!(header(&reply, "www-authenticate"), (status == 401).then_some("Bearer"), "{headers}");
        let answer = reply.json();
        match result {
            Ok(result) => assert_eq!(answer["result"], result, "{headers}"),
            Err(code) => assert_eq!(fault(&answer).code, code, "{headers}"),
        }
    }
    assert_eq!(node.metric("chanrpc_tokens_refused_total"), 2);
}

#[test]
fn token_in_a_handshake() {
    let node = guarded();
    let echo = request(1, "rpc.echo", &json!([7]));
    for (lines, protocol, allowed) in [
        (String::new(), None, false),
        ("Sec-WebSocket-Protocol: chanrpc\r\n".to_owned(), Some("chanrpc"), false),
        ("Sec-WebSocket-Protocol: soap, wamp\r\n".to_owned(), None, false),
        (format!("Sec-WebSocket-Protocol: chanrpc, chanrpc.bearer.{TOKEN}\r\n"), Some("chanrpc"), true),
        (
            format!("Sec-WebSocket-Protocol: chanrpc.bearer.{TOKEN}\r\nSec-WebSocket-Protocol: chanrpc\r\n"),
            Some("chanrpc"),
            true,
        ),
        (format!("Sec-WebSocket-Protocol: chanrpc.bearer.{TOKEN}\r\n"), None, true),
        (format!("Authorization: Bearer {TOKEN}\r\n"), None, true),
    ] {
        let (reply, mut client) = handshake(&node, &lines);
        assert_eq!((reply.status, header(&reply, "sec-websocket-protocol")), (101, protocol), "{lines}");
        assert!(!reply.head.contains(TOKEN), "{lines}");
        let answer = exchange(&mut client, &echo);
        assert_eq!(answer.get("result").is_some(), allowed, "{lines}: {answer}");
        // A first message works too.
        assert_eq!(exchange(&mut client, &request(2, "rpc.auth", &json!([TOKEN])))["result"], true);
        assert_eq!(exchange(&mut client, &echo)["result"], json!([7]), "{lines}");
    }
    for lines in [
        format!("Sec-WebSocket-Protocol: chanrpc, chanrpc.bearer.{OTHER}\r\n"),
        format!("Authorization: Bearer {OTHER}\r\n"),
    ] {
        let (reply, mut client) = handshake(&node, &lines);
        assert_eq!((reply.status, header(&reply, "www-authenticate")), (401, Some("Bearer")), "{lines}");
        assert_eq!(fault(&reply.json()).code, code::DENIED);
        client.assert_closed();
    }
}

#[test]
fn metrics_require_access() {
    let rules = rule("[\"rpc.stats\"]", &token(TOKEN)) + &rule("[\"rpc.echo\"]", &token(OTHER));
    let node = Node::with(Folder::new(), &rules);
    let get = |path: &str, token: &str| {
        let headers =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        http(node.address(), &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"), "")
    };
    assert_eq!(get("/healthz", "").status, 200);
    for (token, status) in [("", 401), (OTHER, 403), ("wrong", 401), (TOKEN, 200)] {
        let reply = get("/metrics", token);
        assert_eq!(reply.status, status, "{token}");
        assert_eq!(reply.body.contains("chanrpc_calls_denied_total 2"), status == 200, "{reply:?}");
    }
}

// Invalid tokens.

#[test]
fn wrong_tokens_are_rejected_counted_and_never_shown() {
    let node = guarded();
    let mut client = node.connect();
    for _ in 0..5 {
        let refused = client.call("rpc.auth", &json!([OTHER])).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code::DENIED, "the token is unknown"));
    }
    let refused = client.call("rpc.auth", &json!([TOKEN])).unwrap_err();
    assert_eq!(refused.code, code::DENIED);
    assert!(refused.message.starts_with("too many wrong tokens"), "{refused:?}");
    assert_eq!(client.call("rpc.echo", &json!([7])).unwrap_err().code, code::DENIED);
    for wrong in [json!([]), json!({}), json!([OTHER, 1]), json!({"tokn": OTHER}), json!([[OTHER]])] {
        let refused = client.call("rpc.auth", &wrong).unwrap_err();
        assert_eq!(refused.code, code::INVALID_PARAMS, "{wrong}");
        assert!(!refused.message.contains("another"), "{refused:?}");
    }
    assert_eq!(node.metric("chanrpc_tokens_refused_total"), 6);
    let address = client.stream().local_addr().unwrap();
    support::eventually("it is in the log", || {
        node.log().contains(&format!("rejected a token from {address}: the token is unknown"))
    });
    let log = node.log();
    assert!(!log.contains(OTHER) && !log.contains(TOKEN), "{log}");
}

#[test]
fn revoked_or_expired_token_is_rejected() {
    let past = token(TOKEN) + "expires = 2001-09-09T01:46:40Z\n";
    for (rules, told) in [
        (rule("[\"*\"]", &past), "the token has expired"),
        (rule("[\"*\"]", &token(OTHER)), "the token is unknown"),
    ] {
        let node = Node::with(Folder::new(), &rules);
        let refused = node.connect().call("rpc.auth", &json!([TOKEN])).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code::DENIED, told));
    }
    // Another rule for the same token may still apply.
    let node = Node::with(Folder::new(), &(rule("[\"*\"]", &past) + &rule("[\"rpc.echo\"]", &token(TOKEN))));
    let mut client = node.connect();
    assert_eq!(client.call("rpc.auth", &json!([TOKEN])).unwrap(), true);
    assert!(client.call("rpc.echo", &json!([])).is_ok());
    assert_eq!(client.call("rpc.list", &json!([])).unwrap_err().code, code::DENIED);
}

#[test]
fn token_expiring_on_an_open_connection_stops_working() {
    run(async |executor| {
        let text = rule("[\"rpc.echo\"]", &(token(TOKEN) + "expires = 2027-01-01T00:00:00Z"));
        let config = Config::parse(&text, "test").unwrap();
        let end = rules(&config)[0].expires.unwrap();
        // Seconds before it expires; the test's clock.
        let left = Arc::new(AtomicU64::new(1));
        let clock = {
            let left = left.clone();
            move || end - Duration::from_secs(left.load(Ordering::Relaxed))
        };
        let access = Arc::new(Access::new(&config).with_clock(clock));
        let socket = smol::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let node = node::Node::new(executor.clone(), Registry::builder("test").build(), Limits::default());
        let listener = Listener::new(socket, &ListenerConfig::new("127.0.0.1:0"), &access).unwrap();
        let _serving =
            executor.spawn(async move { node.serve(vec![listener], std::future::pending()).await });
        smol::unblock(move || {
            let mut client = Client::connect(address);
            assert_eq!(client.call("rpc.auth", &json!([TOKEN])).unwrap(), true);
            assert!(client.call("rpc.echo", &json!([])).is_ok());
            left.store(0, Ordering::Relaxed);
            let denied = client.call("rpc.echo", &json!([])).unwrap_err();
            assert_eq!(denied.code, code::DENIED);
            assert!(denied.message.contains("expired"), "{denied:?}");
            assert_eq!(
                client.call("rpc.auth", &json!([TOKEN])).unwrap_err().message,
                "the token has expired"
            );
            let headers = format!("Authorization: Bearer {TOKEN}\r\n");
            assert_eq!(post(address, &headers, &request(1, "rpc.echo", &json!([]))).status, 401);
        })
        .await;
    });
}

// Semantics of rules.

#[test]
fn rule_applies_to_its_listeners_only() {
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"localhost:0\"\n{}{}",
        rule("[\"rpc.echo\"]", &(token(TOKEN) + "listen = [\"127.0.0.1:0\"]")),
        rule("[\"rpc.info\"]", &(token(OTHER) + "listen = [\"localhost:0\"]")),
    );
    let node = Node::with(Folder::new(), &config);
    for (at, token, function, elsewhere) in
        [(0, TOKEN, "rpc.echo", "rpc.info"), (1, OTHER, "rpc.info", "rpc.echo")]
    {
        let mut client = Client::connect(node.addresses()[at]);
        assert_eq!(client.call(function, &json!([])).unwrap_err().code, code::DENIED);
        assert_eq!(client.call("rpc.auth", &json!([token])).unwrap(), true);
        assert!(client.call(function, &json!([])).is_ok());
        assert_eq!(client.call(elsewhere, &json!([])).unwrap_err().code, code::DENIED);
        let mut other = Client::connect(node.addresses()[1 - at]);
        let refused = other.call("rpc.auth", &json!([token])).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (code::DENIED, "the token is not valid for this listener")
        );
    }
}

#[test]
fn without_a_rule_this_machine_may_call_any_function() {
    let node = Node::demo();
    let mut client = node.connect();
    assert!(client.call("rpc.info", &json!([])).is_ok());
    // A client that always presents its token needs no exception. The reply says that the token was not checked.
    assert_eq!(client.call("rpc.auth", &json!([TOKEN])).unwrap(), false);
    assert_eq!(
        post(node.address(), "Authorization: Bearer x\r\n", &request(1, "rpc.ping", &json!([]))).status,
        200
    );
    // A rule for another listener changes nothing here.
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"localhost:0\"\n{}",
        rule("[\"rpc.echo\"]", "listen = [\"localhost:0\"]")
    );
    let node = Node::with(Folder::new(), &config);
    assert!(Client::connect(node.addresses()[0]).call("rpc.info", &json!([])).is_ok());
    assert!(Client::connect(node.addresses()[1]).call("rpc.info", &json!([])).is_err());
}

#[test]
fn denied_functions_are_not_looked_up() {
    let node = guarded();
    let mut client = node.connect();
    let there = client.call("rpc.info", &json!([])).unwrap_err();
    let absent = client.call("rpc.nope", &json!([])).unwrap_err();
    assert_eq!((there.code, absent.code), (code::DENIED, code::DENIED));
    assert_eq!(there.message.replace("rpc.info", "f"), absent.message.replace("rpc.nope", "f"));
}

#[test]
fn denied_notification_is_counted_and_not_answered() {
    let rules = rule("[\"rpc.stats\"]", "") + &rule("[\"*\"]", &token(TOKEN));
    let node = Node::with(Folder::new(), &(program("text", "text", &["3"], "") + &rules));
    // Callers without access do not see how often others were denied.
    let mut all = node.connect();
    assert_eq!(all.call("rpc.auth", &json!([TOKEN])).unwrap(), true);
    let mut runs = || {
        let stats = all.call("rpc.stats", &json!([])).unwrap();
        stats["functions"][0]["num_requests"].as_u64().unwrap()
    };
    let mut client = node.connect();
    let notification = json!({"jsonrpc": "2.0", "method": "text"});
    client.send(format!("{notification}\n"));
    // The next reply belongs to the next request.
    assert_eq!(client.call("rpc.ping", &json!([])).unwrap(), "pong");
    assert_eq!((node.metric("chanrpc_calls_denied_total"), runs()), (1, 0));
    assert_eq!(client.call("rpc.auth", &json!([TOKEN])).unwrap(), true);
    client.send(format!("{notification}\n"));
    assert_eq!(client.call("rpc.ping", &json!([])).unwrap(), "pong");
    assert_eq!((node.metric("chanrpc_calls_denied_total"), runs()), (1, 1));
}

#[test]
fn access_is_checked_for_each_call_of_a_batch() {
    let node = guarded();
    let mut client = node.connect();
    let call = |id: u32, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    let batch = json!([
        call(1, "rpc.echo", json!([1])),
        call(2, "rpc.list", json!([])),
        {"jsonrpc": "2.0", "method": "rpc.echo"},
        call(3, "rpc.auth", json!([OTHER])),
        call(4, "rpc.auth", json!([TOKEN])),
        call(5, "rpc.echo", json!([5])),
        call(6, "rpc.info", json!([])),
    ]);
    let replies = client.ask(batch.to_string());
    let mut told: Vec<_> = replies
        .as_array()
        .unwrap()
        .iter()
        .map(|reply| (reply["id"].as_u64().unwrap(), reply["error"]["code"].as_i64()))
        .collect();
    told.sort_unstable();
    let denied = Some(code::DENIED);
    assert_eq!(told, [(1, denied), (2, None), (3, denied), (4, None), (5, None), (6, denied)]);
    assert_eq!(node.metric("chanrpc_calls_denied_total"), 3);

    let only_denied = json!([{"jsonrpc": "2.0", "method": "rpc.info"}, call(7, "rpc.info", json!([]))]);
    assert_eq!(client.ask(only_denied.to_string()).as_array().unwrap().len(), 1);
}

#[test]
fn access_is_checked_for_calls_that_waited() {
    let rules = rule("[\"rpc.echo\"]", &token(TOKEN));
    let node = Node::with(Folder::new(), &format!("{rules}[limits]\nin_flight = 1\n"));
    let mut client = node.connect();
    let lines: String = (0..50).map(|id| request(id, "rpc.echo", &json!([id])) + "\n").collect();
    client.send(lines);
    for id in 0..50 {
        assert_fault(&client.reply(), &json!(id), code::DENIED);
    }
}

// Other nodes.

#[test]
fn node_presents_its_token_to_another() {
    let config = program("far", "text", &["3"], "") + &rule("[\"far\"]", &token(TOKEN));
    let far = Node::with(Folder::new(), &config);
    let folder = Folder::new();
    let good = folder.write("good", &format!("{TOKEN}\n"));
    let bad = folder.write("bad", OTHER);
    let near = |token: &str| {
        let forward = far.address();
        let config =
            format!("name = \"near\"\n[[function]]\nname = \"far\"\nforward = \"{forward}\"\n{token}");
        Node::with(Folder::new(), &config)
    };
    let with = near(&format!("token_file = '{}'", good.display()));
    assert_eq!(with.connect().call("far", &json!([])).unwrap(), "xxx");
    assert_eq!(with.run("call", &["far"]).result(), "\"xxx\"");

    for (node, told) in [
        (near(""), "needs a token"),
        (near(&format!("token_file = '{}'", bad.display())), "the token is unknown"),
    ] {
        for _ in 0..2 {
            let denied = node.connect().call("far", &json!([])).unwrap_err();
            assert_eq!(denied.code, code::DENIED);
            assert!(denied.message.contains(told), "{denied:?}");
            assert_eq!(denied.data["via"], json!(["near"]));
        }
        node.run("call", &["far"]).failed(5);
    }
}

#[test]
fn missing_token_file_prevents_the_start() {
    let folder = Folder::new();
    let config = "[[function]]\nname = \"far\"\nforward = \"127.0.0.1:1\"\ntoken_file = \"/no/such/file\"\n";
    let config = folder.write("config.toml", config);
    let ended = support::run(["serve", "--check", "--config", config.to_str().unwrap()]);
    assert!(ended.failed(2).contains("/no/such/file"), "{ended:?}");
}

#[test]
fn lanes_present_a_token() {
    let node = guarded();
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(async {
        for (token, code) in
            [(Some(TOKEN), None), (Some(OTHER), Some(code::DENIED)), (None, Some(code::DENIED))]
        {
            let mut remote = Remote::builder(node.address().to_string());
            if let Some(token) = token {
                remote = remote.token(token);
            }
            let lanes = Lanes::to_node(&executor, LaneSettings::default(), remote);
            match lanes.call_raw("rpc.echo", None).await {
                Ok(echoed) => assert_eq!((echoed.get(), code), ("null", None)),
                Err(LaneError::Failed(error)) => assert_eq!(error.fault().map(|fault| fault.code), code),
                Err(error) => panic!("{token:?}: {error}"),
            }
        }
    }));
}

// The command line.

#[test]
fn commands_present_a_token() {
    let node = guarded();
    let denied = node.run("call", &["rpc.echo", "7"]);
    assert!(denied.failed(5).contains("--token-file"), "{denied:?}");
    let file = node.folder.write("token", &format!("  {TOKEN}\r\n"));
    let file = file.to_str().unwrap();
    for options in [&["--token", TOKEN][..], &["--token-file", file], &[&format!("--token={TOKEN}")]] {
        assert_eq!(node.run("call", &[options, &["rpc.echo", "7"]].concat()).result(), "[7]");
        assert!(node.run("list", options).result().contains("rpc.echo"));
        assert_eq!(node.run("go", &[options, &["rpc.echo"]].concat()).code, Some(0));
        // A token given as an option takes precedence over the environment.
        assert_eq!(
            run_with_token(&node, OTHER, "call", &[options, &["rpc.echo", "7"]].concat()).result(),
            "[7]"
        );
    }
    assert_eq!(run_with_token(&node, TOKEN, "call", &["rpc.echo", "7"]).result(), "[7]");
    run_with_token(&node, TOKEN, "call", &["rpc.info"]).failed(5);
    for command in ["call", "go", "list"] {
        let refused = run_with_token(&node, OTHER, command, &["rpc.list"]);
        assert!(refused.failed(5).contains("the token is unknown"), "{refused:?}");
        assert!(!refused.stderr.contains(OTHER), "{refused:?}");
        for wrong in [
            &["--token", TOKEN, "--token-file", file][..],
            &["--token-file", "/no/such/file"],
            &["--token", ""],
            &["--token", "two words"],
        ] {
            let refused = node.run(command, &[wrong, &["rpc.list"]].concat());
            assert!(refused.failed(2).contains("--token"), "{refused:?}");
        }
    }
}

#[test]
fn output_of_the_token_command_works_unchanged() {
    let folder = Folder::new();
    let (token, lines) = made(&["--name", "dashboard", "rpc.e*", "rpc.list"]);
    assert!(!lines.contains(&token), "{lines}");
    let digits = token.strip_prefix("chanrpc_").unwrap();
    assert!(
        digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    );
    assert_ne!(made(&[]).0, token);

    let config = format!("[[listen]]\naddress = \"0.0.0.0:0\"\n{lines}");
    let parsed = Config::parse(&config, "test").unwrap();
    assert_eq!(rules(&parsed)[0].name.as_deref(), Some("dashboard"));
    assert_eq!(rules(&parsed)[0].functions, ["rpc.e*", "rpc.list"]);
    let node = Node::with(folder, &config);
    let to = format!("127.0.0.1:{}", node.address().port());
    let call = |function: &str| support::run(["call", "--to", &to, "--token", &token, function]);
    assert_eq!(call("rpc.echo").code, Some(0));
    call("rpc.info").failed(5);
    support::run(["call", "--to", &to, "rpc.echo"]).failed(5);

    // The same rule for an existing token.
    let mut command = binary();
    command.args(["token", "--hash", "--name=dashboard", "rpc.e*", "rpc.list"]);
    assert_eq!(Process::run_with_input(command, &format!("{token}\n")).stdout, lines);
    for short in ["", "secret", "two words and some more characters"] {
        let mut command = binary();
        command.args(["token", "--hash"]);
        Process::run_with_input(command, short).failed(2);
    }
    support::run(["token", "--name", "two words"]).failed(2);
    support::run(["token", "disk free"]).failed(2);
    assert_eq!(rules(&Config::parse(&made(&[]).1, "test").unwrap())[0].functions, ["*"]);
}

#[test]
fn why_prints_the_deciding_rule() {
    let folder = Folder::new();
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:7300\"\n[[listen]]\naddress = \"0.0.0.0:7300\"\n\
         [[access]]\nfunctions = [\"rpc.list\"]\n[[access]]\nname = \"dashboard\"\nfunctions = [\"disk.*\", \"up\"]\n{}\
         listen = [\"0.0.0.0:7300\"]\n[[access]]\nname = \"old\"\nfunctions = [\"*\"]\n{}expires = 2001-09-09T01:46:40Z\n",
        token(TOKEN),
        token(OTHER),
    );
    let path = folder.write("board.toml", &config);
    let path = path.to_str().unwrap();
    let file = folder.name("token");
    std::fs::write(&file, TOKEN).unwrap();
    let here = ["--listen", "0.0.0.0:7300"];
    let (lists, dashboard, old) =
        (format!("{path}:5"), format!("{path}:7 \"dashboard\""), format!("{path}:12 \"old\""));
    for (arguments, code, told) in [
        (
            &["rpc.list"][..],
            0,
            format!(
                "allowed at 127.0.0.1:7300: {lists} allows \"rpc.list\"\nallowed at 0.0.0.0:7300: {lists} allows \"rpc.list\"\n"
            ),
        ),
        (
            &["--token", TOKEN, here[0], here[1], "disk.free"],
            0,
            format!("allowed at 0.0.0.0:7300: {dashboard} allows \"disk.*\"\n"),
        ),
        (
            &["--token-file", &file, here[0], here[1], "up"],
            0,
            format!("allowed at 0.0.0.0:7300: {dashboard} allows \"up\"\n"),
        ),
        (
            &[here[0], here[1], "disk.free"],
            5,
            format!(
                "denied at 0.0.0.0:7300: no rule allows \"disk.free\"\n  {lists} does not cover the name\n  \
                 {dashboard} needs its token\n  {old} has expired\n"
            ),
        ),
        (
            &["--token", TOKEN, "--listen", "127.0.0.1:7300", "up"],
            5,
            format!(
                "denied at 127.0.0.1:7300: the token is not valid for this listener\n  {lists} does not cover the name\n  \
                 {dashboard} applies to other listeners\n  {old} has expired\n"
            ),
        ),
        (
            &["--token", "unknown", here[0], here[1], "rpc.list"],
            5,
            "denied at 0.0.0.0:7300: the token is unknown\n".to_owned(),
        ),
        (
            &[here[0], here[1], "rpc.ping"],
            0,
            "allowed at 0.0.0.0:7300: rules do not apply to this function\n".to_owned(),
        ),
    ] {
        let ended = support::run([&["why", "--config", path], arguments].concat());
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), told.as_str()),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
    // Denied on one of its addresses.
    assert_eq!(support::run(["why", "--config", path, "--token", TOKEN, "up"]).code, Some(5));

    let empty = folder.write("empty.toml", "");
    let empty = empty.to_str().unwrap();
    for (listen, code, told) in
        [("127.0.0.1:1", 0, "no rule applies, and only this"), ("10.0.0.1:1", 5, "a node does not start")]
    {
        let ended = support::run(["why", "--config", empty, "--listen", listen, "f"]);
        assert_eq!(ended.code, Some(code));
        assert!(ended.stdout.contains(told), "{ended:?}");
    }
    support::run(["why", "f"]).failed(2);
    support::run(["why", "--config", "/no/such/file", "f"]).failed(2);
}

// Listeners reachable from other machines.

#[test]
fn exposed_listener_without_a_rule_prevents_the_start() {
    let folder = Folder::new();
    let config = folder.write("board.toml", "[[listen]]\naddress = \"0.0.0.0:0\"\n");
    let config = config.to_str().unwrap();
    let local = folder.write(
        "local.toml",
        &rule("[\"*\"]", "listen = [\"localhost:0\"]")
            .replace("[[access]]", "[[listen]]\naddress = \"localhost:0\"\n[[access]]"),
    );
    let refused = [
        support::run(["serve", "--config", config]),
        support::run(["serve", "--config", config, "--check"]),
        support::run(["serve", "--listen", "0.0.0.0:0"]),
        support::run(["serve", "--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"]),
        // A rule for another listener does not count.
        support::run(["serve", "--listen", "0.0.0.0:0", "--config", local.to_str().unwrap()]),
    ];
    for ended in &refused {
        assert!(ended.failed(2).contains("0.0.0.0:0"), "{ended:?}");
        assert!(ended.stderr.contains("`chanrpc token`"), "{ended:?}");
    }
    assert!(refused[0].stderr.contains(config));
    assert!(refused[2].stderr.contains("--config FILE"));

    let told = refused[0].stderr.split("\n\n").nth(1).unwrap();
    assert_eq!(told.lines().count(), 2, "{told}");
    let node = Node::with(Folder::new(), &format!("[[listen]]\naddress = \"0.0.0.0:0\"\n{told}\n"));
    let to = format!("127.0.0.1:{}", node.address().port());
    assert_eq!(support::run(["call", "--to", &to, "rpc.echo", "7"]).result(), "[7]");
    support::eventually("it warns", || node.log().contains("anyone may call any function"));
    // With the lines in a new file, as for a node without a configuration.
    let node = Node::launch(Folder::new(), Some(told), &["--listen", "0.0.0.0:0"], &support::Stderr::Read);
    let to = format!("127.0.0.1:{}", node.address().port());
    assert_eq!(support::run(["call", "--to", &to, "rpc.echo", "7"]).result(), "[7]");
}

#[test]
fn exposed_embedded_listener_without_a_rule_denies_everything() {
    let config = Config::default();
    let access = Arc::new(Access::new(&config));
    let allowed = |pass: &Grants| pass.check("rpc.info").is_ok();
    for local in
        ["127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "a.LOCALHOST:1"]
    {
        assert!(allowed(&access.grants_for(local)), "{local}");
    }
    for public in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "board-a:1", "localhost.example:1", "notlocalhost:1"]
    {
        let mut pass = access.grants_for(public);
        assert!(!allowed(&pass), "{public}");
        assert!(pass.authenticate(TOKEN).is_err());
        assert!(pass.check("rpc.ping").is_ok());
        assert!(allowed(&Arc::new(Access::unrestricted()).grants_for(public)), "{public}");
    }
}

// Hosts and origins.

#[test]
fn only_own_hosts_and_origins_are_accepted() {
    let config = "[[listen]]\naddress = \"localhost:0\"\nhosts = [\"Board-A\", \"board-a.lan\"]\n\
                  origins = [\"https://app.example\", \"HTTP://Other.Example:8080\"]\n";
    let node = Node::with(Folder::new(), config);
    let ping = request(1, "rpc.ping", &json!([]));
    let mut misdirected = 0;
    for (lines, status) in [
        ("Host: localhost\r\n", 200),
        ("Host: localhost:7300\r\n", 200),
        ("Host: 127.0.0.1:7300\r\n", 200),
        ("Host: 192.168.1.7\r\n", 200),
        ("Host: [::1]:7300\r\n", 200),
        ("Host: app.localhost\r\n", 200),
        ("Host: board-a:7300\r\n", 200),
        ("Host: BOARD-A.lan\r\n", 200),
        ("Host: evil.example\r\n", 421),
        ("Host: evil.example:7300\r\n", 421),
        ("Host: 127.0.0.1.evil.example\r\n", 421),
        ("Host: board-a.evil.example\r\n", 421),
        ("Host: [evil.example]\r\n", 421),
        ("", 400),
        ("Host: \r\n", 400),
        ("Host: localhost\r\nHost: evil.example\r\n", 400),
        ("Host: localhost:7300\r\nOrigin: http://localhost:7300\r\n", 200),
        ("Host: board-a\r\nOrigin: http://board-a\r\n", 200),
        ("Host: localhost:7300\r\nOrigin: http://localhost:7301\r\n", 403),
        ("Host: localhost:7300\r\nOrigin: https://evil.example\r\n", 403),
        ("Host: localhost:7300\r\nOrigin: null\r\n", 403),
        ("Host: localhost:7300\r\nOrigin: https://app.example.evil\r\n", 403),
        ("Host: localhost:7300\r\nOrigin: http://app.example\r\n", 403),
        ("Host: localhost:7300\r\nOrigin: https://app.example\r\n", 200),
        ("Host: localhost:7300\r\nOrigin: http://other.example:8080\r\n", 200),
        // DNS rebinding: the page's own host name resolves to the node.
        ("Host: evil.example:7300\r\nOrigin: http://evil.example:7300\r\n", 421),
    ] {
        for head in ["POST / HTTP/1.1\r\n", "GET /healthz HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\n"] {
            let body = if head.starts_with("POST") { ping.as_str() } else { "" };
            assert_eq!(http(node.address(), &format!("{head}{lines}"), body).status, status, "{head}{lines}");
        }
        let mut client = Client::connect(node.address());
        client.send(HANDSHAKE.replace("Host: localhost\r\n", lines) + "\r\n");
        let expected = if status == 200 { 101 } else { status };
        assert_eq!(client.http().status, expected, "{lines}");
        misdirected += if status == 200 { 0 } else { 4 };
    }
    assert_eq!(node.metric("chanrpc_http_misdirected_total"), misdirected);

    // An absolute target takes precedence over the Host header.
    let absolute = "POST http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n";
    assert_eq!(http(node.address(), absolute, &ping).status, 421);
    // HTTP/1.0 has no Host header.
    assert_eq!(http(node.address(), "GET /healthz HTTP/1.0\r\n", "").status, 200);
}

#[test]
fn suggested_line_allows_a_foreign_host() {
    let node = Node::demo();
    let get = |node: &Node| http(node.address(), "GET /healthz HTTP/1.1\r\nHost: board-b.lan:80\r\n", "");
    let refused = get(&node);
    assert_eq!(refused.status, 421);
    let line = refused.body.trim().split_once("\": ").unwrap().1;
    let node = Node::with(Folder::new(), &format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{line}\n"));
    assert_eq!(get(&node).status, 200);
}

#[test]
fn only_allowed_origins_can_read_replies() {
    let origins = "[[listen]]\naddress = \"127.0.0.1:0\"\norigins = [\"https://app.example\"]\n";
    let node = Node::with(Folder::new(), &format!("{origins}{}", rule("[\"rpc.echo\"]", &token(TOKEN))));
    let preflight = |node: &Node, origin: &str| {
        let head = format!(
            "OPTIONS /rpc HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization,content-type\r\n",
            node.address()
        );
        http(node.address(), &head, "")
    };
    let reply = preflight(&node, "https://app.example");
    assert_eq!(reply.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-allow-headers", "Authorization, Content-Type"),
        ("vary", "Origin"),
    ] {
        assert_eq!(header(&reply, name), Some(value));
    }
    // Its body would be taken for the next request.
    let mut client = node.connect();
    let behind = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(format!(
        "OPTIONS /rpc HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\
         Access-Control-Request-Method: POST\r\nContent-Length: {}\r\n\r\n{behind}",
        behind.len()
    ));
    let said = String::from_utf8(client.rest()).unwrap();
    assert!(said.starts_with("HTTP/1.1 204 ") && said.matches("HTTP/1.").count() == 1, "{said}");
    let echo = request(1, "rpc.echo", &json!([7]));
    let welcome = format!("Origin: https://app.example\r\nAuthorization: Bearer {TOKEN}\r\n");
    let reply = post(node.address(), &welcome, &echo);
    assert_eq!(reply.json()["result"], json!([7]));
    assert_eq!(header(&reply, "access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(header(&reply, "vary"), Some("Origin"));
    // A page must be able to read why it is rejected.
    let refused = post(node.address(), "Origin: https://app.example\r\nAuthorization: Bearer x\r\n", &echo);
    assert_eq!(
        (refused.status, header(&refused, "access-control-allow-origin")),
        (401, Some("https://app.example"))
    );

    let refused = preflight(&node, "https://evil.example");
    assert_eq!(refused.status, 403);
    let own = format!("http://{}", node.address());
    let same = preflight(&node, &own);
    assert_eq!(same.status, 405);
    let program = post(node.address(), "", &echo);
    for reply in [refused, same, program, preflight(&Node::demo(), "https://app.example")] {
        assert!(!reply.head.to_ascii_lowercase().contains("access-control-"), "{}", reply.head);
    }
}

// With the library's own clock.

#[test]
fn unrestricted_grants_do_not_read_the_clock() {
    let access =
        Arc::new(Access::unrestricted().with_clock(|| -> SystemTime { panic!("nobody needs the time") }));
    let mut pass = access.grants_for("0.0.0.0:1");
    assert!(pass.check("f").is_ok() && pass.authenticate("anything").is_ok() && pass.is_anonymous());
}

/// A peer that accepts the token, and one that does not support tokens, such as an older node.
#[test]
fn token_is_the_first_request_on_each_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let calls = std::thread::spawn(move || {
        [true, false].map(|knows| {
            let mut client = Client::new(listener.accept().unwrap().0);
            let auth: Value = serde_json::from_str(&client.full_line().unwrap()).unwrap();
            assert_eq!((&auth["method"], &auth["params"]), (&json!("rpc.auth"), &json!([TOKEN])));
            let reply = if knows {
                json!({"jsonrpc": "2.0", "id": auth["id"], "result": true})
            } else {
                json!({"jsonrpc": "2.0", "id": auth["id"], "error": {"code": -32601, "message": "no rpc.auth"}})
            };
            client.send(format!("{reply}\n"));
            // Arrives unless the rejection was first.
            let call: Option<Value> = client.full_line().map(|line| serde_json::from_str(&line).unwrap());
            if let Some(call) = &call
                && knows
            {
                let _ = writeln!(client.stream(), "{}", json!({"jsonrpc": "2.0", "id": call["id"], "result": 7}));
            }
            call.map(|call| call["method"].clone())
        })
    });
    let call = || support::run(["call", "--to", &address, "--token", TOKEN, "f"]);
    assert_eq!(call().result(), "7");
    assert!(call().failed(3).contains("no rpc.auth"));
    let calls = support::ended(calls);
    assert_eq!(calls[0], Some(json!("f")));
}
