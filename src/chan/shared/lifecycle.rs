//! Draining, closing and ending a server.

use std::mem;
use std::task::{Context, Poll, Waker};

use super::{Phase, Shared, StateOwner, wake};
use crate::chan::error::CallError;
use crate::chan::panic;
use crate::chan::reply::register;
use crate::chan::spin::Availability;
use crate::chan::sync::Ordering;

impl Shared {
    pub(in crate::chan) fn is_closed(&self) -> bool {
        self.inner.lock().phase != Phase::Open
    }

    /// Returns `true` if calls that have not begun are to be answered instead of run.
    pub(in crate::chan) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Refuses further calls. Calls that are queued or wait for room still run.
    pub(in crate::chan) fn drain(&self) {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Draining;
        }
        let sleeper = inner.take_sleeper();
        drop(inner);
        wake(sleeper);
    }

    /// Refuses further calls, and answers those that have not begun.
    pub(in crate::chan) fn close(&self) {
        self.shut_down(Phase::Closed, false);
    }

    /// Like [`close`](Self::close), for an owner that leaves work other than calls undone.
    pub(in crate::chan) fn close_incomplete(&self) {
        self.shut_down(Phase::Closed, true);
    }

    /// Ends the server after its loop has ended. `incomplete` is `true` if calls that the loop has taken do not run.
    pub(in crate::chan) fn end(&self, incomplete: bool) {
        self.shut_down(Phase::Ended, incomplete);
    }

    /// Enters a final phase. Every end of a server passes here, so this decides whether work is left undone.
    fn shut_down(&self, phase: Phase, incomplete: bool) {
        self.aborted.store(true, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let mut state = None;
        let mut watchers = Vec::new();
        if inner.phase != Phase::Ended {
            // The loop itself reports calls that it has taken or awaits: it may end before it sees the close.
            inner.incomplete |= incomplete || !inner.queue.is_empty() || !inner.blocked.is_empty();
            inner.phase = phase;
        }
        if phase == Phase::Ended {
            match mem::replace(&mut inner.owner, StateOwner::Gone) {
                StateOwner::Caller => inner.owner = StateOwner::LastCaller,
                StateOwner::Free(free) => state = Some(free),
                StateOwner::LastCaller | StateOwner::Loop | StateOwner::Gone => {}
            }
            if inner.is_over() {
                watchers = mem::take(&mut inner.watchers);
            }
        }
        let mut queue = mem::take(&mut inner.queue);
        let blocked = mem::take(&mut inner.blocked);
        let sleeper = inner.take_sleeper();
        let suspended = inner.suspended.take();
        self.spin.set_availability(Availability::Free);
        drop(inner);

        wake(sleeper);
        wake(suspended);
        queue.fail(&CallError::Closed);
        for sender in blocked.into_values() {
            sender.fail(&CallError::Closed);
        }
        watchers.into_iter().for_each(Waker::wake);
        panic::drop_quietly(state);
    }

    /// Waits for a close while an async function runs.
    pub(in crate::chan) fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if self.is_aborted() {
            return Poll::Ready(());
        }
        let old = register(&mut inner.suspended, cx);
        drop(inner);
        drop(old);
        Poll::Pending
    }

    /// Records that an async function has ended.
    pub(in crate::chan) fn async_finished(&self) {
        let suspended = self.inner.lock().suspended.take();
        drop(suspended);
    }

    /// Records that an async function was dropped before its end. Only during a drain or a close does this make the end
    /// incomplete; before that, the owner of the server has dropped it.
    pub(in crate::chan) fn async_dropped(&self) {
        let mut inner = self.inner.lock();
        inner.incomplete |= inner.phase != Phase::Open;
        let suspended = inner.suspended.take();
        drop(inner);
        drop(suspended);
    }

    /// Waits until the server has ended. Returns `true` if it has run all its calls.
    pub(in crate::chan) fn poll_ended(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut inner = self.inner.lock();
        if inner.is_over() {
            return Poll::Ready(!inner.incomplete);
        }
        if !inner.watchers.iter().any(|watcher| watcher.will_wake(cx.waker())) {
            inner.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
