//! The servers to compare.

mod echo;
#[cfg(feature = "rivals")]
mod jsonrpsee;
mod minimal;
mod node;
#[cfg(feature = "rivals")]
mod own_client;
#[cfg(feature = "rivals")]
mod tarpc;
#[cfg(feature = "rivals")]
mod tonic;

use std::path::Path;

use chanrpc::internals::load::Dialect;

#[cfg(feature = "rivals")]
use crate::measured::Measured;

pub(crate) const ECHO: &str = "smol echo, batched";
pub(crate) const MINIMAL: &str = "smol + serde_json, minimal";
pub(crate) const NODE: &str = "chanrpc lines";
pub(crate) const NODE_HTTP: &str = "chanrpc HTTP";
pub(crate) const NODE_WS: &str = "chanrpc WebSocket";
pub(crate) const BINARY: &str = "chanrpc binary, lines";
pub(crate) const BINARY_HTTP: &str = "chanrpc binary, HTTP";
pub(crate) const BINARY_WS: &str = "chanrpc binary, WebSocket";
pub(crate) const JSONRPSEE_HTTP: &str = "jsonrpsee 0.26 HTTP";
pub(crate) const JSONRPSEE_WS: &str = "jsonrpsee 0.26 WebSocket";

/// One server and its client.
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    pub(crate) start: Start,
    pub(crate) drive: Drive,
}

/// The process of a server.
pub(crate) enum Start {
    /// This program; the function prints `listening on ADDRESS` and does not return.
    Here(fn()),
    /// The binary under test, with its demo functions.
    Binary,
}

/// The client that generates the load.
pub(crate) enum Drive {
    /// The load generator that all servers share.
    Load { dialect: Dialect, function: &'static str },
    /// A client of the rival's own, which returns its measurements; takes the address, connections, calls in flight and
    /// duration.
    #[cfg(feature = "rivals")]
    Own(fn(&str, usize, usize, std::time::Duration) -> Measured),
}

/// Returns all servers, including the binary if one is given.
pub(crate) fn all(binary: Option<&Path>) -> Vec<Entrant> {
    let add = |name, serve, dialect| Entrant {
        name,
        start: Start::Here(serve),
        drive: Drive::Load { dialect, function: "add" },
    };
    let ours = |name, dialect| Entrant {
        name,
        start: Start::Binary,
        drive: Drive::Load { dialect, function: "demo.add" },
    };
    let mut all = vec![
        add(ECHO, echo::serve as fn(), Dialect::Lines),
        add(MINIMAL, minimal::serve, Dialect::Lines),
        add(NODE, node::serve, Dialect::Lines),
        add(NODE_HTTP, node::serve, Dialect::Http),
        add(NODE_WS, node::serve, Dialect::WebSocket),
    ];
    if binary.is_some() {
        all.push(ours(BINARY, Dialect::Lines));
        all.push(ours(BINARY_HTTP, Dialect::Http));
        all.push(ours(BINARY_WS, Dialect::WebSocket));
    }
    #[cfg(feature = "rivals")]
    {
        all.push(add(JSONRPSEE_HTTP, jsonrpsee::serve, Dialect::Http));
        all.push(add(JSONRPSEE_WS, jsonrpsee::serve, Dialect::WebSocket));
        let own =
            |name, serve, client| Entrant { name, start: Start::Here(serve), drive: Drive::Own(client) };
        all.push(own("tarpc 0.38 bincode, own client", tarpc::serve as fn(), tarpc::client as _));
        all.push(own("tonic 0.14, own client", tonic::serve, tonic::client as _));
    }
    all
}

/// Runs as one of the servers and does not return.
pub(crate) fn serve(all: &[Entrant], name: &str) -> ! {
    if let Some(Entrant { start: Start::Here(serve), .. }) = all.iter().find(|entrant| entrant.name == name) {
        serve();
    }
    panic!("there is no server {name}");
}

/// Prints the server's address for the parent process.
fn announce(address: std::io::Result<std::net::SocketAddr>) {
    println!("listening on {}", address.expect("a bound socket has an address"));
}
