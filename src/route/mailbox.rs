//! The mailbox of a connection: how the rest of the node reaches its session, from any thread. It takes the replies to
//! the peer's calls, calls to the peer, and events; and it holds what exists as long as the connection.

use std::any::Any;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::events::{Event, EventQueue, Notice, Pushed};
use super::send_error::SendError;
use crate::codec::NotificationEncoder;
use crate::config::{Limits, Overflow};
use crate::message::{Fault, Outcome, RawJson, code};

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

/// The calls to the peer that a session has taken and not sent yet.
#[derive(Debug, Default)]
pub struct Posts {
    /// Events for the peer.
    pub(crate) events: VecDeque<Notice>,
    /// The size of the events to take, in bytes; 0 for none.
    pub(crate) room: usize,
    pub(crate) queue: VecDeque<Post>,
    /// No deadline of a call that the session cannot take yet is earlier.
    pub(crate) next_deadline: Option<Instant>,
    /// The connection closes once they are written.
    pub(crate) is_closing: bool,
}

/// What is sent to the peer apart from replies.
#[derive(Debug, Default)]
struct Outbox {
    posted: VecDeque<Post>,
    /// The size of everything posted, in bytes.
    bytes: usize,
    /// No deadline of a posted call is earlier.
    earliest_deadline: Option<Instant>,
    last_id: CallId,
    /// The connection closes once everything posted is written.
    closing: bool,
    /// The session checks that the peer is alive.
    watched: bool,
    /// Why no further call is sent.
    closed: Option<PeerError>,
    /// Nothing more is sent at all.
    ended: bool,
}

/// A call, a notification or a cancellation for the peer.
#[derive(Debug)]
pub(crate) enum Post {
    /// A call, or a notification, whose sender learns only that it was sent.
    Call(Box<PeerCall>),
    /// An encoded notification.
    Notification(Box<[u8]>),
    /// The cancellation of a call.
    Cancel(CallId),
    /// From now on the session checks that the peer is alive. It `knows_meta` if it reads a fifth element of a request in
    /// MessagePack-RPC.
    Watch { knows_meta: bool },
}

/// A call to the peer.
pub(crate) struct PeerCall {
    /// Its number on the connection.
    pub id: CallId,
    /// The name of the peer's function.
    pub method: Cow<'static, str>,
    /// An array or an object, if any.
    pub params: Option<RawJson<'static>>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The number of nodes that have forwarded the call.
    pub hops: u32,
    /// A notification is answered by `null` once it is sent.
    pub is_notification: bool,
    answer: Answer,
}

/// Receives the answer to a call to the peer.
type Answer = Box<dyn FnOnce(Result<RawJson<'static>, PeerError>) + Send>;

/// Why a call to a peer has no result.
#[derive(Clone, Debug)]
pub enum PeerError {
    /// The call was not sent, for this reason.
    Unsent(Cow<'static, str>),
    /// The connection was lost while the call was in flight, for this reason. It may have run.
    Lost(Cow<'static, str>),
    /// Too much waits for the peer already.
    Busy,
    /// No answer came by the call's deadline.
    Deadline,
    /// The peer's answer is an error, or the call cannot be expressed.
    Fault(Fault),
}

impl PeerError {
    /// Returns the error of a call that its caller has cancelled.
    pub(crate) fn cancelled() -> Self {
        Self::Fault(Fault::new(code::CANCELLED, "cancelled by the caller"))
    }
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

/// Calls to the peer, as its session sees them.
impl Mailbox {
    /// Accepts calls to the peer, of up to `limit` bytes until the session takes them.
    pub(crate) fn accept_calls(&self, limit: usize, encoder: NotificationEncoder) {
        let mut state = self.lock();
        (state.limit, state.encoder) = (limit, Some(encoder));
    }

    /// Returns `true` if the connection holds something as long as its peer is alive. Otherwise it need no longer be
    /// watched.
    pub(crate) fn is_watched(&self) -> bool {
        let mut state = self.lock();
        let State { outbox, held, .. } = &mut *state;
        let holds = held.as_ref().is_some_and(|held| held.keys().any(|key| key.0 != SESSION));
        outbox.as_mut().is_some_and(|outbox| {
            outbox.watched = holds;
            holds
        })
    }

    /// Returns a number for a call to the peer.
    pub(crate) fn next_id(&self) -> CallId {
        let mut state = self.lock();
        let outbox = state.outbox.get_or_insert_default();
        outbox.last_id += 1;
        outbox.last_id
    }

    /// Returns `true` if calls wait that the session has not taken.
    pub(crate) fn has_posts(&self) -> bool {
        self.lock().outbox.as_ref().is_some_and(|outbox| !outbox.posted.is_empty())
    }

    /// Registers the task to be woken by the next post, which it cannot take yet.
    pub(crate) fn watch_posts(&self, cx: &Context<'_>, posts: &mut Posts) {
        let mut state = self.lock();
        state.session = Some(cx.waker().clone());
        posts.next_deadline = state.outbox.as_ref().and_then(|outbox| outbox.earliest_deadline);
    }

    /// Removes and returns the posted calls whose deadline has passed.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<PeerCall> {
        let mut state = self.lock();
        let Some(outbox) = &mut state.outbox else { return Vec::new() };
        if outbox.earliest_deadline.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        outbox.earliest_deadline = None;
        for post in mem::take(&mut outbox.posted) {
            match post {
                Post::Call(call) if call.deadline.is_some_and(|deadline| deadline <= now) => {
                    outbox.bytes -= call.bytes();
                    expired.push(*call);
                }
                post => {
                    if let Post::Call(call) = &post {
                        outbox.note_deadline(call);
                    }
                    outbox.posted.push_back(post);
                }
            }
        }
        expired
    }

    /// Fails all calls that are posted from now on.
    pub(crate) fn refuse_calls(&self, error: &PeerError) {
        self.lock().outbox.get_or_insert_default().closed = Some(error.clone());
    }

    /// Fails the calls that were posted and not taken, and all later ones.
    pub(crate) fn close_outbox(&self, error: &PeerError) {
        let mut state = self.lock();
        let outbox = state.outbox.get_or_insert_default();
        let posted = mem::take(&mut outbox.posted);
        outbox.closed = Some(error.clone());
        outbox.ended = true;
        drop(state);
        for post in posted {
            if let Post::Call(call) = post {
                self.answer(*call, Err(error.clone()));
            }
        }
    }

    /// Answers a call to the peer.
    pub(crate) fn answer(&self, call: PeerCall, result: Result<RawJson<'static>, PeerError>) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        (call.answer)(result);
    }
}

/// Events for the peer.
impl Mailbox {
    /// Adds an event, unless the connection has ended.
    pub(super) fn deliver(&self, event: &Arc<Event>, overflow: Overflow, is_kept: bool) -> Delivered {
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
    pub(super) fn hold_subscription(
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
    pub(super) fn end_subscriptions(
        &self,
        is_ended: impl Fn(&Held) -> bool,
        reason: &'static str,
    ) -> Vec<Held> {
        let mut state = self.lock();
        let State { held: Some(held), events: Some(events), .. } = &mut *state else { return Vec::new() };
        let ended = held.extract_if(|key, held| is_subscription(key) && is_ended(held));
        let ended = ended.map(|((_, topic), subscription)| {
            events.push_ended(topic, reason);
            subscription
        });
        let ended = ended.collect();
        wake(state);
        ended
    }

    /// Forgets the events that wait because of the subscription `topic`. If the peer `is_told`, they become missed ones, and
    /// the notice that it has ended is forgotten too. Returns `true` if there was that notice. `covers` returns `true` if a
    /// subscription receives the events of a topic.
    pub(super) fn forget_events(
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

    /// Notes the number of a topic's next event, of which earlier ones may have been missed.
    pub(super) fn note_next(&self, topic: &Arc<str>, number: u64) {
        if let Some(events) = &mut self.lock().events {
            events.note_next(topic, number);
        }
    }
}

/// What became of an event for a peer.
pub(super) enum Delivered {
    /// It waits, and this many were dropped; the session must be woken.
    Queued { dropped: u64, waker: Option<Waker> },
    /// There was no room for it, and the peer's subscription must end.
    Full,
}

fn is_subscription(key: &HeldKey) -> bool {
    key.0 == TOPIC
}

/// A connection's peer, which can be called like it calls this node.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Mailbox>);

impl Peer {
    pub(crate) fn new(mailbox: &Arc<Mailbox>) -> Self {
        Self(mailbox.clone())
    }

    /// Returns the mailbox of the connection.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0
    }

    /// Returns the number for a call.
    pub fn reserve(&self) -> CallId {
        self.0.next_id()
    }

    /// Calls a function of the peer, or sends it a notification. `answer` is called once, on the thread of the
    /// connection or on this one.
    #[allow(clippy::too_many_arguments, reason = "all but the last are the parts of one message")]
    pub fn call(
        &self,
        id: CallId,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Option<Instant>,
        hops: u32,
        is_notification: bool,
        answer: impl FnOnce(Result<RawJson<'static>, PeerError>) + Send + 'static,
    ) {
        let answer = Box::new(answer);
        let call = Box::new(PeerCall { id, method, params, deadline, hops, is_notification, answer });
        let mut state = self.0.lock();
        let State { outbox, limit, closed, .. } = &mut *state;
        let error = match &mut **outbox.get_or_insert_default() {
            _ if *limit == 0 => PeerError::Unsent("the connection is for the peer's calls only".into()),
            Outbox { closed: Some(error), .. } => error.clone(),
            _ if *closed => PeerError::Unsent("the connection is closed".into()),
            Outbox { closing: true, .. } => PeerError::Unsent("the connection is being closed".into()),
            outbox => {
                let is_full = outbox.bytes >= *limit;
                if !is_full && self.0.waiting.load(Ordering::Relaxed) < MAX_WAITING {
                    self.0.waiting.fetch_add(1, Ordering::Relaxed);
                    outbox.bytes += call.bytes();
                    outbox.note_deadline(&call);
                    outbox.posted.push_back(Post::Call(call));
                    return wake(state);
                }
                PeerError::Busy
            }
        };
        drop(state);
        (call.answer)(Err(error));
    }

    /// Sends a notification with any JSON as its data. Never waits.
    ///
    /// # Errors
    /// [`SendError`]; then nothing is sent.
    pub(crate) fn notify(&self, method: &str, data: &RawJson<'_>) -> Result<(), SendError> {
        let encoder = self.0.lock().encoder;
        let body = encoder.ok_or(SendError::Unreachable)?.encode(method, data).map_err(SendError::Invalid)?;
        let mut state = self.0.lock();
        let State { outbox, limit, closed, .. } = &mut *state;
        let outbox = outbox.get_or_insert_default();
        if *closed || outbox.closing || outbox.closed.is_some() {
            return Err(SendError::Closed);
        }
        if outbox.bytes >= *limit {
            return Err(SendError::Full);
        }
        outbox.bytes += CALL_OVERHEAD + body.len();
        outbox.posted.push_back(Post::Notification(body.into()));
        wake(state);
        Ok(())
    }

    /// Cancels a call: unless it is answered already, it is answered with [`code::CANCELLED`], and the peer is told if it
    /// was sent.
    pub fn cancel(&self, id: CallId) {
        let mut state = self.0.lock();
        let Some(outbox) = &mut state.outbox else { return };
        if outbox.ended {
            return;
        }
        let is_it = |post: &Post| matches!(post, Post::Call(call) if call.id == id);
        match outbox.posted.iter().position(is_it) {
            Some(at) => {
                let Some(Post::Call(call)) = outbox.posted.remove(at) else { return };
                outbox.bytes -= call.bytes();
                drop(state);
                self.0.answer(*call, Err(PeerError::cancelled()));
            }
            None => {
                outbox.posted.push_back(Post::Cancel(id));
                wake(state);
            }
        }
    }

    /// Returns a waker that cancels a call.
    pub(crate) fn canceller(&self, id: CallId) -> Waker {
        struct Canceller(Peer, CallId);
        impl Wake for Canceller {
            fn wake(self: Arc<Self>) {
                self.0.cancel(self.1);
            }
        }
        Arc::new(Canceller(self.clone(), id)).into()
    }

    /// Closes the connection after everything posted is written.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.outbox.get_or_insert_default().closing = true;
        wake(state);
    }

    /// Has the session check that the peer is alive, as long as the connection holds something. A peer that `knows_meta`
    /// gets what a call is besides its parameters in MessagePack-RPC too, where others may reject such a request.
    pub(crate) fn watch(&self, knows_meta: bool) {
        let mut state = self.0.lock();
        let outbox = state.outbox.get_or_insert_default();
        let is_known = mem::replace(&mut outbox.watched, true) && !knows_meta;
        if outbox.closed.is_none() && !is_known {
            outbox.posted.push_back(Post::Watch { knows_meta });
            wake(state);
        }
    }

    /// Keeps `value` until the connection ends, or until it is [released](Self::release). Returns what it replaces; if the
    /// connection has ended, or has nothing to offer any longer, the value itself.
    pub(crate) fn hold(&self, key: HeldKey, value: Held) -> Option<Held> {
        let mut state = self.0.lock();
        if state.closed || (state.answers_nothing && key.0 == OFFERS) {
            return Some(value);
        }
        state.held.get_or_insert_default().insert(key, value)
    }

    /// Removes and returns a value that the connection holds.
    pub(crate) fn release(&self, key: &HeldKey) -> Option<Held> {
        self.0.lock().held.as_mut()?.remove(key)
    }

    /// Returns how many values of a kind the connection holds.
    pub(crate) fn held(&self, kind: &str) -> usize {
        let state = self.0.lock();
        state.held.as_ref().map_or(0, |held| held.keys().filter(|key| key.0 == kind).count())
    }
}

impl PeerCall {
    /// Returns its approximate size when sent.
    pub(crate) fn bytes(&self) -> usize {
        CALL_OVERHEAD + self.method.len() + self.params.as_ref().map_or(0, |params| params.get().len())
    }
}

impl fmt::Debug for PeerCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCall").field("id", &self.id).field("method", &self.method).finish_non_exhaustive()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("replies", &self.lock().replies.len()).finish_non_exhaustive()
    }
}
