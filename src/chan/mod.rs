//! The channel-RPC core: functions that live in servers, and the three ways to call them.
//!
//! A [`Functions`] table says what can be called. A [`Server`] owns a state and runs the functions of its
//! table on that state one at a time, in the order in which calls entered its bounded queue. A [`Client`]
//! calls them:
//!
//! | mode | method | the caller |
//! | --- | --- | --- |
//! | sync | [`Client::call0`], [`call1`](Client::call1), [`call_n`](Client::call_n) | awaits the [`Call`], or blocks its thread in [`Call::wait`] |
//! | async | [`Callbacks::call0`], [`call1`](Callbacks::call1), [`call_n`](Callbacks::call_n) | goes on; a callback comes back on its own loop |
//! | go | [`Client::go`] | goes on; nothing comes back |
//!
//! Every call is answered exactly once: by its result, or by a [`CallError`] that says why there is none.
//!
//! ```
//! use chanrpc::chan::{Functions, Server};
//!
//! let mut functions = Functions::new();
//! functions.register1("add", |total: &mut i64, n: i64| { *total += n; *total })?;
//!
//! let server = Server::new(0, functions);
//! let client = server.client();
//! let owner = std::thread::spawn(|| smol::block_on(server.run()));
//!
//! let total: i64 = client.call1("add", 5_i64).wait()?;
//! assert_eq!(total, 5);
//! drop(client); // the last client is gone, so the server ends and gives its state back
//! assert_eq!(owner.join().unwrap(), 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
#[cfg(feature = "node")]
mod blocked;
mod call;
mod callbacks;
mod client;
mod deadline;
mod error;
mod function;
mod functions;
mod id;
mod kind;
#[cfg(all(test, chanrpc_loom))]
pub(crate) mod loom_models;
mod lot;
pub(crate) mod panic;
mod patience;
mod pending;
mod queue;
mod reply;
mod server;
mod shared;
mod stats;
pub(crate) mod sync;
pub(crate) mod turn;
pub(crate) mod waits;

pub(crate) use answer::{Answer, Host};
pub use call::Call;
pub use callbacks::{Callbacks, TooManyPending};
pub use client::{Client, Refused};
pub use error::{CallError, RegisterError};
pub use functions::{Functions, Running};
pub use id::{FunctionId, Id, Id0, Id1, IdN, Names, Takes};
pub use kind::{Kind, KindMarker, Many, One, Results, Zero};
pub use panic::Panic;
pub use pending::Callback;
pub use reply::Responder;
#[cfg(feature = "node")]
pub(crate) use reply::Sink;
pub(crate) use server::Drained;
pub use server::{Closer, Server, Settings};
pub use stats::Stats;
