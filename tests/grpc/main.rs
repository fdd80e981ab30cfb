//! HTTP/2 and gRPC: h2's own client, and hostile peers, against nodes in this process.
#![allow(clippy::unwrap_used)]

mod abuse;
mod calls;
mod forward;
mod frames;
mod leaf;
mod peer;
mod services;
mod site;
mod streams;
#[path = "../support/mod.rs"]
mod support;
#[path = "../fuzz/mod.rs"]
mod targets;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use chanrpc::chan::Responder;
use chanrpc::config::Config;
use chanrpc::node::RunningNode;
use chanrpc::{Fault, Functions, Node};

/// What the functions of a test's node keep.
#[derive(Default)]
struct State {
    /// Calls of `hold` that are not answered.
    held: Arc<Mutex<Vec<Responder<u64>>>>,
    /// The number of calls of `hold`.
    calls: u64,
}

impl State {
    /// Answers the calls of `hold`. Returns their number.
    fn release(&self) -> usize {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        let count = held.len();
        held.into_iter().for_each(|responder| responder.reply(7));
        count
    }
}

/// Starts a node with a configuration.
fn node(config: &str) -> RunningNode {
    node_with(config, State::default())
}

fn node_with(config: &str, state: State) -> RunningNode {
    let mut functions = Functions::exported();
    functions
        .register1("fail", |_: &mut State, code: i64| -> Result<(), Fault> {
            Err(Fault::new(code, format!("code {code}")).with_data(&[code]))
        })
        .unwrap()
        .register1("panic", |_, ()| -> () { panic!("ä") })
        .unwrap()
        .register1("echo", |_, text: String| text)
        .unwrap()
        .register1("calls", |state, ()| state.calls)
        .unwrap()
        .register1("release", |state, ()| state.release())
        .unwrap()
        .register_deferred(chanrpc::Id1::new("hold"), |state, (), responder| {
            state.calls += 1;
            state.held.lock().unwrap().push(responder);
        })
        .unwrap();
    let config = Config::parse(config, "test.toml").unwrap();
    let is_configured = !config.listen.is_empty();
    let node = Node::from_config(config).serve(functions, state);
    let node = if is_configured { node } else { node.listen("127.0.0.1:0") };
    node.start().unwrap()
}

fn address(node: &RunningNode) -> SocketAddr {
    node.addresses()[0]
}

/// Reads a value from `/metrics`.
fn metric(node: &RunningNode, name: &str) -> u64 {
    let mut client = support::Client::connect(address(node));
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let page = client.http();
    let number = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    number.unwrap_or_else(|| panic!("{name} is not in {}", page.body))
}
