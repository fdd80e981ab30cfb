//! Code of the user's that runs beside the calls of a server: a panic becomes an error and a line in the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::client::Client;
use super::error::CallError;
use super::panic;
use super::shared::{Origin, Shared};
use super::wait_graph::Waiter;

/// A server as seen by tasks that work for its loop. Does not keep the server open.
#[derive(Clone)]
pub(crate) struct ServerRef(Arc<Shared>);

impl ServerRef {
    pub(crate) fn of(client: &Client) -> Self {
        Self(client.shared().clone())
    }

    pub(crate) fn name(&self) -> &str {
        self.0.waiter.name()
    }

    pub(super) fn waiter(&self) -> &Waiter {
        &self.0.waiter
    }

    /// Runs code of the user's. The log names it `origin` if it panics.
    pub(crate) fn catch_panic<T>(&self, origin: &'static str, f: impl FnOnce() -> T) -> Result<T, CallError> {
        self.0.catch_panic(Origin::Task(origin), f)
    }

    /// Wraps a future of the user's. See [`catch_panic`](Self::catch_panic).
    pub(crate) fn catch_panic_future<F: Future>(&self, origin: &'static str, future: F) -> CatchPanic<F> {
        CatchPanic { server: self.clone(), origin, future: Some(Box::pin(future)) }
    }
}

/// A future of the user's whose panic is an error, even if it panics when it is dropped.
pub(crate) struct CatchPanic<F> {
    server: ServerRef,
    origin: &'static str,
    /// `None` only while this is dropped.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { server, origin, future } = &mut *self;
        let Some(future) = future else { unreachable!("only a drop takes the future") };
        match server.catch_panic(origin, || future.as_mut().poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<F> Drop for CatchPanic<F> {
    fn drop(&mut self) {
        panic::drop_quietly(self.future.take());
    }
}
