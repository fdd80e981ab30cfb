//! The tests that drive the library and the binary from outside.
#![allow(clippy::unwrap_used)]

mod chan;
mod config;
mod layering;
