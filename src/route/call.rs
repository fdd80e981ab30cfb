//! One call on its way to a provider, and the right to answer it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::access::Caller;
use super::mailbox::{CallId, Mailbox};
use super::permit::Permit;
use crate::message::{Fault, Outcome, RawJson, code};
use crate::metrics::FunctionMetrics;

/// One call, as a provider receives it. Dropped unanswered, it ends with a fault of [`code::INTERNAL`].
// Small enough that a move takes a few instructions.
pub struct Call<'a> {
    context: &'a CallContext<'a>,
    params: Option<RawJson<'a>>,
    destination: Destination<'a>,
}

/// What a call is besides its parameters.
pub(crate) struct CallHead<'a> {
    pub(crate) method: &'a str,
    pub(crate) deadline: Instant,
    pub(crate) hops: u32,
}

/// What a call is besides its parameters, and who calls. In one place, so that a [`Call`] has one pointer to both.
pub(super) struct CallContext<'a> {
    pub(super) head: &'a CallHead<'a>,
    pub(super) caller: &'a Caller,
}

/// Where the result of a call goes.
enum Destination<'a> {
    /// Appended to `out`; or later to the responder that `defer` creates.
    Caller { out: &'a mut Vec<u8>, progress: &'a mut Progress, defer: &'a mut dyn FnMut() -> Responder },
    /// To a responder that exists already.
    Responder(Box<(Responder, Vec<u8>)>),
}

/// What a provider has done with a call.
pub(super) enum Progress {
    Unanswered,
    /// The result was appended to the caller's buffer, unless there is a fault.
    Answered(Result<(), Fault>),
    /// The answer comes from the responder.
    Deferred,
}

impl<'a> Call<'a> {
    /// Creates a call whose result is appended to `out` if it is available at once; what is appended before a fault is
    /// to be discarded. Otherwise `defer` creates its responder.
    pub(super) fn new(
        context: &'a CallContext<'a>,
        params: Option<RawJson<'a>>,
        out: &'a mut Vec<u8>,
        progress: &'a mut Progress,
        defer: &'a mut dyn FnMut() -> Responder,
    ) -> Self {
        Self { context, params, destination: Destination::Caller { out, progress, defer } }
    }

    /// Creates a call whose answer goes to a responder, whenever it comes.
    pub(super) fn with_responder(
        context: &'a CallContext<'a>,
        params: Option<RawJson<'a>>,
        responder: Responder,
    ) -> Self {
        Self { context, params, destination: Destination::Responder(Box::new((responder, Vec::new()))) }
    }

    /// Passes on a call of this node's own, whose answer goes to a responder.
    pub(crate) fn detached(
        head: &CallHead<'_>,
        caller: &Caller,
        params: Option<RawJson<'_>>,
        responder: Responder,
        pass: impl FnOnce(Call<'_>),
    ) {
        pass(Call::with_responder(&CallContext { head, caller }, params, responder));
    }

    /// Returns the function's full name.
    pub fn method(&self) -> &'a str {
        self.context.head.method
    }

    /// Returns the parameters, an array or an object, if any.
    pub fn params(&self) -> Option<&RawJson<'a>> {
        self.params.as_ref()
    }

    /// Takes the parameters out of the call.
    pub fn take_params(&mut self) -> Option<RawJson<'a>> {
        self.params.take()
    }

    /// Returns who calls. A clone of it outlives the call.
    pub fn caller(&self) -> &'a Caller {
        self.context.caller
    }

    /// Returns when the caller stops waiting.
    pub fn deadline(&self) -> Instant {
        self.context.head.deadline
    }

    /// Returns the number of nodes that have forwarded the call so far.
    pub fn hops(&self) -> u32 {
        self.context.head.hops
    }

    /// Answers the call.
    pub fn reply(mut self, result: Result<RawJson<'_>, Fault>) {
        let result = result.map(|json| self.parts().1.extend_from_slice(json.get().as_bytes()));
        self.finish(result);
    }

    /// Returns the right to answer the call later.
    pub fn defer(self) -> Responder {
        match self.destination {
            Destination::Caller { progress, defer, .. } => {
                *progress = Progress::Deferred;
                defer()
            }
            Destination::Responder(held) => held.0,
        }
    }

    /// Returns the parameters, and the buffer to which the result is appended as JSON for [`finish`](Self::finish).
    pub(crate) fn parts(&mut self) -> (Option<&RawJson<'a>>, &mut Vec<u8>) {
        let out = match &mut self.destination {
            Destination::Caller { out, .. } => &mut **out,
            Destination::Responder(held) => &mut held.1,
        };
        (self.params.as_ref(), out)
    }

    /// Ends the call with the result that was appended to the buffer, or with a fault.
    pub(crate) fn finish(self, result: Result<(), Fault>) {
        match self.destination {
            Destination::Caller { progress, .. } => *progress = Progress::Answered(result),
            Destination::Responder(held) => {
                let (responder, out) = *held;
                responder.send(result.and_then(|()| RawJson::written(out)));
            }
        }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method())
            .field("params", &self.params)
            .field("deadline", &self.deadline())
            .field("hops", &self.hops())
            .finish_non_exhaustive()
    }
}

/// The right to answer one call, once. If dropped unanswered, it answers with a fault of [`code::INTERNAL`].
pub struct Responder {
    id: CallId,
    /// A notification outlives the connection that it arrived on.
    is_notification: bool,
    /// `None` once the call is answered.
    queue: Option<Arc<Mailbox>>,
    /// Where the call is counted, and when it began.
    metrics: Option<(Arc<FunctionMetrics>, Instant)>,
    permit: Option<Permit>,
    /// Told what the call ended with.
    #[cfg(feature = "nats")]
    audit: Option<Audit>,
}

/// What is told with which fault a call has ended, if any.
#[cfg(feature = "nats")]
type Audit = Box<dyn FnOnce(Option<&Fault>) + Send + Sync>;

impl Responder {
    /// Creates the right to answer the call `id` into `queue`. The answer to a `notification` reports only that the
    /// function has run, and the call is not cancelled when the peer disconnects.
    pub(crate) fn new(queue: &Arc<Mailbox>, id: CallId, notification: bool) -> Self {
        Self {
            id,
            is_notification: notification,
            queue: Some(queue.clone()),
            metrics: None,
            permit: None,
            #[cfg(feature = "nats")]
            audit: None,
        }
    }

    /// Counts the call, and the time until it is answered, in `metrics`.
    pub(super) fn measured(mut self, metrics: &Arc<FunctionMetrics>) -> Self {
        metrics.record_start();
        self.metrics = Some((metrics.clone(), Instant::now()));
        self
    }

    /// Has `audit` told what the call ends with.
    #[cfg(feature = "nats")]
    pub(crate) fn audited(mut self, audit: impl FnOnce(Option<&Fault>) + Send + Sync + 'static) -> Self {
        self.audit = Some(Box::new(audit));
        self
    }

    /// Holds the call's workers until it is answered, even if it is cancelled.
    pub(super) fn holding(mut self, permit: Option<impl Into<Permit>>) -> Self {
        self.permit = permit.map(Into::into);
        self
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

    /// Has `waker` woken when the call is cancelled. Returns `false` if it is already.
    pub(crate) fn on_cancel(&self, waker: &Waker) -> bool {
        self.poll_cancelled(&Context::from_waker(waker)).is_pending()
    }

    pub(crate) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
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
        #[cfg(feature = "nats")]
        if let Some(audit) = self.audit.take() {
            audit(outcome.as_ref().err());
        }
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
            self.finish(Err(unanswered()));
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Returns the fault for a call that its provider has dropped.
pub(super) fn unanswered() -> Fault {
    Fault::new(code::INTERNAL, "the function ended without an answer")
}

/// Returns the time from now to `deadline`; `None` if it has passed.
pub(crate) fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|time| !time.is_zero())
}
