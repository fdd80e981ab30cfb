//! What is followed at a node: the state of each name, and how far each topic has been received. It knows no connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::told::Told;
use crate::message::RawJson;
use crate::route::{Way, covers};

/// How long after a refusal that may be temporary a subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The number of refusals after which that time no longer doubles.
const MAX_FAILURES: u32 = 5;
/// The maximum number of topics whose last number is known.
const MAX_POSITIONS: usize = 4096;

#[derive(Default)]
pub(super) struct State {
    pub(super) names: BTreeMap<String, Name>,
    pub(super) positions: FxHashMap<String, Position>,
    pub(super) epoch: Option<String>,
    /// The number of the last request, so that an answer counts for its own request only.
    pub(super) ticket: u64,
    /// How often subscribers have come or gone.
    pub(super) generation: u64,
}

/// A topic or family to subscribe to.
pub(super) struct Name {
    pub(super) way: Way,
    pub(super) phase: Phase,
    /// Subscribers need it.
    pub(super) is_wanted: bool,
    /// The node was asked before the way became what it is.
    pub(super) is_stale: bool,
    /// How often it has been refused or has ended over this connection, without an event.
    pub(super) failures: u32,
    /// It was subscribed to before, so that events may have been missed since.
    pub(super) resumes: bool,
    /// The number of the last request for it.
    pub(super) ticket: u64,
    pub(super) told: ToldMissed,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// The node is to be asked.
    New,
    Asked,
    Subscribed,
    /// Asked again, for a way that has changed.
    Renewing,
    /// The node is to be asked after that time.
    Retry(Instant),
    /// The subscription at the node is to be ended. If it is wanted again, it begins anew after that, so that nothing that
    /// is on its way still is taken for a new event.
    Leave,
    Leaving,
}

/// How far a topic has been received.
#[derive(Default)]
pub(super) struct Position {
    /// The number of the last event.
    pub(super) seq: u64,
    /// What was received before the present subscription: it may come again.
    pub(super) seen: u64,
    /// The next event has the next number.
    pub(super) is_sure: bool,
    pub(super) told: ToldMissed,
}

/// When it was told that an unknown number of events was missed, if no event has come since. Before others subscribe or
/// leave, to tell that again adds nothing; and between nodes that follow each other it would never end.
#[derive(Default)]
pub(super) struct ToldMissed(Option<u64>);

impl ToldMissed {
    /// Returns `true` if it must be told.
    pub(super) fn is_news(&mut self, generation: u64) -> bool {
        self.0.replace(generation) != Some(generation)
    }
}

impl Name {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            phase: Phase::New,
            is_wanted: true,
            is_stale: false,
            failures: 0,
            resumes: false,
            ticket: 0,
            told: ToldMissed::default(),
        }
    }

    /// Returns `true` if its events are received.
    pub(super) fn is_live(&self) -> bool {
        self.is_wanted && matches!(self.phase, Phase::Asked | Phase::Subscribed | Phase::Renewing)
    }

    /// Tries again after a while, which grows.
    pub(super) fn fail(&mut self) {
        self.phase = Phase::Retry(Instant::now() + RETRY * 2_u32.pow(self.failures));
        self.failures = (self.failures + 1).min(MAX_FAILURES);
        self.resumes = true;
    }

    /// Returns the next phase if there is something to ask for now.
    pub(super) fn due(&self, now: Instant) -> Option<Phase> {
        match self.phase {
            Phase::New => Some(Phase::Asked),
            Phase::Retry(at) if at <= now => Some(Phase::Asked),
            Phase::Subscribed if self.is_stale => Some(Phase::Renewing),
            Phase::Leave => Some(Phase::Leaving),
            _ => None,
        }
    }
}

/// What to ask a node for.
pub(super) struct Requests {
    pub(super) requests: Vec<Request>,
    /// When there is more to ask for.
    pub(super) retry: Option<Instant>,
}

pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) params: RawJson<'static>,
    pub(super) name: String,
    pub(super) ticket: u64,
    /// The number of nodes that have forwarded it.
    pub(super) hops: u32,
}

impl State {
    /// Returns `true` if the events of a topic are received.
    pub(super) fn is_live(&self, topic: &str) -> bool {
        self.names.iter().any(|(name, entry)| covers(name, topic) && entry.is_live())
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.names.values().any(|name| name.is_wanted)
    }

    pub(super) fn leave(&mut self, name: &str) {
        let Some(entry) = self.names.get_mut(name) else { return };
        entry.is_wanted = false;
        match entry.phase {
            Phase::New => _ = self.names.remove(name),
            // The answer decides.
            Phase::Asked | Phase::Leave | Phase::Leaving => {}
            Phase::Subscribed | Phase::Renewing | Phase::Retry(_) => entry.phase = Phase::Leave,
        }
        self.forget_positions();
    }

    /// Forgets the numbers of topics that nobody needs.
    pub(super) fn forget_positions(&mut self) {
        let names = &self.names;
        let is_needed = |topic: &str| {
            names.iter().any(|(name, entry)| {
                covers(name, topic)
                    && entry.is_wanted
                    && !matches!(entry.phase, Phase::Leave | Phase::Leaving)
            })
        };
        self.positions.retain(|topic, _| is_needed(topic));
    }

    /// Notes that there is no connection.
    pub(super) fn lost(&mut self) {
        self.names.retain(|_, name| name.is_wanted);
        for name in self.names.values_mut() {
            if matches!(name.phase, Phase::Leave | Phase::Leaving) {
                *name = Name::new(name.way.clone());
            }
            (name.phase, name.failures) = (Phase::New, 0);
        }
        self.positions.values_mut().for_each(|position| position.is_sure = false);
    }

    /// Returns what to ask for now; `None` if nobody needs anything.
    pub(super) fn due(&mut self, now: Instant) -> Option<Requests> {
        if self.is_idle() {
            return None;
        }
        let mut requests = Vec::new();
        for (text, name) in &mut self.names {
            let Some(phase) = name.due(now) else { continue };
            name.phase = phase;
            self.ticket += 1;
            name.ticket = self.ticket;
            let (method, params) = if phase == Phase::Leaving {
                ("rpc.unsubscribe", RawJson::checked(format!("[{}]", quoted(text))))
            } else {
                name.is_stale = false;
                let since = self.positions.get(text).filter(|_| name.resumes && phase == Phase::Asked);
                ("rpc.subscribe", parameters(text, since, self.epoch.as_deref(), &name.way.via))
            };
            let hops = name.way.hops;
            requests.push(Request { method, params, name: text.clone(), ticket: name.ticket, hops });
        }
        let retry = self.names.values().filter_map(|name| match name.phase {
            Phase::Retry(at) => Some(at),
            _ => None,
        });
        Some(Requests { requests, retry: retry.min() })
    }

    pub(super) fn position(&mut self, topic: &str) -> &mut Position {
        // Then it is not known what a family has missed.
        if self.positions.len() >= MAX_POSITIONS && !self.positions.contains_key(topic) {
            self.positions.clear();
        }
        self.positions.entry(topic.to_owned()).or_default()
    }

    /// Notes an event. Returns how many are missing before it; `None` if it was received already.
    pub(super) fn note_event(&mut self, topic: &str, seq: u64, is_kept: bool) -> Option<u64> {
        for (name, entry) in &mut self.names {
            if covers(name, topic) && entry.is_live() {
                (entry.failures, entry.told) = (0, ToldMissed::default());
            }
        }
        let position = self.position(topic);
        if is_kept && seq <= position.seen {
            return None;
        }
        let is_next_known = position.is_sure && !is_kept;
        let missing = if is_next_known { seq.saturating_sub(position.seq.saturating_add(1)) } else { 0 };
        position.seq = position.seq.max(seq);
        position.is_sure |= !is_kept;
        position.told = ToldMissed::default();
        Some(missing)
    }

    /// Notes that events were missed. Returns `true` if the subscribers do not know it.
    pub(super) fn note_missed(&mut self, topic: &str, count: Option<u64>, next: Option<u64>) -> bool {
        let generation = self.generation;
        if let Some(next) = next {
            let position = self.position(topic);
            (position.seq, position.is_sure) = (position.seq.max(next.saturating_sub(1)), true);
        }
        let told = match self.names.get_mut(topic) {
            Some(name) => Some(&mut name.told),
            None => self.positions.get_mut(topic).map(|position| &mut position.told),
        };
        told.is_none_or(|told| count.is_some() || told.is_news(generation))
    }

    /// Notes that the node has accepted a subscription. Returns `true` if events may have been missed.
    pub(super) fn accepted(&mut self, name: &str, told: Told<'_>, resumes: bool) -> bool {
        let has_changed = told.epoch.is_some() && self.epoch != told.epoch;
        if has_changed {
            self.epoch = told.epoch;
            self.positions.clear();
        }
        for (topic, position) in &mut self.positions {
            if covers(name, topic) {
                (position.seen, position.is_sure) = (position.seq, false);
            }
        }
        let is_known = told.seq.is_some() && self.positions.contains_key(name);
        if let Some(seq) = told.seq
            && !is_known
        {
            *self.position(name) = Position { seq, is_sure: true, ..Position::default() };
        }
        resumes && (told.missed || has_changed || !is_known)
    }
}

/// Returns the parameters of a subscription.
fn parameters(name: &str, since: Option<&Position>, epoch: Option<&str>, via: &str) -> RawJson<'static> {
    let epoch = epoch.filter(|_| since.is_some());
    let since = since.map_or(String::new(), |position| format!(",\"since\":{}", position.seq));
    let epoch = epoch.map_or(String::new(), |epoch| format!(",\"epoch\":{}", quoted(epoch)));
    let via = if via.is_empty() { String::new() } else { format!(",\"via\":{}", quoted(via)) };
    RawJson::checked(format!("{{\"topic\":{}{since}{epoch}{via}}}", quoted(name)))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
