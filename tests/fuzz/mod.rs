//! What must hold of any bytes whatever: a function each, which panics where it does not. `fuzz/` looks for such bytes
//! with libFuzzer; `tests/it/corpus.rs` runs those that it has found before.

// In a package of its own it is the library; in tests/it it is a part of the tests.
#![allow(unreachable_pub)]

mod access;
mod config;
mod detect;
mod framing;
mod json;
mod node;
mod session;
mod source;

/// One kind of bytes to look at.
#[derive(Debug)]
pub struct Target {
    /// What it and its folder in `fuzz/corpus/` are called.
    pub name: &'static str,
    /// Looks at one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target { name: "access", run: access::access },
    Target { name: "config", run: config::config },
    Target { name: "detect", run: detect::detect },
    Target { name: "headers", run: framing::headers },
    Target { name: "http", run: node::http },
    Target { name: "jsonrpc", run: json::jsonrpc },
    Target { name: "leaf", run: framing::leaf },
    Target { name: "lines", run: framing::lines },
    Target { name: "msgpack", run: framing::msgpack },
    Target { name: "session", run: session::session },
    Target { name: "websocket", run: node::websocket },
];

/// Looks at one input of a target.
///
/// # Panics
/// If there is no such target, and if the input shows a fault.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(input);
}
