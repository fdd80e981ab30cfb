//! The unanswered requests of one connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::batches::BatchId;
use crate::config::Limits;
use crate::message::{Id, Outcome, RawJson};
use crate::route::{CallHead, CallId, Grants, Mailbox, Posts, Responder};

/// Size up to which requests are read ahead while the maximum number of calls is in flight, in bytes. Cancellations
/// then take effect at once, and a peer that disconnects is noticed while its calls run.
const READ_AHEAD: usize = 16 * 1024;

/// Unanswered requests: in flight, or queued until capacity is available.
#[derive(Debug, Default)]
pub(super) struct Calls {
    last_id: CallId,
    in_flight: FxHashMap<CallId, InFlight>,
    /// The size of the parameters of all calls in flight, in bytes.
    in_flight_bytes: usize,
    queue: VecDeque<QueuedRequest>,
    queued_bytes: usize,
    /// No deadline is earlier.
    earliest_deadline: Option<Instant>,
    /// Created for the first call that is not answered inline, or when somebody calls the peer.
    mailbox: Option<Arc<Mailbox>>,
    /// Method and arrival of the calls in flight, if there is an access log.
    logged: FxHashMap<CallId, (String, Instant)>,
    /// Outcomes that arrived while the output was full.
    ready: VecDeque<(CallId, Outcome)>,
}

/// A call that its provider has not answered.
#[derive(Debug)]
pub(super) struct InFlight {
    /// `None` for a notification.
    pub(super) id: Option<Id<'static>>,
    pub(super) batch: Option<BatchId>,
    deadline: Instant,
    /// The size of its parameters.
    bytes: usize,
}

/// A request that is not dispatched yet.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) batch: Option<BatchId>,
    pub(super) id: Option<Id<'static>>,
    pub(super) method: String,
    pub(super) params: Option<RawJson<'static>>,
    pub(super) deadline: Instant,
    pub(super) hops: u32,
    pub(super) received_at: Instant,
    /// When a token may be checked, if its host has presented wrong ones.
    pub(super) not_before: Option<Instant>,
}

impl QueuedRequest {
    /// Returns its approximate size in memory.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.method.len() + self.params.as_ref().map_or(0, |params| params.get().len())
    }
}

impl Calls {
    /// Returns `true` if more requests may be read: the queued ones are small.
    pub(super) fn can_read_ahead(&self) -> bool {
        self.queued_bytes < READ_AHEAD
    }

    /// Returns `true` if one more call may be in flight. The parameters of all of them, the last one excepted, take no
    /// more space than one request of the maximum size.
    pub(super) fn has_capacity(&self, limits: &Limits) -> bool {
        self.in_flight.len() < limits.in_flight && self.in_flight_bytes < limits.message
    }

    /// Returns a time before which no deadline passes.
    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest_deadline
    }

    /// Returns the mailbox.
    pub(super) fn mailbox(&mut self) -> &Arc<Mailbox> {
        self.mailbox.get_or_insert_default()
    }

    /// Returns the mailbox if there is one.
    pub(super) fn existing_mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.mailbox.as_ref()
    }

    /// Polls for the next outcome, and registers the task to be woken if none is available. Moves calls to the peer to
    /// `posts`, and may then complete without an outcome.
    pub(super) fn poll_reply(
        &mut self,
        cx: &Context<'_>,
        posts: &mut Posts,
    ) -> Poll<Option<(CallId, Outcome)>> {
        if self.ready.is_empty()
            && self
                .mailbox
                .as_ref()
                .is_none_or(|mailbox| mailbox.poll(cx, &mut self.ready, posts).is_pending())
        {
            return Poll::Pending;
        }
        Poll::Ready(self.ready.pop_front())
    }

    /// Returns the calls in flight whose deadline has passed.
    pub(super) fn expired(&self, now: Instant) -> Vec<CallId> {
        self.in_flight.iter().filter(|(_, call)| call.deadline <= now).map(|(id, _)| *id).collect()
    }

    /// Returns the calls in flight.
    pub(super) fn in_flight(&self) -> Vec<CallId> {
        self.in_flight.keys().copied().collect()
    }

    /// Removes and returns a queued request whose deadline has passed. Updates the earliest deadline after the last
    /// one.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<QueuedRequest> {
        if let Some(at) = self.queue.iter().position(|request| request.deadline <= now) {
            return self.remove_queued(at);
        }
        let in_flight = self.in_flight.values().map(|call| call.deadline);
        let delayed = self.queue.front().and_then(|first| first.not_before).filter(|until| *until > now);
        self.earliest_deadline =
            in_flight.chain(self.queue.iter().map(|request| request.deadline)).chain(delayed).min();
        None
    }

    /// Returns `true` if no request is queued.
    pub(super) fn is_queue_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns `true` if the first queued request presents a token.
    pub(super) fn is_auth_next(&self) -> bool {
        self.queue.front().is_some_and(|first| first.method == Grants::AUTH)
    }

    /// Returns `true` if the first queued request is a token that must be delayed further. `delay` returns the delay of
    /// one that has just become the first.
    pub(super) fn is_auth_delayed(&mut self, now: Instant, delay: impl FnOnce() -> Option<Duration>) -> bool {
        let Some(first) = self.queue.front_mut().filter(|first| first.method == Grants::AUTH) else {
            return false;
        };
        if first.not_before.is_none() {
            first.not_before = Some(now + delay().unwrap_or_default());
        }
        let until = first.not_before.filter(|until| *until > now);
        until.is_some_and(|until| {
            self.note_deadline(until);
            true
        })
    }

    /// Appends a request to the queue.
    pub(super) fn enqueue(&mut self, request: QueuedRequest) {
        self.note_deadline(request.deadline);
        self.queued_bytes += request.bytes();
        self.queue.push_back(request);
    }

    /// Removes and returns the first queued request.
    pub(super) fn pop_queued(&mut self) -> Option<QueuedRequest> {
        if self.queue.is_empty() { None } else { self.remove_queued(0) }
    }

    /// Removes and returns the queued request with this id.
    pub(super) fn remove_queued_by_id(&mut self, id: &Id<'_>) -> Option<QueuedRequest> {
        let at = self.queue.iter().position(|request| request.id.as_ref() == Some(id))?;
        self.remove_queued(at)
    }

    fn remove_queued(&mut self, at: usize) -> Option<QueuedRequest> {
        let request = self.queue.remove(at)?;
        self.queued_bytes -= request.bytes();
        Some(request)
    }

    /// Adds a call in flight, whose parameters take `bytes` bytes, and returns the right to answer it. With
    /// an access log, `logged` is when it arrived.
    pub(super) fn insert(
        &mut self,
        id: Option<&Id<'_>>,
        batch: Option<BatchId>,
        &CallHead { method, deadline, .. }: &CallHead<'_>,
        bytes: usize,
        logged: Option<Instant>,
    ) -> Responder {
        self.note_deadline(deadline);
        self.in_flight_bytes += bytes;
        self.last_id += 1;
        if let Some(received_at) = logged {
            self.logged.insert(self.last_id, (method.to_owned(), received_at));
        }
        let responder = Responder::new(self.mailbox.get_or_insert_default(), self.last_id, id.is_none());
        let id = id.cloned().map(Id::into_owned);
        self.in_flight.insert(self.last_id, InFlight { id, batch, deadline, bytes });
        responder
    }

    /// Returns the call in flight with this id.
    pub(super) fn find(&self, id: &Id<'_>) -> Option<CallId> {
        self.in_flight.iter().find(|(_, call)| call.id.as_ref() == Some(id)).map(|(call, _)| *call)
    }

    /// Cancels a call, or drops its outcome if it has one. The call remains in flight until it is
    /// [removed](Self::remove).
    pub(super) fn cancel(&mut self, call: CallId) {
        match self.ready.iter().position(|(answered, _)| *answered == call) {
            Some(at) => drop(self.ready.remove(at)),
            None => self.mailbox.iter().for_each(|mailbox| mailbox.cancel(call)),
        }
    }

    /// Removes and returns a call. `None` if it was cancelled meanwhile.
    pub(super) fn remove(&mut self, call: CallId) -> Option<InFlight> {
        let removed = self.in_flight.remove(&call)?;
        self.in_flight_bytes -= removed.bytes;
        Some(removed)
    }

    /// Removes and returns the method and arrival of a call, if they are kept for the access log.
    pub(super) fn take_logged(&mut self, call: CallId) -> Option<(String, Instant)> {
        if self.logged.is_empty() { None } else { self.logged.remove(&call) }
    }

    fn note_deadline(&mut self, deadline: Instant) {
        self.earliest_deadline =
            Some(self.earliest_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Returns `true` if every request is answered. Notifications may be in flight.
    pub(super) fn are_answered(&self) -> bool {
        self.queue.is_empty() && self.in_flight.values().all(|call| call.id.is_none())
    }

    /// Returns `true` if no request and no notification is queued or in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Writes the calls in flight to the access log, as abandoned by a peer that has disconnected.
    pub(super) fn log_abandoned(&mut self, grants: &Grants, now: Instant) {
        for (_, (method, received_at)) in self.logged.drain() {
            grants.log_abandoned(&method, now.saturating_duration_since(received_at));
        }
    }

    /// Cancels all calls but notifications, since the peer has disconnected. Returns the number of calls in flight.
    pub(super) fn close(&self) -> u64 {
        if let Some(mailbox) = &self.mailbox {
            mailbox.close();
        }
        self.in_flight.len() as u64
    }

    /// Releases unused memory.
    pub(super) fn shrink(&mut self) {
        self.in_flight.shrink_to_fit();
        self.logged.shrink_to_fit();
        self.queue.shrink_to_fit();
        self.ready.shrink_to_fit();
        if let Some(mailbox) = &self.mailbox {
            mailbox.shrink();
        }
    }
}
