//! The queue through which replies reach a connection's session, from any thread.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::message::Outcome;

/// Identifies a call within one connection.
pub type CallId = u64;

/// Collects the replies to one connection's calls until its session takes them.
///
/// It holds at most one reply for each call in flight.
#[derive(Default)]
pub struct ReplyQueue(Mutex<State>);

#[derive(Default)]
struct State {
    replies: Vec<(CallId, Outcome)>,
    /// The session's waker, while it waits for a reply.
    session: Option<Waker>,
    /// Calls that were cancelled and are not answered yet.
    cancelled: FxHashSet<CallId>,
    /// The wakers of providers that wait for the cancellation of their call.
    providers: FxHashMap<CallId, Waker>,
    closed: bool,
}

impl State {
    fn is_cancelled(&self, id: CallId, is_notification: bool) -> bool {
        self.cancelled.contains(&id) || (self.closed && !is_notification)
    }
}

impl ReplyQueue {
    /// Moves all replies to the end of `into`. If there are none, registers the task to be woken by the next one.
    pub fn poll_replies(&self, cx: &Context<'_>, into: &mut VecDeque<(CallId, Outcome)>) -> Poll<()> {
        let mut state = self.lock();
        if state.replies.is_empty() {
            if !state.session.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.session = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        into.extend(state.replies.drain(..));
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
    }

    /// Cancels all calls except notifications, since the peer is gone.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let providers = mem::take(&mut state.providers);
        state.session = None;
        state.replies.clear();
        drop(state);
        providers.into_values().for_each(Waker::wake);
    }

    /// Adds the reply to a call, unless the call was cancelled.
    pub(super) fn push(&self, id: CallId, outcome: Outcome) {
        let mut state = self.lock();
        state.providers.remove(&id);
        if state.cancelled.remove(&id) || state.closed {
            return;
        }
        state.replies.push((id, outcome));
        let session = state.session.take();
        drop(state);
        if let Some(session) = session {
            session.wake();
        }
    }

    /// Completes once the call is cancelled; closing the queue does not cancel a notification.
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ReplyQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyQueue").field("replies", &self.lock().replies.len()).finish_non_exhaustive()
    }
}
