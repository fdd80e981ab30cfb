//! Bytes ↔ messages. Pure: no sockets, no clock, no tasks. Takes slices, returns values and byte counts.

mod content_length;
pub(crate) mod detect;
mod dialect;
mod frame;
mod json;
pub mod jsonrpc;
pub mod leaf;
mod lines;
mod meta;
mod msgpack;

pub use detect::{Detected, detect};
pub use dialect::{Codec, Dialect};
pub use frame::{DecodeError, Decoded, FrameResult};
pub use lines::LineFramer;
