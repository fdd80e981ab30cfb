//! Listeners for Leaf's clients: the bytes that a real Leaf gate was observed to accept, reject and send.

use serde_json::json;

use super::support::Client;
use super::wires::{Fixture, TOKEN, frame, take_frame, upgrade};

/// A message that a real Leaf gate accepted and echoed.
const HELLO: &[u8] = b"\x00\x19{\"Hello\":{\"Name\":\"leaf\"}}";
/// The message that the client of Leaf's tutorial sends.
const TUTORIAL: &[u8] = b"\x00\x3f{\n        \"Hello\": {\n            \"Name\": \"leaf\"\n        }\n    }";

const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";

/// A node with a Leaf listener for frames, one for WebSocket, and a regular one.
fn node() -> Fixture {
    let leaf = format!("{LISTEN}dialect = \"leaf\"\n");
    Fixture::start("t", &format!("{leaf}{leaf}[listen.leaf]\nwebsocket = true\n{LISTEN}"))
}

/// Returns a message with its length prefix.
fn framed(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

#[track_caller]
fn assert_takes(client: &mut Client, expected: impl AsRef<[u8]>) {
    let expected = framed(expected);
    let taken = client.take(expected.len());
    assert_eq!(String::from_utf8_lossy(&taken), String::from_utf8_lossy(&expected));
}

fn websocket(node: &Fixture) -> Client {
    let mut client = Client::connect(node.addresses[1]);
    upgrade(&mut client);
    client
}

#[test]
fn message_is_echoed_unchanged() {
    let node = node();
    let mut client = Client::connect(node.address());
    client.send(HELLO);
    assert_eq!(client.take(HELLO.len()), HELLO);
    client.send([HELLO, TUTORIAL, HELLO].concat());
    for _ in 0..3 {
        assert_eq!(client.take(HELLO.len()), HELLO);
    }
}

#[test]
fn fragmented_frames_are_read() {
    let node = node();
    for cuts in [&[1, 5][..], &[2], &[1, 2, 3, 20, 26], &[26]] {
        let mut client = Client::connect(node.address());
        let (mut at, ends) = (0, cuts.iter().copied().chain([HELLO.len()]));
        for end in ends {
            client.send(&HELLO[at..end]);
            at = end;
        }
        assert_eq!(client.take(HELLO.len()), HELLO, "{cuts:?}");
    }
}

#[test]
fn tutorial_client_closes_without_reading() {
    let node = node();
    for _ in 0..2 {
        let mut client = Client::connect(node.address());
        client.send(TUTORIAL);
        client.end();
        assert_eq!(client.rest(), HELLO);
        drop(client);
    }
    let mut usual = Client::connect(node.addresses[2]);
    assert_eq!(usual.call("t.count", &json!([])), Ok(json!(2)));
}

#[test]
fn websocket_accepts_text_and_binary_and_sends_binary() {
    let node = node();
    let mut client = websocket(&node);
    for opcode in [1, 2, 1] {
        client.send(frame(opcode, &HELLO[2..]));
        assert_eq!(take_frame(&mut client, 2), &HELLO[2..]);
        client.send(frame(opcode, &TUTORIAL[2..]));
        assert_eq!(take_frame(&mut client, 2), &HELLO[2..]);
    }
    // The payload is the message, without a length prefix.
    let longest = format!("{{\"t.echo\":[\"{}\"]}}", "x".repeat(4096 - 15));
    assert_eq!(longest.len(), 4096);
    client.send(frame(1, longest.as_bytes()));
    assert!(take_frame(&mut client, 2) == longest.replace(['[', ']'], "").as_bytes());
    client.send(frame(1, &[b' '; 4097]));
    let close = take_frame(&mut client, 8);
    assert_eq!(close[..2], 1009_u16.to_be_bytes());
    assert_eq!(String::from_utf8_lossy(&close[2..]), "a message of more than 4096 bytes (listen.leaf.max)");
}

/// Each only makes the node close the connection.
const MISTAKES: [&str; 17] = [
    r#"{"NoSuch":{}}"#,
    r#"{"Hello":{},"World":{}}"#,
    r#"{"Hello":{},"Hello":{}}"#,
    "{}",
    "null",
    "1",
    "[]",
    "hello",
    r#"{"Hello""#,
    r#"{"Hello":{}} x"#,
    r#"{"Hello":{"Name":1}}"#,
    r#"{"Hello":[1]}"#,
    // Functions without a result are no exception.
    r#"{"t.note":"one"}"#,
    r#"{"t.note":null}"#,
    r#"{"t.nothing":[1]}"#,
    r#"{"secret":null}"#,
    r#"{"rpc.auth":"a wrong token"}"#,
];

#[test]
fn protocol_errors_close_the_connection() {
    let node = node();
    for mistake in MISTAKES {
        // Earlier messages are answered; later ones are not read.
        let mut client = Client::connect(node.address());
        client.send([HELLO, &framed(mistake), HELLO].concat());
        assert_eq!(client.take(HELLO.len()), HELLO, "{mistake}");
        assert_eq!(client.rest(), b"", "{mistake}");

        let mut client = websocket(&node);
        client.send(frame(1, mistake.as_bytes()));
        assert!(take_frame(&mut client, 8).len() <= 2, "{mistake}");
        assert_eq!(client.rest(), b"", "{mistake}");
    }
    for bytes in [
        &b"\0\0"[..],
        b"\x10\x01",
        b"\xff\xff",
        b"\0\x02\xff\xfe",
        // A Leaf message in protobuf: this gate uses JSON.
        b"\0\x08\0\0\n\x04leaf",
        // The first bytes of other dialects are lengths that are too long.
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}\n",
        b"\x94\0\x01\xa8rpc.ping\x90",
    ] {
        let mut client = Client::connect(node.address());
        client.send(bytes);
        assert_eq!(client.rest(), b"", "{bytes:?}");
    }
    let mut client = websocket(&node);
    client.send(frame(1, b""));
    assert!(take_frame(&mut client, 8).len() <= 2);
}

#[test]
fn fields_may_be_unknown_or_missing() {
    let node = node();
    let mut client = Client::connect(node.address());
    for (message, reply) in [
        (r#"{"Hello":{"Name":"leaf","More":[1]}}"#, r#"{"Hello":{"Name":"leaf"}}"#),
        (r#"{"Hello":{}}"#, r#"{"Hello":{"Name":""}}"#),
        (r#"{"Hello":null}"#, r#"{"Hello":{"Name":""}}"#),
    ] {
        client.send(framed(message));
        assert_takes(&mut client, reply);
    }
}

#[test]
fn only_results_are_sent_in_order() {
    let node = node();
    let mut client = Client::connect(node.address());
    for (message, reply) in [
        (r#"{"t.add":[20,22]}"#, r#"{"t.add":42}"#),
        (r#"{"t.divide":[17,5]}"#, r#"{"t.divide":[3,2]}"#),
        (r#"{"t.echo":[{"a":1}]}"#, r#"{"a":1}"#),
        (r#"{"t.echo":[{"a":1,"b":2}]}"#, r#"{"t.echo":{"a":1,"b":2}}"#),
        (r#"{"t.echo":[null]}"#, r#"{"t.echo":null}"#),
        (r#"{"t.echo":"é"}"#, r#"{"t.echo":"é"}"#),
        (r#"{"rpc.ping":null}"#, r#"{"rpc.ping":"pong"}"#),
    ] {
        client.send(framed(message));
        assert_takes(&mut client, reply);
    }
    // A call without a result gets no reply, and replies keep their order. A failure that is not the peer's, or a
    // result that is too long, gets no reply either.
    for message in [
        r#"{"t.note":5}"#,
        r#"{"t.nothing":null}"#,
        r#"{"t.panic":"nobody hears it"}"#,
        r#"{"t.fail":[null]}"#,
        r#"{"gone":null}"#,
        r#"{"t.big":4096}"#,
        r#"{"t.note":[6]}"#,
        r#"{"t.count":null}"#,
    ] {
        client.send(framed(message));
    }
    assert_takes(&mut client, r#"{"t.count":11}"#);

    let auth = json!({ "rpc.auth": { "token": TOKEN } }).to_string();
    client.send([framed(auth), framed(r#"{"secret":null}"#)].concat());
    assert_takes(&mut client, r#"{"rpc.auth":true}"#);
    assert_takes(&mut client, r#"{"secret":"told"}"#);
}

#[test]
fn length_prefixes_of_other_sizes_and_byte_orders() {
    let body = &HELLO[2..];
    for (settings, prefix, wrong) in [
        ("length = 1", &[25][..], &[0][..]),
        ("length = 1\norder = \"little\"", &[25], &[0]),
        ("length = 2\norder = \"big\"", &[0, 25], &[0x10, 1]),
        ("length = 2\norder = \"little\"", &[25, 0], &[1, 0x10]),
        ("length = 4\norder = \"big\"", &[0, 0, 0, 25], &[0, 0, 0x10, 1]),
        ("length = 4\norder = \"little\"", &[25, 0, 0, 0], &[1, 0x10, 0, 0]),
        ("min = 25\nmax = 25", &[0, 25], &[0, 24]),
        ("min = 25\nmax = 25", &[0, 25], &[0, 26]),
        // "GE" is a length as well: no dialect is detected.
        ("max = \"60 KiB\"", &[0, 25], &[0xff, 0xff]),
    ] {
        let node = Fixture::start("t", &format!("{LISTEN}dialect = \"leaf\"\n[listen.leaf]\n{settings}\n"));
        let frame = [prefix, body].concat();
        let mut client = Client::connect(node.address());
        client.send([&frame, wrong].concat());
        assert_eq!(client.take(frame.len()), frame, "{settings}");
        assert_eq!(client.rest(), b"", "{settings}");
    }
    let node = Fixture::start("t", &format!("{LISTEN}dialect = \"leaf\"\n[listen.leaf]\nmax = 65535\n"));
    let mut client = Client::connect(node.address());
    let message = format!("{{\"t.echo\":[\"{}\"]}}", "x".repeat(0x4745 - 15));
    let message = framed(message);
    assert_eq!(message[..2], *b"GE");
    client.send(&message);
    assert_eq!(client.take(message.len() - 2)[2..10], *b"{\"t.echo");
}

#[test]
fn websocket_listener_accepts_nothing_else() {
    let node = node();
    let address = node.addresses[1];
    for (path, status) in [("/", 426), ("/rpc", 426), ("/nowhere", 426), ("/healthz", 200)] {
        let mut client = Client::connect(address);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let reply = client.http();
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.head.to_lowercase().contains("upgrade: websocket"), status == 426, "{path}");
    }
    for bytes in
        [HELLO, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}\n", b"\x94\0\x01\xa8rpc.ping\x90"]
    {
        let mut client = Client::connect(address);
        client.send(bytes);
        assert_eq!(client.rest(), b"", "{bytes:?}");
    }
}
