//! The stress test of `tests/core`, by itself; a part of it runs there as well.
#![cfg(test)]
#![allow(clippy::unwrap_used)]

#[path = "../core/stress.rs"]
mod stress;
