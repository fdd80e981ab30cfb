//! The tests that drive the library and the binary from outside.
#![allow(clippy::unwrap_used)]

mod access;
mod bench;
mod chan;
mod cli;
mod config;
#[cfg(feature = "cron")]
mod cron;
mod docs;
mod hostile;
mod lanes;
mod layering;
mod leaf;
mod lobby;
mod memory;
mod modules;
mod page;
mod programs;
mod remote;
mod sched;
mod session;
mod spec;
mod stress;
mod support;
mod waterfall;
