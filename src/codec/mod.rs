//! Bytes ↔ messages. Pure: no sockets, no clock, no tasks; slices in, values and byte counts out.

mod detect;
pub mod jsonrpc;
mod lines;

pub use detect::{Dialect, detect};
pub use lines::{Lines, Next};
