//! The tests that drive the library and the binary from outside.
#![allow(clippy::unwrap_used)]

mod access;
mod audit;
mod bench;
mod chan;
mod cli;
mod config;
mod corpus;
#[cfg(feature = "cron")]
mod cron;
mod dialects;
mod docs;
mod drain;
mod endings;
mod host;
mod hostile;
mod lanes;
mod layering;
mod leaf;
mod leaf_wire;
mod leftovers;
mod lobby;
mod memory;
mod messages;
mod modules;
#[cfg(not(feature = "tls"))]
mod no_tls;
mod page;
mod pressure;
mod programs;
mod remote;
mod rest;
mod runs;
mod sched;
mod session;
mod smuggling;
mod spec;
mod storms;
mod strangers;
mod stress;
mod support;
mod wakes;
mod waterfall;
mod websocket;
mod wires;
mod workers;
