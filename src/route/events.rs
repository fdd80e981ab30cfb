//! Events on their way to a subscriber: bounded, and none is lost without notice.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::config::Overflow;
use crate::message::RawJson;

/// Size of an event besides its parameters, in bytes.
const EVENT_OVERHEAD: usize = 64;

/// What was published to a topic. One value for any number of subscribers.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: Arc<str>,
    /// Its number within the topic.
    pub(crate) seq: u64,
    /// The parameters of its notification: a JSON object on one line, whose last member is `data`.
    params: Box<str>,
    /// Where `data` begins in `params`.
    data: usize,
    pub(crate) published: Instant,
    /// Its notification in the dialect in which that takes time to encode, without framing.
    encoded: OnceLock<Vec<u8>>,
}

impl Event {
    /// Creates an event. `data` is JSON.
    pub(crate) fn new(topic: Arc<str>, seq: u64, data: &str, published: Instant) -> Self {
        let mut params = format!("{{\"topic\":\"{topic}\",\"seq\":{seq},\"data\":");
        let start = params.len();
        params.reserve_exact(data.len() + 1);
        if data.contains(['\n', '\r']) {
            // In JSON, line breaks are white space only.
            params.extend(data.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
        } else {
            params.push_str(data);
        }
        params.push('}');
        Self { topic, seq, params: params.into(), data: start, published, encoded: OnceLock::new() }
    }

    /// Returns what was published, as JSON on one line.
    pub(crate) fn data(&self) -> &str {
        &self.params[self.data..self.params.len() - 1]
    }

    /// Returns the parameters of its notification.
    pub(crate) fn params(&self) -> &str {
        &self.params
    }

    /// Returns where its notification is kept once it is encoded.
    pub(crate) fn encoded(&self) -> &OnceLock<Vec<u8>> {
        &self.encoded
    }

    /// Returns the name of its message in Leaf's dialect: the last part of the topic's.
    pub(crate) fn leaf_name(&self) -> &str {
        self.topic.rsplit('.').next().unwrap_or_default()
    }

    /// Returns its approximate size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        EVENT_OVERHEAD + self.params.len()
    }
}

/// What a subscriber is told.
#[derive(Debug)]
pub(crate) enum Notice {
    /// An event.
    Event {
        event: Arc<Event>,
        overflow: Overflow,
        /// It was published before the subscription.
        is_kept: bool,
    },
    /// Events of a topic were dropped.
    Missed {
        topic: Arc<str>,
        /// How many; `None` if that is unknown.
        count: Option<u64>,
        /// The number of the next event; 0 for a family.
        next: u64,
    },
    /// A subscription has ended.
    Ended {
        /// The topic or family subscribed to.
        topic: Box<str>,
        reason: Box<str>,
    },
}

impl Notice {
    /// Returns the method of its notification.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Event { .. } => "rpc.event",
            Self::Missed { .. } => "rpc.missed",
            Self::Ended { .. } => "rpc.ended",
        }
    }

    /// Returns the parameters of its notification, on one line.
    pub(crate) fn params(&self, now: Instant) -> RawJson<'_> {
        let text = match self {
            Self::Event { event, is_kept: false, .. } => return RawJson::checked(event.params()),
            Self::Event { event, .. } => {
                let age = now.saturating_duration_since(event.published).as_millis();
                let params = event.params();
                format!("{},\"age_ms\":{age}}}", &params[..params.len() - 1])
            }
            Self::Missed { topic, count, next } => {
                let number = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
                let (count, next) = (number(*count), number(Some(*next).filter(|next| *next > 0)));
                format!("{{\"topic\":\"{topic}\",\"count\":{count},\"next\":{next}}}")
            }
            Self::Ended { topic, reason } => {
                let reason = serde_json::to_string(reason).unwrap_or_default();
                format!("{{\"topic\":\"{topic}\",\"reason\":{reason}}}")
            }
        };
        RawJson::checked(text)
    }
}

/// What waits for one subscriber.
#[derive(Debug)]
pub(super) struct EventQueue {
    waiting: VecDeque<Notice>,
    /// The number of waiting events, and their size.
    events: usize,
    bytes: usize,
    /// What was dropped of each topic, all of it before its first waiting event: how much, if that is known, and the
    /// next number.
    missed: FxHashMap<Arc<str>, (Option<u64>, u64)>,
    /// The number of waiting notices that events were missed before they came to this node.
    gaps: usize,
    max_events: usize,
    max_bytes: usize,
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, and this many were dropped.
    Dropped(u64),
    /// There was no room, and no event may be dropped.
    Full,
}

impl EventQueue {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            events: 0,
            bytes: 0,
            missed: FxHashMap::default(),
            gaps: 0,
            max_events,
            max_bytes,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.missed.is_empty()
    }

    /// Adds an event.
    pub(super) fn push(&mut self, event: &Arc<Event>, overflow: Overflow, is_kept: bool) -> Pushed {
        let mut dropped = 0;
        while self.is_full(event.bytes()) {
            if overflow == Overflow::End {
                return Pushed::Full;
            }
            dropped += 1;
            // A topic with few events loses none to one with many.
            let Some(at) = self.position_of(&event.topic).or_else(|| self.position_of_any()) else {
                if self.gaps > 0 {
                    self.join_missed(&event.topic);
                }
                self.note_missed(event, is_kept);
                return Pushed::Dropped(dropped);
            };
            self.drop_at(at);
            if overflow == Overflow::Latest {
                while let Some(at) = self.position_of(&event.topic) {
                    self.drop_at(at);
                    dropped += 1;
                }
            }
        }
        self.events += 1;
        self.bytes += event.bytes();
        self.waiting.push_back(Notice::Event { event: event.clone(), overflow, is_kept });
        Pushed::Dropped(dropped)
    }

    /// Adds the notice that a subscription has ended.
    pub(super) fn push_ended(&mut self, topic: Box<str>, reason: Box<str>) {
        self.waiting.push_back(Notice::Ended { topic, reason });
    }

    /// Notes that events of a topic or family, after all that wait, do not come. `next` is 0 if the next number is unknown.
    pub(super) fn miss(&mut self, topic: &Arc<str>, count: Option<u64>, next: u64) {
        if next == 0 {
            return self.miss_any(topic, count);
        }
        let last = self.waiting.iter_mut().rev().find_map(|notice| match notice {
            Notice::Event { event, .. } if event.topic == *topic => Some(None),
            Notice::Missed { topic: of, count, next } if of == topic => Some(Some((count, next))),
            _ => None,
        });
        match last {
            None => add_missed(&mut self.missed, topic, count, next),
            Some(Some((before, then))) => {
                *before = before.zip(count).map(|(before, count)| before.saturating_add(count));
                *then = next;
            }
            Some(None) => {
                self.gaps += 1;
                self.waiting.push_back(Notice::Missed { topic: topic.clone(), count, next });
            }
        }
    }

    /// As [`miss`](Self::miss), for a family, of which any event may be the next.
    fn miss_any(&mut self, family: &Arc<str>, count: Option<u64>) {
        let is_same = |notice: &Notice| matches!(notice, Notice::Missed { topic, .. } if topic == family);
        // More than one notice between two events says nothing new, and neither do more than events that can wait.
        let is_full = self.gaps >= self.max_events;
        let at = self.waiting.iter().rposition(is_same);
        if let Some(at) = at.filter(|at| is_full || at + 1 == self.waiting.len()) {
            self.waiting.remove(at);
            return self.waiting.push_back(Notice::Missed { topic: family.clone(), count: None, next: 0 });
        }
        self.gaps += 1;
        self.waiting.push_back(Notice::Missed { topic: family.clone(), count, next: 0 });
    }

    /// Moves notices to the end of `into`: events of about `room` bytes, and at least one.
    pub(super) fn take(&mut self, mut room: usize, into: &mut VecDeque<Notice>) {
        while room > 0
            && let Some(notice) = self.waiting.pop_front()
        {
            match &notice {
                Notice::Event { event, .. } => {
                    self.uncount(event);
                    room = room.saturating_sub(event.bytes());
                    if let Some((topic, (count, _))) = self.missed.remove_entry(&event.topic) {
                        into.push_back(Notice::Missed { topic, count, next: event.seq });
                    }
                }
                // What was missed is told before.
                notice => {
                    self.gaps -= usize::from(matches!(notice, Notice::Missed { .. }));
                    for (topic, (count, next)) in std::mem::take(&mut self.missed) {
                        if self.position_of(&topic).is_some() {
                            self.missed.insert(topic, (count, next));
                        } else {
                            into.push_back(Notice::Missed { topic, count, next });
                        }
                    }
                }
            }
            into.push_back(notice);
        }
        if self.waiting.is_empty() {
            let missed = self.missed.drain();
            into.extend(missed.map(|(topic, (count, next))| Notice::Missed { topic, count, next }));
        }
    }

    /// Forgets what waits of the topics for which `is_over` returns `true`. If the subscriber `is_told`, forgotten events
    /// become missed ones, and the notice that the subscription `topic` has ended is forgotten too. Returns `true` if there
    /// was that notice.
    pub(super) fn forget(&mut self, topic: &str, is_told: bool, is_over: impl Fn(&str) -> bool) -> bool {
        if !is_told {
            self.missed.retain(|topic, _| !is_over(topic));
        }
        let mut has_ended = false;
        for notice in std::mem::take(&mut self.waiting) {
            match &notice {
                Notice::Event { event, .. } if is_over(&event.topic) => {
                    self.uncount(event);
                    if is_told {
                        self.missed.insert(event.topic.clone(), (None, event.seq + 1));
                    }
                }
                Notice::Missed { topic, next, .. } if is_over(topic) => {
                    self.gaps -= 1;
                    if is_told {
                        self.missed.insert(topic.clone(), (None, *next));
                    }
                }
                Notice::Ended { topic: ended, .. } if is_told && **ended == *topic => has_ended = true,
                _ => self.waiting.push_back(notice),
            }
        }
        has_ended
    }

    /// Notes the next number of a topic, of which events may have been missed.
    pub(super) fn note_next(&mut self, topic: &Arc<str>, number: u64) {
        if let Some((_, next)) = self.missed.get_mut(topic) {
            *next = number;
        }
    }

    pub(super) fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
        self.missed.shrink_to_fit();
    }

    /// Returns `true` if there is no room for an event. One that is larger than all room waits alone.
    fn is_full(&self, bytes: usize) -> bool {
        self.events >= self.max_events || (self.events > 0 && self.bytes + bytes > self.max_bytes)
    }

    /// Returns the oldest waiting event of a topic.
    fn position_of(&self, topic: &Arc<str>) -> Option<usize> {
        self.waiting
            .iter()
            .position(|notice| matches!(notice, Notice::Event { event, .. } if event.topic == *topic))
    }

    /// Returns the oldest waiting event that may be dropped, of those that are the first of their topic: what is missed is
    /// told before the first.
    fn position_of_any(&self) -> Option<usize> {
        let mut held = FxHashSet::default();
        self.waiting.iter().position(|notice| match notice {
            Notice::Event { event, overflow: Overflow::End, .. } => {
                held.insert(&event.topic);
                false
            }
            Notice::Event { event, .. } => !held.contains(&event.topic),
            _ => false,
        })
    }

    fn drop_at(&mut self, at: usize) {
        if let Some(Notice::Event { event, is_kept, .. }) = self.waiting.remove(at) {
            self.uncount(&event);
            self.note_missed(&event, is_kept);
            if self.gaps > 0 {
                self.join_missed(&event.topic);
            }
        }
    }

    /// Tells together what was missed of a topic before its first waiting event.
    fn join_missed(&mut self, topic: &Arc<str>) {
        let mut at = 0;
        while let Some(notice) = self.waiting.get(at) {
            match notice {
                Notice::Event { event, .. } if event.topic == *topic => return,
                Notice::Missed { topic: of, count, next } if of == topic => {
                    add_missed(&mut self.missed, topic, *count, *next);
                    self.waiting.remove(at);
                    self.gaps -= 1;
                }
                _ => at += 1,
            }
        }
    }

    fn uncount(&mut self, event: &Event) {
        self.events -= 1;
        self.bytes -= event.bytes();
    }

    /// Notes that an event was dropped. One that `is_kept` may have come, or be about to come, for another subscription too.
    fn note_missed(&mut self, event: &Event, is_kept: bool) {
        if self.missed.get(&event.topic).is_none_or(|(_, next)| *next <= event.seq) {
            let count = if is_kept { None } else { Some(1) };
            add_missed(&mut self.missed, &event.topic, count, event.seq + 1);
        }
    }
}

fn add_missed(
    missed: &mut FxHashMap<Arc<str>, (Option<u64>, u64)>,
    topic: &Arc<str>,
    count: Option<u64>,
    next: u64,
) {
    let (before, then) = missed.entry(topic.clone()).or_insert((Some(0), 0));
    *before = before.zip(count).map(|(before, count)| before.saturating_add(count));
    *then = next;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_EVENTS: usize = 4;

    #[derive(Clone, Copy, Debug)]
    enum Action {
        /// An event of a topic, which may take the place of all others of it.
        Publish(usize, Overflow),
        /// Numbers of a topic that do not come.
        Skip(usize, Option<u64>),
        /// Events of any topic that do not come.
        SkipAny,
        Take(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        let overflow =
            prop_oneof![3 => Just(Overflow::Oldest), 1 => Just(Overflow::Latest), 1 => Just(Overflow::End)];
        prop_oneof![
            6 => (0..2_usize, overflow).prop_map(|(topic, overflow)| Action::Publish(topic, overflow)),
            3 => (0..2_usize, prop::option::of(1..4_u64)).prop_map(|(topic, count)| Action::Skip(topic, count)),
            1 => Just(Action::SkipAny),
            2 => (1..300_usize).prop_map(Action::Take),
        ]
    }

    proptest! {
        /// What is told accounts for every number of each topic in order, and what waits is bounded, whatever is lost on
        /// the way to this node or in the queue.
        #[test]
        fn every_number_is_an_event_or_missed(actions in prop::collection::vec(action(), 1..80)) {
            let topics: [Arc<str>; 2] = ["a.x".into(), "a.y".into()];
            let family: Arc<str> = "a.*".into();
            let mut queue = EventQueue::new(MAX_EVENTS, 1 << 20);
            let (mut last, mut told) = ([0; 2], [0; 2]);
            let mut unknown = (0, 0);
            let mut out = VecDeque::new();
            let everything = [Action::Take(usize::MAX)];
            for action in actions.iter().chain(&everything) {
                match *action {
                    Action::Publish(topic, overflow) => {
                        last[topic] += 1;
                        let event = Event::new(topics[topic].clone(), last[topic], "0", Instant::now());
                        if matches!(queue.push(&Arc::new(event), overflow, false), Pushed::Full) {
                            last[topic] -= 1;
                        }
                    }
                    Action::Skip(topic, count) => {
                        last[topic] += count.unwrap_or(1);
                        queue.miss(&topics[topic], count, last[topic] + 1);
                    }
                    Action::SkipAny => {
                        unknown.0 += 1;
                        queue.miss(&family, None, 0);
                    }
                    Action::Take(room) => queue.take(room, &mut out),
                }
                prop_assert!(queue.waiting.len() <= 3 * MAX_EVENTS + 2, "{queue:?}");
                for notice in out.drain(..) {
                    match notice {
                        Notice::Event { event, .. } => {
                            let at = topics.iter().position(|topic| *topic == event.topic).unwrap();
                            prop_assert_eq!(event.seq, told[at] + 1);
                            told[at] = event.seq;
                        }
                        Notice::Missed { topic, count, next: 0 } => {
                            prop_assert_eq!((&topic, count), (&family, None));
                            unknown.1 += 1;
                        }
                        Notice::Missed { topic, count, next } => {
                            let at = topics.iter().position(|other| *other == topic).unwrap();
                            match count {
                                Some(count) => prop_assert_eq!(told[at] + count + 1, next),
                                None => prop_assert!(told[at] < next),
                            }
                            told[at] = next - 1;
                        }
                        Notice::Ended { .. } => unreachable!("nothing has ended"),
                    }
                }
            }
            prop_assert_eq!(told, last);
            prop_assert!(unknown.1 <= unknown.0 && (unknown.1 > 0) == (unknown.0 > 0));
            prop_assert!(queue.is_empty() && queue.gaps == 0 && queue.events == 0 && queue.bytes == 0);
        }
    }
}
