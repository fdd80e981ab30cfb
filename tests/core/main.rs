//! Tests of the core, which is the library without the network. They need no feature, except that those of `cron` need
//! it.
#![allow(clippy::unwrap_used)]

mod chan;
#[cfg(feature = "cron")]
mod cron;
mod evening;
mod lanes;
mod leaf;
mod leftovers;
mod modules;
mod sched;
mod stress;
mod support;
mod waterfall;
