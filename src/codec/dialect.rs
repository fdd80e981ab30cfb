//! The table of dialects: the framing and the message format of each.

use super::content_length::ContentLengthFramer;
use super::format::MessageFormat;
use super::framing::{Framing, PerFrame};
use super::jsonrpc::JsonRpc;
use super::leaf::LeafFraming;
use super::lines::LineFramer;
use super::msgpack::{MessagePack, MessagePackFramer};

/// The wire protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON-RPC, one text per line.
    JsonLines,
    /// JSON-RPC, one text per frame of the transport.
    JsonPerFrame,
    /// JSON-RPC or MessagePack-RPC, detected from the first message; one message per frame of the transport.
    DetectPerFrame,
    /// JSON-RPC, each text preceded by its `Content-Length`.
    JsonContentLength,
    /// MessagePack-RPC.
    MessagePack,
    /// The messages of a Leaf gate.
    Leaf(LeafFraming),
}

impl Dialect {
    /// Returns the name by which functions learn of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "lines",
            Self::JsonPerFrame => "http",
            Self::DetectPerFrame => "websocket",
            Self::JsonContentLength => "headers",
            Self::MessagePack => "msgpack",
            Self::Leaf(_) => "leaf",
        }
    }

    /// Returns the framing of a connection, for messages of at most `max` bytes, and the message format.
    pub(super) fn parts(self, max: usize) -> (Box<dyn Framing>, &'static dyn MessageFormat) {
        match self {
            Self::JsonLines => (Box::new(LineFramer::new(max)), &JsonRpc),
            Self::JsonPerFrame | Self::DetectPerFrame => (Box::new(PerFrame), &JsonRpc),
            Self::JsonContentLength => (Box::new(ContentLengthFramer::new(max)), &JsonRpc),
            Self::MessagePack => (Box::new(MessagePackFramer::new(max)), &MessagePack),
            Self::Leaf(framing) => (Box::new(framing.with_max(max)), framing.format()),
        }
    }
}

/// Detects the message format of a connection with [`Dialect::DetectPerFrame`] from its first frame.
pub(super) fn format_of_frame(frame: &[u8]) -> &'static dyn MessageFormat {
    match frame.first() {
        Some(first) if MessagePackFramer::is_first_byte(*first) => &MessagePack,
        _ => &JsonRpc,
    }
}
