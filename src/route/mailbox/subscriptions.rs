//! Events for the peer, and the subscriptions that bring them.

use std::sync::Arc;
use std::task::Waker;

use super::super::events::{Event, EventQueue, Pushed};
use super::{Held, HeldKey, Mailbox, State, TOPIC, wake};
use crate::config::{Limits, Overflow};

/// Events for the peer.
impl Mailbox {
    /// Adds an event, unless the connection has ended.
    pub(in crate::route) fn deliver(
        &self,
        event: &Arc<Event>,
        overflow: Overflow,
        is_kept: bool,
    ) -> Delivered {
        let mut state = self.lock();
        let Some(events) = &mut state.events else { return Delivered::Queued { dropped: 0, waker: None } };
        match events.push(event, overflow, is_kept) {
            Pushed::Dropped(dropped) => Delivered::Queued { dropped, waker: state.session.take() },
            Pushed::Full => Delivered::Full,
        }
    }

    /// Holds a subscription to a topic or family, and returns the one that it replaces.
    ///
    /// # Errors
    /// The subscription if the connection has ended or has the maximum number already.
    pub(in crate::route) fn hold_subscription(
        &self,
        topic: &str,
        subscription: Held,
        limits: &Limits,
    ) -> Result<Option<Held>, Held> {
        let mut state = self.lock();
        let State { held, events, closed, .. } = &mut *state;
        let held = held.get_or_insert_default();
        let key = (TOPIC, topic.into());
        let count = held.keys().filter(|key| is_subscription(key)).count();
        if *closed || (count >= limits.subscriptions && !held.contains_key(&key)) {
            return Err(subscription);
        }
        events.get_or_insert_with(|| Box::new(EventQueue::new(limits.events, limits.output)));
        Ok(held.insert(key, subscription))
    }

    /// Removes and returns the subscriptions that have ended, and tells the peer why.
    pub(in crate::route) fn end_subscriptions(
        &self,
        is_ended: impl Fn(&Held) -> bool,
        reason: &str,
    ) -> Vec<Held> {
        let mut state = self.lock();
        let State { held: Some(held), events: Some(events), .. } = &mut *state else { return Vec::new() };
        let ended = held.extract_if(|key, held| is_subscription(key) && is_ended(held));
        let ended = ended.map(|((_, topic), subscription)| {
            events.push_ended(topic, reason.into());
            subscription
        });
        let ended = ended.collect();
        wake(state);
        ended
    }

    /// Forgets the events that wait because of the subscription `topic`. If the peer `is_told`, they become missed ones, and
    /// the notice that it has ended is forgotten too. Returns `true` if there was that notice. `covers` returns `true` if a
    /// subscription receives the events of a topic.
    pub(in crate::route) fn forget_events(
        &self,
        topic: &str,
        is_told: bool,
        covers: impl Fn(&str, &str) -> bool,
    ) -> bool {
        let mut state = self.lock();
        let State { held, events: Some(events), .. } = &mut *state else { return false };
        let others = || held.iter().flat_map(|held| held.keys()).filter(|key| is_subscription(key));
        events.forget(topic, is_told, |of| {
            covers(topic, of) && !others().any(|(_, other)| **other != *topic && covers(other, of))
        })
    }

    /// Notes that events of a topic, after all that wait, do not come. The session must be woken.
    pub(in crate::route) fn miss(&self, topic: &Arc<str>, count: Option<u64>, next: u64) -> Option<Waker> {
        let mut state = self.lock();
        state.events.as_mut()?.miss(topic, count, next);
        state.session.take()
    }

    /// Takes events that no topic of this node brings.
    pub(in crate::route) fn accept_events(&self, limits: &Limits) {
        let queue = || Box::new(EventQueue::new(limits.events, limits.output));
        self.lock().events.get_or_insert_with(queue);
    }

    /// Tells that events such as these have ended.
    pub(in crate::route) fn events_ended(&self, topic: &str, reason: &str) {
        let mut state = self.lock();
        if let Some(events) = &mut state.events {
            events.push_ended(topic.into(), reason.into());
        }
        wake(state);
    }

    /// Notes the number of a topic's next event, of which earlier ones may have been missed.
    pub(in crate::route) fn note_next(&self, topic: &Arc<str>, number: u64) {
        if let Some(events) = &mut self.lock().events {
            events.note_next(topic, number);
        }
    }
}

/// What became of an event for a peer.
pub(in crate::route) enum Delivered {
    /// It waits, and this many were dropped; the session must be woken.
    Queued { dropped: u64, waker: Option<Waker> },
    /// There was no room for it, and the peer's subscription must end.
    Full,
}

pub(super) fn is_subscription(key: &HeldKey) -> bool {
    key.0 == TOPIC
}
