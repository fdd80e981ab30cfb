//! Helpers of the tests of dialects: a node in this process that speaks all of them, and a raw peer for each.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chanrpc::chan::{Client as Calls, Functions, Id1, Responder, Server};
use chanrpc::config::Config;
use chanrpc::internals::route::{registry_from_config, token_hash};
use chanrpc::message::Fault;
use chanrpc::node::{Listener, Node};
use chanrpc::route::{Access, Exports};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use smol::Executor;
use smol::net::TcpListener;

use super::support::{self, Client, ended};

/// The token required to call `secret`.
pub(crate) const TOKEN: &str = "a token of this test and no other";

/// A node on a thread of this process, stopped when dropped.
pub(crate) struct Fixture {
    /// One address per `[[listen]]` of its configuration.
    pub(crate) addresses: Vec<SocketAddr>,
    stop: Option<async_channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The state of the functions.
#[derive(Default)]
struct State {
    count: i64,
    held: Vec<Responder<i64>>,
}

/// Like Leaf's sample: unknown and missing fields are ignored.
#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Hello {
    name: String,
}

impl Fixture {
    /// Starts a node with these listeners and functions, and with native functions whose names begin with `prefix`.
    pub(crate) fn start(prefix: &'static str, config: &str) -> Self {
        let config = format!(
            "{config}\n[[access]]\nfunctions = [\"{prefix}.*\", \"far.*\", \"nobody.*\", \"program.*\", \"gone\", \
             \"Hello\", \"rpc.*\"]\n\
             [[access]]\nfunctions = [\"secret\"]\ntoken = \"sha256:{}\"",
            token_hash(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        );
        let config = Config::parse(&config, "wires.toml").unwrap();
        let (tell, told) = async_channel::bounded(1);
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let thread = thread::spawn(move || {
            let executor = Arc::new(Executor::new());
            smol::block_on(executor.run(async {
                let mut builder = registry_from_config(&config, &executor).unwrap();
                let itself = Arc::default();
                let functions = functions(prefix, &itself);
                let server = Server::new(State::default(), functions.clone());
                builder.export(&functions, &server.client()).unwrap();
                itself.set(server.client()).unwrap();
                executor.spawn(server.run()).detach();
                let mut gone = Functions::exported();
                gone.register1("gone", |(): &mut (), ()| 1).unwrap();
                let closed = Server::new((), gone.clone());
                builder.export(&gone, &closed.client()).unwrap();
                drop(closed);

                let access = Arc::new(Access::new(&config));
                let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
                for listen in &config.listen {
                    let socket = TcpListener::bind(listen.address.as_str()).await.unwrap();
                    addresses.push(socket.local_addr().unwrap());
                    listeners.push(Listener::new(socket, listen, &access).unwrap());
                }
                tell.send(addresses).await.unwrap();
                let node = Node::new(executor.clone(), builder.build(), config.limits.clone());
                node.serve(listeners, async { stopped.recv().await.unwrap_or_default() }).await;
            }));
        });
        let addresses = smol::block_on(told.recv()).unwrap();
        Self { addresses, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Tells the node to stop, without waiting.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop();
        let thread = self.thread.take().unwrap();
        if !thread::panicking() {
            ended(thread);
        }
    }
}

#[derive(serde::Serialize)]
struct Ratio {
    ratio: f64,
}

fn ratios(ratio: f64) -> Vec<Option<Ratio>> {
    vec![None, Some(Ratio { ratio })]
}

fn functions(prefix: &str, itself: &Arc<OnceLock<Calls>>) -> Exports<State> {
    let name = |name: &str| format!("{prefix}.{name}");
    let mut functions = Exports::<State>::exported();
    functions
        .register0(name("nothing"), |_, ()| ())
        .unwrap()
        .register1(name("add"), |_, (a, b): (i64, i64)| a + b)
        .unwrap()
        .register_n(name("divide"), |_, (a, b): (i64, i64)| (a / b, a % b))
        .unwrap()
        .register1(name("echo"), |_, (value,): (Box<RawValue>,)| value)
        .unwrap()
        .register0(name("note"), |state, by: i64| state.count += by)
        .unwrap()
        .register1(name("count"), |state, ()| std::mem::take(&mut state.count))
        .unwrap()
        .register1(name("big"), |_, length: usize| "x".repeat(length))
        .unwrap()
        .register1(name("panic"), |_, text: String| -> i64 { panic!("{text}") })
        .unwrap()
        .register1(name("fail"), |_, (data,): (Option<Value>,)| {
            let fault = Fault::new(-5, "an \"error\" of its own,\nin two lines: é");
            Err::<i64, _>(data.map_or(fault.clone(), |data| fault.with_data(&data)))
        })
        .unwrap()
        .register_deferred(Id1::from_id(name("hold")), |state, (), responder| state.held.push(responder))
        .unwrap()
        .register1(name("ratios"), |_, (a, b): (f64, f64)| ratios(a / b))
        .unwrap()
        .register_deferred(Id1::from_id(name("ratios_later")), |_, (a, b): (f64, f64), responder| {
            responder.reply(ratios(a / b));
        })
        .unwrap()
        .register0(name("spin"), |state, ()| {
            state.count += 1;
            let end = Instant::now() + Duration::from_millis(6);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        })
        .unwrap()
        .register1("secret", |_, ()| "told")
        .unwrap()
        .register1("Hello", |state, hello: Option<Hello>| {
            state.count += 1;
            let name = hello.unwrap_or_default().name;
            serde_json::value::to_raw_value(&json!({ "Hello": { "Name": name } })).unwrap()
        })
        .unwrap();
    let client = itself.clone();
    let add = name("add");
    functions
        .register1(name("ask_itself"), move |_, ()| {
            client.get().unwrap().call1::<_, i64>(add.clone(), (1_i64, 2_i64)).wait().map_err(Fault::from)
        })
        .unwrap();
    functions
}

/// The transport and the encoding of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Lines,
    Headers,
    MessagePack,
    /// JSON in text frames.
    WebSocketText,
    /// JSON in binary frames.
    WebSocketBinary,
    /// MessagePack in binary frames.
    WebSocketPacked,
    Http,
}

pub(crate) const WIRES: [Wire; 7] = [
    Wire::Lines,
    Wire::Headers,
    Wire::MessagePack,
    Wire::WebSocketText,
    Wire::WebSocketBinary,
    Wire::WebSocketPacked,
    Wire::Http,
];

impl Wire {
    pub(crate) fn is_packed(self) -> bool {
        matches!(self, Self::MessagePack | Self::WebSocketPacked)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocketText | Self::WebSocketBinary | Self::WebSocketPacked)
    }
}

/// A peer that speaks one dialect. It sends and receives JSON-RPC objects, whatever their encoding.
pub(crate) struct Peer {
    pub(crate) wire: Wire,
    pub(crate) client: Client,
    token: Option<&'static str>,
}

impl Peer {
    pub(crate) fn connect(wire: Wire, address: SocketAddr) -> Self {
        let mut client = Client::connect(address);
        if wire.is_websocket() {
            upgrade(&mut client);
        }
        Self::over(wire, client)
    }

    /// Uses a connection, which is upgraded if that is needed.
    pub(crate) fn over(wire: Wire, client: Client) -> Self {
        Self { wire, client, token: None }
    }

    /// Presents a token in the way of the dialect.
    pub(crate) fn present(&mut self, token: &'static str) {
        if self.wire == Wire::Http {
            self.token = Some(token);
        } else {
            assert_eq!(self.call("rpc.auth", &json!({ "token": token })), Ok(json!(true)), "{:?}", self.wire);
        }
    }

    /// Sends a request with an optional id, parameters and meta.
    pub(crate) fn send(&mut self, request: &Value) {
        if !self.wire.is_packed() {
            let mut request = request.clone();
            request["jsonrpc"] = json!("2.0");
            return self.send_body(request.to_string().as_bytes());
        }
        let mut message = match request.get("id") {
            Some(id) => vec![json!(0), id.clone()],
            None => vec![json!(2)],
        };
        message.extend([request["method"].clone(), request["params"].clone()]);
        message.extend(request.get("meta").cloned());
        let mut body = Vec::new();
        pack(&Value::Array(message), &mut body);
        self.send_body(&body);
    }

    /// Answers a request of the node's.
    pub(crate) fn answer(&mut self, request: &Value, outcome: Result<Value, Value>) {
        let id = &request["id"];
        if !self.wire.is_packed() {
            let reply = match outcome {
                Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
                Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
            };
            return self.send_body(reply.to_string().as_bytes());
        }
        let (error, result) = match outcome {
            Ok(result) => (Value::Null, result),
            Err(error) => (json!([error["code"], error["message"], error["data"]]), Value::Null),
        };
        let mut body = Vec::new();
        pack(&json!([1, id, error, result]), &mut body);
        self.send_body(&body);
    }

    /// Sends a message unchanged, with the transport's framing.
    pub(crate) fn send_body(&mut self, body: &[u8]) {
        let bytes = match self.wire {
            Wire::Lines => [body, b"\n"].concat(),
            Wire::Headers => [format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat(),
            Wire::MessagePack => body.to_vec(),
            Wire::WebSocketText => frame(1, body),
            Wire::WebSocketBinary | Wire::WebSocketPacked => frame(2, body),
            Wire::Http => {
                let token = self.token.map(|token| format!("Authorization: Bearer {token}\r\n"));
                let head = format!(
                    "POST / HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {}\r\n\r\n",
                    token.unwrap_or_default(),
                    body.len()
                );
                [head.as_bytes(), body].concat()
            }
        };
        self.client.send(bytes);
    }

    /// Returns the next reply, batch of replies or notification.
    pub(crate) fn receive(&mut self) -> Value {
        let body = match self.wire {
            Wire::Lines => return self.client.reply(),
            Wire::Headers => {
                let head = self.client.line().expect("a head");
                let length = head.strip_prefix("Content-Length: ").and_then(|text| text.trim().parse().ok());
                assert_eq!(self.client.line().as_deref(), Some("\r\n"), "after {head}");
                self.client.take(length.unwrap_or_else(|| panic!("{head}")))
            }
            Wire::MessagePack => return reply(unpack(&mut |count| self.client.take(count))),
            Wire::WebSocketText => self.frame(1),
            Wire::WebSocketBinary => self.frame(2),
            Wire::WebSocketPacked => {
                let mut body = self.frame(2);
                let message = unpack(&mut |count| body.drain(..count).collect());
                assert!(body.is_empty(), "more than one message in a frame: {message}");
                return reply(message);
            }
            Wire::Http => {
                let reply = self.client.http();
                assert!(matches!(reply.status, 200 | 413), "{reply:?}");
                return reply.json();
            }
        };
        serde_json::from_slice(&body).unwrap()
    }

    /// Calls a function when no other reply is pending.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value, support::Fault> {
        self.ask(json!({ "method": method, "params": params }))
    }

    /// Adds an id to a request, sends it and parses the reply.
    pub(crate) fn ask(&mut self, mut request: Value) -> Result<Value, support::Fault> {
        request["id"] = json!(42);
        self.send(&request);
        let reply = self.receive();
        assert_eq!(reply["id"], 42, "{:?}: {reply}", self.wire);
        support::outcome(&reply)
    }

    /// Sends a notification.
    pub(crate) fn notify(&mut self, method: &str, params: &Value) {
        self.send(&json!({ "method": method, "params": params }));
        if self.wire == Wire::Http {
            let reply = self.client.http();
            assert_eq!((reply.status, reply.body.as_str()), (202, ""), "{reply:?}");
        }
    }

    /// Returns the payload of the next WebSocket frame.
    pub(crate) fn frame(&mut self, opcode: u8) -> Vec<u8> {
        take_frame(&mut self.client, opcode)
    }
}

/// Upgrades a connection to WebSocket.
pub(crate) fn upgrade(client: &mut Client) {
    client.send(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let reply = client.http();
    assert_eq!(reply.status, 101, "{reply:?}");
}

/// Returns a client's frame, with a mask of zeros.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => panic!("no test needs so long a frame"),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Returns the payload of the next frame, which must have the given opcode.
#[track_caller]
pub(crate) fn take_frame(client: &mut Client, opcode: u8) -> Vec<u8> {
    let head = client.take(2);
    assert_eq!(head[0], 0x80 | opcode, "another kind of frame");
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(client.take(2).try_into().unwrap())),
        127 => usize::try_from(u64::from_be_bytes(client.take(8).try_into().unwrap())).unwrap(),
        length => length.into(),
    };
    client.take(length)
}

/// Converts a MessagePack-RPC message to a JSON-RPC object.
fn reply(message: Value) -> Value {
    if message[0] == 2 {
        return json!({ "jsonrpc": "2.0", "method": message[1], "params": message[2] });
    }
    if message[0] == 0 {
        let mut request =
            json!({ "jsonrpc": "2.0", "id": message[1], "method": message[2], "params": message[3] });
        if let Some(meta) = message.get(4) {
            request["meta"] = meta.clone();
        }
        return request;
    }
    let [kind, id, error, result]: [Value; 4] = serde_json::from_value(message).unwrap();
    assert_eq!(kind, 1);
    if error.is_null() {
        return json!({ "jsonrpc": "2.0", "id": id, "result": result });
    }
    assert_eq!(result, Value::Null);
    let [code, message, data]: [Value; 3] = serde_json::from_value(error).unwrap();
    let mut error = Map::from_iter([("code".to_owned(), code), ("message".to_owned(), message)]);
    if !data.is_null() {
        error.insert("data".to_owned(), data);
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

/// Appends a value as MessagePack, in encodings that differ from the node's.
pub(crate) fn pack(value: &Value, out: &mut Vec<u8>) {
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(value) => out.push(0xc2 | u8::from(*value)),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number @ ..128), _) => out.push(number.to_be_bytes()[7]),
            (Some(number), _) => {
                out.push(0xcf);
                out.extend(number.to_be_bytes());
            }
            (None, Some(number)) => {
                out.push(0xd3);
                out.extend(number.to_be_bytes());
            }
            (None, None) => {
                out.push(0xcb);
                out.extend(number.as_f64().unwrap().to_be_bytes());
            }
        },
        Value::String(text) => {
            out.push(0xda);
            out.extend(length(text.len()));
            out.extend(text.as_bytes());
        }
        Value::Array(values) => {
            // The first byte of a message determines the dialect, and must be one of these two.
            match values.len() {
                count @ ..16 => out.push(0x90 | length(count)[1]),
                count => {
                    out.push(0xdc);
                    out.extend(length(count));
                }
            }
            values.iter().for_each(|value| pack(value, out));
        }
        Value::Object(members) => {
            out.push(0xde);
            out.extend(length(members.len()));
            for (key, value) in members {
                pack(&json!(key), out);
                pack(value, out);
            }
        }
    }
}

/// Reads a MessagePack value, limited to types that JSON has.
fn unpack(take: &mut impl FnMut(usize) -> Vec<u8>) -> Value {
    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
    let first = take(1)[0];
    let mut size = |bytes: usize| usize::try_from(number(&take(bytes))).unwrap();
    let (text, array, object) = match first {
        0xa0..=0xbf => (Some(usize::from(first & 0x1f)), None, None),
        0xd9..=0xdb => (Some(size(1 << (first - 0xd9))), None, None),
        0x90..=0x9f => (None, Some(usize::from(first & 0xf)), None),
        0xdc..=0xdd => (None, Some(size(2 << (first - 0xdc))), None),
        0x80..=0x8f => (None, None, Some(usize::from(first & 0xf))),
        0xde..=0xdf => (None, None, Some(size(2 << (first - 0xde)))),
        _ => (None, None, None),
    };
    if let Some(length) = text {
        return String::from_utf8(take(length)).unwrap().into();
    }
    if let Some(count) = array {
        return (0..count).map(|_| unpack(take)).collect();
    }
    if let Some(count) = object {
        let member = |_| (unpack(take).as_str().unwrap().to_owned(), unpack(take));
        return Value::Object((0..count).map(member).collect());
    }
    match first {
        0..=0x7f => first.into(),
        0xe0..=0xff => i64::from(first.cast_signed()).into(),
        0xc0 => Value::Null,
        0xc2 | 0xc3 => (first == 0xc3).into(),
        0xca => f32::from_be_bytes(take(4).try_into().unwrap()).into(),
        0xcb => f64::from_be_bytes(take(8).try_into().unwrap()).into(),
        0xcc..=0xcf => number(&take(1 << (first - 0xcc))).into(),
        0xd0..=0xd3 => {
            let bytes = 1 << (first - 0xd0);
            let shift = 64 - 8 * u32::try_from(bytes).unwrap();
            ((number(&take(bytes)) << shift).cast_signed() >> shift).into()
        }
        _ => panic!("{first:#x} has no form in JSON"),
    }
}
