//! Requests to providers: authorization, order, inline calls, cancellation and completion.

use std::time::{Duration, Instant};

use super::batches::BatchId;
use super::calls::{InFlight, QueuedRequest};
use super::{Session, output, reply};
use crate::message::{Fault, Id, Outcome, RawJson, Request, code};
use crate::route::{CallHead, CallId, Grants, PING};

impl Session {
    /// Dispatches a request, or queues it until capacity is available and all earlier requests are dispatched.
    pub(super) fn handle_request(&mut self, request: Request<'_>, batch: Option<BatchId>, now: Instant) {
        let Request { mut id, method, params, meta } = request;
        if self.codec.sends_results_only() && self.registry.has_no_result(&mut self.functions, &method) {
            id = None;
        }
        // Only nodes forward.
        self.is_peer_node |= meta.hops > 0;
        if id.is_none() && self.is_dialled() && self.note_stop(&method) {
            return;
        }
        let deadline = now + self.timeout_for(&method, meta.deadline);
        self.metrics().calls.inc();
        if method == Grants::AUTH {
            let is_delayed = self.calls.is_auth_next() || self.grants.token_delay().is_some();
            // It overtakes calls that wait for others to end, but not those that wait only for this session's turn.
            if !is_delayed && !self.has_deferred_requests() {
                return self.authorize(id.as_ref(), batch, params.as_ref());
            }
            if is_delayed {
                self.metrics().tokens_delayed.inc();
            }
        } else if self.calls.is_queue_empty() && self.calls.has_capacity(&self.limits) && self.has_time()
            // A ping overtakes calls: it asks whether the node is alive, not whether it is idle.
            || method == PING
        {
            let head = CallHead { method: &method, deadline, hops: meta.hops };
            return self.dispatch(id.as_ref(), batch, &head, params, now);
        }
        #[cfg(feature = "nats")]
        if self.is_broker() && !self.calls.has_capacity(&self.limits) {
            self.metrics().refused.inc();
            let message =
                "the node answers as many calls over NATS as it may (nats.in_flight), or as large ones";
            let fault = Fault::new(code::BUSY, message).unsent();
            return self.write_reply_unless_notification(batch, id.as_ref(), Err(&fault));
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
    fn timeout_for(&mut self, method: &str, requested: Option<Duration>) -> Duration {
        let default = self.limits.deadline;
        match requested {
            None => default,
            Some(requested) if requested <= default => requested,
            Some(requested) => {
                let own = self.registry.timeout(&mut self.functions, method);
                requested.min(own.map_or(default, |own| own.max(default)))
            }
        }
    }

    /// Checks a token. Later calls are dispatched after this.
    fn authorize(&mut self, id: Option<&Id<'_>>, batch: Option<BatchId>, params: Option<&RawJson<'_>>) {
        self.registry.refresh(&mut self.grants);
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
                self.dispatch(
                    id.as_ref(),
                    batch,
                    &CallHead { method: &method, deadline, hops },
                    params,
                    received_at,
                );
            }
        }
    }

    /// Passes a request to its provider, and writes the reply if it is available at once.
    fn dispatch(
        &mut self,
        id: Option<&Id<'_>>,
        batch: Option<BatchId>,
        head: &CallHead<'_>,
        params: Option<RawJson<'_>>,
        received_at: Instant,
    ) {
        self.registry.refresh(&mut self.grants);
        if let Err(fault) = self.grants.check(head.method) {
            self.metrics().denied.inc();
            self.grants.log_call(head.method, Some(&fault), Duration::ZERO);
            return self.write_reply_unless_notification(batch, id, Err(&fault));
        }
        match id {
            Some(id) if batch.is_none() && self.codec.sends_json() => {
                self.dispatch_to_output(id, head, params, received_at);
            }
            id => self.dispatch_to_buffer(id, batch, head, params, received_at),
        }
    }

    /// Passes a request to its provider, which writes a JSON result to the output directly.
    fn dispatch_to_output(
        &mut self,
        id: &Id<'_>,
        head: &CallHead<'_>,
        params: Option<RawJson<'_>>,
        received_at: Instant,
    ) {
        let bytes = params.as_ref().map_or(0, |params| params.get().len());
        let started = self.clock;
        let Self { codec, registry, functions, grants, clock, output, limits, calls, .. } = self;
        let (limit, metrics) = (limits.message, registry.metrics());
        let mut defer = || {
            metrics.in_flight.inc();
            calls.insert(Some(id), None, head, bytes, grants.is_logged().then_some(received_at))
        };
        let answered = output.message(|out| {
            let start = out.len();
            let answered = codec.encode_result(out, id, |out| {
                let start = out.len();
                match registry.call(functions, head, params, grants, clock, out, &mut defer) {
                    Some(Ok(())) => {}
                    Some(Err(fault)) => return Err(Some(fault)),
                    None => return Err(None),
                }
                let result = as_text(&out[start..])?;
                reply::oversize(Ok(result), limit)
                    .map_or(Ok(()), |size| Err(Some(reply::reply_too_large(size, limit, codec, metrics))))
            });
            if let Err(Some(fault)) = &answered {
                reply::encode_reply(codec, out, limit, metrics, id, Err(fault));
            }
            codec.finish(out, start);
            answered
        });
        let fault = match &answered {
            Ok(()) => None,
            Err(Some(fault)) => Some(fault),
            Err(None) => return,
        };
        self.count_fault(fault);
        self.grants.log_call(head.method, fault, self.clock.saturating_duration_since(started));
    }

    /// Passes a request to its provider, which writes a result to a buffer: to convert it, to hold it for a batch, or
    /// to discard it.
    fn dispatch_to_buffer(
        &mut self,
        id: Option<&Id<'_>>,
        batch: Option<BatchId>,
        head: &CallHead<'_>,
        params: Option<RawJson<'_>>,
        received_at: Instant,
    ) {
        let bytes = params.as_ref().map_or(0, |params| params.get().len());
        let (mut buffer, started) = (std::mem::take(&mut self.result), self.clock);
        let Self { registry, functions, grants, clock, calls, .. } = self;
        let mut defer = || {
            registry.metrics().in_flight.inc();
            calls.insert(id, batch, head, bytes, grants.is_logged().then_some(received_at))
        };
        if let Some(result) = registry.call(functions, head, params, grants, clock, &mut buffer, &mut defer) {
            let outcome = result.and_then(|()| as_text(&buffer));
            let outcome = outcome.as_ref().map(|result| *result);
            self.count_fault(outcome.err());
            self.grants.log_call(head.method, outcome.err(), self.clock.saturating_duration_since(started));
            self.write_reply_unless_notification(batch, id, outcome);
        }
        buffer.clear();
        self.result = output::reuse_or_drop(buffer);
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
