//! Targets of calls: a server in this process, or another node.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::error::CallError;
use super::functions::BoxFuture;
use super::id::FunctionId;
use super::kind::Kind;
use super::reply::Sink;
use super::shared::Shared;

/// A client whose functions with arguments `A` and result `R` a loop, a waterfall or lanes can call: a
/// [`Client`](super::Client) of a server in this process, or a `Remote` of another node.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot call functions with arguments `{A}` and result `{R}`",
    note = "a `Client` takes any `Send` types, a `Remote` arguments that are `Serialize` and results that are `DeserializeOwned`"
)]
pub trait Target<A, R>: Submit<A, R> {}

/// The operations of a [`Target`]. Not part of the public API.
pub trait Submit<A, R>: Clone + Send + Sync + 'static {
    /// Returns the counter for calls whose deadline passes. It does not keep the server open.
    fn counter(&self) -> Option<Counter> {
        None
    }

    /// Calls a function without waiting. The answer, or the error, goes to `sink`. If the queue is full, everything is
    /// returned.
    fn try_submit<K: Sink<R> + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        deadline: Option<Instant>,
        sink: K,
    ) -> Result<(), (A, K)>;

    /// Like [`try_submit`](Self::try_submit), but a full queue is an error that goes to `sink`.
    fn submit<K: Sink<R> + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        deadline: Option<Instant>,
        sink: K,
    );

    /// Calls a function, and waits for room and for the answer. The function may run on the caller's thread only if
    /// `in_place` is set.
    fn request(
        self,
        id: FunctionId,
        kind: Kind,
        arguments: A,
        deadline: Option<Instant>,
        in_place: bool,
    ) -> BoxFuture<'static, Result<R, CallError>>;
}

/// Counts the calls of a server.
#[derive(Clone)]
pub struct Counter(pub(super) Arc<Shared>);

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counter")
    }
}

impl Counter {
    pub(super) fn timed_out(&self) {
        self.0.counters.timed_out();
    }
}
