//! Untrusted peers: bytes of other protocols reach no function, and nothing that a peer starts lasts indefinitely.

use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::access::{rule, token};
use super::hostile::{frame, websocket};
use super::support::{Client, Folder, HttpReply, Node, eventually, fault, is_end, outcome, request};

/// A call that must not run behind another protocol's bytes.
fn smuggled() -> String {
    request(1, "demo.add", &json!([1, 2])) + "\n"
}

/// Returns the number of understood requests.
fn calls(node: &Node) -> u64 {
    node.metric("chanrpc_calls_total")
}

/// Returns everything that a node replies to these bytes until it closes the connection.
#[track_caller]
fn answer(node: &Node, bytes: &[u8]) -> String {
    let mut client = node.connect();
    // It may close before everything is sent.
    let _ = client.try_send(bytes);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

#[test]
fn bytes_of_other_protocols_reach_no_function() {
    let node = Node::demo();
    let line = smuggled();
    let http = format!(
        "Host: evil.example\r\nOrigin: http://evil.example\r\nContent-Length: {}\r\n\r\n{line}",
        line.len()
    );
    for (bytes, status) in [
        (format!("PROPFIND / HTTP/1.1\r\n{http}"), "421"),
        (format!("QUERY /rpc HTTP/1.1\r\n{http}"), "421"),
        (format!("post / HTTP/1.1\r\n{http}"), "421"),
        (format!("\r\nPOST / HTTP/1.1\r\n{http}"), "421"),
        (format!("\r\n\r\n\r\nPOST / HTTP/1.1\r\n{http}"), "421"),
        (format!("POST / http/1.1\r\n{http}"), "400"),
        (format!("POST /\r\n{line}"), "400"),
        (format!("{} /{} HTTP/1.1\r\n{http}", "X".repeat(2000), "y".repeat(3000)), "421"),
        (format!("X * HTTP/1.1\r\n{http}"), "421"),
        ("post / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".into(), "405"),
        (format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{line}"), "400"),
        (format!("\x16\x03\x01\x02\0\x01\0\n{line}"), "400"),
    ] {
        let mut client = node.connect();
        let _ = client.try_send(&bytes);
        client.end();
        let told = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:.60}: {told}");
    }
    for foreign in [
        &b"EHLO evil.example\r\nMAIL FROM:<a@evil.example>\r\nDATA\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"get key\r\n",
        b"a001 NOOP\r\n",
        b"USER anonymous\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\n",
        b"\x05\x01\0\n",
        b"\x04\x01\0\x50\n",
        b"\0\x01\0\0\x21\x12\xa4\x42\n",
        b"\n\nPOST / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"  POST / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"\xef\xbb\xbfPOST / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"\n \t\r\nhello\n",
        b"{hello}\n",
        b"[200~POST /\n",
        b"\"text\"\n",
        b"7\n",
        b"null\n",
        b"Host: evil.example\r\n\r\n",
        b"Content-Length: 42\r\nPOST / HTTP/1.1\r\n\r\n",
        b"Content-Length: 5\r\n\r\nhelloContent-Length: 45\r\n\r\n",
    ] {
        let told = answer(&node, &[foreign, line.as_bytes()].concat());
        let text = told
            .strip_prefix("Content-Length: ")
            .map_or(&*told, |told| told.split_once("\r\n\r\n").unwrap().1);
        let reply: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("{error}: not one error to {foreign:?}: {told}"));
        assert!(matches!(fault(&reply).code, -32700 | -32600), "{foreign:?}: {told}");
    }
    // MessagePack-RPC cannot express an error without a request.
    for foreign in [&b"\x90"[..], b"\x91\x00", b"\x94POST", b"\xdc\x00\x01\xa0"] {
        let behind = b"\x94\x00\x01\xa8demo.add\x92\x01\x02";
        assert_eq!(answer(&node, &[foreign, behind].concat()), "", "{foreign:?}");
    }
    assert_eq!(calls(&node), 0);
    assert!(node.metric("chanrpc_foreign_dialects_total") >= 20);
    node.await_log("SMTP");
}

#[test]
fn request_line_may_arrive_byte_by_byte() {
    let node = Node::demo();
    for line in ["PROPFIND / HTTP/1.1\r\n", "\r\npost x HTTP/1.0\r\n", "get / HTTP/1.1\r\n"] {
        let mut client = node.connect();
        for byte in line.bytes() {
            client.send([byte]);
        }
        client.send("Host: evil.example\r\n\r\n");
        let status = client.http().status;
        assert!(matches!(status, 400 | 421), "{line}: {status}");
    }
}

/// A typing error, or a client that writes `NaN`, gets an error and the connection continues, but not indefinitely.
#[test]
fn invalid_lines_between_requests_are_tolerated_up_to_a_limit() {
    let node = Node::demo();
    let mut client = node.connect();
    for round in 0..30 {
        assert_eq!(client.call("demo.add", &json!([1, 2])), Ok(json!(3)), "round {round}");
        assert_eq!(fault(&client.ask("[NaN]")).code, -32700);
    }
    let _ = client.try_send("nonsense\n".repeat(20_000));
    let told = String::from_utf8_lossy(&client.rest()).into_owned();
    assert_eq!(told.lines().count(), 15, "{told}");
    assert!(told.lines().last().unwrap().contains("16 invalid messages in a row"), "{told}");
}

/// A blank line keeps a connection open, as the node's own clients send one, and JSON follows.
#[test]
fn white_space_before_the_first_message_is_ignored() {
    let node = Node::with(Folder::new(), "limits.head_timeout = '200ms'");
    for blank in ["\n", "\r\n", " \t", "\n\r\n  \n", "\r\n\r\n\r\n "] {
        let mut client: Client = node.connect();
        client.send(blank);
        let reply = client.ask(request(1, "rpc.ping", &json!([])));
        assert_eq!(outcome(&reply), Ok(json!("pong")), "{blank:?}");
    }
}

// Incomplete messages.

/// Incomplete messages, and whether the peer can be sent an error.
const BEGINNINGS: [(&[u8], bool); 9] = [
    (b"{\"jsonrpc\":\"2.0\",\"id\":1,", true),
    (b"\n ", true),
    (b"Content-Length: 5", true),
    (b"Content-Length: 50\r\n\r\n{\"js", true),
    (b"Content-Length: 5000\r\n\r\n{\"js", true),
    (b"\x94\x00\x01", true),
    (b"\x94\x00\x01\xdb\x00\x01\x00\x00", false),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{", true),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", true),
];
const SHORT: &str = "[limits]\nstall_timeout = '300ms'\nmessage = '4 KiB'\n";

#[test]
fn incomplete_message_times_out_in_every_dialect() {
    let node = Node::with(Folder::new(), SHORT);
    let mut witness = node.connect();
    assert_eq!(witness.call("rpc.ping", &json!([])), Ok(json!("pong")));
    let begun = BEGINNINGS.map(|(bytes, is_told)| {
        let mut client = node.connect();
        client.send(bytes);
        (client, bytes, is_told)
    });
    // An unterminated line that is already too long.
    let mut endless = node.connect();
    endless.send("[".repeat(5000));
    for (mut client, bytes, is_told) in begun {
        let told = String::from_utf8_lossy(&client.rest()).into_owned();
        assert_eq!(told.contains("limits.stall_timeout"), is_told, "{}: {told}", bytes.escape_ascii());
    }
    let told = String::from_utf8_lossy(&endless.rest()).into_owned();
    assert!(told.contains("-32007") && told.contains("limits.stall_timeout"), "{told}");
    eventually("all are counted", || node.metric("chanrpc_slow_messages_total") == 10);
    assert_eq!(witness.call("rpc.ping", &json!([])), Ok(json!("pong")), "an idle connection stays");
}

#[test]
fn incomplete_websocket_message_times_out() {
    let node = Node::with(Folder::new(), SHORT);
    let mut witness = websocket(&node);
    let whole = frame(1, b"{\"jsonrpc\":\"2.0\",\"method\":\"rpc.ping\",\"id\":1}");
    let mut fragment = frame(1, b"{");
    fragment[0] &= 0x7f;
    let begun = [whole[..1].to_vec(), whole[..4].to_vec(), whole[..20].to_vec(), fragment].map(|bytes| {
        let mut client = websocket(&node);
        client.send(&whole);
        client.send(bytes);
        client
    });
    for mut client in begun {
        let rest = client.rest();
        let close =
            rest.windows(4).position(|bytes| bytes[0] == 0x88 && bytes[2..] == 1008_u16.to_be_bytes());
        assert!(close.is_some() && rest.ends_with(b"(limits.stall_timeout)"), "{}", rest.escape_ascii());
    }
    eventually("all are counted", || node.metric("chanrpc_slow_messages_total") == 4);
    witness.send(&whole);
    assert_eq!(witness.take(2)[0], 0x81, "an idle connection stays");
}

/// Sends a piece repeatedly, with a short pause after each, until the node closes the connection.
#[track_caller]
fn trickle(mut client: Client, piece: &[u8]) {
    client.set_limit(Duration::from_millis(20));
    let mut ended = false;
    eventually("the node has enough of it", || {
        if client.try_send(piece).is_err() {
            return true;
        }
        let mut told = [0; 512];
        match client.stream().read(&mut told) {
            Ok(0) => ended = true,
            Err(error) if is_end(&error) => ended = true,
            _ => {}
        }
        ended
    });
}

#[test]
fn trickle_of_bytes_does_not_extend_the_timeout() {
    let node = Node::with(Folder::new(), SHORT);
    let mut fragment = frame(1, b"{");
    fragment[0] &= 0x7f;
    let start = |bytes: &[u8]| {
        let mut client = node.connect();
        client.send(bytes);
        client
    };
    trickle(start(b"["), b"[");
    trickle(start(b"Content-Length: 4000\r\n\r\n"), b"[");
    trickle(start(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n"), b"[");
    let mut client = websocket(&node);
    client.send(&fragment);
    // A ping is not part of the message.
    trickle(client, &frame(9, b"x"));
    eventually("all are counted", || node.metric("chanrpc_slow_messages_total") == 4);
}

// Peers without a token.

#[test]
fn peer_without_rights_must_present_a_token_in_time() {
    const TOKEN: &str = "a token";
    let all = rule("[\"*\"]", &token(TOKEN));
    let limits = "[limits]\nauth_timeout = '300ms'\n";
    let node = Node::with(Folder::new(), &format!("{limits}{all}"));
    let open = Node::with(Folder::new(), &format!("{limits}{all}{}", rule("[\"rpc.list\"]", "")));
    let mut visitor = open.connect();
    visitor.send("\n");

    let auth = |client: &mut Client| assert_eq!(client.call("rpc.auth", &json!([TOKEN])), Ok(json!(true)));
    let mut known = node.connect();
    auth(&mut known);
    let (mut idle, mut pinging, mut wrong, mut page) =
        (node.connect(), node.connect(), node.connect(), websocket(&node));
    idle.send("\n");
    assert_eq!(pinging.call("rpc.ping", &json!([])), Ok(json!("pong")));
    assert_eq!(wrong.call("rpc.auth", &json!(["wrong"])).unwrap_err().code, -32002);
    for client in [&mut idle, &mut pinging, &mut wrong, &mut page] {
        let told = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(told.contains("-32002") && told.contains("limits.auth_timeout"), "{told}");
    }
    assert_eq!(known.call("rpc.echo", &json!([1])), Ok(json!([1])), "a token keeps a connection");
    assert!(visitor.call("rpc.list", &json!([])).is_ok(), "and so does a right without one");
    auth(&mut node.connect());
    let mut asking = node.connect();
    auth(&mut asking);
    let stats = asking.call("rpc.stats", &json!([])).unwrap();
    assert_eq!(stats["node"]["unauthenticated"], 4, "{stats}");
}

// Browsers.

/// Sends an HTTP request with these header lines.
fn ask(node: &Node, method: &str, path: &str, lines: &str, body: &str) -> HttpReply {
    let mut client = node.connect();
    let length = body.len();
    client.send(format!("{method} {path} HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n{body}"));
    client.http()
}

#[test]
fn clients_other_than_pages_are_allowed_by_the_suggested_line() {
    let ping = request(1, "rpc.ping", &json!([]));
    for origin in [
        "file://",
        "null",
        "https://github.com/someone/Library",
        "tauri://localhost",
        "https://app.example",
        "http://127.0.0.1:8080",
    ] {
        let lines = format!("Host: 127.0.0.1:7300\r\nOrigin: {origin}\r\n");
        let refused = ask(&Node::demo(), "POST", "/", &lines, &ping);
        assert_eq!(refused.status, 403, "{origin}");
        assert!(refused.body.contains("[[listen]] with address = \"127.0.0.1:0\""), "{}", refused.body);
        let line = refused.body.trim().split_once("\": ").unwrap().1;
        let config = format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{line}\n");
        let node = Node::with(Folder::new(), &config);
        assert_eq!(ask(&node, "POST", "/", &lines, &ping).status, 200, "{config}");
        let elsewhere = "Host: 127.0.0.1:7300\r\nOrigin: http://evil.example\r\n";
        assert_eq!(ask(&node, "POST", "/", elsewhere, &ping).status, 403, "{config}");
    }
    // A value that is invalid there is not quoted.
    for origin in ["https://x\"]\r\nnode", "https://a, https://b", "*", "x", &"h".repeat(300)] {
        let told =
            ask(&Node::demo(), "POST", "/", &format!("Host: localhost\r\nOrigin: {origin}\r\n"), &ping);
        assert_eq!(told.status, if origin.contains('\n') { 400 } else { 403 }, "{origin}");
        assert!(told.status == 400 || told.body.contains("[\"https://app.example\"]"), "{}", told.body);
    }
}

#[test]
fn default_ports_match_and_origins_are_distinguished() {
    let node = Node::demo();
    let ping = request(1, "rpc.ping", &json!([]));
    for (lines, status) in [
        ("Host: 127.0.0.1:80\r\nOrigin: http://127.0.0.1\r\n", 200),
        ("Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:80\r\n", 200),
        ("Host: LOCALHOST\r\nOrigin: HTTP://localhost\r\n", 200),
        ("Host: [::1]:80\r\nOrigin: http://[::1]\r\n", 200),
        // Through a proxy with TLS.
        ("Host: localhost:443\r\nOrigin: https://localhost\r\n", 200),
        ("Host: localhost\r\nOrigin: https://localhost:443\r\n", 200),
        ("Host: localhost:443\r\nOrigin: http://localhost\r\n", 403),
        ("Host: localhost:80\r\nOrigin: https://localhost\r\n", 403),
        ("Host: localhost:7300\r\nOrigin: chrome-extension://localhost:7300\r\n", 403),
        ("Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n", 400),
        // Without an Origin: programs, and navigation from pages elsewhere.
        ("Host: localhost\r\n", 200),
        ("Host: localhost\r\nSec-Fetch-Site: same-origin\r\n", 200),
        ("Host: localhost\r\nSec-Fetch-Site: none\r\n", 200),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", 403),
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
            403,
        ),
        ("Host: localhost\r\nSec-Fetch-Site: same-site\r\n", 403),
        ("Host: localhost\r\nSec-Fetch-Site: \r\n", 403),
        ("Host: localhost\r\nReferer: http://evil.example/page\r\nContent-Type: text/plain\r\n", 403),
        ("Host: localhost\r\nReferer: http://localhost/page\r\n", 200),
        // Compressed bodies are not supported.
        ("Host: localhost\r\nContent-Encoding: gzip\r\n", 415),
        ("Host: localhost\r\nContent-Encoding: identity\r\n", 200),
    ] {
        assert_eq!(ask(&node, "POST", "/", lines, &ping).status, status, "{lines}");
    }
    let elsewhere = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n";
    let link = format!("{elsewhere}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n");
    let framed = format!("{elsewhere}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n");
    let image = format!("{elsewhere}Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n");
    for (lines, status) in [(link, 200), (framed, 403), (image, 403)] {
        assert_eq!(ask(&node, "GET", "/", &lines, "").status, status, "{lines}");
    }
}

/// Some clients send an empty message first, to test the connection.
#[test]
fn empty_websocket_message_does_not_determine_the_dialect() {
    let node = Node::demo();
    let mut client = websocket(&node);
    client.send(frame(1, b""));
    client.send(frame(2, b""));
    client.send(frame(2, b"\x94\x00\x01\xa8rpc.ping\x90"));
    assert_eq!(client.take(11), b"\x82\x09\x94\x01\x01\xc0\xa4pong");
}
