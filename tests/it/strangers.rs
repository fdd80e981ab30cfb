//! What a stranger's bytes may do: those of other protocols reach no function, and nothing that is begun lasts for ever.

use serde_json::{Value, json};

use super::support::{Client, Folder, Node, fault, outcome, request};

/// A call that must not be executed where it stands behind another protocol's bytes.
fn smuggled() -> String {
    request(1, "demo.add", &json!([1, 2])) + "\n"
}

/// How many requests were understood.
fn calls(node: &Node) -> u64 {
    node.metric("chanrpc_calls_total")
}

/// Everything that a node answers to these bytes, after which it ends the connection.
#[track_caller]
fn answer(node: &Node, bytes: &[u8]) -> String {
    let mut client = node.connect();
    // It may end before all is sent.
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
    // MessagePack has no form for an error of nobody's request.
    for foreign in [&b"\x90"[..], b"\x91\x00", b"\x94POST", b"\xdc\x00\x01\xa0"] {
        let behind = b"\x94\x00\x01\xa8demo.add\x92\x01\x02";
        assert_eq!(answer(&node, &[foreign, behind].concat()), "", "{foreign:?}");
    }
    assert_eq!(calls(&node), 0);
    assert!(node.metric("chanrpc_foreign_dialects_total") >= 20);
    let log = node.log();
    assert!(log.contains("SMTP") && log.contains("the PROXY protocol"), "{log}");
}

#[test]
fn a_request_line_may_come_byte_by_byte() {
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

/// A person who mistypes, or a client that writes a `NaN`, gets an error and may go on, but not for ever.
#[test]
fn nonsense_between_requests_is_answered_a_bounded_number_of_times() {
    let node = Node::demo();
    let mut client = node.connect();
    for round in 0..30 {
        assert_eq!(client.call("demo.add", &json!([1, 2])), Ok(json!(3)), "round {round}");
        assert_eq!(fault(&client.ask("[NaN]")).code, -32700);
    }
    let _ = client.try_send("nonsense\n".repeat(20_000));
    let told = String::from_utf8_lossy(&client.rest()).into_owned();
    assert_eq!(told.lines().count(), 15, "{told}");
    assert!(told.lines().last().unwrap().contains("16 messages in a row"), "{told}");
}

/// A blank line alone keeps a connection, as the node's own clients send one, and what follows is JSON.
#[test]
fn white_space_before_the_first_message_means_nothing() {
    let node = Node::with(Folder::new(), "limits.head_timeout = '200ms'");
    for blank in ["\n", "\r\n", " \t", "\n\r\n  \n", "\r\n\r\n\r\n "] {
        let mut client: Client = node.connect();
        client.send(blank);
        let reply = client.ask(request(1, "rpc.ping", &json!([])));
        assert_eq!(outcome(&reply), Ok(json!("pong")), "{blank:?}");
    }
}
