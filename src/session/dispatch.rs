//! Requests to providers: authorization, order, inline calls, cancellation and completion.

use std::time::{Duration, Instant};

use super::batches::BatchId;
use super::calls::{InFlight, QueuedRequest};
use super::{Session, output, reply};
use crate::message::{Fault, Id, Outcome, RawJson, Request, code};
use crate::route::{Call, CallId, CallRef, Grants};

impl Session {
    /// Dispatches a request, or queues it until capacity is available and all earlier requests are dispatched.
    pub(super) fn handle_request(&mut self, request: Request<'_>, batch: Option<BatchId>, now: Instant) {
        let Request { mut id, method, params, meta } = request;
        if self.codec.sends_results_only() && self.registry.has_no_result(&method) {
            id = None;
        }
        let deadline = now + self.timeout_for(&method, meta.deadline);
        self.metrics().calls.inc();
        if method == Grants::AUTH {
            if !self.calls.is_auth_next() && self.grants.token_delay().is_none() {
                return self.authorize(id.as_ref(), batch, params.as_ref());
            }
            self.metrics().tokens_delayed.inc();
        } else if self.calls.is_queue_empty() && self.calls.has_capacity(&self.limits) && self.has_time() {
            let call = CallRef { method: &method, params, hops: meta.hops };
            return self.dispatch(id, batch, call, deadline, now);
        }
        self.calls.enqueue(QueuedRequest {
            batch,
            id: id.map(Id::into_owned),
            method: method.into_owned(),
            params: params.map(RawJson::into_owned),
            deadline,
            hops: meta.hops,
            received_at: now,
            not_before: None,
        });
        self.dispatch_queued();
    }

    /// Returns how long a call may take: the time that its caller requests, up to the configured maximum for all calls
    /// or for this function, so that no caller can hold a function indefinitely.
    fn timeout_for(&self, method: &str, requested: Option<Duration>) -> Duration {
        let default = self.limits.deadline;
        match requested {
            None => default,
            Some(requested) if requested <= default => requested,
            Some(requested) => {
                requested.min(self.registry.timeout(method).map_or(default, |own| own.max(default)))
            }
        }
    }

    /// Checks a token. Later calls are dispatched after this.
    fn authorize(&mut self, id: Option<&Id<'_>>, batch: Option<BatchId>, params: Option<&RawJson<'_>>) {
        let result = self.grants.handle_auth(params);
        if result.as_ref().is_err_and(|fault| fault.code == code::DENIED) {
            self.metrics().bad_tokens.inc();
        }
        self.grants.log_call(Grants::AUTH, result.as_ref().err(), Duration::ZERO);
        let outcome = result.as_ref().map(|accepted| if *accepted { "true" } else { "false" });
        self.write_reply_unless_notification(batch, id, outcome);
    }

    /// Returns `true` if a queued request could be dispatched but the time budget is spent.
    pub(super) fn has_deferred_requests(&self) -> bool {
        !self.calls.is_queue_empty()
            && self.calls.has_capacity(&self.limits)
            && self.has_output_space()
            && !self.has_time()
    }

    /// Dispatches queued requests while there is capacity, output space and time.
    pub(super) fn dispatch_queued(&mut self) {
        while self.calls.has_capacity(&self.limits) && self.has_output_space() && self.has_time() {
            if self.calls.is_auth_delayed(self.clock, || self.grants.token_delay()) {
                break;
            }
            let Some(request) = self.calls.pop_queued() else { break };
            let QueuedRequest { batch, id, method, params, deadline, hops, received_at, .. } = request;
            if method == Grants::AUTH {
                self.authorize(id.as_ref(), batch, params.as_ref());
            } else {
                self.dispatch(id, batch, CallRef { method: &method, params, hops }, deadline, received_at);
            }
        }
    }

    /// Answers a request inline if possible, and passes it to its provider otherwise.
    fn dispatch(
        &mut self,
        id: Option<Id<'_>>,
        batch: Option<BatchId>,
        call: CallRef<'_>,
        deadline: Instant,
        received_at: Instant,
    ) {
        if let Err(fault) = self.grants.check(call.method) {
            self.metrics().denied.inc();
            self.grants.log_call(call.method, Some(&fault), Duration::ZERO);
            return self.write_reply_unless_notification(batch, id.as_ref(), Err(&fault));
        }
        let answered = match &id {
            Some(id) if batch.is_none() && self.codec.sends_json() => self.try_inline_json(id, &call),
            id => self.try_inline_buffered(batch, id.as_ref(), &call),
        };
        if !answered {
            let CallRef { method, params, hops } = call;
            let bytes = params.as_ref().map_or(0, |params| params.get().len());
            let responder = self.calls.insert(id, batch, deadline, bytes);
            if self.grants.is_logged() {
                self.calls.note_for_log(method, received_at);
            }
            self.metrics().in_flight.inc();
            self.registry.call(Call { method, params, deadline, hops, responder });
        }
    }

    /// Answers a request inline, with its JSON result written to the output directly. Returns `false` if its function
    /// does not answer inline.
    fn try_inline_json(&mut self, id: &Id<'_>, call: &CallRef<'_>) -> bool {
        let started = self.clock;
        let Self { codec, registry, grants, clock, output, limits, .. } = self;
        let (limit, metrics) = (limits.message, registry.metrics());
        let answered = output.message(|out| {
            let start = out.len();
            let answered = codec.frame(out, |out| {
                let answered = codec.encode_result(out, id, |out| {
                    let start = out.len();
                    registry.try_call(call, grants, out, clock).ok_or(None)??;
                    let result = as_text(&out[start..])?;
                    reply::oversize(Ok(result), limit)
                        .map_or(Ok(()), |size| Err(Some(reply::reply_too_large(size, limit, metrics))))
                });
                if let Err(Some(fault)) = &answered {
                    reply::encode_reply(codec, out, limit, metrics, id, Err(fault));
                }
                answered
            });
            if let Err(None) = answered {
                out.truncate(start);
            }
            answered
        });
        let fault = match &answered {
            Ok(()) => None,
            Err(Some(fault)) => Some(fault),
            Err(None) => return false,
        };
        self.count_fault(fault);
        self.grants.log_call(call.method, fault, self.clock.saturating_duration_since(started));
        true
    }

    /// Answers a request inline, with its result in a buffer: to convert it, to hold it for a batch, or to discard it.
    /// Returns `false` if its function does not answer inline.
    fn try_inline_buffered(
        &mut self,
        batch: Option<BatchId>,
        id: Option<&Id<'_>>,
        call: &CallRef<'_>,
    ) -> bool {
        let (mut result, started) = (std::mem::take(&mut self.result), self.clock);
        let outcome = self.registry.try_call(call, &self.grants, &mut result, &mut self.clock);
        let answered = outcome.is_some();
        if let Some(outcome) = outcome {
            let outcome = outcome.and_then(|()| as_text(&result));
            let outcome = outcome.as_ref().map(|result| *result);
            self.count_fault(outcome.err());
            self.grants.log_call(call.method, outcome.err(), self.clock.saturating_duration_since(started));
            self.write_reply_unless_notification(batch, id, outcome);
        }
        result.clear();
        self.result = output::reuse_or_drop(result);
        answered
    }

    /// Cancels the request with this id, if there is one.
    pub(super) fn cancel(&mut self, id: &Id<'_>) {
        let fault = Fault::new(code::CANCELLED, "cancelled by the caller");
        if let Some(call) = self.calls.find(id) {
            self.fail_call(call, &fault);
        } else if let Some(request) = self.calls.remove_queued_by_id(id) {
            self.fail_queued(request, &fault);
        }
    }

    /// Answers a request that was queued with `fault`.
    pub(super) fn fail_queued(&mut self, request: QueuedRequest, fault: &Fault) {
        self.count_fault(Some(fault));
        let waited = self.clock.saturating_duration_since(request.received_at);
        self.grants.log_call(&request.method, Some(fault), waited);
        if let Some(id) = request.id {
            self.write_reply(request.batch, &id, Err(fault));
        }
    }

    /// Answers a call in flight with `fault`, and cancels it.
    pub(super) fn fail_call(&mut self, call: CallId, fault: &Fault) {
        self.calls.cancel(call);
        self.complete(call, &Err(fault.clone()));
    }

    /// Answers a call in flight, unless it was cancelled meanwhile.
    pub(super) fn complete(&mut self, call: CallId, outcome: &Outcome) {
        let Some(InFlight { id, batch, .. }) = self.calls.remove(call) else { return };
        self.metrics().in_flight.sub(1);
        let outcome = outcome.as_ref().map(RawJson::get);
        self.count_fault(outcome.err());
        if let Some((method, received_at)) = self.calls.take_logged(call) {
            let elapsed = self.clock.saturating_duration_since(received_at);
            self.grants.log_call(&method, outcome.err(), elapsed);
        }
        self.write_reply_unless_notification(batch, id.as_ref(), outcome);
    }

    /// Counts a call that ended past its deadline, cancelled, unsent or lost.
    fn count_fault(&self, fault: Option<&Fault>) {
        match fault.map(|fault| fault.code) {
            Some(code::DEADLINE) => self.metrics().deadlines.inc(),
            Some(code::CANCELLED) => self.metrics().cancelled.inc(),
            Some(code::NO_PROVIDER) => self.metrics().not_sent.inc(),
            Some(code::LOST) => self.metrics().lost.inc(),
            _ => {}
        }
    }
}

/// Returns a result as text.
fn as_text(result: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(result)
        .map_err(|error| Fault::new(code::INTERNAL, format!("the result is not UTF-8: {error}")))
}
