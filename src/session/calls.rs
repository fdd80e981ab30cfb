//! One connection's requests, from when they come until they are answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::{READ_AHEAD, Session};
use crate::config::Limits;
use crate::message::{Fault, Id, Outcome, RawJson, Request, code};
use crate::route::{Call, CallId, CallRef, Grants, ReplyQueue, Responder};

/// Requests that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Calls {
    next_token: CallId,
    begun: FxHashMap<CallId, InFlight>,
    /// Requests that wait for a place in flight.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Of the parameters of all that have begun.
    begun_bytes: usize,
    /// No deadline is earlier.
    earliest: Option<Instant>,
    /// There with the first call that is not answered at once.
    inbox: Option<Arc<ReplyQueue>>,
    /// What the access log, if there is one, is to be told of those that have begun.
    logged: FxHashMap<CallId, (String, Instant)>,
    /// Answers that came while output had no room for them.
    answers: VecDeque<(CallId, Outcome)>,
}

#[derive(Debug)]
struct InFlight {
    /// `None` in a notification.
    id: Option<Id<'static>>,
    batch: Option<CallId>,
    deadline: Instant,
    /// Of its parameters.
    bytes: usize,
}

/// A request, kept until there is a place in flight for it.
#[derive(Debug)]
pub(super) struct Waiting {
    batch: Option<CallId>,
    id: Option<Id<'static>>,
    method: String,
    params: Option<RawJson<'static>>,
    deadline: Instant,
    hops: u32,
    /// When it came.
    since: Instant,
    /// A token that is not looked at before, since others of the same host were wrong.
    held: Option<Instant>,
}

impl Waiting {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.method.len() + self.params.as_ref().map_or(0, |params| params.get().len())
    }
}

impl Calls {
    /// Tells whether more requests may be read: those that wait for a place in flight hold few bytes.
    pub(super) fn want_more(&self) -> bool {
        self.waiting_bytes < READ_AHEAD
    }

    /// Tells whether there is a place in flight. All that have begun hold no more than one of the largest requests does,
    /// but for the last.
    fn has_place(&self, limits: &Limits) -> bool {
        self.begun.len() < limits.in_flight && self.begun_bytes < limits.message
    }

    /// No deadline is earlier.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// Takes the next answer, or has the task woken when there is one.
    pub(super) fn poll_answer(&mut self, cx: &Context<'_>) -> Poll<(CallId, Outcome)> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Poll::Ready(answer);
            }
            let inbox = self.inbox.as_ref().filter(|_| !self.begun.is_empty());
            if inbox.is_none_or(|inbox| inbox.poll_replies(cx, &mut self.answers).is_pending()) {
                return Poll::Pending;
            }
        }
    }

    /// The calls whose deadline has passed.
    pub(super) fn late(&self, now: Instant) -> Vec<CallId> {
        self.begun.iter().filter(|(_, call)| call.deadline <= now).map(|(token, _)| *token).collect()
    }

    /// The calls that have begun.
    pub(super) fn begun(&self) -> Vec<CallId> {
        self.begun.keys().copied().collect()
    }

    /// Takes a request whose deadline has passed before its turn. After the last, the earliest deadline is known again.
    pub(super) fn take_late_waiting(&mut self, now: Instant) -> Option<Waiting> {
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.deadline <= now) {
            return self.remove_waiting(at);
        }
        let begun = self.begun.values().map(|call| call.deadline);
        let held = self.waiting.front().and_then(|first| first.held).filter(|until| *until > now);
        self.earliest = begun.chain(self.waiting.iter().map(|waiting| waiting.deadline)).chain(held).min();
        None
    }

    /// Returns `true` if the first request that waits is a token that must wait longer. `delay` says how long one waits that
    /// has just become the first.
    fn is_held(&mut self, now: Instant, delay: impl FnOnce() -> Option<Duration>) -> bool {
        let Some(first) = self.waiting.front_mut().filter(|first| first.method == Grants::AUTH) else {
            return false;
        };
        if first.held.is_none() {
            first.held = Some(now + delay().unwrap_or_default());
        }
        let until = first.held.filter(|until| *until > now);
        until.is_some_and(|until| {
            self.due(until);
            true
        })
    }

    /// Takes the first request that waits for its turn.
    pub(super) fn take_waiting(&mut self) -> Option<Waiting> {
        if self.waiting.is_empty() { None } else { self.remove_waiting(0) }
    }

    fn remove_waiting(&mut self, at: usize) -> Option<Waiting> {
        let waiting = self.waiting.remove(at)?;
        self.waiting_bytes -= waiting.bytes();
        Some(waiting)
    }

    fn wait(&mut self, waiting: Waiting) {
        self.due(waiting.deadline);
        self.waiting_bytes += waiting.bytes();
        self.waiting.push_back(waiting);
    }

    fn begin(
        &mut self,
        id: Option<Id<'_>>,
        batch: Option<CallId>,
        deadline: Instant,
        bytes: usize,
    ) -> Responder {
        self.due(deadline);
        self.begun_bytes += bytes;
        self.next_token += 1;
        let inbox = self.inbox.get_or_insert_default();
        let reply = Responder::new(inbox, self.next_token, id.is_none());
        self.begun.insert(self.next_token, InFlight { id: id.map(Id::into_owned), batch, deadline, bytes });
        reply
    }

    fn due(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Tells whether no request waits for an answer.
    pub(super) fn are_answered(&self) -> bool {
        self.waiting.is_empty() && self.begun.values().all(|call| call.id.is_none())
    }

    /// Tells whether no request and no notification is here.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.begun.is_empty()
    }

    fn take_logged(&mut self, token: CallId) -> Option<(String, Instant)> {
        if self.logged.is_empty() { None } else { self.logged.remove(&token) }
    }

    /// Tells the access log of the calls that nobody waits for any more, since the peer is gone.
    pub(super) fn log_given_up(&mut self, pass: &Grants, now: Instant) {
        for (_, (method, since)) in self.logged.drain() {
            pass.log_abandoned(&method, now.saturating_duration_since(since));
        }
    }

    /// Gives up all requests, since the peer is gone; returns how many calls had begun.
    pub(super) fn close(&self) -> u64 {
        if let Some(inbox) = &self.inbox {
            inbox.close();
        }
        self.begun.len() as u64
    }

    /// Gives back memory that is not in use.
    pub(super) fn rest(&mut self) {
        self.begun.shrink_to_fit();
        self.logged.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.answers.shrink_to_fit();
        if let Some(inbox) = &self.inbox {
            inbox.shrink();
        }
    }
}

impl Session {
    /// Begins a request, or keeps it until there is a place for it and all before it have begun.
    pub(super) fn take(&mut self, request: Request<'_>, batch: Option<CallId>, now: Instant) {
        let Request { mut id, method, params, meta } = request;
        if self.codec.sends_results_only() && self.registry.has_no_result(&method) {
            id = None;
        }
        let deadline = now + self.time_for(&method, meta.deadline);
        self.metrics().calls.add();
        if method == Grants::AUTH {
            let is_next = self.calls.waiting.front().is_none_or(|first| first.method != Grants::AUTH);
            if is_next && self.pass.token_delay().is_none() {
                return self.authorize(id.as_ref(), batch, params.as_ref());
            }
            self.metrics().tokens_delayed.add();
        } else if self.calls.waiting.is_empty() && self.calls.has_place(&self.limits) && self.has_time() {
            let ask = CallRef { method: &method, params, hops: meta.hops };
            return self.begin(id, batch, ask, deadline, now);
        }
        self.calls.wait(Waiting {
            batch,
            id: id.map(Id::into_owned),
            method: method.into_owned(),
            params: params.map(RawJson::into_owned),
            deadline,
            hops: meta.hops,
            since: now,
            held: None,
        });
        self.begin_waiting();
    }

    /// How long a call may take: what its caller asks for, but not longer than is configured, be it for all calls or for
    /// this function. So nobody can hold a function for as long as they like.
    fn time_for(&self, method: &str, asked: Option<Duration>) -> Duration {
        let usual = self.limits.deadline;
        match asked {
            None => usual,
            Some(asked) if asked <= usual => asked,
            Some(asked) => asked.min(self.registry.timeout(method).map_or(usual, |own| own.max(usual))),
        }
    }

    /// Takes a token before any call that comes after it begins.
    fn authorize(&mut self, id: Option<&Id<'_>>, batch: Option<CallId>, params: Option<&RawJson<'_>>) {
        let taken = self.pass.handle_auth(params);
        if taken.as_ref().is_err_and(|fault| fault.code == code::DENIED) {
            self.metrics().bad_tokens.add();
        }
        self.pass.log_call(Grants::AUTH, taken.as_ref().err(), Duration::ZERO);
        self.tell_if_asked(batch, id, taken.as_ref().map(|taken| if *taken { "true" } else { "false" }));
    }

    /// Tells whether a waiting request could begin if others had had their turn.
    pub(super) fn is_put_off(&self) -> bool {
        !self.calls.waiting.is_empty()
            && self.calls.has_place(&self.limits)
            && self.has_room()
            && !self.has_time()
    }

    /// Begins as many of the waiting requests as there are places in flight, and time.
    pub(super) fn begin_waiting(&mut self) {
        while self.calls.has_place(&self.limits) && self.has_room() && self.has_time() {
            if self.calls.is_held(self.clock, || self.pass.token_delay()) {
                break;
            }
            let Some(waiting) = self.calls.take_waiting() else { break };
            let Waiting { batch, id, method, params, deadline, hops, since, .. } = waiting;
            if method == Grants::AUTH {
                self.authorize(id.as_ref(), batch, params.as_ref());
            } else {
                self.begin(id, batch, CallRef { method: &method, params, hops }, deadline, since);
            }
        }
    }

    /// Answers a request at once, or hands it to its provider.
    fn begin(
        &mut self,
        id: Option<Id<'_>>,
        batch: Option<CallId>,
        ask: CallRef<'_>,
        deadline: Instant,
        since: Instant,
    ) {
        if let Err(fault) = self.pass.check(ask.method) {
            self.metrics().denied.add();
            self.pass.log_call(ask.method, Some(&fault), Duration::ZERO);
            return self.tell_if_asked(batch, id.as_ref(), Err(&fault));
        }
        let answered = match &id {
            Some(id) if batch.is_none() && self.codec.sends_json() => self.answer_in_place(id, &ask),
            id => self.answer_apart(batch, id.as_ref(), &ask),
        };
        if !answered {
            let CallRef { method, params, hops } = ask;
            let bytes = params.as_ref().map_or(0, |params| params.get().len());
            let reply = self.calls.begin(id, batch, deadline, bytes);
            if self.pass.is_logged() {
                self.calls.logged.insert(self.calls.next_token, (method.to_owned(), since));
            }
            self.metrics().in_flight.add();
            self.registry.call(Call { method, params, deadline, hops, responder: reply });
        }
    }

    /// Answers a request at once, with the result written straight to where it goes out. `false` if its function has no
    /// answer at once.
    fn answer_in_place(&mut self, id: &Id<'_>, ask: &CallRef<'_>) -> bool {
        let began = self.clock;
        let Self { codec, registry, pass, clock, output, limits, .. } = self;
        let (limit, metrics) = (limits.message, registry.metrics());
        let answered = output.message(|out| {
            let start = out.len();
            let answered = codec.frame(out, |out| {
                let answered = codec.encode_result(out, id, |out| {
                    let start = out.len();
                    registry.try_call(ask, pass, out, clock).ok_or(None)??;
                    let result = text(&out[start..])?;
                    super::excess(Ok(result), limit)
                        .map_or(Ok(()), |size| Err(Some(super::too_large(size, limit, metrics))))
                });
                if let Err(Some(fault)) = &answered {
                    super::reply(codec, out, limit, metrics, id, Err(fault));
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
        self.count(fault);
        self.pass.log_call(ask.method, fault, self.clock.saturating_duration_since(began));
        true
    }

    /// The same for an answer that takes another form on its way, or waits for others, or is none.
    fn answer_apart(&mut self, batch: Option<CallId>, id: Option<&Id<'_>>, ask: &CallRef<'_>) -> bool {
        let (mut result, began) = (std::mem::take(&mut self.result), self.clock);
        let answer = self.registry.try_call(ask, &self.pass, &mut result, &mut self.clock);
        let answered = answer.is_some();
        if let Some(answer) = answer {
            let answer = answer.and_then(|()| text(&result));
            let answer = answer.as_ref().map(|result| *result);
            self.count(answer.err());
            self.pass.log_call(ask.method, answer.err(), self.clock.saturating_duration_since(began));
            self.tell_if_asked(batch, id, answer);
        }
        result.clear();
        self.result = super::output::kept(result);
        answered
    }

    pub(super) fn cancel(&mut self, id: &Id<'_>) {
        let fault = Fault::new(code::CANCELLED, "cancelled by the caller");
        let is_it = |other: &Option<Id<'_>>| other.as_ref() == Some(id);
        let begun = self.calls.begun.iter().find(|(_, call)| is_it(&call.id)).map(|(token, _)| *token);
        if let Some(token) = begun {
            self.give_up(token, &fault);
        } else if let Some(at) = self.calls.waiting.iter().position(|waiting| is_it(&waiting.id))
            && let Some(waiting) = self.calls.remove_waiting(at)
        {
            self.drop_waiting(waiting, &fault);
        }
    }

    /// Ends a request that has not begun.
    pub(super) fn drop_waiting(&mut self, waiting: Waiting, fault: &Fault) {
        self.count(Some(fault));
        let waited = self.clock.saturating_duration_since(waiting.since);
        self.pass.log_call(&waiting.method, Some(fault), waited);
        if let Some(id) = waiting.id {
            self.tell(waiting.batch, &id, Err(fault));
        }
    }

    /// Ends a call that its provider has not answered, or whose answer has not had room.
    pub(super) fn give_up(&mut self, token: CallId, fault: &Fault) {
        match self.calls.answers.iter().position(|(answered, _)| *answered == token) {
            Some(at) => drop(self.calls.answers.remove(at)),
            None => self.calls.inbox.iter().for_each(|inbox| inbox.cancel(token)),
        }
        self.finish(token, &Err(fault.clone()));
    }

    /// Answers a call that has begun.
    pub(super) fn finish(&mut self, token: CallId, outcome: &Outcome) {
        // It is not there if it was given up meanwhile.
        let Some(InFlight { id, batch, bytes, .. }) = self.calls.begun.remove(&token) else { return };
        self.calls.begun_bytes -= bytes;
        self.metrics().in_flight.sub(1);
        let answer = outcome.as_ref().map(RawJson::get);
        self.count(answer.err());
        if let Some((method, since)) = self.calls.take_logged(token) {
            self.pass.log_call(&method, answer.err(), self.clock.saturating_duration_since(since));
        }
        self.tell_if_asked(batch, id.as_ref(), answer);
    }

    /// Counts a call that ends late, cancelled, unsent or lost, whoever found it to be so.
    fn count(&self, fault: Option<&Fault>) {
        match fault.map(|fault| fault.code) {
            Some(code::DEADLINE) => self.metrics().deadlines.add(),
            Some(code::CANCELLED) => self.metrics().cancelled.add(),
            Some(code::NO_PROVIDER) => self.metrics().not_sent.add(),
            Some(code::LOST) => self.metrics().lost.add(),
            _ => {}
        }
    }
}

/// A result as it was written.
fn text(result: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(result)
        .map_err(|error| Fault::new(code::INTERNAL, format!("the result is not UTF-8: {error}")))
}
