//! One topic: its numbers, its kept events and its subscribers.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::super::access::RightEnd;
use super::super::events::Event;
use super::super::mailbox::{Delivered, Mailbox};
use crate::config::{Overflow, TopicConfig};

/// The number of a subscription, which no other in this process has.
pub(super) type SubscriptionId = u64;

/// A topic that has subscribers or kept events, or is configured.
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) config: Arc<TopicConfig>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last event.
    seq: u64,
    kept: VecDeque<Arc<Event>>,
    kept_bytes: usize,
    /// By connection, so that each receives an event once, however many of its subscriptions match.
    subscribers: FxHashMap<usize, Subscriber>,
    /// It is no longer in the directory.
    is_removed: bool,
}

/// A connection that receives the topic's events.
struct Subscriber {
    mailbox: Arc<Mailbox>,
    /// Each with when the right to it ends.
    subscriptions: Vec<(SubscriptionId, Option<RightEnd>)>,
    overflow: Overflow,
}

/// A new subscription, as a topic sees it.
#[derive(Clone)]
pub(super) struct Joining {
    pub(super) id: SubscriptionId,
    pub(super) mailbox: Arc<Mailbox>,
    /// What happens when too many events wait; `None`: as the topic is configured.
    pub(super) overflow: Option<Overflow>,
    /// When the right to it ends.
    pub(super) end: Option<RightEnd>,
}

/// Which kept events a new subscriber receives.
#[derive(Clone, Copy)]
pub(super) enum StartAt {
    /// All.
    FirstKept,
    /// Those after this number. Numbers of another epoch do not count.
    After(u64),
    /// All, and some are missing.
    Lost,
}

/// What became of an event.
#[derive(Default)]
pub(super) struct Published {
    /// The number of connections that receive it.
    pub(super) reached: usize,
    /// The number of events that were dropped for it.
    pub(super) dropped: u64,
    /// Subscriptions that must end, and why.
    pub(super) ended: Vec<(Arc<Mailbox>, Vec<SubscriptionId>, &'static str)>,
    /// Wakers of the sessions, to be woken when no lock is held.
    wakers: Vec<Waker>,
}

impl Published {
    /// Returns what wakes a session.
    pub(super) fn waking(waker: Option<Waker>) -> Self {
        Self { wakers: waker.into_iter().collect(), ..Self::default() }
    }

    /// Wakes the sessions.
    pub(super) fn wake(&mut self) {
        mem::take(&mut self.wakers).into_iter().for_each(Waker::wake);
    }

    fn deliver(&mut self, subscriber: &Subscriber, event: &Arc<Event>, is_kept: bool) -> bool {
        match subscriber.mailbox.deliver(event, subscriber.overflow, is_kept) {
            Delivered::Queued { dropped, waker } => {
                self.reached += 1;
                self.dropped += dropped;
                self.wakers.extend(waker);
                true
            }
            Delivered::Full => {
                let ids = subscriber.subscriptions.iter().map(|(id, _)| *id).collect();
                self.ended.push((subscriber.mailbox.clone(), ids, TOO_SLOW));
                false
            }
        }
    }

    /// Removes the subscriptions whose right has ended. Returns `false` if the subscriber has no other.
    fn check_rights(&mut self, subscriber: &mut Subscriber) -> bool {
        let Subscriber { subscriptions, mailbox, .. } = subscriber;
        if subscriptions.iter().any(|(_, end)| end.is_some()) {
            let has_ended = |end: &Option<RightEnd>| end.as_ref().is_some_and(RightEnd::has_passed);
            let ended = subscriptions.extract_if(.., |(_, end)| has_ended(end)).map(|(id, _)| id);
            let ended: Vec<_> = ended.collect();
            if !ended.is_empty() {
                self.ended.push((mailbox.clone(), ended, EXPIRED));
            }
        }
        !subscriptions.is_empty()
    }
}

const TOO_SLOW: &str = "the subscriber was too slow";
/// Why a subscription ends with the right to it.
pub(crate) const EXPIRED: &str = "the token has expired";

/// Why a subscription ends when the access rules have changed.
pub(crate) const WITHDRAWN: &str = "the access rules have changed";

impl Topic {
    /// Creates a topic whose first event has the number after `seq`.
    pub(super) fn new(name: Arc<str>, config: Arc<TopicConfig>, seq: u64) -> Self {
        Self { name, config, state: Mutex::new(State { seq, ..State::default() }) }
    }

    /// Publishes `data`, which is JSON. It was published before, at that time, if it `is_kept`. Returns `None` if the topic
    /// was removed meanwhile.
    pub(super) fn publish(&self, data: &str, at: Instant, is_kept: bool) -> Option<Published> {
        let mut published = Published::default();
        let mut state = self.lock();
        if state.is_removed {
            return None;
        }
        state.seq += 1;
        let event = Arc::new(Event::new(self.name.clone(), state.seq, data, at));
        state.subscribers.retain(|_, subscriber| {
            published.check_rights(subscriber) && published.deliver(subscriber, &event, is_kept)
        });
        if self.config.keep > 0 {
            state.keep(event, &self.config);
        }
        Some(published)
    }

    /// Leaves out the numbers of `count` events, or of one if it is not known how many, and tells the subscribers so.
    pub(super) fn skip(&self, count: Option<u64>) -> Published {
        let mut published = Published::default();
        let mut state = self.lock();
        // As many as make no number wrap.
        state.seq += count.unwrap_or(1).clamp(1, u64::from(u32::MAX));
        let next = state.seq + 1;
        for subscriber in state.subscribers.values() {
            published.wakers.extend(subscriber.mailbox.miss(&self.name, count, next));
        }
        published
    }

    /// Notes that events are no longer received from elsewhere: forgets those that are kept, and leaves out a number, so
    /// that nobody takes a later one for the next.
    pub(super) fn interrupt(&self) {
        let mut state = self.lock();
        state.seq += 1;
        state.kept_bytes = 0;
        let kept = mem::take(&mut state.kept);
        drop(state);
        drop(kept);
    }

    /// Returns the connections that receive its events.
    pub(super) fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.lock().subscribers.values().map(|subscriber| subscriber.mailbox.clone()).collect()
    }

    /// Adds a subscription. Returns the number of the last event, whether some are missing, and which kept events were
    /// delivered: those that the connection has not received.
    pub(super) fn join(&self, joining: &Joining, start: StartAt) -> (u64, bool, Published) {
        let mut published = Published::default();
        let mut state = self.lock();
        let State { seq, kept, subscribers, .. } = &mut *state;
        let overflow = joining.overflow.unwrap_or(self.config.when_full);
        if let Some(subscriber) = subscribers.get_mut(&key(&joining.mailbox)) {
            // It receives the topic's events already.
            subscriber.subscriptions.push((joining.id, joining.end.clone()));
            subscriber.overflow = overflow;
            return (*seq, false, published);
        }
        joining.mailbox.note_next(&self.name, *seq + 1);
        let mailbox = joining.mailbox.clone();
        let subscriber =
            Subscriber { mailbox, subscriptions: vec![(joining.id, joining.end.clone())], overflow };
        let (after, is_known) = match start {
            StartAt::FirstKept => (0, true),
            // A larger number is of another epoch.
            StartAt::After(after) if after <= *seq => (after, true),
            StartAt::After(_) | StartAt::Lost => (0, false),
        };
        let is_missing = match start {
            StartAt::FirstKept => false,
            _ => !is_known || *seq - after > kept.iter().filter(|event| event.seq > after).count() as u64,
        };
        if kept
            .iter()
            .filter(|event| event.seq > after)
            .all(|event| published.deliver(&subscriber, event, true))
        {
            subscribers.insert(key(&joining.mailbox), subscriber);
        }
        (*seq, is_missing, published)
    }

    /// Removes a subscription.
    pub(super) fn leave(&self, mailbox: usize, id: SubscriptionId) {
        let mut state = self.lock();
        let State { subscribers, .. } = &mut *state;
        if let Some(subscriber) = subscribers.get_mut(&mailbox) {
            subscriber.subscriptions.retain(|(other, _)| *other != id);
            if subscriber.subscriptions.is_empty() {
                subscribers.remove(&mailbox);
            }
        }
    }

    /// If the topic has neither subscribers nor kept events, ends it, and returns the number of its last event. It must
    /// then be removed from the directory, which the caller has locked.
    pub(super) fn remove_if_unused(&self) -> Option<u64> {
        let mut state = self.lock();
        let is_unused = state.subscribers.is_empty() && state.kept.is_empty() && !state.is_removed;
        state.is_removed |= is_unused;
        is_unused.then_some(state.seq)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, event: Arc<Event>, config: &TopicConfig) {
        self.kept_bytes += event.bytes();
        self.kept.push_back(event);
        while self.kept.len() > config.keep || self.kept_bytes > config.keep_bytes {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.bytes();
        }
    }
}

/// Returns what identifies a connection among a topic's subscribers.
pub(super) fn key(mailbox: &Arc<Mailbox>) -> usize {
    Arc::as_ptr(mailbox) as usize
}
