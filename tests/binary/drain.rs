//! A stopping node answers the calls that it has accepted, in every dialect, and closes connections in the way of the
//! dialect.

use serde_json::json;

use crate::programs::gate;
use crate::support::{Client, Folder, Node, eventually, outcome, post, request, scale};

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn node() -> Node {
    Node::with(
        Folder::new(),
        &format!("limits.drain = '1h'\nlimits.deadline = '1h'\n{}", gate("concurrency = 100")),
    )
}

/// Stops the node while `calls` calls are in flight, and lets them finish once it is draining.
fn stop_amid(node: &mut Node, calls: u64) {
    eventually("the calls are in flight", || node.metric("chanrpc_calls_in_flight") == calls);
    node.signal("TERM");
    let address = node.address();
    eventually("no one else is let in", || std::net::TcpStream::connect(address).is_err());
    node.folder.write("open", "");
}

fn call(node: &Node) -> String {
    request(1, "gate", &json!([node.folder.name("open")]))
}

/// Returns a short frame with a mask of zeros.
fn frame(opcode: u8, payload: &str) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[0x80 | opcode, 0x80 | 126][..], &length.to_be_bytes(), &[0; 4], payload.as_bytes()].concat()
}

fn upgraded(node: &Node) -> Client {
    let mut client = node.connect();
    client.send(UPGRADE);
    assert_eq!(client.http().status, 101);
    client
}

#[track_caller]
fn assert_says_going_away(client: &mut Client) {
    let head = client.take(2);
    let payload = client.take(usize::from(head[1]));
    assert_eq!(
        (head[0], payload.get(..2)),
        (0x88, Some(&1001_u16.to_be_bytes()[..])),
        "a close frame of 1001"
    );
}

#[test]
fn drain_answers_accepted_calls_in_every_dialect() {
    let mut node = node();
    let text = call(&node);
    let mut line = node.connect();
    line.send(text.clone() + "\n");
    let mut http = node.connect();
    http.send(post(&text));
    let mut header = node.connect();
    header.send(format!("Content-Length: {}\r\n\r\n{text}", text.len()));
    let mut websocket = upgraded(&node);
    websocket.send(frame(1, &text));
    stop_amid(&mut node, 4);

    assert_eq!(outcome(&line.reply()), Ok(json!("opened")));
    line.assert_closed();
    let reply = http.http();
    assert_eq!(outcome(&reply.json()), Ok(json!("opened")));
    assert!(reply.head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{}", reply.head);
    http.assert_closed();
    assert!(header.line().unwrap().starts_with("Content-Length: "));
    assert_eq!(header.line().unwrap(), "\r\n");
    assert_eq!(outcome(&serde_json::from_slice(&header.rest()).unwrap()), Ok(json!("opened")));
    let head = websocket.take(2);
    assert_eq!(head[0], 0x81);
    let answer = websocket.take(usize::from(head[1]));
    assert_eq!(outcome(&serde_json::from_slice(&answer).unwrap()), Ok(json!("opened")));
    assert_says_going_away(&mut websocket);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn idle_websocket_gets_a_going_away_close_frame() {
    let mut node = node();
    let mut client = upgraded(&node);
    node.signal("TERM");
    assert_says_going_away(&mut client);
    client.rest();
    assert_eq!(node.wait(), Some(0));
}

/// No reply that the node has started is lost, however many calls are in flight.
#[test]
fn connection_with_many_calls_gets_every_reply() {
    let mut node = node();
    let mut client = node.connect();
    let calls = u64::from(scale(60).max(8));
    for id in 0..calls {
        client.begin(id, "gate", &json!([node.folder.name("open")]));
    }
    stop_amid(&mut node, calls);
    let mut ids: Vec<_> = (0..calls)
        .map(|_| {
            let reply = client.reply();
            assert_eq!(outcome(&reply), Ok(json!("opened")));
            reply["id"].as_u64().unwrap()
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..calls).collect::<Vec<_>>());
    client.assert_closed();
    assert_eq!(node.wait(), Some(0));
}
