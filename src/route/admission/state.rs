//! Which calls run and which wait: all that is decided under the lock.

use std::collections::VecDeque;
use std::task::{Context, Waker};
use std::time::Instant;

use super::gate::Gate;
use crate::config::WhenFull;
use crate::message::{Fault, RawJson, code};
use crate::route::call::{Call, Reply};

/// A call that waits for its turn.
pub(super) struct Waiting {
    pub(super) method: String,
    pub(super) params: Option<RawJson<'static>>,
    pub(super) deadline: Instant,
    pub(super) hops: u32,
    pub(super) reply: Reply,
    /// Tells it apart; later calls have larger ones.
    ticket: u64,
}

impl Waiting {
    pub(super) fn new(call: Call<'_>) -> Self {
        let Call { method, params, deadline, hops, reply } = call;
        let (method, params) = (method.to_owned(), params.map(RawJson::into_owned));
        Self { method, params, deadline, hops, reply, ticket: 0 }
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    fn is_notification(&self) -> bool {
        !self.reply.is_wanted()
    }
}

/// A call that waits no longer and will not run, and why. To be answered without the lock.
pub(super) type Turned = (Waiting, Fault);

/// One function or family whose calls pass gates.
pub(super) struct Lane {
    /// The gates that its calls pass, from its own to the node's. Of any two that functions share, one is passed by
    /// all who pass the other.
    path: Vec<usize>,
    /// Calls that run.
    busy: usize,
    waiting: VecDeque<Waiting>,
    /// Of those that wait.
    notifications: usize,
}

impl Lane {
    pub(super) fn new(path: Vec<usize>) -> Self {
        Self { path, busy: 0, waiting: VecDeque::new(), notifications: 0 }
    }
}

/// Invariant: outside of the lock no call waits that could begin.
#[derive(Default)]
pub(super) struct State {
    pub(super) gates: Vec<Gate>,
    pub(super) lanes: Vec<Lane>,
    /// Lanes with calls that wait; whose turn is next stands first.
    turns: VecDeque<usize>,
    last_ticket: u64,
    /// No deadline of a call that waits is earlier.
    earliest: Option<Instant>,
    pub(super) closed: bool,
}

impl State {
    /// Takes the workers for a call that has just come, if it may run now.
    pub(super) fn enter(&mut self, lane: usize) -> bool {
        let enters = !self.closed && self.lanes[lane].waiting.is_empty() && self.has_room(lane);
        if enters {
            self.begin(lane);
        }
        enters
    }

    /// Gives the workers of a call back, and takes them for the next whose turn it is, which is returned. One that
    /// ends never lets two begin: what kept both was a gate that both pass, and the first fills it again.
    pub(super) fn leave(&mut self, lane: usize) -> Option<(usize, Waiting)> {
        self.lanes[lane].busy -= 1;
        for gate in &self.lanes[lane].path {
            self.gates[*gate].busy -= 1;
        }
        let at = self.turns.iter().position(|lane| self.has_room(*lane))?;
        let next = self.turns[at];
        self.begin(next);
        let waiting = self.take(next, 0)?;
        if !self.lanes[next].waiting.is_empty() {
            self.turns.remove(at);
            self.turns.push_back(next);
        }
        Some((next, waiting))
    }

    /// Has a call wait, and `waker` made with its ticket woken when nobody wants its answer any more. Returns those that
    /// lose their place by it, or the call itself if it gets none.
    pub(super) fn wait(
        &mut self,
        lane: usize,
        mut waiting: Waiting,
        waker: impl FnOnce(u64) -> Waker,
        now: Instant,
    ) -> Vec<Turned> {
        if self.closed {
            return vec![(waiting, closed())];
        }
        let mut turned = Vec::new();
        if let Err(fault) = self.make_room(lane, waiting.is_notification(), now, &mut turned) {
            turned.push((waiting, fault));
            return turned;
        }
        self.last_ticket += 1;
        waiting.ticket = self.last_ticket;
        if waiting.reply.poll_cancelled(&Context::from_waker(&waker(waiting.ticket))).is_ready() {
            turned.push((waiting, cancelled()));
            return turned;
        }
        self.earliest =
            Some(self.earliest.map_or(waiting.deadline, |earliest| earliest.min(waiting.deadline)));
        let Lane { path, waiting: queue, notifications, .. } = &mut self.lanes[lane];
        if queue.is_empty() {
            self.turns.push_back(lane);
        }
        path.iter().for_each(|gate| self.gates[*gate].waiting += 1);
        *notifications += usize::from(waiting.is_notification());
        queue.push_back(waiting);
        turned
    }

    /// Makes room for one more call to wait, or tells why there is none. At most one call has to go for it: what leaves
    /// the queue of one gate leaves those of the gates behind it too.
    fn make_room(
        &mut self,
        lane: usize,
        notification: bool,
        now: Instant,
        turned: &mut Vec<Turned>,
    ) -> Result<(), Fault> {
        for at in 0..self.lanes[lane].path.len() {
            let gate = self.lanes[lane].path[at];
            let Gate { queue, when_full, .. } = self.gates[gate];
            if when_full == WhenFull::Wait {
                // Nobody waits for a notification: its sender may be gone, and send more by another connection.
                if notification && self.lanes[lane].notifications >= queue {
                    turned.extend(self.take_late(now));
                    if self.lanes[lane].notifications >= queue {
                        return Err(self.gates[gate].refuse());
                    }
                }
                continue;
            }
            if self.gates[gate].waiting < queue {
                continue;
            }
            turned.extend(self.take_late(now));
            if self.gates[gate].waiting < queue {
                continue;
            }
            let loser = match when_full {
                WhenFull::Shed => self.longest(gate).map(|lane| (lane, 0)),
                _ => self.longest(gate).and_then(|other| {
                    let (length, own) = (self.lanes[other].waiting.len(), self.lanes[lane].waiting.len());
                    (length > own + 1).then_some((other, length - 1))
                }),
            };
            let Some(waiting) = loser.and_then(|(lane, at)| self.take(lane, at)) else {
                return Err(self.gates[gate].refuse());
            };
            let gate = &mut self.gates[gate];
            let fault = if when_full == WhenFull::Shed { gate.shed() } else { gate.refuse() };
            turned.push((waiting, fault));
        }
        Ok(())
    }

    /// The lane through a gate with the most calls waiting; of several, the one whose first has waited longest.
    fn longest(&self, gate: usize) -> Option<usize> {
        let through = self.turns.iter().filter(|lane| self.lanes[**lane].path.contains(&gate));
        let key = |lane: &&usize| {
            let waiting = &self.lanes[**lane].waiting;
            (waiting.len(), waiting.front().map(|first| std::cmp::Reverse(first.ticket)))
        };
        through.max_by_key(key).copied()
    }

    /// Takes the call with this ticket out of its queue if nobody wants its answer any more. Otherwise it goes on waiting,
    /// and `waker` is for the next time.
    pub(super) fn give_up(
        &mut self,
        lane: usize,
        ticket: u64,
        waker: &Waker,
        now: Instant,
    ) -> Option<Turned> {
        let queue = &self.lanes[lane].waiting;
        let at = queue.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        if queue[at].reply.poll_cancelled(&Context::from_waker(waker)).is_pending() {
            return None;
        }
        let waiting = self.take(lane, at)?;
        let fault = if waiting.is_late(now) { late() } else { cancelled() };
        Some((waiting, fault))
    }

    /// Takes out the calls whose deadline has passed while no session looked after them.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Turned> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut turned = Vec::new();
        for lane in 0..self.lanes.len() {
            while let Some(at) = self.lanes[lane].waiting.iter().position(|waiting| waiting.is_late(now)) {
                turned.extend(self.take(lane, at).map(|waiting| (waiting, late())));
            }
        }
        let deadlines =
            self.lanes.iter().flat_map(|lane| lane.waiting.iter().map(|waiting| waiting.deadline));
        self.earliest = deadlines.min();
        turned
    }

    /// Takes out all calls that wait, and lets none wait or begin any more.
    pub(super) fn close(&mut self) -> Vec<Turned> {
        self.closed = true;
        let mut turned = Vec::new();
        for lane in 0..self.lanes.len() {
            while let Some(waiting) = self.take(lane, 0) {
                turned.push((waiting, closed()));
            }
        }
        turned
    }

    fn has_room(&self, lane: usize) -> bool {
        let Lane { path, busy, .. } = &self.lanes[lane];
        path.iter().all(|gate| self.gates[*gate].has_room(*busy))
    }

    fn begin(&mut self, lane: usize) {
        let Lane { path, busy, .. } = &mut self.lanes[lane];
        *busy += 1;
        path.iter().for_each(|gate| self.gates[*gate].busy += 1);
    }

    /// Takes a call out of its queue.
    fn take(&mut self, lane: usize, at: usize) -> Option<Waiting> {
        let Lane { path, waiting: queue, notifications, .. } = &mut self.lanes[lane];
        let waiting = queue.remove(at)?;
        path.iter().for_each(|gate| self.gates[*gate].waiting -= 1);
        *notifications -= usize::from(waiting.is_notification());
        if queue.is_empty() {
            queue.shrink_to_fit();
            self.turns.retain(|other| *other != lane);
        }
        Some(waiting)
    }
}

fn cancelled() -> Fault {
    Fault::new(code::CANCELLED, "cancelled by the caller")
}

pub(super) fn late() -> Fault {
    Fault::new(code::DEADLINE, "the deadline passed before a worker was free")
}

fn closed() -> Fault {
    Fault::new(code::CLOSED, "the node is stopping")
}
