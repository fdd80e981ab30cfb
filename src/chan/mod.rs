//! The channel-RPC core: functions that live in servers, and three ways to call them.
//!
//! A [`Functions`] table lists what can be called. A [`Server`] owns a state and runs the functions of its table on
//! that state one at a time, in the order in which the calls entered its bounded queue. A [`Client`] calls them:
//!
//! | mode | method | the caller |
//! | --- | --- | --- |
//! | sync | [`Client::call`] | awaits the [`Call`], or blocks its thread in [`Call::wait`] |
//! | async | [`Callbacks::call`] | continues; a callback runs on its own loop |
//! | go | [`Client::go`] | continues; the result is dropped |
//!
//! A typed [`Id`] names a function together with its arguments and its result. Functions can also be named by a text
//! alone, with the methods ending in `0`, `1` and `_n` for functions without, with one and with several results.
//!
//! Every call is answered exactly once: by its result, or by a [`CallError`].
//!
//! ```
//! use chanrpc::chan::{Functions, Id1, Server};
//!
//! const ADD: Id1<i64, i64> = Id1::new("add");
//!
//! let mut functions = Functions::new();
//! functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
//!
//! let server = Server::new(0, functions);
//! let client = server.client();
//! let owner = std::thread::spawn(|| smol::block_on(server.run()));
//!
//! assert_eq!(client.call(ADD, 5).wait()?, 5);
//! drop(client); // the last client is gone, so the server ends and returns its state
//! assert_eq!(owner.join().unwrap(), 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "node")]
mod blocked;
pub(crate) mod budget;
mod call;
mod callbacks;
mod catch_panic;
mod client;
mod deadline;
mod error;
mod function;
mod functions;
mod id;
mod kind;
#[cfg(all(test, chanrpc_loom))]
pub(crate) mod loom_models;
mod oneshot;
mod outcome;
pub(crate) mod panic;
mod panic_info;
mod pending;
mod queue;
mod reply;
mod scope;
mod server;
mod settings;
mod shared;
mod spin;
mod stats;
pub(crate) mod sync;
mod target;
mod typed_queue;
pub(crate) mod wait_graph;

#[cfg(feature = "node")]
pub(crate) use blocked::Queued;
pub use call::Call;
pub use callbacks::{CallbackCall, Callbacks, LimitError};
pub(crate) use catch_panic::ServerRef;
pub use client::{Client, GoError, WeakClient};
#[cfg(feature = "node")]
pub(crate) use error::Meaning;
pub use error::{CallError, FunctionError, RegisterError};
#[cfg(feature = "node")]
pub(crate) use functions::BoxFuture;
pub use functions::Functions;
#[cfg(feature = "node")]
pub(crate) use functions::ResolvedId;
#[cfg(feature = "node")]
pub(crate) use id::sealed::IntoFunctionId;
pub use id::{FunctionId, Id, Id0, Id1, IdN, Takes};
pub use kind::{Kind, KindMarker, Many, One, Results, Zero};
pub(crate) use oneshot::{Reply, oneshot};
pub use outcome::Outcome;
pub use panic_info::Panic;
pub use pending::Callback;
pub use reply::Responder;
#[cfg(feature = "node")]
pub(crate) use reply::Sink;
pub use scope::{Local, Reach, Scope};
pub(crate) use server::DrainOutcome;
pub use server::{Closer, Server};
pub use settings::ServerSettings;
pub use stats::Stats;
#[cfg(feature = "node")]
pub(crate) use target::Submit;
pub use target::Target;
