//! A oneshot channel for a reply of a server's loop: a [`Responder`] and the [`Reply`] that it completes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::catch_panic::ServerRef;
use super::deadline::Deadline;
use super::error::CallError;
use super::panic;
use super::reply::{ReplyTo, Responder, Slot};
use super::wait_graph::Wait;

/// The future of a reply that a [`Responder`] sends. Dropping it abandons the reply.
pub(crate) struct Reply<R> {
    slot: Arc<Slot<R>>,
    deadline: Deadline,
    server: ServerRef,
    /// Set by the first poll.
    wait: Option<Wait>,
    done: bool,
}

/// Creates the two ends of a reply that the loop of `server` sends.
pub(crate) fn oneshot<R: 'static>(server: ServerRef) -> (Responder<R>, Reply<R>) {
    let slot = Arc::new(Slot::new());
    let responder = Responder::new(ReplyTo::Slot(slot.clone()));
    (responder, Reply { slot, deadline: Deadline::Never, server, wait: None, done: false })
}

impl<R> Reply<R> {
    /// Ends the wait with [`CallError::Deadline`] after this time from now.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.deadline = Deadline::after(timeout);
    }

    /// Waits for a reason to end the wait without a reply.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        let waiter = self.server.waiter();
        let mut wait = match self.wait.take() {
            Some(wait) => wait,
            None => match Wait::begin(waiter, cx) {
                Ok(wait) => wait,
                Err(error) => return Poll::Ready(error),
            },
        };
        let deadlock = wait.poll_deadlock(waiter, cx);
        self.wait = Some(wait);
        if deadlock.is_ready() {
            return deadlock;
        }
        self.deadline.poll(cx).map(|()| CallError::Deadline)
    }
}

impl<R> Future for Reply<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.done, "the reply was polled after its end");
        let result = match self.slot.poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => match self.poll_failure(cx) {
                // A reply that arrived meanwhile takes precedence.
                Poll::Ready(error) => self.slot.abandon().unwrap_or(Err(error)),
                Poll::Pending => return Poll::Pending,
            },
        };
        self.done = true;
        self.wait = None;
        Poll::Ready(result)
    }
}

impl<R> Unpin for Reply<R> {}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        panic::drop_quietly(self.slot.abandon());
    }
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("done", &self.done).finish_non_exhaustive()
    }
}
