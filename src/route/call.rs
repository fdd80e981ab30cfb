//! One call on its way to a provider, and the way back.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use super::admission::Permit;
use crate::message::{Fault, Outcome, RawJson, code};
use crate::metrics::FunctionMetrics;

/// One call, as a provider gets it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The function's full name.
    pub method: &'a str,
    /// An array or an object, if anything.
    pub params: Option<RawJson<'a>>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// How many nodes have passed the call on so far.
    pub hops: u32,
    /// The right to answer.
    pub reply: Reply,
}

/// What is asked in a call, whoever will get the answer.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The function's full name.
    pub method: &'a str,
    /// An array or an object, if anything.
    pub params: Option<RawJson<'a>>,
    /// How many nodes have passed the call on so far.
    pub hops: u32,
}

/// Tells the calls of one connection apart.
pub type Token = u64;

/// The right to answer one call, once. Dropped unanswered, it answers with a fault.
pub struct Reply {
    token: Token,
    /// A notification outlives the connection it came by.
    lasting: bool,
    inbox: Option<Arc<Inbox>>,
    meter: Option<(Arc<FunctionMetrics>, Instant)>,
    permit: Option<Permit>,
}

impl Reply {
    /// Creates the right to answer the call `token` into `inbox`. The answer to a `notification` tells only
    /// that the function has run, and the peer's leaving does not cancel it.
    pub fn new(inbox: &Arc<Inbox>, token: Token, notification: bool) -> Self {
        Self { token, lasting: notification, inbox: Some(inbox.clone()), meter: None, permit: None }
    }

    /// From now on counts the call, and the time until it is answered, as one of this function's.
    pub(super) fn meter(&mut self, metrics: &Arc<FunctionMetrics>) {
        metrics.begin();
        self.meter = Some((metrics.clone(), Instant::now()));
    }

    /// Holds the workers of the call until it is answered, wanted or not.
    pub(super) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Tells whether anybody wants to know the answer; nobody does of a notification.
    pub fn is_wanted(&self) -> bool {
        !self.lasting
    }

    /// Answers.
    pub fn send(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    /// Waits until nobody wants the answer any more: cancelled, past its deadline, or the peer is gone.
    pub async fn cancelled(&self) {
        poll_fn(|cx| self.poll_cancelled(cx)).await;
    }

    pub(super) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.inbox {
            Some(inbox) => inbox.poll_cancelled(self.token, self.lasting, cx),
            None => Poll::Pending,
        }
    }

    /// Tells whether nobody wants the answer any more.
    pub fn is_cancelled(&self) -> bool {
        self.inbox.as_ref().is_none_or(|inbox| inbox.lock().is_cancelled(self.token, self.lasting))
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some((metrics, began)) = self.meter.take() {
            metrics.end(began.elapsed(), outcome.as_ref().err());
        }
        if let Some(inbox) = self.inbox.take() {
            inbox.push(self.token, outcome);
        }
        // Last, since the next call may be answered in it.
        self.permit = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.inbox.is_some() {
            self.finish(Err(Fault::new(code::INTERNAL, "the function ended without an answer")));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Where the answers to one connection's calls gather until its session takes them.
///
/// It holds at most one answer for each call in flight.
#[derive(Default)]
pub struct Inbox(Mutex<State>);

#[derive(Default)]
struct State {
    answers: Vec<(Token, Outcome)>,
    session: Option<Waker>,
    /// Calls that were given up and not yet answered.
    cancelled: FxHashSet<Token>,
    /// Providers that want to know when their call is given up.
    providers: FxHashMap<Token, Waker>,
    closed: bool,
}

impl State {
    fn is_cancelled(&self, token: Token, lasting: bool) -> bool {
        self.cancelled.contains(&token) || (self.closed && !lasting)
    }
}

impl Inbox {
    /// Moves the answers that are there to the end of `into`; otherwise has the task woken when one comes.
    pub fn poll_answers(&self, cx: &Context<'_>, into: &mut VecDeque<(Token, Outcome)>) -> Poll<()> {
        let mut state = self.lock();
        if state.answers.is_empty() {
            if !state.session.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.session = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        into.extend(state.answers.drain(..));
        Poll::Ready(())
    }

    /// Gives up a call: its provider is told, its answer dropped.
    pub fn cancel(&self, token: Token) {
        let mut state = self.lock();
        if let Some(at) = state.answers.iter().position(|(answered, _)| *answered == token) {
            drop(state.answers.remove(at));
            return;
        }
        state.cancelled.insert(token);
        let provider = state.providers.remove(&token);
        drop(state);
        if let Some(provider) = provider {
            provider.wake();
        }
    }

    /// Gives back memory that is not in use.
    pub fn rest(&self) {
        let mut state = self.lock();
        state.answers.shrink_to_fit();
        state.cancelled.shrink_to_fit();
        state.providers.shrink_to_fit();
    }

    /// Gives up all calls but notifications, since the peer is gone.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let providers = mem::take(&mut state.providers);
        state.session = None;
        state.answers.clear();
        drop(state);
        providers.into_values().for_each(Waker::wake);
    }

    fn push(&self, token: Token, outcome: Outcome) {
        let mut state = self.lock();
        state.providers.remove(&token);
        if state.cancelled.remove(&token) || state.closed {
            return;
        }
        state.answers.push((token, outcome));
        let session = state.session.take();
        drop(state);
        if let Some(session) = session {
            session.wake();
        }
    }

    fn poll_cancelled(&self, token: Token, lasting: bool, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_cancelled(token, lasting) {
            return Poll::Ready(());
        }
        state.providers.insert(token, cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("answers", &self.lock().answers.len()).finish_non_exhaustive()
    }
}

/// The answer to one call, for a caller that is no connection: in a test, or within the node.
#[derive(Debug, Default)]
pub struct Asker(Arc<Inbox>);

impl Asker {
    /// Makes the right to answer the next call; one call at a time.
    pub fn reply(&self) -> Reply {
        Reply::new(&self.0, 0, false)
    }

    /// Waits for the answer.
    pub async fn answer(&self) -> Outcome {
        let mut answers = VecDeque::new();
        poll_fn(|cx| self.0.poll_answers(cx, &mut answers)).await;
        match answers.pop_front() {
            Some((_, outcome)) => outcome,
            None => unreachable!("ready means that an answer is there"),
        }
    }
}

/// The time from now to `deadline`; `None` once it has passed.
pub(super) fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|time| !time.is_zero())
}
