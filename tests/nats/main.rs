//! NATS: nodes in this process, and servers that do what a test says. Real servers and clients are in `ci/nats`.
#![allow(clippy::unwrap_used)]

mod calls;
mod server;
mod service;
#[path = "../support/mod.rs"]
mod support;
#[path = "../fuzz/mod.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use chanrpc::chan::{CallError, Responder};
use chanrpc::config::Config;
use chanrpc::message::{Fault, RawJson};
use chanrpc::node::RunningNode;
use chanrpc::{Functions, Id1, Node, Remote};
use server::Server;

/// Starts a node that knows these servers. Calls of `hold` arrive at the receiver.
fn node(servers: &[&Server], nats: &str, rest: &str) -> (RunningNode, Receiver<Responder<u64>>) {
    let (sender, held) = channel();
    let mut functions = Functions::exported();
    functions
        .register1("math.add", |_: &mut _, (a, b): (i64, i64)| a + b)
        .unwrap()
        .register1("math.fail", |_: &mut _, ()| -> Result<(), Fault> {
            Err(Fault::new(7, "no luck").with_data(&[1]))
        })
        .unwrap()
        .register1("secret", |_: &mut _, ()| 1)
        .unwrap()
        .register_deferred(Id1::new("math.hold"), |sender: &mut _, (), responder| {
            let sender: &std::sync::mpsc::Sender<_> = sender;
            sender.send(responder).unwrap();
        })
        .unwrap();
    let servers: Vec<_> = servers.iter().map(|server| format!("\"{}\"", server.address())).collect();
    let nats = match servers.is_empty() {
        true => String::new(),
        false => format!("[nats]\nserver = [{}]\n{nats}", servers.join(", ")),
    };
    let text = format!("name = \"near\"\n{nats}\n{rest}");
    let config = Config::parse(&text, "test.toml").unwrap();
    let node = Node::from_config(config).serve(functions, sender).listen("127.0.0.1:0").start().unwrap();
    (node, held)
}

fn remote(node: &RunningNode) -> Remote {
    Remote::connect(node.addresses()[0].to_string())
}

/// Returns the error with which a call ended.
fn fault(result: Result<RawJson<'static>, CallError>) -> Fault {
    let error = result.unwrap_err();
    error.fault().unwrap_or_else(|| panic!("{error}")).clone()
}

fn params(json: &str) -> Option<RawJson<'_>> {
    RawJson::of(&serde_json::from_str::<serde_json::Value>(json).unwrap()).ok()
}

#[test]
fn corpus_inputs_are_harmless() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/nats");
    for entry in fs::read_dir(folder).unwrap() {
        targets::run("nats", &fs::read(entry.unwrap().path()).unwrap());
    }
}
