//! The full stress test of `tests/core`, built separately; a part of it also runs there.
#![cfg(test)]
#![allow(clippy::unwrap_used)]

#[path = "../core/stress.rs"]
mod stress;
