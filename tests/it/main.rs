//! Tests of everything that uses the network, from outside: the library, and the binary beside it.
#![allow(clippy::unwrap_used)]

mod access;
mod audit;
mod balanced;
mod both_ways;
mod caller;
mod client;
mod corpus;
mod dialects;
mod docs;
mod hostile;
mod layering;
mod leaf_wire;
mod memory;
mod messages;
mod native;
mod offers;
mod pressure;
#[path = "../support/programs.rs"]
mod programs;
mod registry;
mod remote;
mod remote_lanes;
mod remote_waterfall;
mod rest;
mod reverse;
mod sends;
mod session;
mod sessions;
mod spec;
mod stopping;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod topics;
mod toy;
mod wakes;
mod websocket;
mod wires;
mod workers;
