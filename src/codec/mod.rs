//! Bytes ↔ messages. Pure: no sockets, no clock, no tasks; slices in, values and byte counts out.

mod detect;
mod dialects;
mod frame;
mod headers;
mod json;
pub mod jsonrpc;
pub mod leaf;
mod lines;
mod meta;
mod msgpack;

pub use detect::{Detected, LONGEST, detect};
pub use dialects::{Codec, Dialect};
pub use frame::{Next, Read, Refused};
pub use lines::Lines;
