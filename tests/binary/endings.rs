//! How connections end: what a peer that is still sending receives, and when the peer itself has vanished.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::support::{Client, Folder, HttpReply, Node, eventually, got, listen, post, request};

const MIB: usize = 1 << 20;
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn websocket(node: &Node) -> Client {
    let mut client = node.connect();
    client.send(UPGRADE);
    assert_eq!(client.http().status, 101);
    client
}

/// Returns the start of a text frame with a mask of zeros.
fn frame_of(length: usize) -> Vec<u8> {
    [&b"\x81\xff"[..], &(length as u64).to_be_bytes(), &[0; 4]].concat()
}

/// Returns what a node sends to a peer that sends 3 MiB after `beginning` and then reads. The close must be orderly.
fn told_after_all(mut client: Client, beginning: &[u8]) -> Vec<u8> {
    client.send(beginning);
    client.send(vec![b'x'; 3 * MIB]);
    let mut told = Vec::new();
    client.stream().read_to_end(&mut told).expect("no reset");
    told
}

#[test]
fn websocket_close_is_answered_with_a_close() {
    let node = Node::demo();
    for code in [1000_u16, 1001, 4321] {
        let mut client = websocket(&node);
        // A call, a ping and the close together: all three are answered in this order.
        let call = br#"{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}"#;
        let frame = |opcode: u8, payload: &[u8]| {
            let head = [0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
            [&head[..], payload].concat()
        };
        client.send([frame(1, call), frame(9, b"p"), frame(8, &code.to_be_bytes())].concat());
        let mut told = Vec::new();
        client.stream().read_to_end(&mut told).expect("no reset");
        let answer = br#"{"jsonrpc":"2.0","id":1,"result":"pong"}"#;
        let expected = [
            &[0x81, u8::try_from(answer.len()).unwrap()][..],
            answer,
            &[0x8a, 1, b'p'],
            &[0x88, 2],
            &code.to_be_bytes(),
        ];
        assert_eq!(told, expected.concat());
    }
}

#[test]
fn websocket_message_too_large_is_reported_while_the_peer_sends() {
    let node = Node::demo();
    let told = told_after_all(websocket(&node), &frame_of(3 * MIB));
    assert_eq!((told[0], &told[2..4]), (0x88, &1009_u16.to_be_bytes()[..]), "{told:?}");
}

#[test]
fn http_body_too_large_is_reported_while_the_peer_sends() {
    let node = Node::demo();
    for length in ["Content-Length: 3145728\r\n", "Transfer-Encoding: chunked\r\n"] {
        let chunk = if length.contains("chunked") { "300000\r\n" } else { "" };
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{chunk}");
        let told = told_after_all(node.connect(), head.as_bytes());
        let told = String::from_utf8(told).unwrap();
        assert!(told.starts_with("HTTP/1.1 413 ") && told.contains("-32007"), "{told}");
    }
}

#[test]
fn invalid_input_is_reported_while_the_peer_sends() {
    let node = Node::demo();
    let told = told_after_all(node.connect(), b"Content-Length: many\r\n\r\n");
    assert!(String::from_utf8_lossy(&told).contains("-32700"), "{told:?}");
    let told = told_after_all(node.connect(), b"GET nowhere\r\n\r\n");
    assert!(told.starts_with(b"HTTP/1.1 400 "), "{told:?}");
}

#[test]
fn peer_that_keeps_sending_is_cut_off() {
    let node = Node::demo();
    let mut clients = [websocket(&node), node.connect(), node.connect()];
    let endless = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
    for (client, beginning) in
        clients.iter_mut().zip([&frame_of(1 << 40)[..], endless.as_bytes(), b"Content-Length: many\r\n\r\n"])
    {
        client.send(beginning);
        let more = vec![b'x'; MIB];
        while client.try_send(&more).is_ok() {}
    }
    eventually("all are gone", || node.metric("chanrpc_connections") == 1);
    // A peer that stays connected without sending is not waited for either.
    let mut stays = node.connect();
    stays.send("Content-Length: many\r\n\r\n");
    eventually("it is gone", || node.metric("chanrpc_connections") == 1);
}

#[test]
fn body_too_large_gets_no_100_continue() {
    let node = Node::demo();
    let mut client = node.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2097152\r\n\r\n",
    );
    let HttpReply { status, head, .. } = client.http();
    assert_eq!(status, 413);
    assert!(head.to_lowercase().contains("\r\nconnection: close\r\n"), "{head}");
    client.assert_closed();
    // A body within the limit does.
    let ping = request(1, "rpc.ping", &json!([]));
    let asked = post(&ping).replace("Host:", "Expect: 100-continue\r\nHost:");
    let (head, body) = asked.split_at(asked.len() - ping.len());
    let mut client = node.connect();
    client.send(head);
    assert_eq!(client.http().status, 100);
    client.send(body);
    assert_eq!(client.http().status, 200);
}

#[test]
fn vanished_websocket_peer_is_disconnected() {
    let folder = Folder::new();
    let node = Node::with(folder, "limits.keepalive = '1s'\n");
    let mut alive = websocket(&node);
    let mut vanished = websocket(&node);
    for _ in 0..3 {
        assert_eq!(alive.take(2), b"\x89\x00");
        alive.send(b"\x8a\x80\0\0\0\0");
    }
    let ping = request(1, "rpc.ping", &json!([]));
    let length = u8::try_from(ping.len()).unwrap();
    alive.send([&[0x81, 0x80 | length, 0, 0, 0, 0], ping.as_bytes()].concat());
    // One more ping may arrive before the reply.
    eventually("the answer", || match alive.take(2)[..] {
        [0x81, length] => !alive.take(length.into()).is_empty(),
        ref ping => ping != b"\x89\x00",
    });
    // It was pinged once, and not waited for much longer.
    assert_eq!(vanished.rest(), b"\x89\x00");
    assert_eq!(node.metric("chanrpc_connections_vanished_total"), 1);
}

/// A node with a forwarded function.
fn forwarding(to: std::net::SocketAddr, keepalive: &str) -> Node {
    let config = format!("limits.keepalive = '{keepalive}'\n[[function]]\nname = 'far'\nforward = '{to}'\n");
    Node::with(Folder::new(), &config)
}

#[test]
fn vanished_upstream_node_is_detected() {
    let to = listen(|mut stream: TcpStream| {
        // It accepts all bytes, like a network that has lost its route.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let node = forwarding(to, "200ms");
    let fault = node.connect().call("far", &json!([])).unwrap_err();
    assert_eq!(fault.code, -32011, "{fault:?}");
    assert!(fault.message.contains("stopped responding"), "{fault:?}");
}

#[test]
fn slow_upstream_node_is_waited_for() {
    let (pinged, pings) = mpsc::channel();
    let to = listen(move |stream: TcpStream| {
        let mut writer = stream.try_clone().unwrap();
        let mut client = Client::new(stream);
        let (mut call, mut count) = (Value::Null, 0);
        while let Some(line) = client.full_line() {
            let request: Value = serde_json::from_str(&line).unwrap();
            let mut answer = |id: &Value| {
                let reply = json!({ "jsonrpc": "2.0", "id": id, "result": "in the end" });
                writer.write_all(format!("{reply}\n").as_bytes()).unwrap();
            };
            if request["method"] == "far" {
                call = request["id"].clone();
                continue;
            }
            answer(&request["id"]);
            if !call.is_null() {
                count += 1;
                let _ = pinged.send(());
            }
            if count == 3 {
                answer(&call);
            }
        }
    });
    let node = forwarding(to, "1s");
    assert_eq!(node.connect().call("far", &json!([])).unwrap(), json!("in the end"));
    for _ in 0..3 {
        got(&pings);
    }
}
