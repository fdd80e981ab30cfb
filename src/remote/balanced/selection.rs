//! Which of many nodes are looked at for a call, so that its cost does not grow with their number.

use super::choice::{Candidate, Readiness, choose, is_probe, mix};
use super::index_set::IndexSet;
use crate::config::Balance;

/// Up to this number of nodes, all are looked at for each call. Of more, a call has this number to choose from.
pub(super) const FEW: usize = 8;
/// Nodes that were not connected, and are looked at again for a call.
const RECHECKS: usize = 4;
/// Nodes that are tried for a key before the one that follows in the order of the configuration.
const KEY_PROBES: usize = 64;
/// The maximum number of nodes whose failures an error names, besides those that were asked.
const MAX_REASONS: usize = 16;

/// Nodes by whether they were connected when they were last looked at.
///
/// The nodes that may take a call are a window of those that are up, which moves by one with each call: so loads are
/// even, and a busy or slow node is passed over. One that has no connection any longer is found out when it is in the
/// window. Of those that are out, a few are looked at for each call.
#[derive(Debug)]
pub(super) struct Selection {
    count: usize,
    up: IndexSet,
    out: IndexSet,
    /// The node whose turn it is.
    next: usize,
    next_out: usize,
}

impl Selection {
    /// Creates the selection of `count` nodes, which have no connection yet.
    pub(super) fn new(count: usize) -> Self {
        let (up, mut out) = (IndexSet::new(count), IndexSet::new(count));
        (0..count).for_each(|index| out.insert(index));
        Self { count, up, out, next: 0, next_out: 0 }
    }

    /// Chooses a node for a call; `look` returns what is known of one, or why it has no connection. Nodes without one, and
    /// those that have failed before, are `failures`. The `turn` is another number for each call.
    pub(super) fn choose<E>(
        &mut self,
        balance: Balance,
        turn: usize,
        key: Option<u64>,
        failures: &mut Vec<(usize, E)>,
        look: &mut dyn FnMut(usize) -> Result<Candidate, E>,
    ) -> Option<usize> {
        if self.count <= FEW {
            let mut candidates = Vec::with_capacity(self.count);
            for index in 0..self.count {
                if failures.iter().any(|(failed, _)| *failed == index) {
                    continue;
                }
                match look(index) {
                    Ok(candidate) => candidates.push(candidate),
                    Err(error) => failures.push((index, error)),
                }
            }
            return choose(balance, Some(turn), key, &candidates);
        }
        self.recheck(look);
        let candidates = match key {
            Some(key) => self.by_key(key, failures, look),
            None => self.window(balance, turn, failures, look),
        };
        if candidates.is_empty() {
            return self.connecting(failures, look);
        }
        choose(balance, None, None, &candidates)
    }

    /// Looks at a few nodes that were not connected.
    fn recheck<E>(&mut self, look: &mut dyn FnMut(usize) -> Result<Candidate, E>) {
        for _ in 0..RECHECKS {
            let Some(index) = self.out.next(self.next_out) else { return };
            self.next_out = index + 1;
            if look(index).is_ok_and(|candidate| is_up(&candidate)) {
                self.out.remove(index);
                self.up.insert(index);
            }
        }
    }

    /// Looks at a node that was up. If it is no longer, it is out.
    fn look_at_up<E>(
        &mut self,
        index: usize,
        failures: &mut Vec<(usize, E)>,
        look: &mut dyn FnMut(usize) -> Result<Candidate, E>,
    ) -> Option<Candidate> {
        if failures.iter().any(|(failed, _)| *failed == index) {
            return None;
        }
        match look(index) {
            Ok(candidate) if is_up(&candidate) => return Some(candidate),
            Ok(_) => {}
            Err(error) if failures.len() < MAX_REASONS => failures.push((index, error)),
            Err(_) => {}
        }
        self.up.remove(index);
        self.out.insert(index);
        None
    }

    /// Returns nodes that are up, in turn.
    fn window<E>(
        &mut self,
        balance: Balance,
        turn: usize,
        failures: &mut Vec<(usize, E)>,
        look: &mut dyn FnMut(usize) -> Result<Candidate, E>,
    ) -> Vec<Candidate> {
        let wanted = if balance == Balance::Least && !is_probe(turn) { FEW } else { 1 };
        let start = if balance == Balance::First { 0 } else { self.next };
        let found = self.circle(start, wanted, failures, look);
        if let Some(first) = found.first() {
            self.next = first.index + 1;
        }
        found
    }

    /// Returns `wanted` nodes from `start` on that are up and do not refuse calls, or one that does if there is no other.
    fn circle<E>(
        &mut self,
        start: usize,
        wanted: usize,
        failures: &mut Vec<(usize, E)>,
        look: &mut dyn FnMut(usize) -> Result<Candidate, E>,
    ) -> Vec<Candidate> {
        let (mut found, mut refusing) = (Vec::with_capacity(wanted), None);
        for part in [start..self.count, 0..start.min(self.count)] {
            let mut at = part.start;
            while found.len() < wanted {
                let Some(index) = self.up.first_from(at).filter(|index| part.contains(index)) else { break };
                at = index + 1;
                if let Some(candidate) = self.look_at_up(index, failures, look) {
                    if candidate.readiness == Readiness::Refusing {
                        refusing = refusing.or(Some(candidate));
                    } else {
                        found.push(candidate);
                    }
                }
            }
        }
        if found.is_empty() {
            found.extend(refusing);
        }
        found
    }

    /// Returns the first node that is up in an order that depends on the key only. If a node is lost, only its keys go
    /// elsewhere, each to another one.
    fn by_key<E>(
        &mut self,
        key: u64,
        failures: &mut Vec<(usize, E)>,
        look: &mut dyn FnMut(usize) -> Result<Candidate, E>,
    ) -> Vec<Candidate> {
        // Rendezvous hashing looks at all nodes. The bias of the remainder does not matter.
        let place = |number: u64| usize::try_from(mix(key ^ mix(number)) % self.count as u64).unwrap_or(0);
        let probes: [usize; KEY_PROBES] = std::array::from_fn(|number| place(number as u64));
        for index in probes {
            if self.up.contains(index)
                && let Some(candidate) = self.look_at_up(index, failures, look)
                && candidate.readiness == Readiness::Connected
            {
                return vec![candidate];
            }
        }
        self.circle(probes[0], 1, failures, look)
    }

    /// Chooses one of the nodes that are about to connect, if none is up.
    fn connecting<E>(
        &mut self,
        failures: &mut Vec<(usize, E)>,
        look: &mut dyn FnMut(usize) -> Result<Candidate, E>,
    ) -> Option<usize> {
        for _ in 0..MAX_REASONS {
            let index = self.out.next(self.next_out)?;
            self.next_out = index + 1;
            if failures.iter().any(|(failed, _)| *failed == index) {
                continue;
            }
            match look(index) {
                Ok(_) => return Some(index),
                Err(error) if failures.len() < MAX_REASONS => failures.push((index, error)),
                Err(_) => {}
            }
        }
        None
    }
}

/// Returns `true` if a call would be sent at once.
fn is_up(candidate: &Candidate) -> bool {
    candidate.readiness != Readiness::Connecting
}
