//! Servers that are told of connections: opened before calls before closed, exactly once each, whatever happens.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chanrpc::chan::{Client as Calls, Functions, Id0, Id1, Responder, Server, ServerSettings};
use chanrpc::config::{Config, Limits};
use chanrpc::internals::route::RegistryInternals as _;
use chanrpc::node::{Node, NodeError, RunningNode};
use chanrpc::route::{Caller, Exports, WithCaller};
use serde_json::json;
use smol::Executor;

use crate::support::{Client, LIMIT, eventually, post, scale};
use crate::wires::{Peer, Wire, frame, upgrade};

const OPENED: Id0<Caller> = Id0::new("opened");
const CLOSED: Id0<Caller> = Id0::new("closed");
const NOTE: Id0<WithCaller<()>> = Id0::new("note");
/// Answers never.
const HOLD: Id1<WithCaller<()>, ()> = Id1::new("hold");
const TAKE: Id1<(), HashMap<u64, Vec<Event>>> = Id1::number(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
enum Event {
    Opened,
    Call,
    Closed,
}

#[derive(Default)]
struct State {
    events: HashMap<u64, Vec<Event>>,
    held: Vec<Responder<()>>,
}

impl State {
    fn note(&mut self, caller: &Caller, event: Event) {
        self.events.entry(caller.connection()).or_default().push(event);
    }
}

fn functions() -> Exports<State> {
    let mut functions = Functions::exported();
    functions
        .register(OPENED, |state: &mut State, caller| state.note(&caller, Event::Opened))
        .unwrap()
        .register(CLOSED, |state, caller| state.note(&caller, Event::Closed))
        .unwrap()
        .register(NOTE, |state, WithCaller(caller, ())| state.note(&caller, Event::Call))
        .unwrap()
        .register_deferred(HOLD, |state, WithCaller(caller, ()), responder| {
            state.note(&caller, Event::Call);
            state.held.push(responder);
        })
        .unwrap()
        .register(TAKE, |state, ()| state.events.clone())
        .unwrap();
    functions
}

/// A node, and a server that it tells of connections.
struct Fixture {
    node: RunningNode,
    calls: Calls,
    server: Option<Server<State>>,
}

impl Fixture {
    /// Starts a node with a regular listener and one for Leaf's frames. The server does not run yet.
    fn new(capacity: usize, limits: Limits) -> Self {
        let functions = functions();
        let settings = ServerSettings::default().capacity(capacity);
        let server = Server::with_settings(State::default(), functions.clone(), settings);
        let listen = "[[listen]]\naddress = '127.0.0.1:0'\n";
        let text = format!("{listen}{listen}dialect = 'leaf'\n[[access]]\nfunctions = ['*']\n");
        let config = Config::parse(&text, "test").unwrap();
        let calls = server.client();
        let builder = Node::from_config(config).limits(limits).export(&functions, &calls);
        let node = builder.sessions(&calls, OPENED, CLOSED).start().unwrap();
        Self { node, calls, server: Some(server) }
    }

    fn run(&mut self) {
        let server = self.server.take().unwrap();
        thread::spawn(|| smol::block_on(server.run()));
    }

    fn address(&self) -> SocketAddr {
        self.node.addresses()[0]
    }

    fn leaf(&self) -> SocketAddr {
        self.node.addresses()[1]
    }

    fn events(&self) -> HashMap<u64, Vec<Event>> {
        self.calls.call(TAKE, ()).wait().unwrap()
    }
}

/// Asserts that the events of a connection are in order, each of the outer ones once.
#[track_caller]
fn assert_order(events: &[Event], calls: usize) {
    let expected = [&[Event::Opened][..], &vec![Event::Call; calls], &[Event::Closed]].concat();
    assert!(events == expected, "{events:?}, and not {calls} calls");
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// A client that makes random calls and ends in a random way. Returns it if it stays.
fn visit([usual, leaf]: [SocketAddr; 2], random: &mut Random, may_hold: bool) -> Option<Peer> {
    let calls = random.below(4);
    let note = json!({ "jsonrpc": "2.0", "method": "note" });
    match random.below(5) {
        0 => {
            let mut client = Client::connect(leaf);
            for _ in 0..calls {
                client.send(b"\0\x0d{\"note\":null}");
            }
            if random.below(2) == 0 {
                // A connection is reset if a reply is unread.
                client.send(b"\0\x11{\"rpc.ping\":null}");
                client.reset();
            }
            None
        }
        1 => {
            let mut client = Client::connect(usual);
            upgrade(&mut client);
            for _ in 0..calls {
                client.send(frame(1, note.to_string().as_bytes()));
            }
            match random.below(3) {
                0 => {
                    client.send(frame(1, br#"{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}"#));
                    client.reset();
                }
                1 => client.send(frame(8, b"")),
                _ => return Some(Peer::over(Wire::WebSocketText, client)),
            }
            None
        }
        2 => {
            let mut peer = Peer::connect(Wire::MessagePack, usual);
            for _ in 0..calls {
                peer.notify("note", &json!([]));
            }
            let held = json!({ "id": 1, "method": "hold", "params": [] });
            if may_hold && random.below(2) == 0 {
                peer.send(&held);
            }
            (random.below(2) == 0).then_some(peer)
        }
        3 => {
            let mut peer = Peer::connect(Wire::Lines, usual);
            for _ in 0..calls {
                // The result of a function without one is null.
                peer.call("note", &json!([])).unwrap();
            }
            (random.below(4) == 0).then_some(peer)
        }
        _ => {
            let mut client = Client::connect(usual);
            client.send(note.to_string() + "\n");
            client.begin(1, "rpc.ping", &json!([]));
            client.reset();
            None
        }
    }
}

fn come_and_go(limits: Limits, may_hold: bool) {
    let mut fixture = Fixture::new(1, limits.connections(4096).per_host(4096));
    fixture.run();
    let visits = scale(600);
    let left: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=4)
            .map(|seed| {
                let (addresses, mut random) = ([fixture.address(), fixture.leaf()], Random(seed));
                scope.spawn(move || {
                    (0..visits / 4)
                        .filter_map(|_| visit(addresses, &mut random, may_hold))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let Fixture { node, calls, .. } = fixture;
    // Also ends those that are left.
    smol::block_on(node.stop());
    let events = calls.call(TAKE, ()).wait().unwrap();
    assert!(events.len() >= left.len());
    for events in events.values() {
        assert_order(events, events.len() - 2);
    }
}

#[test]
fn connections_open_before_their_calls_and_close_after_them() {
    come_and_go(Limits::default().drain(LIMIT), false);
}

#[test]
fn connections_close_when_the_node_is_stopped_by_force() {
    come_and_go(Limits::default().drain(Duration::ZERO), true);
}

#[test]
fn full_queue_delays_new_connections_only() {
    let mut fixture = Fixture::new(1, Limits::default());
    let mut first = Client::connect(fixture.address());
    first.call("rpc.ping", &json!([])).unwrap();
    let mut waiting = [Client::connect(fixture.address()), Client::connect(fixture.address())];
    for client in &mut waiting {
        client.begin(1, "rpc.ping", &json!([]));
    }
    // It has not run for the first one yet, and the others wait for room.
    eventually("both wait", || fixture.calls.stats().waiting == 2);
    first.call("rpc.ping", &json!([])).unwrap();
    assert_eq!(fixture.node.node().registry().metrics().connections.get(), 3);
    // One leaves before the server has learned of it.
    let [mut second, third] = waiting;
    drop(third);
    fixture.run();
    assert_eq!(second.reply()["result"], "pong");
    drop((first, second));
    let closed = |events: &Vec<Event>| events.contains(&Event::Closed);
    eventually("all are closed", || {
        let events = fixture.events();
        events.len() == 3 && events.values().all(closed)
    });
    fixture.events().values().for_each(|events| assert_order(events, 0));
}

#[test]
fn node_that_stops_waits_for_no_room() {
    let mut fixture = Fixture::new(1, Limits::default());
    let mut clients = [(); 3].map(|()| Client::connect(fixture.address()));
    for client in &mut clients {
        client.begin(1, "rpc.ping", &json!([]));
    }
    eventually("two wait", || fixture.calls.stats().waiting == 2);
    let server = fixture.server.take().unwrap();
    let Fixture { node, calls, .. } = fixture;
    smol::block_on(node.stop());
    thread::spawn(|| smol::block_on(server.run()));
    let events = calls.call(TAKE, ()).wait().unwrap();
    assert_eq!(events.len(), 3);
    events.values().for_each(|events| assert_order(events, 0));
}

#[test]
fn requests_over_http_are_no_sessions_until_they_are_upgraded() {
    let mut fixture = Fixture::new(16, Limits::default());
    fixture.run();
    let mut client = Client::connect(fixture.address());
    for _ in 0..2 {
        client.send(post(r#"{"jsonrpc":"2.0","id":1,"method":"note"}"#));
        client.http();
    }
    let single = fixture.events();
    assert_eq!(single.values().collect::<Vec<_>>(), [&[Event::Call; 2]]);
    upgrade(&mut client);
    let mut peer = Peer::over(Wire::WebSocketText, client);
    peer.call("note", &json!([])).unwrap();
    // It has the number of its first requests.
    let events = fixture.events();
    assert_eq!(
        events.values().collect::<Vec<_>>(),
        [&[Event::Call, Event::Call, Event::Opened, Event::Call]]
    );
}

#[test]
fn events_are_not_called_over_the_network() {
    let mut fixture = Fixture::new(16, Limits::default());
    fixture.run();
    let mut client = Client::connect(fixture.address());
    assert_eq!(client.call("opened", &json!([])).unwrap_err().code, -32601);
    let listed = client.call("rpc.list", &json!(["*ed"])).unwrap();
    assert_eq!(listed, json!([]));
}

#[test]
fn stream_in_memory_is_a_connection_too() {
    let executor = Arc::new(Executor::new());
    let mut fixture = Fixture::new(16, Limits::default());
    fixture.run();
    let node = fixture.node.node().clone();
    let (ours, theirs) = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Client::connect(listener.local_addr().unwrap());
        (ours, smol::Async::new(listener.accept().unwrap().0).unwrap())
    };
    let mut ours = ours;
    ours.begin(1, "note", &json!([]));
    ours.end();
    smol::block_on(executor.run(node.serve_connection(theirs)));
    let events = fixture.events();
    assert_eq!(events.len(), 1);
    assert_order(events.values().next().unwrap(), 1);
}

#[test]
fn functions_that_do_not_fit_are_an_error_at_start() {
    let mut functions = Functions::new();
    functions
        .register0("opened", |(): &mut (), _: Caller| ())
        .unwrap()
        .register0("other", |(), ()| ())
        .unwrap();
    let server = Server::new((), functions);
    for (opened, closed, reason) in [
        ("missing", "opened", "the functions for sessions: "),
        ("opened", "other", "the functions for sessions: "),
    ] {
        let node = Node::builder("test").sessions(&server.client(), opened, closed).listen("127.0.0.1:0");
        let error = node.start().unwrap_err();
        assert!(matches!(error, NodeError::Sessions(_)));
        assert!(error.to_string().starts_with(reason), "{error}");
    }
}
