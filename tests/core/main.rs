//! The tests of the core: what the library is without a network. They need no feature; those of `cron` come with it.
#![allow(clippy::unwrap_used)]

mod chan;
#[cfg(feature = "cron")]
mod cron;
mod lanes;
mod leaf;
mod leftovers;
mod lobby;
mod modules;
mod sched;
mod stress;
mod support;
mod waterfall;
