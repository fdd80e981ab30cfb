//! Several nodes that answer the same calls: which of them gets one, and which else if that has not run it.

mod choice;
mod client;
mod credit;
mod hedge;
mod index_set;
mod record;
mod selection;
#[cfg(test)]
mod simulation;

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::{ConnectionLease, Remote, RemoteError};
use crate::config::Balance;
use crate::message::{Fault, RawJson, code};
use crate::metrics::{Metrics, TargetState, TargetStats};
use crate::route::Peer;
use choice::hash;
pub use client::{Balanced, Policy};
use credit::Credit;
use record::{Outcome, Record};
use selection::Selection;

/// Why nodes did not take a call, which are not asked again.
pub(crate) type Failures = Vec<(usize, RemoteError)>;

/// The nodes, of which there must be at least one.
#[derive(Debug)]
pub(crate) struct Balancer {
    nodes: Vec<Node>,
    settings: BalancerSettings,
    selection: Mutex<Selection>,
    /// The number of calls so far.
    turn: AtomicUsize,
    credit: Credit,
}

/// How calls are distributed.
#[derive(Clone, Debug, Default)]
pub(crate) struct BalancerSettings {
    pub(crate) balance: Balance,
    /// A call may run twice: it is repeated even if it was lost.
    pub(crate) repeatable: bool,
    /// Where repeated calls are counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// A call for whichever node.
#[derive(Clone)]
pub(crate) struct BalancedRequest {
    pub(crate) method: Cow<'static, str>,
    pub(crate) params: Option<RawJson<'static>>,
    pub(crate) deadline: Instant,
    pub(crate) hops: u32,
}

/// One of the nodes.
#[derive(Debug)]
struct Node {
    remote: Remote,
    record: Record,
}

impl Balancer {
    pub(crate) fn new(remotes: impl IntoIterator<Item = Remote>, settings: BalancerSettings) -> Self {
        let nodes: Vec<_> =
            remotes.into_iter().map(|remote| Node { remote, record: Record::default() }).collect();
        let selection = Mutex::new(Selection::new(nodes.len()));
        Self { nodes, settings, selection, turn: AtomicUsize::new(0), credit: Credit::new() }
    }

    pub(crate) fn remotes(&self) -> impl Iterator<Item = &Remote> {
        self.nodes.iter().map(|node| &node.remote)
    }

    pub(crate) fn remote(&self, index: usize) -> &Remote {
        &self.nodes[index].remote
    }

    /// Returns the number of nodes.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Notes a call of a caller.
    pub(crate) fn note_first(&self) {
        if self.nodes.len() > 1 {
            self.credit.earn();
        }
    }

    /// Notes that a node is sent a call, whose answer, or the reason for none, goes to [`note_answer`](Self::note_answer).
    pub(crate) fn note_sent(&self, index: usize) {
        self.nodes[index].record.began();
    }

    /// Notes the answer of a node, and how long it took if that tells of the node.
    pub(crate) fn note_answer(&self, index: usize, began: Option<Instant>, error: Option<&RemoteError>) {
        let record = &self.nodes[index].record;
        record.ended();
        // What is known of a node matters only beside others.
        if let Some(began) = began.filter(|_| self.nodes.len() > 1) {
            let now = Instant::now();
            record.note(outcome(error), now - began, now);
        }
    }

    /// Chooses a node that has not failed. Notes those without a connection as failures.
    pub(crate) fn choose(&self, key: Option<u64>, failures: &mut Failures) -> Option<usize> {
        if self.nodes.len() == 1 {
            return failures.is_empty().then_some(0);
        }
        let now = Instant::now();
        let mut look = |index: usize| {
            let Node { remote, record } = &self.nodes[index];
            let peer = remote.lease().and_then(|lease| lease.connection().peer())?;
            Ok(record.candidate(index, peer.is_some(), now))
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut selection = self.selection.lock().unwrap_or_else(PoisonError::into_inner);
        selection.choose(self.settings.balance, turn, key, failures, &mut look)
    }

    /// Chooses a node whose connection is leased for a call; the peer is `None` while it is about to connect.
    pub(crate) fn lease(
        &self,
        key: Option<u64>,
        failures: &mut Failures,
    ) -> Option<(usize, ConnectionLease, Option<Peer>)> {
        while let Some(index) = self.choose(key, failures) {
            let lease = self.nodes[index].remote.lease();
            match lease.and_then(|lease| Ok((lease.connection().peer()?, lease))) {
                Ok((peer, lease)) => return Some((index, lease, peer)),
                Err(error) => failures.push((index, error)),
            }
        }
        None
    }

    /// Returns `true` if a call that ended with `error` has not run, or may run twice, and another node may be asked.
    pub(crate) fn may_repeat(&self, error: &RemoteError, deadline: Instant) -> bool {
        let is_lost = matches!(error, RemoteError::Lost { .. });
        if !(error.is_unsent() || (is_lost && self.settings.repeatable)) || Instant::now() >= deadline {
            return false;
        }
        self.spend_credit()
    }

    /// Returns `true` if one more call may be made than callers make.
    fn spend_credit(&self) -> bool {
        let is_left = self.credit.spend();
        self.settings.metrics.forward_retries.add(u64::from(is_left));
        is_left
    }

    /// Returns the error if no node is left: that of a node which answered, or the reasons of all.
    pub(crate) fn nobody(&self, mut failures: Failures) -> RemoteError {
        #[derive(Serialize)]
        struct Data {
            sent: bool,
            targets: Vec<Target>,
        }
        #[derive(Serialize)]
        struct Target {
            to: String,
            reason: String,
        }
        let is_answer = |(_, error): &(usize, RemoteError)| !matches!(error, RemoteError::Unreachable { .. });
        if let Some(at) = failures.iter().rposition(is_answer).or((self.nodes.len() == 1).then_some(0)) {
            return failures.swap_remove(at).1;
        }
        let reason = |error| match error {
            RemoteError::Unreachable { reason, .. } => reason,
            error => error.to_string(),
        };
        let to = |index: usize| self.nodes[index].remote.address().to_owned();
        let target = |(index, error)| Target { to: to(index), reason: reason(error) };
        let targets = failures.into_iter().map(target).collect();
        let message = format!("none of {} nodes took the call", self.nodes.len());
        let data = Data { sent: false, targets };
        RemoteError::Fault(Fault::new(code::NO_PROVIDER, message).with_data(&data))
    }

    /// Returns the states of the nodes.
    pub(crate) fn targets(&self) -> Vec<TargetStats> {
        let now = Instant::now();
        let target = |Node { remote, record }: &Node| {
            let (state, time, reason) = remote.health();
            let is_refusing = state == TargetState::Up && record.is_refusing(now);
            TargetStats {
                to: remote.address().to_owned(),
                state: if is_refusing { TargetState::Refused } else { state },
                seconds: time.as_secs(),
                in_flight: record.in_flight() as u64,
                reason,
            }
        };
        self.nodes.iter().map(target).collect()
    }
}

/// Returns what an answer tells of a node.
fn outcome(error: Option<&RemoteError>) -> Outcome {
    match error {
        None => Outcome::Result,
        Some(error @ RemoteError::Fault(fault)) if fault.code != code::BUSY && error.is_unsent() => {
            Outcome::Refusal
        }
        Some(_) => Outcome::Other,
    }
}

/// Returns a number for the value of a parameter: a member of an object, or the element of an array at a position.
pub(crate) fn key_of(key: &str, params: &str) -> Option<u64> {
    let params: serde_json::Value = serde_json::from_str(params).ok()?;
    let value = match key.parse::<usize>() {
        Ok(position) => params.get(position)?,
        Err(_) => params.get(key)?,
    };
    Some(hash(&value.to_string()))
}
