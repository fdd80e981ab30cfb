//! The handle by which anybody in the node reaches the other end of a connection.

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::Instant;

use super::outbox::{PeerCall, PeerError, Post};
use super::{CALL_OVERHEAD, CallId, Held, HeldKey, MAX_WAITING, Mailbox, OFFERS, Outbox, State, wake};
use crate::message::RawJson;
use crate::route::send_error::SendError;

/// A connection's peer, which can be called like it calls this node.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Mailbox>);

impl Peer {
    pub(crate) fn new(mailbox: &Arc<Mailbox>) -> Self {
        Self(mailbox.clone())
    }

    /// Returns the mailbox of the connection.
    pub(in crate::route) fn mailbox(&self) -> &Arc<Mailbox> {
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
