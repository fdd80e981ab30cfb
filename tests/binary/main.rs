//! Tests of the binary alone, used like a terminal or the other end of a connection would: they do not use the library.
//! Tests whose results may depend on the platform are among them.
#![allow(clippy::unwrap_used)]

mod balance;
mod bench;
mod cli;
mod drain;
mod endings;
mod forwards;
mod host;
mod manners;
#[cfg(not(feature = "tls"))]
mod no_tls;
mod offer;
mod page;
mod processes;
#[path = "../support/programs.rs"]
mod programs;
mod reload;
mod runs;
mod smuggling;
mod storms;
#[path = "../support/mod.rs"]
mod support;
mod topics;
