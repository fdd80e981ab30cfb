//! Callers that wait, in order, for room in a full queue.

use std::sync::Arc;

use super::{Inner, Phase, Shared, wake};
use crate::chan::error::CallError;
use crate::chan::queue::Queue;

/// The place of a caller among those that wait for room in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chan) struct Place(u64);

/// A caller that waits for room in the queue.
pub(in crate::chan) trait BlockedSender: Send + Sync {
    /// Adds the call to the queue, unless it was cancelled. Runs under the lock.
    fn enqueue(&self, queue: &mut Queue);
    /// Completes [`enqueue`](Self::enqueue). Runs without the lock.
    fn on_enqueued(&self);
    /// Answers the call with an error.
    fn fail(&self, error: &CallError);
}

impl Shared {
    /// Adds a caller to those that wait for room, or its call to the queue if it has room by now. Returns the place,
    /// for [`cancel_wait`](Self::cancel_wait).
    pub(in crate::chan) fn wait_for_room(&self, sender: Arc<dyn BlockedSender>) -> Result<Place, CallError> {
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Err(CallError::Closed);
        }
        let place = Place(inner.next_place);
        inner.next_place += 1;
        let enqueued = if self.has_room(&inner, self.queued(&inner)) {
            sender.enqueue(&mut inner.queue);
            self.update_high_water(&mut inner);
            Some(sender)
        } else {
            inner.blocked.insert(place, sender);
            None
        };
        let sleeper = inner.take_sleeper();
        drop(inner);
        wake(sleeper);
        if let Some(sender) = enqueued {
            sender.on_enqueued();
        }
        Ok(place)
    }

    /// Removes a caller that no longer waits for room.
    pub(in crate::chan) fn cancel_wait(&self, place: Place) {
        let removed = self.inner.lock().blocked.remove(&place);
        drop(removed);
    }

    /// Returns `true` if a call may enter the queue, which has `queued` calls. No call overtakes those that wait for room.
    pub(super) fn has_room(&self, inner: &Inner, queued: usize) -> bool {
        inner.blocked.is_empty() && queued < self.capacity
    }

    /// Moves calls that wait for room into the queue until it is full.
    pub(super) fn admit(&self, inner: &mut Inner, admitted: &mut Vec<Arc<dyn BlockedSender>>) {
        while self.queued(inner) < self.capacity {
            let Some((_, sender)) = inner.blocked.pop_first() else { break };
            sender.enqueue(&mut inner.queue);
            admitted.push(sender);
        }
        self.update_high_water(inner);
    }
}
