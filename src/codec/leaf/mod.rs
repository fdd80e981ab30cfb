//! The protocol of Leaf's gate (<https://github.com/name5566/leaf>, `network/tcp_msg.go` and `network/json`), byte for
//! byte: a length prefix, then a JSON object with one key, the name of the message.
//!
//! Leaf has no request ids: a reply is a message of its own. It has no errors either: a gate closes the connection of a
//! peer whose message it cannot read.

mod decode;
mod encode;
mod framing;

pub use decode::decode;
pub use encode::encode_reply;
pub use framing::{ByteOrder, LeafFraming, LengthBytes};

#[cfg(test)]
mod tests;
