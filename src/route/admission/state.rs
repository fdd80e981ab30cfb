//! Which calls run and which are queued: the part of admission that is decided under the lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use super::limit::Limit;
use crate::config::{WhenFull, Workers};
use crate::message::{Fault, RawJson, code};
use crate::route::call::{Call, Responder};
use crate::route::{Caller, Provider, ProviderKind};

/// A call that waits for workers.
pub(super) struct QueuedCall {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) method: String,
    pub(super) params: Option<RawJson<'static>>,
    pub(super) deadline: Instant,
    pub(super) hops: u32,
    pub(super) caller: Caller,
    pub(super) responder: Responder,
    /// Unique, and increasing in order of arrival.
    sequence: u64,
}

impl QueuedCall {
    pub(super) fn new(provider: Arc<dyn Provider>, mut call: Call<'_>) -> Self {
        let (method, params) = (call.method().to_owned(), call.take_params().map(RawJson::into_owned));
        let (deadline, hops) = (call.deadline(), call.hops());
        let caller = call.caller().clone();
        Self { provider, method, params, deadline, hops, caller, responder: call.defer(), sequence: 0 }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    fn is_notification(&self) -> bool {
        !self.responder.expects_reply()
    }
}

/// A call that will not run, and why. To be answered outside of the lock.
pub(super) type Rejected = (QueuedCall, Fault);

/// The running and queued calls of one function or family.
#[derive(Default)]
struct FunctionQueue {
    /// The function is registered, or somebody who has found it before may still call it.
    in_use: bool,
    /// The function is no longer registered.
    is_retired: bool,
    kind: ProviderKind,
    /// Nothing provides the function any longer, so that no further call waits.
    is_withdrawn: bool,
    /// The index of the limit of its own, if any.
    own: Option<usize>,
    /// Indices of the limits that apply, from the function's own to the node's. Scopes are nested: of any two limits
    /// that functions share, one applies to every function that the other applies to.
    limits: Vec<usize>,
    running: usize,
    queued: VecDeque<QueuedCall>,
    /// The number of notifications among the queued calls.
    notifications: usize,
}

impl FunctionQueue {
    /// Returns `true` if it may become the queue of another function.
    fn is_free(&self) -> bool {
        !self.in_use && self.running == 0 && self.queued.is_empty()
    }
}

/// Invariant: whenever the lock is released, no queued call could run.
#[derive(Default)]
pub(super) struct State {
    /// Those that functions share, of which the node's is the first, and then those of single functions.
    pub(super) limits: Vec<Limit>,
    /// The number of those that functions share.
    shared: usize,
    queues: Vec<FunctionQueue>,
    /// Indices of the queues that are not empty, in round-robin order.
    round_robin: VecDeque<usize>,
    last_sequence: u64,
    /// A lower bound of the deadlines of all queued calls.
    earliest_deadline: Option<Instant>,
    pub(super) closed: bool,
}

impl State {
    /// Replaces the limits that functions share.
    pub(super) fn set_shared(&mut self, shared: Vec<Limit>) {
        let own = self.limits.split_off(self.shared);
        let earlier = std::mem::replace(&mut self.limits, shared);
        for limit in &mut self.limits {
            if let Some(same) = earlier.iter().find(|earlier| earlier.is_shared_like(limit)) {
                limit.take_counters(same);
            }
        }
        self.shared = self.limits.len();
        self.limits.extend(own);
        for queue in &mut self.queues {
            queue.own = queue.own.map(|at| at - earlier.len() + self.shared);
            let shared = (0..self.shared).rev().filter(|limit| self.limits[*limit].is_shared_by(queue.kind));
            let shared: Vec<_> = shared.collect();
            for limit in &shared {
                let limit = &mut self.limits[*limit];
                limit.functions += usize::from(!queue.is_retired);
                limit.running += queue.running;
                limit.queued += queue.queued.len();
            }
            queue.limits = queue.own.into_iter().chain(shared).collect();
        }
    }

    /// Adds the queue of a function with a limit of its `own`, or without, and returns its index; `None` if no limit
    /// applies.
    pub(super) fn add(&mut self, kind: ProviderKind, own: Option<Limit>) -> Option<usize> {
        let mut limits: Vec<_> =
            (0..self.shared).rev().filter(|limit| self.limits[*limit].is_shared_by(kind)).collect();
        if own.is_none() && limits.is_empty() {
            return None;
        }
        // A free queue is reused together with the limit of its own.
        let is_fit = |queue: &FunctionQueue| queue.is_free() && queue.own.is_some() == own.is_some();
        let index = self.queues.iter().position(is_fit).unwrap_or_else(|| {
            let own = own.is_some().then_some(self.limits.len());
            self.queues.push(FunctionQueue { own, ..FunctionQueue::default() });
            self.queues.len() - 1
        });
        let queue = &mut self.queues[index];
        if let (Some(at), Some(own)) = (queue.own, own) {
            match self.limits.get_mut(at) {
                Some(limit) => *limit = own,
                None => self.limits.push(own),
            }
            limits.insert(0, at);
        }
        limits.iter().for_each(|limit| self.limits[*limit].functions += 1);
        (queue.in_use, queue.is_retired, queue.is_withdrawn) = (true, false, false);
        (queue.kind, queue.limits) = (kind, limits);
        Some(index)
    }

    /// Notes that a function is no longer registered.
    pub(super) fn retire(&mut self, queue: usize) {
        let FunctionQueue { is_retired, limits, .. } = &mut self.queues[queue];
        if !std::mem::replace(is_retired, true) {
            limits.iter().for_each(|limit| self.limits[*limit].functions -= 1);
        }
    }

    /// Removes a function. Its queue remains until its calls have ended.
    pub(super) fn remove_function(&mut self, queue: usize) {
        self.retire(queue);
        self.queues[queue].in_use = false;
        while self.queues.last().is_some_and(FunctionQueue::is_free) {
            // Limits of functions are in the order of their queues.
            let last = self.queues.pop().and_then(|queue| queue.own);
            self.limits.truncate(last.unwrap_or(self.limits.len()));
        }
        self.queues.shrink_to(2 * self.queues.len());
        self.limits.shrink_to(2 * self.limits.len());
    }

    /// Changes the limit of a function's own, if it has one.
    pub(super) fn set_workers(&mut self, queue: usize, count: usize) {
        if let Some(own) = self.queues[queue].own {
            self.limits[own].set_workers(count);
        }
    }

    /// Replaces the limit of a function's own, if it has one.
    pub(super) fn set_limit(&mut self, queue: usize, workers: &Workers) {
        if let Some(own) = self.queues[queue].own {
            self.limits[own].configure(workers);
        }
    }

    /// Has the calls of a queue answered by another provider. Returns the replaced ones.
    pub(super) fn set_provider(
        &mut self,
        queue: usize,
        provider: &Arc<dyn Provider>,
    ) -> Vec<Arc<dyn Provider>> {
        let queued = &mut self.queues[queue].queued;
        queued.iter_mut().map(|call| std::mem::replace(&mut call.provider, provider.clone())).collect()
    }

    /// Acquires the workers of a new call, if it may run now.
    pub(super) fn try_start(&mut self, queue: usize) -> bool {
        let starts = !self.closed && self.queues[queue].queued.is_empty() && self.has_room(queue);
        if starts {
            self.acquire(queue);
        }
        starts
    }

    /// Releases the workers of a call, and returns the next one. One call that ends never allows two to start: both were
    /// held back by a limit that applies to both, and the first one reaches it again.
    pub(super) fn finish(&mut self, queue: usize) -> Option<(usize, QueuedCall)> {
        self.queues[queue].running -= 1;
        for limit in &self.queues[queue].limits {
            self.limits[*limit].running -= 1;
        }
        self.next()
    }

    /// Acquires the workers of the next queued call that can run, and returns it with its queue's index.
    pub(super) fn next(&mut self) -> Option<(usize, QueuedCall)> {
        let at = self.round_robin.iter().position(|queue| self.has_room(*queue))?;
        let next = self.round_robin[at];
        self.acquire(next);
        let call = self.remove(next, 0)?;
        if !self.queues[next].queued.is_empty() {
            self.round_robin.remove(at);
            self.round_robin.push_back(next);
        }
        Some((next, call))
    }

    /// Queues a call, and registers the waker that `waker` makes for its sequence number, to be woken when the call is
    /// cancelled. Returns the calls that are rejected: those that make room for it, or the call itself.
    pub(super) fn enqueue(
        &mut self,
        queue: usize,
        mut call: QueuedCall,
        waker: impl FnOnce(u64) -> Waker,
        now: Instant,
    ) -> Vec<Rejected> {
        if self.closed {
            return vec![(call, closed())];
        }
        if self.queues[queue].is_withdrawn {
            return vec![(call, withdrawn(self.queues[queue].kind))];
        }
        let mut rejected = Vec::new();
        if let Err(fault) = self.make_room(queue, call.is_notification(), now, &mut rejected) {
            rejected.push((call, fault));
            return rejected;
        }
        self.last_sequence += 1;
        call.sequence = self.last_sequence;
        if call.responder.poll_cancelled(&Context::from_waker(&waker(call.sequence))).is_ready() {
            rejected.push((call, cancelled()));
            return rejected;
        }
        let deadline = self.earliest_deadline.map_or(call.deadline, |earliest| earliest.min(call.deadline));
        self.earliest_deadline = Some(deadline);
        self.insert(queue, call);
        rejected
    }

    /// Adds a call to a queue, in order of arrival.
    fn insert(&mut self, queue: usize, call: QueuedCall) {
        let FunctionQueue { limits, queued, notifications, .. } = &mut self.queues[queue];
        if queued.is_empty() {
            self.round_robin.push_back(queue);
        }
        limits.iter().for_each(|limit| self.limits[*limit].queued += 1);
        *notifications += usize::from(call.is_notification());
        let at = queued.partition_point(|other| other.sequence < call.sequence);
        queued.insert(at, call);
    }

    /// Moves the calls that wait in one queue to another. The first one takes no more. `waker` is as in `enqueue`.
    pub(super) fn move_waiting(&mut self, from: usize, to: usize, waker: impl Fn(u64) -> Waker) {
        self.queues[from].is_withdrawn = true;
        while let Some(call) = self.remove(from, 0) {
            // One that is cancelled at this moment is answered when it starts.
            let _ = call.responder.poll_cancelled(&Context::from_waker(&waker(call.sequence)));
            self.insert(to, call);
        }
    }

    /// Removes the calls that wait for a function that nothing provides any longer. No further one waits.
    pub(super) fn withdraw(&mut self, queue: usize) -> Vec<Rejected> {
        let FunctionQueue { is_withdrawn, kind, .. } = &mut self.queues[queue];
        *is_withdrawn = true;
        let kind = *kind;
        let mut rejected = Vec::new();
        while let Some(call) = self.remove(queue, 0) {
            rejected.push((call, withdrawn(kind)));
        }
        rejected
    }

    /// Makes room for one more queued call, or returns the fault of the limit that leaves none. At most one call is
    /// rejected: a call that leaves the queue of one limit leaves those of all wider limits too.
    fn make_room(
        &mut self,
        queue: usize,
        notification: bool,
        now: Instant,
        rejected: &mut Vec<Rejected>,
    ) -> Result<(), Fault> {
        for at in 0..self.queues[queue].limits.len() {
            let limit = self.queues[queue].limits[at];
            let Limit { queue: max_queued, when_full, .. } = self.limits[limit];
            if when_full == WhenFull::Wait {
                // Calls in flight do not bound notifications: their sender may disconnect, and send more over another
                // connection.
                if notification && self.queues[queue].notifications >= max_queued {
                    rejected.extend(self.expire(now));
                    if self.queues[queue].notifications >= max_queued {
                        return Err(self.limits[limit].refuse());
                    }
                }
                continue;
            }
            if self.limits[limit].queued < max_queued {
                continue;
            }
            rejected.extend(self.expire(now));
            if self.limits[limit].queued < max_queued {
                continue;
            }
            let victim = match when_full {
                WhenFull::Shed => self.longest_queue(limit).map(|queue| (queue, 0)),
                _ => self.longest_queue(limit).and_then(|other| {
                    let (length, own) = (self.queues[other].queued.len(), self.queues[queue].queued.len());
                    (length > own + 1).then_some((other, length - 1))
                }),
            };
            let Some(call) = victim.and_then(|(queue, at)| self.remove(queue, at)) else {
                return Err(self.limits[limit].refuse());
            };
            let limit = &mut self.limits[limit];
            let fault = if when_full == WhenFull::Shed { limit.shed() } else { limit.refuse() };
            rejected.push((call, fault));
        }
        Ok(())
    }

    /// Returns the queue with the most calls among those that a limit applies to; of several, the one whose first call
    /// has waited longest.
    fn longest_queue(&self, limit: usize) -> Option<usize> {
        let limited = self.round_robin.iter().filter(|queue| self.queues[**queue].limits.contains(&limit));
        let key = |queue: &&usize| {
            let queued = &self.queues[**queue].queued;
            (queued.len(), queued.front().map(|first| std::cmp::Reverse(first.sequence)))
        };
        limited.max_by_key(key).copied()
    }

    /// Removes the call with this sequence number from its queue if it is cancelled. Otherwise registers `waker` again.
    pub(super) fn remove_cancelled(
        &mut self,
        queue: usize,
        sequence: u64,
        waker: &Waker,
        now: Instant,
    ) -> Option<Rejected> {
        let queued = &self.queues.get(queue)?.queued;
        let at = queued.binary_search_by_key(&sequence, |call| call.sequence).ok()?;
        if queued[at].responder.poll_cancelled(&Context::from_waker(waker)).is_pending() {
            return None;
        }
        let call = self.remove(queue, at)?;
        let fault = if call.is_expired(now) { expired() } else { cancelled() };
        Some((call, fault))
    }

    /// Removes the calls whose deadline has passed. A session cancels its expired calls itself; this covers those that
    /// no session tracks.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Rejected> {
        if self.earliest_deadline.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut rejected = Vec::new();
        for queue in 0..self.queues.len() {
            while let Some(at) = self.queues[queue].queued.iter().position(|call| call.is_expired(now)) {
                rejected.extend(self.remove(queue, at).map(|call| (call, expired())));
            }
        }
        let deadlines = self.queues.iter().flat_map(|queue| queue.queued.iter().map(|call| call.deadline));
        self.earliest_deadline = deadlines.min();
        rejected
    }

    /// Removes all queued calls, and lets no further call queue or run.
    pub(super) fn close(&mut self) -> Vec<Rejected> {
        self.closed = true;
        let mut rejected = Vec::new();
        for queue in 0..self.queues.len() {
            while let Some(call) = self.remove(queue, 0) {
                rejected.push((call, closed()));
            }
        }
        rejected
    }

    fn has_room(&self, queue: usize) -> bool {
        let FunctionQueue { limits, running, .. } = &self.queues[queue];
        limits.iter().all(|limit| self.limits[*limit].has_room(*running))
    }

    fn acquire(&mut self, queue: usize) {
        let FunctionQueue { limits, running, .. } = &mut self.queues[queue];
        *running += 1;
        limits.iter().for_each(|limit| self.limits[*limit].running += 1);
    }

    /// Removes a call from its queue.
    fn remove(&mut self, queue: usize, at: usize) -> Option<QueuedCall> {
        let FunctionQueue { limits, queued, notifications, .. } = &mut self.queues[queue];
        let call = queued.remove(at)?;
        limits.iter().for_each(|limit| self.limits[*limit].queued -= 1);
        *notifications -= usize::from(call.is_notification());
        if queued.is_empty() {
            queued.shrink_to_fit();
            self.round_robin.retain(|other| *other != queue);
        }
        Some(call)
    }
}

fn cancelled() -> Fault {
    Fault::new(code::CANCELLED, "cancelled by the caller")
}

pub(super) fn expired() -> Fault {
    Fault::new(code::DEADLINE, "the deadline passed before a worker was free")
}

fn withdrawn(kind: ProviderKind) -> Fault {
    Fault::not_sent(match kind {
        ProviderKind::Peer => "the peer that offered the function is gone",
        _ => "the function was withdrawn before a worker was free",
    })
}

fn closed() -> Fault {
    Fault::new(code::CLOSED, "the node is stopping").unsent()
}
