//! The tests that drive the library and the binary from outside.
#![allow(clippy::unwrap_used)]

mod chan;
mod cli;
mod config;
mod docs;
mod hostile;
mod layering;
mod remote;
mod session;
mod spec;
mod support;
