//! Peers that read slowly, do not read, send without pause, or disconnect while replies are sent, in every dialect.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::chan::{Id1, Server, ServerSettings};
use chanrpc::config::Limits;
use chanrpc::message::code;
use chanrpc::node;
use chanrpc::route::{Exports, Registry};
use serde_json::json;
use smol::Executor;

use crate::support::{Client, Folder, LIMIT, Node, ended, eventually, request, scale};
use crate::wires::{frame, upgrade};

/// Text that only the last reply contains.
const LAST: &str = "that was the last one";
/// How long a write makes no progress before the connection counts as full.
const STUCK: Duration = Duration::from_millis(300);

/// The protocol of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    Lines,
    Headers,
    MessagePack,
    Leaf,
    WebSocket,
    Http,
}

pub(crate) const DIALECTS: [Dialect; 6] = [
    Dialect::Lines,
    Dialect::Headers,
    Dialect::MessagePack,
    Dialect::Leaf,
    Dialect::WebSocket,
    Dialect::Http,
];

impl Dialect {
    /// Connects to a node started by [`start`].
    pub(crate) fn connect(self, node: &Node) -> TcpStream {
        let at = usize::from(matches!(self, Self::Leaf));
        let mut client = Client::connect(node.addresses()[at]);
        if let Self::WebSocket = self {
            upgrade(&mut client);
        }
        client.stream().try_clone().unwrap()
    }

    /// Returns a call of `rpc.echo` with this text.
    pub(crate) fn echo(self, text: &str) -> Vec<u8> {
        let body = request(1, "rpc.echo", &json!([text]));
        match self {
            Self::Lines => (body + "\n").into_bytes(),
            Self::Headers => format!("Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
            Self::MessagePack => {
                let length = u32::try_from(text.len()).unwrap().to_be_bytes();
                [&b"\x94\x00\x01\xa8rpc.echo\x91\xdb"[..], &length, text.as_bytes()].concat()
            }
            Self::Leaf => {
                let body = json!({ "rpc.echo": { "A": text } }).to_string();
                [&u32::try_from(body.len()).unwrap().to_be_bytes(), body.as_bytes()].concat()
            }
            Self::WebSocket => frame(1, body.as_bytes()),
            Self::Http => crate::support::post(&body).into_bytes(),
        }
    }
}

/// A node with a Leaf listener on its second address.
pub(crate) fn start(limits: &str) -> Node {
    let listen = "[[listen]]\naddress = '127.0.0.1:0'\n";
    let leaf = "dialect = 'leaf'\n[listen.leaf]\nlength = 4\nmax = '16 KiB'\n";
    let access = "[[access]]\nfunctions = ['*']\n";
    Node::with(Folder::new(), &format!("{listen}{listen}{leaf}{access}[limits]\n{limits}"))
}

/// Sends `message` up to `times` times, until the node stops reading for a while; returns the unsent rest of the last
/// one.
fn fill<'m>(mut stream: &TcpStream, message: &'m [u8], times: u32) -> (u32, &'m [u8]) {
    stream.set_write_timeout(Some(STUCK)).unwrap();
    for sent in 0..times {
        let mut rest = message;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    stream.set_write_timeout(Some(LIMIT)).unwrap();
                    return (sent + 1, rest);
                }
                Err(error) => panic!("after {sent} messages: {error}"),
            }
        }
    }
    panic!("the node takes in {times} messages and nobody reads the answers");
}

/// Reads up to the end of the last reply; returns the number of bytes read.
fn read_to_last(mut stream: &TcpStream) -> usize {
    let (mut total, mut tail, mut buffer) = (0, Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = stream.read(&mut buffer).expect("the node goes on when its peer does");
        assert_ne!(count, 0, "the connection ended after {total} bytes");
        total += count;
        tail.extend_from_slice(&buffer[..count]);
        if tail.windows(LAST.len()).any(|window| window == LAST.as_bytes()) {
            return total;
        }
        tail.drain(..tail.len().saturating_sub(LAST.len()));
    }
}

const LONG: usize = 15_000;
/// More replies than the systems at both ends and the node buffer.
const TIMES: u32 = 1_000;

/// A peer that starts reading when everything is blocked gets all replies immediately: the node waits for no timeout,
/// and none is set here.
fn assert_late_reader_is_served(dialect: Dialect) {
    let node = start("stall_timeout = '1h'");
    let (message, last) = (dialect.echo(&"x".repeat(LONG)), dialect.echo(LAST));
    let start = Instant::now();
    let quick = dialect.connect(&node);
    let expected = thread::scope(|scope| {
        scope.spawn(|| {
            (0..TIMES).for_each(|_| (&quick).write_all(&message).unwrap());
            (&quick).write_all(&last).unwrap();
        });
        read_to_last(&quick)
    });
    let quick = start.elapsed();

    let late = dialect.connect(&node);
    let (sent, rest) = fill(&late, &message, TIMES);
    let start = Instant::now();
    let got = thread::scope(|scope| {
        scope.spawn(|| {
            (&late).write_all(rest).unwrap();
            (sent..TIMES).for_each(|_| (&late).write_all(&message).unwrap());
            (&late).write_all(&last).unwrap();
        });
        read_to_last(&late)
    });
    assert_eq!(got, expected, "{dialect:?}");
    let late = start.elapsed();
    assert!(
        late < 10 * quick + Duration::from_secs(2),
        "{dialect:?}: {late:?}, and {quick:?} for a quick one"
    );
}

/// A peer that disconnects while everything is blocked frees its slot immediately.
fn assert_place_is_free_after_a_reset(dialect: Dialect) {
    let node = start("stall_timeout = '1h'\nconnections = 4");
    let message = dialect.echo(&"x".repeat(LONG));
    for half_closed in [false, true] {
        let stream = dialect.connect(&node);
        fill(&stream, &message, TIMES);
        if half_closed {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        // With unread replies, which make the system send a reset.
        drop(stream);
        eventually("its place is free", || node.metric("chanrpc_connections") == 1);
    }
}

macro_rules! in_every_dialect {
    ($($name:ident: $dialect:ident;)+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn late_reader_gets_all_replies_immediately() {
                assert_late_reader_is_served(Dialect::$dialect);
            }

            #[test]
            fn reset_frees_the_connections_slot() {
                assert_place_is_free_after_a_reset(Dialect::$dialect);
            }
        }
    )+};
}

in_every_dialect! {
    lines: Lines;
    content_length: Headers;
    messagepack: MessagePack;
    leaf: Leaf;
    websocket: WebSocket;
    http: Http;
}

// A server with a full queue.

/// A node in this process whose function `hold` waits until released, on a server with a short queue.
struct Held {
    address: std::net::SocketAddr,
    server: chanrpc::chan::Client,
    go: async_channel::Sender<()>,
    stop: Option<async_channel::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

const PLACES: usize = 2;

impl Held {
    fn start() -> Self {
        let (go, gate) = async_channel::unbounded::<()>();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let (tell, told) = async_channel::bounded(1);
        let thread = thread::spawn(move || {
            let executor = Arc::new(Executor::new());
            smol::block_on(executor.run(async {
                let mut functions = Exports::<u32>::exported();
                functions
                    .register_async(Id1::new("hold"), move |count: &mut u32, ()| {
                        let gate = gate.clone();
                        *count += 1;
                        let number = *count;
                        Box::pin(async move {
                            let _ = gate.recv().await;
                            number
                        })
                    })
                    .unwrap();
                let mut builder = Registry::builder("held");
                let settings = ServerSettings::default().capacity(PLACES);
                let server = Server::with_settings(0, functions.clone(), settings);
                builder.export(&functions, &server.client()).unwrap();
                let client = server.client();
                executor.spawn(server.run()).detach();
                let socket = smol::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send((socket.local_addr().unwrap(), client)).await.unwrap();
                let node = node::Node::new(executor.clone(), builder.build(), Limits::default());
                node.serve(vec![socket], async { stopped.recv().await.unwrap_or_default() }).await;
            }));
        });
        let (address, server) = smol::block_on(told.recv()).unwrap();
        Self { address, server, go, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Waits until `count` calls wait for capacity.
    #[track_caller]
    fn await_waiting(&self, count: usize) {
        eventually("the calls wait for room", || self.server.stats().waiting == count);
    }

    /// Sends calls without replies yet, and returns how many wait for capacity once the node has read them.
    #[track_caller]
    fn send(&self, client: &mut Client, lines: String) -> usize {
        client.send(lines);
        let beside = client.ask(request("beside", "rpc.ping", &json!([])));
        assert_eq!(beside["result"], "pong", "what waits for room holds up the rest");
        self.server.stats().waiting
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.go.close();
        self.stop = None;
        if !thread::panicking() {
            ended(self.thread.take().unwrap());
        }
    }
}

fn holds(ids: std::ops::Range<u32>) -> String {
    ids.map(|id| request(id, "hold", &json!([])) + "\n").collect()
}

/// The maximum number of running and queued calls.
const BEGUN: usize = 1 + PLACES;

#[test]
fn calls_wait_for_capacity_in_order_and_none_is_rejected() {
    let held = Held::start();
    let (mut one, mut other) = (held.connect(), held.connect());
    assert!(held.send(&mut one, holds(0..20)) >= 20 - BEGUN);
    assert!(held.send(&mut other, holds(20..30)) >= 30 - BEGUN);
    held.go.close();
    for number in 0..20 {
        let reply = one.reply();
        assert_eq!((&reply["id"], &reply["result"]), (&json!(number), &json!(number + 1)));
    }
    for number in 20..30 {
        let reply = other.reply();
        assert_eq!((&reply["id"], &reply["result"]), (&json!(number), &json!(number + 1)));
    }
    assert_eq!(held.server.stats().refused, 0);
}

#[test]
fn cancelled_calls_stop_waiting_for_capacity() {
    let held = Held::start();
    let mut client = held.connect();
    assert!(held.send(&mut client, holds(0..10)) >= 10 - BEGUN);
    let cancel = |id| json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": id } });
    client.send((0..10).map(|id| cancel(id).to_string() + "\n").collect::<String>());
    for _ in 0..10 {
        assert_eq!(crate::support::fault(&client.reply()).code, code::CANCELLED);
    }
    held.await_waiting(0);
    // Past their deadline.
    let late = json!({ "jsonrpc": "2.0", "id": 1, "method": "hold", "meta": { "deadline_ms": 50 } });
    client.send((0..10).map(|_| late.to_string() + "\n").collect::<String>());
    for _ in 0..10 {
        assert_eq!(crate::support::fault(&client.reply()).code, code::DEADLINE);
    }
    held.await_waiting(0);
    // Their caller has disconnected.
    assert!(held.send(&mut client, holds(0..10)) > 0);
    client.reset();
    held.await_waiting(0);
}

/// Notifications outlive their connection, whose limits then no longer apply.
#[test]
fn notifications_of_disconnected_peers_are_bounded() {
    let held = Held::start();
    let note = json!({ "jsonrpc": "2.0", "method": "hold" }).to_string() + "\n";
    let mut stays = held.connect();
    let waiting = held.send(&mut stays, note.repeat(10));
    assert!(waiting >= 10 - BEGUN);
    for _ in 0..10 {
        let mut client = held.connect();
        client.send(note.repeat(10));
        client.end();
        client.assert_closed();
    }
    held.await_waiting(waiting);
    drop(stays);
    held.await_waiting(PLACES);
}

// Bursts of connections.

/// No connection is accepted yet, but all are established: the listen queue has room for them.
#[test]
fn burst_of_connects_does_not_block() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let socket = smol::net::TcpListener::try_from(socket).unwrap();
    let _listener = node::Listener::from(socket);
    let burst: Vec<_> =
        (0..scale(400)).map(|_| TcpStream::connect_timeout(&address, LIMIT).unwrap()).collect();
    drop(burst);
}
