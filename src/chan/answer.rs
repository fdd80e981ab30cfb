//! What a server's loop does besides calls, as those see it who hand it in: whose loop it is, and the answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::client::Client;
use super::deadline::Deadline;
use super::error::CallError;
use super::panic;
use super::reply::{ReplyTo, Responder, Slot};
use super::shared::{Shared, What};
use super::waits::Wait;

/// Whose loop it is.
#[derive(Clone)]
pub(crate) struct Host(Arc<Shared>);

impl Host {
    pub(crate) fn of(client: &Client) -> Self {
        Self(client.shared().clone())
    }

    pub(crate) fn name(&self) -> &str {
        self.0.node.name()
    }

    /// Runs something of the user's off the loop; `what` is its name in the log, should it panic.
    pub(crate) fn watch<T>(&self, what: &'static str, f: impl FnOnce() -> T) -> Result<T, CallError> {
        self.0.watch(What::Task(what), f)
    }

    /// Awaits something of the user's off the loop.
    pub(crate) fn watch_future<F: Future>(&self, what: &'static str, future: F) -> Watched<F> {
        Watched { host: self.clone(), what, future: Some(Box::pin(future)) }
    }
}

/// A future of the user's, whose panic is an error. It may be dropped at any time, and may panic then too.
pub(crate) struct Watched<F> {
    host: Host,
    what: &'static str,
    /// There until this is dropped.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = Result<F::Output, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { host, what, future } = &mut *self;
        let Some(future) = future else { unreachable!("it is there until this is dropped") };
        match host.watch(what, || future.as_mut().poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<F> Drop for Watched<F> {
    fn drop(&mut self) {
        panic::drop_quietly(self.future.take());
    }
}

/// The answer that a [`Responder`] will give. Dropped, it is given up.
pub(crate) struct Answer<R> {
    slot: Arc<Slot<R>>,
    deadline: Deadline,
    server: Host,
    /// There once somebody has waited.
    wait: Option<Wait>,
    done: bool,
}

impl<R> Answer<R> {
    /// Creates an answer that the server's loop will give, and the right to give it.
    pub(crate) fn from(server: Host) -> (Responder<R>, Self)
    where
        R: 'static,
    {
        let slot = Arc::new(Slot::new());
        let responder = Responder::new(ReplyTo::Slot(slot.clone()));
        (responder, Self { slot, deadline: Deadline::Never, server, wait: None, done: false })
    }

    /// Ends the wait with [`CallError::Deadline`] after this time from now.
    pub(crate) fn set_timeout(&mut self, time: Duration) {
        self.deadline = Deadline::after(time);
    }
}

impl<R> Future for Answer<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.done, "the answer was polled after its end");
        let result = match self.slot.poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => match self.poll_late(cx) {
                // If the answer came in this moment, that is what happened.
                Poll::Ready(error) => self.slot.abandon().unwrap_or(Err(error)),
                Poll::Pending => return Poll::Pending,
            },
        };
        self.done = true;
        self.wait = None;
        Poll::Ready(result)
    }
}

impl<R> Answer<R> {
    /// Waits until the wait has to end without an answer.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        let node = &self.server.0.node;
        let mut wait = match self.wait.take() {
            Some(wait) => wait,
            None => match Wait::begin(node, cx) {
                Ok(wait) => wait,
                Err(error) => return Poll::Ready(error),
            },
        };
        let in_vain = wait.poll_in_vain(node, cx);
        self.wait = Some(wait);
        if in_vain.is_ready() {
            return in_vain;
        }
        self.deadline.poll(cx).map(|()| CallError::Deadline)
    }
}

impl<R> Unpin for Answer<R> {}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        panic::drop_quietly(self.slot.abandon());
    }
}

impl<R> fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("done", &self.done).finish_non_exhaustive()
    }
}
