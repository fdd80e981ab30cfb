//! `GET /events`: server-sent events.

use serde_json::{Value, json};

use super::{FAMILY, publish};
use crate::support::{Client, Folder, Node, eventually};

/// A request for events, and what was received of them.
struct Stream {
    client: Client,
    received: String,
}

/// One event: its fields.
#[derive(Debug, Default, PartialEq)]
struct Block {
    id: Option<String>,
    event: Option<String>,
    data: Option<Value>,
}

impl Stream {
    /// Sends a request and asserts that events follow.
    fn open(node: &Node, query: &str, headers: &str) -> Self {
        let mut client = node.connect();
        client.send(format!("GET /events?{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &client.line().expect("a head");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("cache-control: no-cache\r\n"), "{head}");
        Self { client, received: String::new() }
    }

    /// Returns the next event; `None` at the end of the stream.
    fn next(&mut self) -> Option<Block> {
        loop {
            while let Some((block, rest)) = self.received.split_once("\n\n") {
                let mut found = Block::default();
                for line in block.lines().filter(|line| !line.starts_with(':')) {
                    match line.split_once(": ").unwrap() {
                        ("id", id) => found.id = Some(id.to_owned()),
                        ("event", event) => found.event = Some(event.to_owned()),
                        ("data", data) => found.data = Some(serde_json::from_str(data).unwrap()),
                        other => panic!("{other:?}"),
                    }
                }
                self.received = rest.to_owned();
                if found != Block::default() {
                    return Some(found);
                }
            }
            let length = usize::from_str_radix(self.client.line()?.trim(), 16).unwrap();
            let chunk = self.client.take(length);
            assert_eq!(self.client.take(2), b"\r\n");
            if chunk.is_empty() {
                return None;
            }
            self.received += std::str::from_utf8(&chunk).unwrap();
        }
    }

    fn event(&mut self) -> Block {
        self.next().expect("an event")
    }
}

#[test]
fn events_are_streamed_over_http() {
    let node = Node::demo();
    let mut stream = Stream::open(&node, "topic=a&topic=b.%2A", "");
    let begun = stream.event();
    let id = begun.id.unwrap();
    let epoch = id.strip_suffix(":0,-").unwrap_or_else(|| panic!("{id}")).to_owned();
    let mut publisher = node.connect();
    assert_eq!(publish(&mut publisher, "a", &json!({ "text": "é\n" })), 1);
    assert_eq!(publish(&mut publisher, "b.x", &json!(1)), 1);
    let event = stream.event();
    assert_eq!(event.data.unwrap(), json!({ "topic": "a", "seq": 1, "data": { "text": "é\n" } }));
    assert_eq!((event.event, event.id.unwrap()), (None, format!("{epoch}:1,-")));
    assert_eq!(stream.event().data.unwrap()["topic"], "b.x");
    assert_eq!(node.metric("chanrpc_events_sent_total"), 2);
    drop(stream);
    eventually("its subscriptions end", || node.metric("chanrpc_subscriptions") == 0);

    // The client comes back: what it has missed is told.
    publish(&mut publisher, "a", &json!(2));
    let mut stream = Stream::open(&node, "topic=a&topic=b.%2A", &format!("Last-Event-ID: {epoch}:1,-\r\n"));
    for topic in ["a", "b.*"] {
        let missed = stream.event();
        assert_eq!(missed.event.as_deref(), Some("missed"));
        let data = missed.data.unwrap();
        assert_eq!((&data["topic"], &data["count"]), (&json!(topic), &Value::Null));
    }
}

#[test]
fn client_that_comes_back_receives_what_was_kept() {
    let node = Node::with(Folder::new(), FAMILY);
    let mut publisher = node.connect();
    for n in 1..=2 {
        publish(&mut publisher, "chat.lobby", &json!(n));
    }
    let mut stream = Stream::open(&node, "topic=chat.lobby", "");
    let first = stream.event();
    assert!(first.data.unwrap()["age_ms"].is_u64());
    let id = first.id.unwrap();
    assert!(id.ends_with(":1"), "{id}");
    let second = stream.event().data.unwrap();
    assert_eq!((&second["seq"], &second["data"]), (&json!(2), &json!(2)));
    drop(stream);

    publish(&mut publisher, "chat.lobby", &json!(3));
    let mut stream = Stream::open(&node, "topic=chat.lobby", &format!("Last-Event-ID: {id}\r\n"));
    for n in 2..=3 {
        assert_eq!(stream.event().data.unwrap()["seq"], n);
    }
    // An id of another node, or of another request, means that anything may be missing.
    for id in ["another:1", "another:1,2", "nonsense"] {
        let mut stream = Stream::open(&node, "topic=chat.lobby", &format!("Last-Event-ID: {id}\r\n"));
        assert_eq!(stream.event().event.as_deref(), Some("missed"));
        assert_eq!(stream.event().data.unwrap()["seq"], 1);
    }
}

#[test]
fn stream_ends_with_its_last_subscription() {
    let topic = "[[topic]]\nname = 'full'\nwhen_full = 'end'\n[limits]\nevents = 4\n";
    let node = Node::with(Folder::new(), topic);
    let mut stream = Stream::open(&node, "topic=full&topic=full", "");
    assert!(stream.event().id.is_some());
    // Nobody reads, until the events that wait are too many.
    let (mut peer, data) = (node.connect(), "x".repeat(100_000));
    while publish(&mut peer, "full", &json!(data)) > 0 {}
    let mut last = None;
    while let Some(block) = stream.next() {
        last = block.event;
    }
    assert_eq!(last.as_deref(), Some("ended"));
}

#[test]
fn requests_for_events_are_checked() {
    let rules = "[[listen]]\naddress = \"127.0.0.1:0\"\n[[access]]\nsubscribe = [\"open\"]\n\
                 [[access]]\nsubscribe = [\"*\"]\nfunctions = [\"rpc.stats\"]\n\
                 token = \"sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"\n\
                 [limits]\nsubscriptions = 2\n";
    let node = Node::with(Folder::new(), rules);
    let status = |target: &str, headers: &str| {
        let mut client = node.connect();
        client.send(format!("GET {target} HTTP/1.1\r\n{headers}\r\n"));
        client.http().status
    };
    let host = "Host: localhost\r\n";
    let token = format!("{host}Authorization: Bearer secret\r\n");
    assert_eq!(status("/events", host), 400);
    assert_eq!(status("/events?topic=", &token), 400);
    assert_eq!(status("/events?topic=open&topic=closed", host), 401);
    assert_eq!(status("/events?topic=open", "Host: evil.example\r\n"), 421);
    assert_eq!(status("/events?topic=open", &format!("{host}Origin: http://evil.example\r\n")), 403);
    assert_eq!(status("/events?topic=a&topic=b&topic=c", &token), 503);
    let mut client = node.connect();
    client.send(format!("POST /events?topic=open HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"));
    assert_eq!(client.http().status, 405);
    Stream::open(&node, "topic=open", "");
    Stream::open(&node, "topic=closed", "Authorization: Bearer secret\r\n");
}

#[test]
fn stopping_node_ends_the_stream() {
    let mut node = Node::demo();
    let mut stream = Stream::open(&node, "topic=a", "");
    assert!(stream.event().id.is_some());
    node.signal("TERM");
    let ended = stream.event();
    assert_eq!(ended.event.as_deref(), Some("ended"));
    assert_eq!(ended.data.unwrap(), json!({ "topic": "a", "reason": "the node is stopping" }));
    assert_eq!(stream.next(), None);
    drop(stream);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn silent_stream_is_kept_alive_and_a_slow_one_harms_nobody() {
    let node = Node::with(
        Folder::new(),
        "[limits]\nkeepalive = \"100ms\"\nevents = 8\noutput = \"8 KiB\"\nstall_timeout = \"1h\"\n",
    );
    let mut stream = Stream::open(&node, "topic=a", "");
    assert!(stream.event().id.is_some());
    let length = usize::from_str_radix(stream.client.line().unwrap().trim(), 16).unwrap();
    assert_eq!(stream.client.take(length), b":\n\n");
    assert_eq!(stream.client.take(2), b"\r\n");

    let mut publisher = node.connect();
    let text = "x".repeat(4000);
    let mut last = 0;
    while node.metric("chanrpc_events_dropped_total") == 0 {
        for _ in 0..500 {
            last += 1;
            assert_eq!(publish(&mut publisher, "a", &json!(text)), 1);
        }
    }
    let (mut next, mut missed) = (1, 0);
    while next <= last {
        let block = stream.event();
        let data = block.data.unwrap();
        if block.event.is_none() {
            assert_eq!(data["seq"], next);
            next += 1;
        } else {
            let count = data["count"].as_u64().unwrap();
            (next, missed) = (next + count, missed + count);
            assert_eq!(data["next"], next);
        }
    }
    assert_eq!(missed, node.metric("chanrpc_events_dropped_total"));
}
