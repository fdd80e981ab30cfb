//! JSON-RPC 2.0 according to its specification, and the node's extensions, over every transport.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::Message;
use chanrpc::chan::{Closer, Id1, Responder, Server, ServerSettings};
use chanrpc::config::Limits;
use chanrpc::internals::route::{Balance, Forward, ForwardSettings, RegistryInternals as _};
use chanrpc::internals::transport::memory::{self, Memory};
use chanrpc::message::{Fault, RawJson, code};
use chanrpc::node::Node;
use chanrpc::remote::Remote;
use chanrpc::route::{Call, Description, Exports, Provider, Registry, RegistryBuilder};
use futures_lite::io::{BufReader, ReadHalf, WriteHalf};
use futures_lite::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use serde_json::Value;
use serde_json::value::RawValue;
use smol::net::{TcpListener, TcpStream};
use smol::{Executor, Task};

pub(crate) use crate::support::executor::run;

/// A node in this process, with the functions of the specification's examples and some that misbehave.
pub(crate) struct Fixture {
    pub(crate) executor: Arc<Executor<'static>>,
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
    /// Closes the server of these functions.
    pub(crate) closer: Closer,
    server: Task<State>,
    serving: Task<()>,
    stop: async_channel::Sender<()>,
}

/// The state of the functions.
#[derive(Default)]
struct State {
    held: Vec<(i64, Responder<i64>)>,
    notified: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Subtract {
    minuend: i64,
    subtrahend: i64,
}

fn functions() -> Exports<State> {
    let mut functions = Exports::<State>::exported();
    let add = |numbers: Vec<i64>| numbers.into_iter().sum::<i64>();
    // A struct reads its fields by name from an object and by position from an array.
    functions.register1("subtract", |_, two: Subtract| two.minuend - two.subtrahend).unwrap();
    functions.register1("sum", move |_, numbers| add(numbers)).unwrap();
    functions.register_n("get_data", |_, ()| ("hello", 5)).unwrap();
    functions
        .register0("update", move |state, numbers| state.notified.push(format!("update {}", add(numbers))))
        .unwrap();
    for name in ["notify_hello", "notify_sum"] {
        functions
            .register0(name, move |state, numbers| state.notified.push(format!("{name} {}", add(numbers))))
            .unwrap();
    }
    functions.register_n("notified", |state, ()| state.notified.clone()).unwrap();

    functions.register0("nothing", |_, ()| ()).unwrap();
    functions.register1("big", |_, length: usize| "x".repeat(length)).unwrap();
    functions.register1("pretty", |_, ()| raw("{\r\n  \"a\": [\n    1\n  ]\n}\n")).unwrap();
    functions.register1("panic", |_, text: String| -> i64 { panic!("{text}") }).unwrap();
    functions.register1("fail", |_, fault: Failing| Err::<(), _>(Fault::from(fault))).unwrap();
    // Holds its reply, which is its own parameter, until `release`.
    functions
        .register_deferred(Id1::new("hold"), |state, number, responder| state.held.push((number, responder)))
        .unwrap();
    // Sends the held replies, the last first, and returns how many there were.
    functions
        .register1("release", |state, ()| {
            let count = state.held.len();
            state.held.drain(..).rev().for_each(|(number, responder)| responder.reply(number));
            count
        })
        .unwrap();
    functions
        .register_deferred(Id1::new("forget"), |_, (), responder: Responder<i64>| drop(responder))
        .unwrap();
    functions
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// How `fail` fails: the lengths of message and data, in bytes.
#[derive(serde::Deserialize)]
struct Failing {
    code: i64,
    #[serde(default)]
    message: usize,
    #[serde(default)]
    data: usize,
}

impl From<Failing> for Fault {
    fn from(Failing { code, message, data }: Failing) -> Self {
        let fault = Self::new(code, "m".repeat(message));
        if data > 0 { fault.with_data(&"d".repeat(data)) } else { fault }
    }
}

impl Fixture {
    pub(crate) async fn start(executor: &Arc<Executor<'static>>, limits: Limits) -> Self {
        Self::with(executor, limits, |_| ()).await
    }

    /// Starts a node with additional functions.
    pub(crate) async fn with(
        executor: &Arc<Executor<'static>>,
        limits: Limits,
        more: impl FnOnce(&mut RegistryBuilder),
    ) -> Self {
        let mut builder = Registry::builder("fixture").max_hops(limits.hops);
        let functions = functions();
        let server = Server::new(State::default(), functions.clone());
        builder.export(&functions, &server.client()).unwrap();
        more(&mut builder);
        let node = Node::new(executor.clone(), builder.build(), limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let serving = executor.spawn({
            let node = node.clone();
            async move {
                node.serve(vec![listener], async move { stopped.recv().await.unwrap_or_default() }).await;
            }
        });
        let closer = server.closer();
        let server = executor.spawn(server.run());
        Self { executor: executor.clone(), node, address, closer, server, serving, stop }
    }

    /// Tells the node to stop.
    pub(crate) fn stop(&self) {
        self.stop.close();
    }

    /// Ends the server, which answers held calls with an error.
    pub(crate) async fn end_server(self) -> Task<()> {
        self.closer.close();
        drop(self.server.await);
        self.serving
    }

    /// Stops the node and waits until it has ended. Held calls are answered with an error.
    pub(crate) async fn end(self) {
        self.closer.close();
        drop(self.server.await);
        self.stop.close();
        self.serving.await;
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.node.registry().metrics().values().find(|(found, _)| *found == name).unwrap().1
    }
}

/// A connection to a node with lines of JSON over an in-memory transport.
struct Peer {
    reader: BufReader<ReadHalf<Memory>>,
    writer: WriteHalf<Memory>,
    served: Task<()>,
}

impl Peer {
    fn new(executor: &Executor<'static>, node: &Node, capacity: usize) -> Self {
        let (here, there) = memory::pair(capacity);
        let node = node.clone();
        let served = executor.spawn(async move { node.serve_connection(there).await });
        let (reader, writer) = futures_lite::io::split(here);
        Self { reader: BufReader::new(reader), writer, served }
    }

    async fn send(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.writer.flush().await.unwrap();
    }

    /// Returns a summary of the next line: see [`told`].
    async fn next(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        told(line.strip_suffix('\n').expect("a whole line"))
    }

    /// Drops the connection without closing it; the node has to notice.
    fn leave(self) {
        self.served.detach();
    }

    /// Closes the sending half and returns everything that still arrives.
    async fn rest(mut self) -> Vec<String> {
        self.writer.close().await.unwrap();
        let mut text = String::new();
        self.reader.read_to_string(&mut text).await.unwrap();
        self.served.await;
        lines(&text).into_iter().map(|line| told(&line)).collect()
    }
}

/// The transports.
#[derive(Clone, Copy, Debug)]
enum Over {
    Memory,
    Tcp,
    Post(&'static str),
    WebSocket,
}

const EVERY_WAY: [Over; 5] = [Over::Memory, Over::Tcp, Over::Post("/"), Over::Post("/rpc"), Over::WebSocket];

impl Over {
    /// Sends one text and returns all replies to it.
    async fn ask(self, fixture: &Fixture, text: &str) -> Vec<String> {
        // There a line feed ends a message.
        let line = || format!("{}\n", text.replace('\n', " "));
        match self {
            Self::Memory => {
                let (here, there) = memory::pair(512);
                let node = fixture.node.clone();
                let served = fixture.executor.spawn(async move { node.serve_connection(there).await });
                let replies = exchange(here, line().as_bytes()).await;
                served.await;
                lines(&replies)
            }
            Self::Tcp => {
                let stream = TcpStream::connect(fixture.address).await.unwrap();
                lines(&exchange(stream, line().as_bytes()).await)
            }
            Self::Post(path) => {
                let (status, content_type, body) = post(fixture.address, path, text).await;
                match (status, body.is_empty()) {
                    (202, true) => vec![],
                    (200, false) => {
                        assert_eq!(content_type.as_deref(), Some("application/json"));
                        vec![body]
                    }
                    other => panic!("status and emptiness of the body: {other:?}"),
                }
            }
            Self::WebSocket => {
                // Functions of one server reply in order, so anything after the reply to the last call does not belong
                // to an earlier one.
                const LAST: &str = r#"{"jsonrpc":"2.0","method":"nothing","id":"the last"}"#;
                let stream = TcpStream::connect(fixture.address).await.unwrap();
                let url = format!("ws://{}/", fixture.address);
                let (mut stream, _) = async_tungstenite::client_async(url, stream).await.unwrap();
                stream.send(Message::text(text)).await.unwrap();
                stream.send(Message::text(LAST)).await.unwrap();
                let mut replies = Vec::new();
                loop {
                    match stream.next().await.expect("an open connection").unwrap() {
                        Message::Text(text) if text.contains("the last") => break,
                        Message::Text(text) => replies.push(text.to_string()),
                        other => panic!("not a text: {other:?}"),
                    }
                }
                stream.close(None).await.unwrap();
                replies
            }
        }
    }
}

/// Sends `text`, closes the sending half, and returns everything until the node closes.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, text: &[u8]) -> String {
    let (mut reader, mut writer) = futures_lite::io::split(stream);
    let write = async {
        writer.write_all(text).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut replies = String::new();
    let (_, read) = futures_lite::future::zip(write, reader.read_to_string(&mut replies)).await;
    read.unwrap();
    replies
}

/// Splits the output of a line transport into lines, each of which must be complete.
fn lines(text: &str) -> Vec<String> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole: {text:?}");
    text.lines().map(str::to_owned).collect()
}

/// Posts a body; returns status, content type and body.
async fn post(address: SocketAddr, path: &str, body: &str) -> (u16, Option<String>, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    let mut head = head.split("\r\n");
    let status = head.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<_> = head.map(|line| line.split_once(": ").unwrap()).collect();
    let header =
        |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    assert_eq!(header("content-length").map(|length| length.parse().unwrap()), Some(body.len()));
    (status, header("content-type").map(str::to_owned), body.to_owned())
}

/// Returns a summary of a reply, `id: result` or `id: error code`; of a batch, the sorted summaries. Panics if the text
/// is not a reply.
fn told(text: &str) -> String {
    fn one(reply: &Value) -> String {
        let members = reply.as_object().unwrap_or_else(|| panic!("{reply} is no reply"));
        assert_eq!(members.len(), 3, "{reply}");
        assert_eq!(members["jsonrpc"], "2.0", "{reply}");
        let id = &members["id"];
        assert!(id.is_string() || id.is_number() || id.is_null(), "{reply}");
        match members.get("result") {
            Some(result) => format!("{id}: {result}"),
            None => {
                let error = members["error"].as_object().unwrap_or_else(|| panic!("{reply}"));
                assert!(error["message"].is_string(), "{reply}");
                assert_eq!(error.len(), 2 + usize::from(error.contains_key("data")), "{reply}");
                format!("{id}: error {}", error["code"].as_i64().unwrap())
            }
        }
    }
    match serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}")) {
        Value::Array(replies) => {
            assert!(!replies.is_empty(), "an empty batch of replies");
            let mut told: Vec<_> = replies.iter().map(one).collect();
            told.sort();
            format!("[{}]", told.join(", "))
        }
        reply => one(&reply),
    }
}

fn all_told(replies: &[String]) -> Vec<String> {
    replies.iter().map(|reply| told(reply)).collect()
}

/// Runs the same conversation over every transport, each with its own node.
fn every_way(table: &[(&str, &[&str])], limits: &Limits) {
    run(async |executor| {
        for over in EVERY_WAY {
            let fixture = Fixture::start(&executor, limits.clone()).await;
            for (request, expected) in table {
                let replies = over.ask(&fixture, request).await;
                assert_eq!(all_told(&replies), *expected, "{over:?}: {request}");
            }
            assert_eq!(fixture.metric("in_flight"), 0);
            fixture.end().await;
        }
    });
}

/// Sends everything at once over one in-memory connection, closes it, and returns the replies in order of arrival.
fn in_memory(text: &str, limits: &Limits) -> Vec<String> {
    let mut replies = Vec::new();
    run(async |executor| {
        let fixture = Fixture::start(&executor, limits.clone()).await;
        let mut peer = Peer::new(&executor, &fixture.node, 512);
        peer.send(text).await;
        replies = peer.rest().await;
        assert_eq!(fixture.metric("in_flight"), 0);
        fixture.end().await;
    });
    replies
}

/// Section 7 of the specification: requests and their replies.
const EXAMPLES: [(&str, Option<&str>); 15] = [
    // Positional parameters.
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
        Some(r#"{"jsonrpc": "2.0", "result": 19, "id": 1}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
        Some(r#"{"jsonrpc": "2.0", "result": -19, "id": 2}"#),
    ),
    // Named parameters.
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
        Some(r#"{"jsonrpc": "2.0", "result": 19, "id": 3}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
        Some(r#"{"jsonrpc": "2.0", "result": 19, "id": 4}"#),
    ),
    // Notifications.
    (r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, None),
    (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
    // A non-existent method.
    (
        r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}"#),
    ),
    // Invalid JSON.
    (
        r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#),
    ),
    // An invalid request object.
    (
        r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#),
    ),
    // A batch that is invalid JSON.
    (
        r#"[
            {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method"
        ]"#,
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#),
    ),
    // An empty array.
    (
        "[]",
        Some(r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#),
    ),
    // Invalid non-empty batches.
    (
        "[1]",
        Some(r#"[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]"#),
    ),
    (
        "[1,2,3]",
        Some(
            r#"[
            {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
            {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
            {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}
        ]"#,
        ),
    ),
    // A mixed batch.
    (
        r#"[
            {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
            {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
            {"foo": "boo"},
            {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
            {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]"#,
        Some(
            r#"[
            {"jsonrpc": "2.0", "result": 7, "id": "1"},
            {"jsonrpc": "2.0", "result": 19, "id": "2"},
            {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
            {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
            {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}
        ]"#,
        ),
    ),
    // A batch of notifications only.
    (
        r#"[
            {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
        ]"#,
        None,
    ),
];

#[test]
fn examples_of_the_specification() {
    run(async |executor| {
        for over in EVERY_WAY {
            let fixture = Fixture::start(&executor, Limits::default()).await;
            for (request, expected) in EXAMPLES {
                let replies = over.ask(&fixture, request).await;
                let expected: Vec<_> = expected.into_iter().map(told).collect();
                assert_eq!(all_told(&replies), expected, "{over:?}: {request}");
            }
            // Notifications are not answered, but they run.
            let notified = over.ask(&fixture, r#"{"jsonrpc":"2.0","method":"notified","id":0}"#).await;
            let expected = r#"0: ["update 15","notify_hello 7","notify_sum 7","notify_hello 7"]"#;
            assert_eq!(all_told(&notified), [expected], "{over:?}");
            fixture.end().await;
        }
    });
}

#[test]
fn ids_are_echoed_verbatim() {
    #[derive(serde::Deserialize)]
    struct Reply<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let ids = [
        "1.0",
        r#""\u0041""#,
        "-7",
        "null",
        "1e3",
        "0",
        "12345678901234567890123",
        r#""\"\\\/\b\f\n\r\t é 😀""#,
        r#""""#,
    ];
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        for over in EVERY_WAY {
            for id in ids {
                for request in [
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"subtract","params":[42,23]}}"#),
                    format!(r#"{{"jsonrpc":"2.0","id" : {id} ,"method":"foobar"}}"#),
                    format!(r#"{{"method":"subtract","params":[42,23],"id":{id}}}"#),
                    format!(r#"[{{"jsonrpc":"2.0","method":"nothing","id":{id}}}]"#),
                ] {
                    let replies = over.ask(&fixture, &request).await;
                    let [reply] = &replies[..] else { panic!("{over:?}: {request}: {replies:?}") };
                    let reply = reply.trim_start_matches('[').trim_end_matches(']');
                    let reply: Reply<'_> = serde_json::from_str(reply).unwrap();
                    assert_eq!(reply.id.get(), id, "{over:?}: {request}");
                }
            }
        }
        fixture.end().await;
    });
}

#[test]
fn invalid_requests_are_answered_with_an_error() {
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"nothing"}}"#, "x".repeat(200));
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","id":true,"method":"nothing"}"#, &["null: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"nothing"}"#, &["null: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":{},"method":"nothing"}"#, &["null: error -32600"]),
            (&long, &["null: error -32600"]),
            (r#"{"id":1,"method":"nothing"}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":"1.0","id":1,"method":"nothing"}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":2.0,"id":1,"method":"nothing"}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":1}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","params":7}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","params":"x"}"#, &["1: error -32600"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","params":true}"#, &["1: error -32600"]),
            ("7", &["null: error -32600"]),
            ("\"text\"", &["null: error -32600"]),
            ("{", &["null: error -32700"]),
            ("nonsense", &["null: error -32700"]),
            ("{} {}", &["null: error -32700"]),
            ("[{}", &["null: error -32700"]),
            (r#"[[{"jsonrpc":"2.0","id":1,"method":"nothing"}]]"#, &["[null: error -32600]"]),
            // A reply is not a request, and is ignored.
            (r#"{"jsonrpc":"2.0","id":1,"result":7}"#, &[]),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":""}}"#, &[]),
        ],
        &Limits::default(),
    );
}

#[test]
fn unknown_members_are_ignored() {
    every_way(
        &[
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":[5,3],"auth":null,"x":{"id":[]}}"#,
                &["1: 2"],
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":[5,3],"meta":{"trace":"a","hops":0}}"#,
                &["1: 2"],
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":{"minuend":5,"subtrahend":3,"x":1}}"#,
                &["1: 2"],
            ),
        ],
        &Limits::default(),
    );
}

#[test]
fn notifications_are_never_answered() {
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","method":"absent"}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"rpc.absent"}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"rpc.ping"}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"subtract","params":["wrong"]}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"panic","params":["at the disco"]}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"fail","params":{"code":7}}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"nothing","meta":{"hops":100}}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"nobody's"}}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"$/unheard-of","params":{}}"#, &[]),
            (r#"[{"jsonrpc":"2.0","method":"absent"},{"jsonrpc":"2.0","method":"nothing"}]"#, &[]),
        ],
        &Limits::default(),
    );
}

/// Section 4.1: a notification is not answered even if its parameters are wrong, and a cancel is a notification.
#[test]
fn cancel_of_an_unknown_call_is_not_answered() {
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest"}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{}}"#, &[]),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":[]}}"#, &[]),
        ],
        &Limits::default(),
    );
}

/// The members of a message have names; a list of their values is not a message.
#[test]
fn array_in_a_batch_is_not_a_request() {
    every_way(&[(r#"[["2.0",1,"nothing"]]"#, &["[null: error -32600]"])], &Limits::default());
}

#[test]
fn results_of_every_kind() {
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing"}"#, &["1: null"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","params":[]}"#, &["1: null"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","params":{}}"#, &["1: null"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":[]}"#, &["1: 0"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":[1,2]}"#, &["1: 3"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":[[1,2]]}"#, &["1: 3"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"get_data"}"#, &[r#"1: ["hello",5]"#]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"notified"}"#, &["1: []"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"fail","params":{"code":77}}"#, &["1: error 77"]),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"rpc.echo","params":[1,{"a":"é"}]}"#,
                &[r#"1: [1,{"a":"é"}]"#],
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}"#, &[r#"1: "pong""#]),
        ],
        &Limits::default(),
    );
}

#[test]
fn wrong_parameters_are_answered_with_invalid_params() {
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","id":1,"method":"subtract"}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":[]}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":[1]}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":[1,2,3]}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":["1","2"]}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"subtract","params":{"minuend":1}}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","params":[1]}"#, &["1: error -32602"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"rpc.list","params":[7]}"#, &["1: error -32602"]),
        ],
        &Limits::default(),
    );
}

#[test]
fn misbehaving_functions_are_answered_with_errors() {
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","id":1,"method":"panic","params":["for a test"]}"#, &["1: error -32603"]),
            (r#"{"jsonrpc":"2.0","id":2,"method":"forget"}"#, &["2: error -32603"]),
            // The server keeps running.
            (r#"{"jsonrpc":"2.0","id":3,"method":"subtract","params":[3,2]}"#, &["3: 1"]),
        ],
        &Limits::default(),
    );
}

#[test]
fn batches_too_large_are_rejected() {
    let limits = Limits::default().batch(3);
    let batch =
        |count| format!("[{}]", [r#"{"jsonrpc":"2.0","id":1,"method":"nothing"}"#].repeat(count).join(","));
    every_way(
        &[
            (&batch(3), &["[1: null, 1: null, 1: null]"]),
            (&batch(4), &["null: error -32010"]),
            ("[1,2,3,4]", &["null: error -32010"]),
        ],
        &limits,
    );
}

#[test]
fn batch_larger_than_the_limit_in_flight_is_answered() {
    let limits = Limits::default().in_flight(2);
    let calls: Vec<_> = (0..9)
        .map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"sum","params":[{id},10]}}"#))
        .collect();
    let expected: Vec<_> = (0..9).map(|id| format!("{id}: {}", id + 10)).collect();
    every_way(&[(&format!("[{}]", calls.join(",")), &[&format!("[{}]", expected.join(", "))])], &limits);
}

#[test]
fn replies_too_large_are_errors() {
    let limits = Limits::default().message(1024);
    every_way(
        &[
            // The quotes count.
            (r#"{"jsonrpc":"2.0","id":1,"method":"big","params":[1023]}"#, &["1: error -32008"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"fail","params":{"code":7,"data":1022}}"#, &["1: error 7"]),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"fail","params":{"code":7,"data":1023}}"#,
                &["1: error -32008"],
            ),
            (
                r#"[{"jsonrpc":"2.0","id":1,"method":"big","params":[5000]},{"jsonrpc":"2.0","id":2,"method":"nothing"}]"#,
                &["[1: error -32008, 2: null]"],
            ),
        ],
        &limits,
    );
    let [reply] = &in_memory(r#"{"jsonrpc":"2.0","id":1,"method":"big","params":[1022]}"#, &limits)[..]
    else {
        panic!("not one reply");
    };
    assert_eq!(reply.len(), "1: ".len() + 1024);
}

/// The size of every reply is bounded by the limit plus its envelope.
#[test]
fn no_reply_exceeds_the_limit() {
    const FRAME: usize = 200;
    let limits = Limits::default().message(1024);
    let failing: Vec<_> = (0..5)
        .map(|id| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"fail","params":{{"code":7,"data":1000}}}}"#)
        })
        .collect();
    run(async |executor| {
        let fixture = Fixture::start(&executor, limits.clone()).await;
        let mut too_large = Vec::new();
        for (what, request, replies) in [
            // Each byte of such names takes several in a message that quotes it.
            (
                "an unknown name",
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "\u{7f}".repeat(500)),
                1,
            ),
            (
                "a function's own error",
                r#"{"jsonrpc":"2.0","id":1,"method":"fail","params":{"code":7,"message":5000}}"#.to_owned(),
                1,
            ),
            ("a batch of errors", format!("[{}]", failing.join(",")), 5),
        ] {
            let reply = Over::Memory.ask(&fixture, &request).await.concat();
            assert!(told(&reply).contains("error"));
            if reply.len() > limits.message + replies * FRAME {
                too_large.push((what, reply.len()));
            }
        }
        fixture.end().await;
        assert!(too_large.is_empty(), "the limit is {}: {too_large:?}", limits.message);
    });
}

#[test]
fn requests_that_are_too_large() {
    let limits = Limits::default().message(256);
    let of_length = |length: usize| {
        let text = |pad: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"nothing","pad":"{pad}"}}"#);
        text(&"x".repeat(length - text("").len()))
    };
    let next = r#"{"jsonrpc":"2.0","id":2,"method":"nothing"}"#;
    // The id is early enough to be known.
    for (length, answer) in [(256, "1: null"), (257, "1: error -32007"), (10_000, "1: error -32007")] {
        for end in ["\n", "\r\n"] {
            // The connection keeps working.
            let replies = in_memory(&format!("{}{end}{next}", of_length(length)), &limits);
            let expected = vec![answer.to_owned(), "2: null".to_owned()];
            assert_eq!(sorted(replies), sorted(expected), "{length} {end:?}");
        }
    }
    run(async |executor| {
        let fixture = Fixture::start(&executor, limits.clone()).await;
        let (status, _, body) = post(fixture.address, "/", &of_length(256)).await;
        assert_eq!((status, told(&body).as_str()), (200, "1: null"));
        let (status, _, body) = post(fixture.address, "/", &of_length(257)).await;
        assert_eq!((status, told(&body).as_str()), (413, "1: error -32007"));
        fixture.end().await;
    });
}

#[test]
fn calls_with_too_many_hops_fail() {
    every_way(
        &[
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","meta":{"hops":8}}"#, &["1: null"]),
            (r#"{"jsonrpc":"2.0","id":1,"method":"nothing","meta":{"hops":9}}"#, &["1: error -32012"]),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"absent","meta":{"hops":4294967295}}"#,
                &["1: error -32012"],
            ),
        ],
        &Limits::default(),
    );
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let request = r#"{"jsonrpc":"2.0","id":1,"method":"nothing","meta":{"hops":9}}"#;
        let reply = Over::Memory.ask(&fixture, request).await.concat();
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!(reply["error"]["data"]["via"], serde_json::json!(["fixture"]));
        fixture.end().await;
    });
}

/// The lines of a conversation with every kind of line.
const LINES: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"subtract\",\"params\":[42,23]}\n\
    {\"jsonrpc\":\"2.0\",\"method\":\"update\",\"params\":[1]}\r\n\
    \n\r\n  \n\
    nonsense\n\
    \t{\"jsonrpc\":\"2.0\",\"id\":\"é\",\"method\":\"absent\"} \r\n\
    [{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"sum\",\"params\":[1,2]},7]\n\
    {\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"rpc.ping\"}";
const REPLIES: [&str; 5] =
    [r#""é": error -32601"#, "1: 19", r#"3: "pong""#, "[2: 3, null: error -32600]", "null: error -32700"];

fn sorted(mut replies: Vec<String>) -> Vec<String> {
    replies.sort();
    replies
}

#[test]
fn line_ends_blank_lines_and_an_unterminated_last_line() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        for end in ["", "\n", "\r\n", "\r", "\n\n\n"] {
            let text = format!("{LINES}{end}");
            let stream = TcpStream::connect(fixture.address).await.unwrap();
            let replies = lines(&exchange(stream, text.as_bytes()).await);
            assert_eq!(sorted(all_told(&replies)), REPLIES, "over TCP, ending in {end:?}");

            let mut peer = Peer::new(&executor, &fixture.node, 4096);
            peer.writer.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(sorted(peer.rest().await), REPLIES, "in memory, ending in {end:?}");
        }
        fixture.end().await;
    });
}

/// A stream whose reads return the given pieces one by one, each after being pending once.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    waited: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.waited = !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(mut piece) = self.pieces.pop_front() else { return Poll::Ready(Ok(0)) };
        let count = piece.len().min(into.len());
        into[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.pieces.push_front(piece.split_off(count));
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn input_split_anywhere_gives_the_same_lines() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        for at in 1..LINES.len() {
            let (first, second) = LINES.as_bytes().split_at(at);
            let written = Arc::default();
            let pieces = Pieces {
                pieces: [first.to_vec(), second.to_vec()].into(),
                waited: false,
                written: Arc::clone(&written),
            };
            fixture.node.serve_connection(pieces).await;
            let replies = String::from_utf8(std::mem::take(&mut written.lock().unwrap())).unwrap();
            assert_eq!(sorted(all_told(&lines(&replies))), REPLIES, "cut after {at} bytes");
        }
        fixture.end().await;
    });
}

#[test]
fn input_arriving_byte_by_byte() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let (here, there) = memory::pair(1);
        let node = fixture.node.clone();
        let served = executor.spawn(async move { node.serve_connection(there).await });
        let replies = exchange(here, LINES.as_bytes()).await;
        served.await;
        assert_eq!(sorted(all_told(&lines(&replies))), REPLIES);
        fixture.end().await;
    });
}

/// Returns its parameters with a line feed between any two of their tokens.
struct Spread;

impl Provider for Spread {
    fn call(&self, call: Call<'_>) {
        let params: Value = serde_json::from_str(call.params().map_or("null", RawJson::get)).unwrap();
        let spread = raw(&serde_json::to_string_pretty(&params).unwrap());
        call.defer().send(Ok(spread.into()));
    }
}

fn forward_settings() -> ForwardSettings {
    ForwardSettings {
        node: "near".into(),
        max_hops: 8,
        timeout: None,
        balance: Balance::Least,
        key: None,
        repeatable: false,
        ..ForwardSettings::default()
    }
}

#[test]
fn results_with_line_feeds_are_sent_as_one_line() {
    run(async |executor| {
        let far = Fixture::with(&executor, Limits::default(), |builder| {
            builder.provide("far.spread", Description::default(), Spread).unwrap();
        });
        let far = far.await;
        let remote = Remote::builder(far.address.to_string()).executor(&executor).connect();
        let forward = Forward::new(executor.clone(), [remote], forward_settings());
        let near = Fixture::with(&executor, Limits::default(), |builder| {
            builder.provide("far.*", Description::default(), forward).unwrap();
        });
        let near = near.await;

        let params = r#"{"a":[1,"\n",{"b":null}]}"#;
        let pretty = "{\n\t\"a\" : [ 1,\r\n\r\n\"\\n\",\r{\"b\"\n:null}\n]}";
        for method in ["far.spread", "rpc.echo"] {
            let request = format!(
                "{{\n\"jsonrpc\":\"2.0\",\r\n\"id\":1,\n\"method\":\"{method}\",\n\"params\":{pretty}\n}}\n"
            );
            for over in EVERY_WAY {
                let replies = over.ask(&near, &request).await;
                assert_eq!(all_told(&replies), [format!("1: {params}")], "{over:?}: {method}");
            }
        }
        // The near node's own function, and a line that can only arrive unchanged with a carriage return.
        for over in [Over::Memory, Over::Tcp] {
            for (request, expected) in [
                (r#"{"jsonrpc":"2.0","id":1,"method":"pretty"}"#.to_owned(), r#"1: {"a":[1]}"#),
                (
                    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.echo\",\"params\":[\r1\r]}".to_owned(),
                    "1: [1]",
                ),
            ] {
                let replies = over.ask(&near, &request).await;
                assert_eq!(all_told(&replies), [expected], "{over:?}: {request:?}");
                assert!(!replies[0].contains('\r'), "{replies:?}");
            }
        }
        near.end().await;
        far.end().await;
    });
}

#[test]
fn replies_are_sent_when_ready() {
    let replies = in_memory(
        r#"{"jsonrpc":"2.0","id":1,"method":"hold","params":[11]}
           {"jsonrpc":"2.0","id":2,"method":"hold","params":[12]}
           {"jsonrpc":"2.0","id":3,"method":"release"}"#,
        &Limits::default(),
    );
    assert_eq!(replies, ["2: 12", "1: 11", "3: 2"]);
}

#[test]
fn calls_of_a_closed_server_fail() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        fixture.closer.close();
        for over in EVERY_WAY {
            let ask = r#"{"jsonrpc":"2.0","id":2,"method":"rpc.ping"}"#;
            assert_eq!(all_told(&over.ask(&fixture, ask).await), [r#"2: "pong""#], "{over:?}");
            let ask = r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":[1]}"#;
            assert_eq!(all_told(&over.ask(&fixture, ask).await), ["1: error -32014"], "{over:?}");
        }
        fixture.end().await;
    });
}

#[test]
fn full_queue_that_is_then_closed() {
    run(async |executor| {
        let mut functions = Exports::<()>::exported();
        functions.register1("double", |(), number: i64| number * 2).unwrap();
        let mut builder = Registry::builder("full");
        let settings = ServerSettings::default().capacity(1);
        let mut server = Server::with_settings((), functions.clone(), settings);
        builder.export(&functions, &server.client()).unwrap();
        let node = Node::new(executor.clone(), builder.build(), Limits::default());

        // Queued calls do not run until this test runs them.
        let mut peer = Peer::new(&executor, &node, 512);
        peer.send(r#"{"jsonrpc":"2.0","id":1,"method":"double","params":[1]}"#).await;
        peer.send(r#"{"jsonrpc":"2.0","id":2,"method":"double","params":[2]}"#).await;
        // Both are accepted before this; the second waits for capacity.
        peer.send(r#"{"jsonrpc":"2.0","id":0,"method":"rpc.ping"}"#).await;
        assert_eq!(peer.next().await, r#"0: "pong""#);
        assert!(server.exec().await);
        assert_eq!(peer.next().await, "1: 2");
        assert!(server.exec().await);
        assert_eq!(peer.next().await, "2: 4");

        peer.send(r#"{"jsonrpc":"2.0","id":3,"method":"double","params":[3]}"#).await;
        peer.send(r#"{"jsonrpc":"2.0","id":4,"method":"double","params":[4]}"#).await;
        peer.send(r#"{"jsonrpc":"2.0","id":5,"method":"rpc.ping"}"#).await;
        assert_eq!(peer.next().await, r#"5: "pong""#);
        drop(server);
        assert_eq!([peer.next().await, peer.next().await], ["3: error -32014", "4: error -32014"]);
        assert_eq!(peer.rest().await, [""; 0]);
    });
}

/// A result that cannot be encoded.
struct Unspeakable;

impl serde::Serialize for Unspeakable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("no words")
    }
}

#[test]
fn panic_while_encoding_a_result_fails_only_its_call() {
    run(async |executor| {
        let mut functions = Exports::<()>::exported();
        functions.register1("unspeakable", |(), ()| Unspeakable).unwrap();
        let mut builder = Registry::builder("mute");
        let server = Server::new((), functions.clone());
        builder.export(&functions, &server.client()).unwrap();
        let client = executor.spawn(server.run());
        let node = Node::new(executor.clone(), builder.build(), Limits::default());
        let mut peer = Peer::new(&executor, &node, 512);
        peer.send(r#"{"jsonrpc":"2.0","id":1,"method":"unspeakable"}"#).await;
        assert_eq!(peer.next().await, "1: error -32603");
        peer.send(r#"{"jsonrpc":"2.0","id":2,"method":"rpc.ping"}"#).await;
        assert_eq!(peer.next().await, r#"2: "pong""#);
        drop(client);
    });
}

#[test]
fn cancelled_call_is_answered_once() {
    let replies = in_memory(
        r#"{"jsonrpc":"2.0","id":1,"method":"hold","params":[11]}
           {"jsonrpc":"2.0","id":"1","method":"hold","params":[12]}
           {"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"nobody's"}}
           {"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}
           {"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}
           {"jsonrpc":"2.0","id":3,"method":"release"}
           {"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#,
        &Limits::default(),
    );
    // Calls cancelled before they started have not run.
    assert_eq!(sorted(replies), [r#""1": 12"#, "1: error -32800", "3: 1"]);
}

#[test]
fn cancel_of_an_answered_call_has_no_effect() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let mut peer = Peer::new(&executor, &fixture.node, 512);
        peer.send(r#"{"jsonrpc":"2.0","id":1,"method":"sum","params":[1]}"#).await;
        assert_eq!(peer.next().await, "1: 1");
        peer.send(r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#).await;
        assert_eq!(peer.rest().await, [""; 0]);
        assert_eq!(fixture.metric("cancelled"), 0);
        fixture.end().await;
    });
}

#[test]
fn call_in_a_batch_can_be_cancelled() {
    let replies = in_memory(
        r#"[{"jsonrpc":"2.0","id":1,"method":"hold","params":[11]},{"jsonrpc":"2.0","id":2,"method":"sum","params":[2]}]
           {"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}
           {"jsonrpc":"2.0","id":3,"method":"release"}"#,
        &Limits::default(),
    );
    assert_eq!(sorted(replies), ["3: 0", "[1: error -32800, 2: 2]"]);
}

#[test]
fn deadline_exceeded_is_the_only_reply() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let mut peer = Peer::new(&executor, &fixture.node, 512);
        for request in [
            r#"{"jsonrpc":"2.0","id":1,"method":"hold","params":[11],"meta":{"deadline_ms":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"hold","params":[11],"meta":{"deadline_ms":0}}"#,
        ] {
            peer.send(request).await;
            assert_eq!(peer.next().await, "1: error -32003");
            peer.send(r#"{"jsonrpc":"2.0","id":2,"method":"release"}"#).await;
            // A later reply of the function, if it has started, is discarded, so this is next.
            assert!(matches!(&*peer.next().await, "2: 0" | "2: 1"));
        }
        peer.send(r#"[{"jsonrpc":"2.0","id":1,"method":"hold","params":[1],"meta":{"deadline_ms":1}},{"jsonrpc":"2.0","id":2,"method":"sum","params":[2]}]"#).await;
        assert_eq!(peer.next().await, "[1: error -32003, 2: 2]");
        // Beyond the range of the clock.
        peer.send(r#"{"jsonrpc":"2.0","id":3,"method":"sum","params":[3],"meta":{"deadline_ms":18446744073709551615}}"#).await;
        assert_eq!(peer.next().await, "3: 3");
        assert_eq!(peer.rest().await, [""; 0]);
        assert_eq!(fixture.metric("deadlines"), 3);
        fixture.end().await;
    });
}

/// A call without a deadline gets the node's own.
#[test]
fn call_without_a_deadline_ends_at_the_nodes() {
    let limits = Limits::default().deadline(Duration::from_millis(1));
    let began = Instant::now();
    run(async |executor| {
        let fixture = Fixture::start(&executor, limits.clone()).await;
        let mut peer = Peer::new(&executor, &fixture.node, 512);
        peer.send(r#"{"jsonrpc":"2.0","id":1,"method":"hold","params":[1]}"#).await;
        assert_eq!(peer.next().await, format!("1: error {}", code::DEADLINE));
        assert!(began.elapsed() >= limits.deadline);
        fixture.end().await;
    });
}

/// "Accepted" means that the notification will run, not that it has run, so the client does not wait.
#[test]
fn posted_notification_is_accepted_immediately() {
    let limits = Limits::default().deadline(Duration::from_secs(1));
    run(async |executor| {
        let fixture = Fixture::start(&executor, limits).await;
        let request = r#"{"jsonrpc":"2.0","method":"hold","params":[1]}"#;
        let (status, _, body) = post(fixture.address, "/", request).await;
        assert_eq!((status, body.as_str()), (202, ""));
        assert_eq!(fixture.metric("deadlines"), 0, "it was waited for until its deadline");
        // It is still held and can be answered.
        let released = Over::Memory.ask(&fixture, r#"{"jsonrpc":"2.0","id":1,"method":"release"}"#).await;
        assert_eq!(all_told(&released), ["1: 1"]);
        fixture.end().await;
    });
}

/// Concurrent conversations are independent, even if they use the same ids.
#[test]
fn connections_are_independent() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let mut peers: Vec<_> = (0..20).map(|_| Peer::new(&executor, &fixture.node, 512)).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"hold","params":[{number}]}}"#)).await;
        }
        // One disconnects, and another cancels.
        peers.remove(0).leave();
        peers[0].send(r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#).await;
        assert_eq!(peers.remove(0).rest().await, ["1: error -32800"]);
        for peer in &mut peers {
            peer.send(r#"{"jsonrpc":"2.0","id":0,"method":"sum","params":[]}"#).await;
            assert_eq!(peer.next().await, "0: 0");
        }
        let released = Over::Memory.ask(&fixture, r#"{"jsonrpc":"2.0","id":1,"method":"release"}"#).await;
        // The two have started, or they have not.
        assert!(matches!(&*all_told(&released).concat(), "1: 18" | "1: 19" | "1: 20"));
        for (number, peer) in peers.into_iter().enumerate() {
            assert_eq!(peer.rest().await, [format!("1: {}", number + 2)]);
        }
        assert_eq!(fixture.metric("in_flight"), 0);
        fixture.end().await;
    });
}

/// The peer sends its last request and closes while a notification takes the only slot.
#[test]
fn close_does_not_drop_waiting_requests() {
    let limits = Limits::default().in_flight(1);
    run(async |executor| {
        let fixture = Fixture::start(&executor, limits).await;
        let mut peer = Peer::new(&executor, &fixture.node, 512);
        peer.send(r#"{"jsonrpc":"2.0","method":"hold","params":[1]}"#).await;
        peer.send(r#"{"jsonrpc":"2.0","id":2,"method":"sum","params":[1,2]}"#).await;
        let release = async {
            while Over::Memory.ask(&fixture, r#"{"jsonrpc":"2.0","id":0,"method":"release"}"#).await
                != [r#"{"jsonrpc":"2.0","id":0,"result":1}"#]
            {}
        };
        let (_, rest) = futures_lite::future::zip(release, peer.rest()).await;
        assert_eq!(rest, ["2: 3"]);
        fixture.end().await;
    });
}
