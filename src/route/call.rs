//! One call on its way to a provider, and the right to answer it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::admission::Permit;
use super::reply_queue::{CallId, ReplyQueue};
use crate::message::{Fault, Outcome, RawJson, code};
use crate::metrics::FunctionMetrics;

/// One call, as a provider receives it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The function's full name.
    pub method: &'a str,
    /// The parameters, an array or an object, if any.
    pub params: Option<RawJson<'a>>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The number of nodes that have forwarded the call so far.
    pub hops: u32,
    /// The right to answer.
    pub responder: Responder,
}

/// The contents of a call without the right to answer it, for a call that may be answered immediately.
#[derive(Debug)]
pub struct CallRef<'a> {
    /// The function's full name.
    pub method: &'a str,
    /// The parameters, an array or an object, if any.
    pub params: Option<RawJson<'a>>,
    /// The number of nodes that have forwarded the call so far.
    pub hops: u32,
}

/// The right to answer one call, once. If dropped unanswered, it answers with a fault of [`code::INTERNAL`].
pub struct Responder {
    id: CallId,
    /// A notification outlives the connection that it arrived on.
    is_notification: bool,
    /// `None` once the call is answered.
    queue: Option<Arc<ReplyQueue>>,
    /// Where the call is counted, and when it began.
    metrics: Option<(Arc<FunctionMetrics>, Instant)>,
    permit: Option<Permit>,
}

impl Responder {
    /// Creates the right to answer the call `id` into `queue`. The answer to a `notification` reports only that the
    /// function has run, and the call is not cancelled when the peer disconnects.
    pub(crate) fn new(queue: &Arc<ReplyQueue>, id: CallId, notification: bool) -> Self {
        Self { id, is_notification: notification, queue: Some(queue.clone()), metrics: None, permit: None }
    }

    /// Counts the call, and the time until it is answered, in `metrics`.
    pub(super) fn measure(&mut self, metrics: &Arc<FunctionMetrics>) {
        metrics.record_start();
        self.metrics = Some((metrics.clone(), Instant::now()));
    }

    /// Holds the call's workers until it is answered, even if it is cancelled.
    pub(super) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Returns `true` if the caller expects a reply, `false` for a notification.
    pub fn expects_reply(&self) -> bool {
        !self.is_notification
    }

    /// Answers the call.
    pub fn send(mut self, result: Result<RawJson<'static>, Fault>) {
        self.finish(result);
    }

    /// Waits until the call is cancelled: by its caller, by its deadline, or because the peer has disconnected.
    pub async fn cancelled(&self) {
        poll_fn(|cx| self.poll_cancelled(cx)).await;
    }

    pub(super) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.queue {
            Some(queue) => queue.poll_cancelled(self.id, self.is_notification, cx),
            None => Poll::Pending,
        }
    }

    /// Returns `true` if the call has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.is_cancelled(self.id, self.is_notification))
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some((metrics, began)) = self.metrics.take() {
            metrics.record_end(began.elapsed(), outcome.as_ref().err());
        }
        if let Some(queue) = self.queue.take() {
            queue.push(self.id, outcome);
        }
        // Last: releasing the workers may run the next call on this thread.
        self.permit = None;
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.queue.is_some() {
            self.finish(Err(Fault::new(code::INTERNAL, "the function ended without an answer")));
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Returns the time from now to `deadline`; `None` if it has passed.
pub(super) fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|time| !time.is_zero())
}
