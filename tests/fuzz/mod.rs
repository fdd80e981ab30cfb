//! Properties that hold for any input: one function each, which panics on a violation. `fuzz/` searches for such inputs
//! with libFuzzer; `tests/it/corpus.rs` runs those found before.

// In the package `fuzz` it is the library; in tests/it it is a module.
#![allow(unreachable_pub)]

mod access;
mod client;
mod config;
mod detect;
mod framing;
mod json;
mod node;
mod session;
mod source;
mod topics;
mod transcode;

/// A fuzz target.
#[derive(Debug)]
pub struct Target {
    /// Its name, which is also that of its folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// Checks one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 16] = [
    Target { name: "access", run: access::access },
    Target { name: "client", run: client::client },
    Target { name: "config", run: config::config },
    Target { name: "detect", run: detect::detect },
    Target { name: "headers", run: framing::headers },
    Target { name: "http", run: node::http },
    Target { name: "http2", run: node::http2 },
    Target { name: "jsonrpc", run: json::jsonrpc },
    Target { name: "leaf", run: framing::leaf },
    Target { name: "lines", run: framing::lines },
    Target { name: "msgpack", run: framing::msgpack },
    Target { name: "nats", run: framing::nats },
    Target { name: "session", run: session::session },
    Target { name: "topics", run: topics::topics },
    Target { name: "transcode", run: transcode::transcode },
    Target { name: "websocket", run: node::websocket },
];

/// Checks one input of a target.
///
/// # Panics
/// Panics if the target does not exist or the input reveals a fault.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(input);
}
