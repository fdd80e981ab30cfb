//! The servers to compare.

mod echo;
#[cfg(feature = "rivals")]
mod grpc;
mod hops;
mod installed;
#[cfg(feature = "rivals")]
mod jsonrpsee;
mod minimal;
mod node;
#[cfg(feature = "rivals")]
mod own_client;
mod pipelined;
#[cfg(feature = "rivals")]
mod tarpc;
#[cfg(feature = "rivals")]
mod tonic;

use std::path::{Path, PathBuf};

use chanrpc::internals::load::Dialect;

use crate::measured::{How, Measured};

pub(crate) const ECHO: &str = "smol echo, batched";
const MINIMAL: &str = "smol + serde_json, minimal";
pub(crate) const REDIS: &str = "redis-server ECHO";
const NATS: &str = "nats-server, to oneself";
pub(crate) const JSONRPSEE_HTTP: &str = "jsonrpsee 0.26 HTTP";
#[cfg(feature = "rivals")]
const GRPC: &str = "chanrpc gRPC, client of tonic";
#[cfg(feature = "rivals")]
const TONIC: &str = "tonic 0.14, client of tonic";
#[cfg(feature = "rivals")]
const GRPCIO: &str = "grpcio, client of tonic";
#[cfg(feature = "rivals")]
const JSONRPSEE_WS: &str = "jsonrpsee 0.26 WebSocket";

/// The names of a node's dialects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) lines: &'static str,
    pub(crate) content_length: &'static str,
    pub(crate) websocket: &'static str,
    pub(crate) http: &'static str,
    pub(crate) msgpack: &'static str,
}

impl Names {
    pub(crate) fn all(self) -> [&'static str; 5] {
        [self.lines, self.content_length, self.websocket, self.http, self.msgpack]
    }
}

/// The package in this program, optimised for speed like the other libraries.
pub(crate) const PACKAGE: Names = Names {
    lines: "chanrpc lines",
    content_length: "chanrpc Content-Length",
    websocket: "chanrpc WebSocket",
    http: "chanrpc HTTP",
    msgpack: "chanrpc MessagePack",
};

/// The binary under test.
pub(crate) const BINARY: Names = Names {
    lines: "chanrpc binary, lines",
    content_length: "chanrpc binary, Content-Length",
    websocket: "chanrpc binary, WebSocket",
    http: "chanrpc binary, HTTP",
    msgpack: "chanrpc binary, MessagePack",
};

/// In the order of [`Names::all`].
const DIALECTS: [Dialect; 5] =
    [Dialect::Lines, Dialect::Headers, Dialect::WebSocket, Dialect::Http, Dialect::Msgpack];

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
    /// A program of this machine, with its arguments for a port.
    Installed { program: PathBuf, arguments: fn(u16) -> Vec<String> },
}

/// A client that generates load at an address.
pub(crate) type Client = fn(&str, How) -> Measured;

/// The client that generates the load.
pub(crate) enum Drive {
    /// The load generator that all JSON-RPC and MessagePack-RPC servers share.
    Load {
        dialect: Dialect,
        function: &'static str,
    },
    Own(Client),
}

/// Returns all servers, including the binary if one is given, and those that are installed.
pub(crate) fn all(binary: Option<&Path>) -> Vec<Entrant> {
    let add = |name, serve, dialect| Entrant {
        name,
        start: Start::Here(serve),
        drive: Drive::Load { dialect, function: "add" },
    };
    let ours = |(name, dialect)| Entrant {
        name,
        start: Start::Binary,
        drive: Drive::Load { dialect, function: "demo.add" },
    };
    let mut all =
        vec![add(ECHO, echo::serve as fn(), Dialect::Lines), add(MINIMAL, minimal::serve, Dialect::Lines)];
    all.extend(installed::all());
    all.extend(
        PACKAGE.all().into_iter().zip(DIALECTS).map(|(name, dialect)| add(name, node::serve, dialect)),
    );
    all.extend([
        add("chanrpc lines, forwarded", hops::forward, Dialect::Lines),
        add("chanrpc lines, offered by a peer", hops::offer, Dialect::Lines),
        add("chanrpc lines, program that stays", hops::process, Dialect::Lines),
    ]);
    if binary.is_some() {
        all.extend(BINARY.all().into_iter().zip(DIALECTS).map(ours));
    }
    #[cfg(feature = "rivals")]
    {
        all.push(add(JSONRPSEE_HTTP, jsonrpsee::serve, Dialect::Http));
        all.push(add(JSONRPSEE_WS, jsonrpsee::serve, Dialect::WebSocket));
        let own =
            |name, serve, client| Entrant { name, start: Start::Here(serve), drive: Drive::Own(client) };
        all.push(own("tarpc 0.38 bincode, own client", tarpc::serve as fn(), tarpc::client as Client));
        all.push(own(GRPC, grpc::serve, tonic::client));
        all.push(own(TONIC, tonic::serve, tonic::client));
        all.extend(grpc::grpcio());
    }
    all
}

/// Runs as one of the servers and does not return.
pub(crate) fn serve(all: &[Entrant], name: &str) -> ! {
    if let Some(Entrant { start: Start::Here(serve), .. }) = all.iter().find(|entrant| entrant.name == name) {
        serve();
    }
    match name {
        hops::FAR => hops::far(),
        hops::PEER => hops::peer(),
        hops::PROGRAM => hops::program(),
        _ => panic!("there is no server {name}"),
    }
    std::process::exit(0)
}

/// Prints the server's address for the parent process.
fn announce(address: std::io::Result<std::net::SocketAddr>) {
    println!("listening on {}", address.expect("a bound socket has an address"));
}
