//! HTTP request smuggling: requests whose end two parsers could see differently. A node may be behind a proxy, which
//! forwards what it takes for one request; an ambiguous request must end the connection, so that no part of it is taken
//! for the next one.

use serde_json::{Value, json};

use crate::support::{Client, Folder, Node, post, request};

/// The request to smuggle in behind one that a proxy accepts.
fn smuggled() -> String {
    let body = request("smuggled", "demo.count", &json!([1]));
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Returns how often `demo.count` was called, without counting that.
fn count(node: &Node) -> Value {
    node.connect().call("demo.count", &json!([0])).unwrap()
}

/// Sends bytes and returns everything that the node sends until it closes the connection, which it has to do by itself.
#[track_caller]
fn told(node: &Node, bytes: &str) -> String {
    let mut client: Client = node.connect();
    // It may close the connection before everything is sent.
    let _ = client.try_send(bytes);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

/// Asserts that a head is rejected, and that what follows it is not handled as a request.
#[track_caller]
fn assert_refused(head: &str, body: &str) {
    let node = Node::demo();
    let bytes = format!("POST / HTTP/1.1\r\n{head}\r\n\r\n{body}{}", smuggled());
    let said = told(&node, &bytes);
    let status = said.split(' ').nth(1).unwrap_or_default();
    assert!(said.is_empty() || status.starts_with('4'), "{head:?}: {said}");
    assert_eq!(said.matches("HTTP/1.").count(), usize::from(!said.is_empty()), "{head:?}: {said}");
    assert_eq!(count(&node), 0, "{head:?} let something in: {said}");
}

#[test]
fn two_different_content_lengths_are_rejected() {
    assert_refused("Host: localhost\r\nContent-Length: 4\r\nContent-Length: 0", "null");
    assert_refused("Host: localhost\r\nContent-Length: 4, 0", "null");
    assert_refused("Host: localhost\r\nContent-Length: +4", "null");
    assert_refused("Host: localhost\r\nContent-Length: 0x4", "null");
    assert_refused("Host: localhost\r\nContent-Length: 4 0", "null");
}

#[test]
fn transfer_encodings_other_than_chunked_are_rejected() {
    assert_refused("Host: localhost\r\nTransfer-Encoding: xchunked", "0\r\n\r\n");
    assert_refused("Host: localhost\r\nTransfer-Encoding: chunked, identity", "0\r\n\r\n");
    assert_refused("Host: localhost\r\nTransfer-Encoding: identity", "0\r\n\r\n");
}

#[test]
fn header_names_and_values_with_unusual_spaces() {
    assert_refused("Host: localhost\r\nContent-Length : 4", "null");
    assert_refused("Host: localhost\r\nTransfer-Encoding : chunked", "0\r\n\r\n");
    assert_refused("Host: localhost\r\n Content-Length: 4", "null");
    // A folded header line.
    assert_refused("Host: localhost\r\nTransfer-Encoding:\r\n chunked", "0\r\n\r\n");
    assert_refused("Host: localhost\r\nX: a\r\n\tContent-Length: 4", "null");
    assert_refused("Host: localhost\r\nContent-Length\0: 4", "null");
    assert_refused("Host: localhost\r\nContent-Length:\u{b}4", "null");
}

#[test]
fn ambiguous_chunks_are_rejected() {
    let head = "Host: localhost\r\nTransfer-Encoding: chunked";
    for body in [
        "4\nnull\r\n0\r\n\r\n",
        "4\r\nnullX0\r\n\r\n",
        "0x4\r\nnull\r\n0\r\n\r\n",
        "10000000000000004\r\nnull\r\n0\r\n\r\n",
        "4;a=\"\nb\"\r\nnull\r\n0\r\n\r\n",
    ] {
        assert_refused(head, body);
    }
}

/// A request with both Content-Length and Transfer-Encoding is ambiguous; the encoding takes precedence (RFC 9112,
/// section 6.3), and no part of the body is handled as a request.
#[test]
fn transfer_encoding_takes_precedence_over_content_length() {
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 400\r\ntransfer-encoding: CHUNKED",
    ] {
        let node = Node::demo();
        let inner = smuggled();
        let body = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        let mut client = node.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}"));
        client.end();
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(said.matches("HTTP/1.").count() <= 1, "{head:?}: {said}");
        assert_eq!(count(&node), 0, "{head:?} let something in: {said}");
    }
}

/// Extensions and trailers are ignored and are not part of the body.
#[test]
fn chunk_extensions_and_trailers_are_skipped() {
    let node = Node::demo();
    let call = request(1, "demo.add", &json!([20, 22]));
    let body = format!("{:x};name=value\r\n{call}\r\n0\r\nContent-Length: 400\r\n\r\n", call.len());
    let mut client = node.connect();
    for _ in 0..2 {
        client
            .send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        assert_eq!(client.http().json()["result"], 42);
    }
}

/// The host in an absolute target takes precedence over the Host header (RFC 9112, section 3.2.2).
#[test]
fn host_in_the_target_takes_precedence() {
    let node = Node::demo();
    let call = request(1, "demo.count", &json!([1]));
    for (target, host) in [
        ("http://evil.example/", "localhost"),
        ("http://evil.example/", "evil.example"),
        ("/", "evil.example"),
        ("/", "localhost\r\nHost: evil.example"),
        ("/", "localhost, evil.example"),
    ] {
        let said = told(
            &node,
            &format!(
                "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{call}",
                call.len()
            ),
        );
        assert!(said.starts_with("HTTP/1.1 4"), "{target} {host}: {said}");
    }
    assert_eq!(count(&node), 0);
    let head = "POST http://localhost/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close";
    let said = told(&node, &format!("{head}\r\nContent-Length: {}\r\n\r\n{call}", call.len()));
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert_eq!(count(&node), 1);
}

/// Neither a response, nor a handshake, nor an error waits for the rest of the next request.
#[test]
fn response_does_not_wait_for_following_bytes() {
    let node = Node::demo();
    let quick = post(&request(1, "rpc.ping", &json!([])));
    for follows in ["P", "\r\n", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"] {
        let mut client = node.connect();
        client.send(format!("{quick}{follows}"));
        assert_eq!(client.http().json()["result"], "pong", "{follows:?}");
    }
    // The first of three does not wait for the second.
    let slow = post(&request(2, "demo.sleep", &json!([3600])));
    let mut client = node.connect();
    client.send(format!("{quick}{slow}{quick}"));
    assert_eq!(client.http().json()["result"], "pong");

    let mut client = node.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\nBad Header\r\n\r\n{quick}"));
    assert_eq!(client.http().status, 400);
    let mut client = node.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: elsewhere.example\r\nContent-Length: 0\r\n\r\n{quick}"));
    assert_eq!(client.http().status, 421);

    let mut client = node.connect();
    let handshake = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send([handshake.as_bytes(), b"\x89\x80\0\0\0\0"].concat());
    assert!(client.take(12).starts_with(b"HTTP/1.1 101"));
}

/// A peer that sends requests and never reads uses at most the memory of its output limit.
#[test]
fn requests_split_across_writes_hold_no_memory() {
    let node = Node::with(Folder::new(), "limits.stall_timeout = '1h'");
    let get = "GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    node.assert_growth_below(24, || {
        let mut client = node.connect();
        client.set_limit(std::time::Duration::from_millis(500));
        client.send(&get[..10]);
        for _ in 0..400 {
            // Each write ends in the middle of a request, forty requests after its first byte.
            let round = get.repeat(40);
            if client.try_send([&round.as_bytes()[10..], &round.as_bytes()[..10]].concat()).is_err() {
                break;
            }
        }
        assert_eq!(node.connect().call("rpc.ping", &json!([])), Ok(json!("pong")));
    });
}
