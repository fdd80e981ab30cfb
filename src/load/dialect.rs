//! The wire forms that load can take.

use std::str::FromStr;

/// How requests and answers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON-RPC over TCP, one value a line.
    Lines,
    /// JSON-RPC over TCP, each value after a `Content-Length` header.
    Headers,
    /// MessagePack-RPC over TCP.
    Msgpack,
    /// JSON-RPC over HTTP/1.1, kept alive and pipelined.
    Http,
    /// JSON-RPC over WebSocket, one value a text frame.
    WebSocket,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lines, Self::Headers, Self::Msgpack, Self::Http, Self::WebSocket];

    /// Returns the name, as users type it.
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
