//! One call on its way to a provider, and the right to answer it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::admission::{InlinePermit, Permit};
use super::reply_queue::{CallId, ReplyQueue};
use crate::message::{Fault, Outcome, RawJson, code};
use crate::metrics::FunctionMetrics;

/// One call, as a provider receives it. Dropped unanswered, it ends with a fault of [`code::INTERNAL`].
pub struct Call<'a> {
    /// The function's full name.
    pub method: &'a str,
    /// The parameters, an array or an object, if any.
    pub params: Option<RawJson<'a>>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The number of nodes that have forwarded the call so far.
    pub hops: u32,
    destination: Destination<'a>,
    /// Where the call is counted if it is not answered at once.
    metrics: Option<&'a Arc<FunctionMetrics>>,
    permit: Option<InlinePermit<'a>>,
}

/// Where the result of a call goes.
enum Destination<'a> {
    /// Appended to `out`, where the result starts at `start`; or later to the responder that `defer` creates.
    Caller { out: &'a mut Vec<u8>, start: usize, defer: &'a mut dyn FnMut() -> Responder },
    /// To a responder that exists already.
    Responder { responder: Responder, out: Vec<u8> },
}

/// A call whose answer comes later, and the right to answer it.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeferredCall<'a> {
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

/// What a provider has done with a call: it has answered it, or taken its responder. Only [`Call`] creates it.
#[derive(Debug)]
#[must_use = "a provider returns it"]
pub struct Handled(pub(super) Option<Result<(), Fault>>);

impl Handled {
    /// Returns the result of a call that is answered, or `None` if its responder was taken.
    pub(crate) fn result(self) -> Option<Result<(), Fault>> {
        self.0
    }
}

impl<'a> Call<'a> {
    /// Creates a call whose result is appended to `out` if it is available at once. Otherwise `defer` creates its
    /// responder.
    pub(crate) fn new(
        method: &'a str,
        params: Option<RawJson<'a>>,
        (deadline, hops): (Instant, u32),
        out: &'a mut Vec<u8>,
        defer: &'a mut dyn FnMut() -> Responder,
    ) -> Self {
        let destination = Destination::Caller { start: out.len(), out, defer };
        Self { method, params, deadline, hops, destination, metrics: None, permit: None }
    }

    /// Answers the call.
    pub fn reply(self, result: Result<RawJson<'_>, Fault>) -> Handled {
        self.reply_with(|_, out| result.map(|json| out.extend_from_slice(json.get().as_bytes())))
    }

    /// Answers the call with the JSON text that `write` appends, or with its fault. Without a fault, what it appends
    /// must be one JSON value.
    pub(crate) fn reply_with(
        mut self,
        write: impl FnOnce(Option<&RawJson<'_>>, &mut Vec<u8>) -> Result<(), Fault>,
    ) -> Handled {
        let (params, out) = self.parts();
        let result = write(params, out);
        self.finish(result)
    }

    /// Answers the call later. `start` must return soon: longer work runs elsewhere.
    pub fn defer(self, start: impl FnOnce(DeferredCall<'a>)) -> Handled {
        start(self.into_deferred());
        Handled(None)
    }

    /// Returns the parameters, and the buffer to which the result is appended for [`finish`](Self::finish).
    pub(super) fn parts(&mut self) -> (Option<&RawJson<'a>>, &mut Vec<u8>) {
        let out = match &mut self.destination {
            Destination::Caller { out, .. } => &mut **out,
            Destination::Responder { out, .. } => out,
        };
        (self.params.as_ref(), out)
    }

    /// Ends the call with the result that was appended to the buffer, or with a fault.
    pub(super) fn finish(mut self, result: Result<(), Fault>) -> Handled {
        match &mut self.destination {
            Destination::Caller { out, start, .. } => {
                if result.is_err() {
                    out.truncate(*start);
                }
                Handled(Some(result))
            }
            Destination::Responder { out, .. } => {
                let out = std::mem::take(out);
                self.into_deferred().responder.send(result.and_then(|()| RawJson::written(out)));
                Handled(None)
            }
        }
    }

    pub(super) fn into_deferred(self) -> DeferredCall<'a> {
        let Self { method, params, deadline, hops, destination, metrics, permit } = self;
        let mut responder = match destination {
            Destination::Caller { out, start, defer } => {
                out.truncate(start);
                defer()
            }
            Destination::Responder { responder, .. } => responder,
        };
        if let Some(metrics) = metrics {
            responder.measure(metrics);
        }
        if let Some(permit) = permit {
            responder.permit = Some(permit.into());
        }
        DeferredCall { method, params, deadline, hops, responder }
    }

    /// Counts the call, if it is answered later, in `metrics`.
    pub(super) fn measure(&mut self, metrics: &'a Arc<FunctionMetrics>) {
        self.metrics = Some(metrics);
    }

    /// Holds the call's workers until it is answered.
    pub(super) fn holding(self, permit: InlinePermit<'a>) -> Self {
        Self { permit: Some(permit), ..self }
    }
}

impl<'a> DeferredCall<'a> {
    /// Creates a call with a responder that exists already.
    pub(crate) fn new(
        method: &'a str,
        params: Option<RawJson<'a>>,
        deadline: Instant,
        hops: u32,
        responder: Responder,
    ) -> Self {
        Self { method, params, deadline, hops, responder }
    }

    /// Returns the call as a provider receives it. Its answer goes to the responder, whenever it comes.
    pub(crate) fn into_call(self) -> Call<'a> {
        let Self { method, params, deadline, hops, responder } = self;
        let destination = Destination::Responder { responder, out: Vec::new() };
        Call { method, params, deadline, hops, destination, metrics: None, permit: None }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("params", &self.params)
            .field("deadline", &self.deadline)
            .field("hops", &self.hops)
            .finish_non_exhaustive()
    }
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
