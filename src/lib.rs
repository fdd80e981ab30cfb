#![cfg_attr(feature = "node", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "node"),
    doc = "Functions live in servers that own their state; call them sync, async or fire-and-forget."
)]
// Private modules mark as `pub` what `internals` opens.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]
// A node without the command line does not use all of its parts.
#![cfg_attr(not(feature = "cli"), allow(dead_code))]

pub mod chan;
pub mod lanes;
pub mod sched;

#[cfg(feature = "node")]
mod address;
// For the binary.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "node")]
mod codec;
#[cfg(feature = "node")]
pub mod config;
#[cfg(feature = "node")]
mod encoding;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[cfg(feature = "cli")]
mod load;
#[cfg(feature = "cli")]
mod log;
#[cfg(feature = "node")]
pub mod message;
#[cfg(feature = "node")]
mod metrics;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
mod origin;
#[cfg(feature = "node")]
mod receive_deadline;
#[cfg(feature = "node")]
pub mod remote;
#[cfg(feature = "node")]
pub mod route;
#[cfg(feature = "node")]
mod session;
mod setters;
#[cfg(feature = "node")]
mod transport;
#[cfg(feature = "node")]
mod web;

pub use chan::{
    CallError, Callbacks, Client, FunctionId, Functions, Id, Id0, Id1, IdN, Responder, Server, ServerSettings,
};
pub use lanes::{LaneSettings, Lanes};
#[cfg(feature = "node")]
pub use message::Fault;
#[cfg(feature = "node")]
pub use node::Node;
#[cfg(feature = "node")]
pub use remote::Remote;
pub use sched::{Handle, Modules, Scheduler, SchedulerSettings};

// The programs in the documents, compiled and run by `cargo test --doc`.
#[cfg(all(doctest, feature = "node", feature = "cron"))]
#[doc = include_str!("../docs/embedding.md")]
mod embedding {}
#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../docs/from-grpc.md")]
mod from_grpc {}
#[cfg(doctest)]
#[doc = include_str!("../docs/from-leaf.md")]
mod from_leaf {}
