//! The wire protocols that the load generator supports.

use std::str::FromStr;

/// A wire protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON-RPC over TCP, one value per line.
    Lines,
    /// JSON-RPC over TCP, each value after a `Content-Length` header.
    Headers,
    /// MessagePack-RPC over TCP.
    Msgpack,
    /// JSON-RPC over HTTP/1.1, with keep-alive and pipelining.
    Http,
    /// JSON-RPC over WebSocket, one value per text frame.
    WebSocket,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Self; 5] = [Self::Lines, Self::Headers, Self::Msgpack, Self::Http, Self::WebSocket];

    /// Returns the name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Headers => "headers",
            Self::Msgpack => "msgpack",
            Self::Http => "http",
            Self::WebSocket => "websocket",
        }
    }
}

impl FromStr for Dialect {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|dialect| dialect.name() == text);
        named.ok_or("one of lines, headers, msgpack, http, websocket")
    }
}
