//! The mailbox of a connection: how the rest of the node reaches its session, from any thread. It takes the replies to
//! the peer's calls, calls to the peer, and events; and it holds what exists as long as the connection.

mod outbox;
mod peer;
mod subscriptions;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::events::EventQueue;
use crate::codec::NotificationEncoder;
use crate::message::Outcome;
pub(crate) use outbox::{PeerCall, Post};
pub use outbox::{PeerError, Posts};
pub use peer::Peer;
pub(super) use subscriptions::Delivered;
use subscriptions::is_subscription;

/// Identifies a call within one connection.
pub type CallId = u64;

/// The kind of what a connection holds until servers are told of its end, which its peer knows nothing of.
pub(crate) const SESSION: &str = "session";
/// The kind of what a connection holds as long as its peer answers calls.
pub(crate) const OFFERS: &str = "offers";
/// Maximum number of calls to the peer that wait for a reply on one connection.
const MAX_WAITING: usize = 4096;
/// Size of a call besides its method and parameters, in bytes.
const CALL_OVERHEAD: usize = 64;

/// Collects the replies to one connection's calls, and the calls to its peer, until its session takes them.
///
/// It holds at most one reply for each call in flight, and calls of a limited size.
#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
    /// Calls to the peer without an answer.
    waiting: AtomicUsize,
    /// The number of the latest call to the peer.
    last_id: AtomicU64,
}

#[derive(Default)]
struct State {
    replies: Vec<(CallId, Outcome)>,
    /// The session's waker, while it waits for a reply or a call.
    session: Option<Waker>,
    /// Calls that were cancelled and are not answered yet.
    cancelled: FxHashSet<CallId>,
    /// The wakers of providers that wait for the cancellation of their call.
    providers: FxHashMap<CallId, Waker>,
    closed: bool,
    /// The peer will answer no call any longer.
    answers_nothing: bool,
    /// The limit of calls to the peer that wait for the session, in bytes; 0 if the peer cannot be called.
    limit: usize,
    /// How notifications are encoded for the peer.
    encoder: Option<NotificationEncoder>,
    /// `None` if nobody has called the peer.
    outbox: Option<Box<Outbox>>,
    /// `None` if the peer has never subscribed to a topic.
    events: Option<Box<EventQueue>>,
    /// What is dropped when the connection ends. `None` if there was nothing yet.
    held: Option<Box<FxHashMap<HeldKey, Held>>>,
}

/// Something that exists as long as a connection, unless it is released before.
pub(crate) type Held = Box<dyn Any + Send>;
/// What kind of thing it is, and its name.
pub(crate) type HeldKey = (&'static str, Box<str>);

/// The kind of a subscription to a topic.
pub(crate) const TOPIC: &str = "topic";

/// What is sent to the peer apart from replies.
#[derive(Debug, Default)]
struct Outbox {
    posted: VecDeque<Post>,
    /// The size of everything posted, in bytes.
    bytes: usize,
    /// No deadline of a posted call is earlier.
    earliest_deadline: Option<Instant>,
    /// The connection closes once everything posted is written.
    closing: bool,
    /// The session checks that the peer is alive.
    watched: bool,
    /// Why no further call is sent.
    closed: Option<PeerError>,
    /// Nothing more is sent at all.
    ended: bool,
}

impl Outbox {
    fn note_deadline(&mut self, call: &PeerCall) {
        self.earliest_deadline = [self.earliest_deadline, call.deadline].into_iter().flatten().min();
    }
}

impl State {
    fn is_cancelled(&self, id: CallId, is_notification: bool) -> bool {
        self.cancelled.contains(&id) || (self.closed && !is_notification)
    }
}

/// Wakes the session, outside of the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let session = state.session.take();
    drop(state);
    if let Some(session) = session {
        session.wake();
    }
}

impl Mailbox {
    /// Moves all replies and calls, and as many events as there is room for, to the end of `replies` and `posts`. If
    /// there are none, registers the task to be woken by the next one.
    pub fn poll(
        &self,
        cx: &Context<'_>,
        replies: &mut VecDeque<(CallId, Outcome)>,
        posts: &mut Posts,
    ) -> Poll<()> {
        let mut state = self.lock();
        let State { replies: ready, outbox, events, .. } = &mut *state;
        posts.is_closing = outbox.as_ref().is_some_and(|outbox| outbox.closing);
        let outbox = outbox.as_mut().filter(|outbox| !outbox.posted.is_empty());
        let events = events.as_mut().filter(|events| posts.room > 0 && !events.is_empty());
        if ready.is_empty() && outbox.is_none() && events.is_none() {
            if !state.session.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.session = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if let Some(outbox) = outbox {
            posts.queue.append(&mut outbox.posted);
            (outbox.bytes, outbox.earliest_deadline) = (0, None);
        }
        if let Some(events) = events {
            events.take(posts.room, &mut posts.events);
        }
        replies.extend(ready.drain(..));
        Poll::Ready(())
    }

    /// Cancels a call: notifies its provider and discards its reply.
    pub fn cancel(&self, id: CallId) {
        let mut state = self.lock();
        if let Some(at) = state.replies.iter().position(|(answered, _)| *answered == id) {
            drop(state.replies.remove(at));
            return;
        }
        state.cancelled.insert(id);
        let provider = state.providers.remove(&id);
        drop(state);
        if let Some(provider) = provider {
            provider.wake();
        }
    }

    /// Releases memory that is not in use.
    pub fn shrink(&self) {
        let mut state = self.lock();
        state.replies.shrink_to_fit();
        state.cancelled.shrink_to_fit();
        state.providers.shrink_to_fit();
        if let Some(outbox) = &mut state.outbox {
            outbox.posted.shrink_to_fit();
        }
        let is_subscribed = state.held.as_ref().is_some_and(|held| held.keys().any(is_subscription));
        match &mut state.events {
            Some(events) if is_subscribed || !events.is_empty() => events.shrink(),
            events => *events = None,
        }
    }

    /// Cancels all calls of the peer's except notifications, and drops what is held, since the peer is gone.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let (providers, held) = (mem::take(&mut state.providers), state.held.take());
        state.session = None;
        state.replies.clear();
        let events = state.events.take();
        drop(state);
        drop((held, events));
        providers.into_values().for_each(Waker::wake);
    }

    /// Drops what the connection offers, since its peer will answer no call any longer.
    pub(crate) fn drop_offers(&self) {
        let mut state = self.lock();
        state.answers_nothing = true;
        let offers = state.held.as_mut().and_then(|held| held.remove(&(OFFERS, Box::default())));
        drop(state);
        drop(offers);
    }

    /// Adds the reply to a call, unless the call was cancelled.
    pub(super) fn push(&self, id: CallId, outcome: Outcome) {
        let mut state = self.lock();
        state.providers.remove(&id);
        if state.cancelled.remove(&id) || state.closed {
            return;
        }
        state.replies.push((id, outcome));
        wake(state);
    }

    /// Completes once the call is cancelled; closing the mailbox does not cancel a notification.
    pub(super) fn poll_cancelled(&self, id: CallId, is_notification: bool, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_cancelled(id, is_notification) {
            return Poll::Ready(());
        }
        state.providers.insert(id, cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn is_cancelled(&self, id: CallId, is_notification: bool) -> bool {
        self.lock().is_cancelled(id, is_notification)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("replies", &self.lock().replies.len()).finish_non_exhaustive()
    }
}
