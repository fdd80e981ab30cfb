//! Functions live in servers that own their state; call them sync, async or fire-and-forget, in process or over one
//! small port.
//!
//! ```
//! use chanrpc::{Functions, Id1, Node, Remote, Server};
//!
//! const ADD: Id1<i64, i64> = Id1::new("add");
//!
//! let mut functions = Functions::exported();
//! functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
//! let server = Server::new(0, functions.clone());
//! let client = server.client();
//! std::thread::spawn(|| smol::block_on(server.run()));
//!
//! // In this process.
//! assert_eq!(client.call(ADD, 40).wait()?, 40);
//!
//! // The same function over the network, for any JSON-RPC, HTTP or WebSocket client.
//! let node = Node::builder("example").export(&functions, &client).listen("127.0.0.1:0").start()?;
//! let remote = Remote::connect(node.addresses()[0].to_string());
//! assert_eq!(remote.call(ADD, 2).wait()?, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | is for | feature |
//! | --- | --- | --- |
//! | [`chan`] | servers, and three ways to call their functions | |
//! | [`sched`] | the loop of a service: calls, timers, jobs, streams, waterfalls | `cron` for cron timers |
//! | [`lanes`] | calls in order by key | |
//! | [`node`] | a server's functions on the network | `node` |
//! | [`remote`] | the client of another node | `node`, `tls` |
//! | [`config`], [`route`], [`message`] | configurations; providers of functions; JSON and errors | `node` |
//!
//! The features `cron` and `node` are on by default. The guides show each part in a small program: [embedding], for
//! users of [Leaf] and of [gRPC].
//!
//! [embedding]: guide::embedding
//! [Leaf]: guide::from_leaf
//! [gRPC]: guide::from_grpc

// Private modules mark as `pub` what `internals` opens.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]
#![cfg_attr(not(all(feature = "node", feature = "cron")), allow(rustdoc::broken_intra_doc_links))]
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
mod datetime;
#[cfg(feature = "node")]
mod driver;
#[cfg(feature = "node")]
mod encoding;
#[cfg(feature = "node")]
mod features;
#[cfg(all(any(doc, doctest), feature = "node", feature = "cron"))]
pub mod guide;
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
mod nearest;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
mod origin;
#[cfg(feature = "node")]
mod provider;
#[cfg(feature = "node")]
mod receive_deadline;
#[cfg(feature = "node")]
pub mod remote;
#[cfg(feature = "node")]
pub mod route;
#[cfg(feature = "node")]
mod session;
mod setters;
#[cfg(any(feature = "node", all(test, chanrpc_loom)))]
mod swap;
#[cfg(feature = "cli")]
mod threads;
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

#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../README.md")]
mod readme {}
