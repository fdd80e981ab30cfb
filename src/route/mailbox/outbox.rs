//! Calls, notifications and cancellations for the peer, as its session sees them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Instant;

use super::super::events::Notice;
use super::{CALL_OVERHEAD, CallId, Mailbox, SESSION, State};
use crate::codec::NotificationEncoder;
use crate::message::{Fault, RawJson, code};

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
    pub(super) answer: Answer,
}

/// Receives the answer to a call to the peer.
pub(super) type Answer = Box<dyn FnOnce(Result<RawJson<'static>, PeerError>) + Send>;

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

/// Calls to the peer, as its session sees them.
impl Mailbox {
    /// Accepts calls to the peer, of up to `limit` bytes until the session takes them; and, with an `encoder`, notifications.
    pub(crate) fn accept_calls(&self, limit: usize, encoder: Option<NotificationEncoder>) {
        let mut state = self.lock();
        (state.limit, state.encoder) = (limit, encoder);
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
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
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
