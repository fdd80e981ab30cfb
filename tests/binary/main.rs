//! The tests that drive the binary alone, as somebody at a terminal or at the other end of a connection would: they use
//! nothing of the library. What may differ by platform is among them.
#![allow(clippy::unwrap_used)]

mod bench;
mod cli;
mod drain;
mod endings;
mod host;
#[cfg(not(feature = "tls"))]
mod no_tls;
mod page;
#[path = "../support/programs.rs"]
mod programs;
mod runs;
mod smuggling;
mod storms;
#[path = "../support/mod.rs"]
mod support;
