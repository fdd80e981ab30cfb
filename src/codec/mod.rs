//! Bytes ↔ messages. Pure: no sockets, no clock, no tasks. Takes slices, returns values and byte counts.

mod connection_codec;
mod content_length;
pub(crate) mod detect;
mod dialect;
mod format;
mod frame;
mod framing;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod jsonrpc;
pub mod leaf;
mod lines;
mod meta;
mod msgpack;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "grpc")]
pub mod protobuf;

pub use connection_codec::{Codec, NotificationEncoder};
pub use detect::{Detected, detect};
pub use dialect::Dialect;
pub use format::Outgoing;
#[cfg(feature = "internals")]
pub use format::{FormatTraits, MessageFormat};
pub use frame::{DecodeError, Decoded, FrameResult};
#[cfg(feature = "internals")]
pub use framing::Framing;
