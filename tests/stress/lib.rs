//! The stress test of `tests/it`, by itself; a part of it runs there as well.
#![cfg(test)]
#![allow(clippy::unwrap_used)]

#[path = "../it/stress.rs"]
mod stress;
