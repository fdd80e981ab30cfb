//! The future of a call in a lane.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::MAX_TIMEOUT;
use super::client::LaneClient;
use super::error::LaneError;
use super::lane::{Boxed, Lane, WhenFull, Work};
use crate::chan::wait_graph::{self, Wait};
use crate::chan::{CallError, panic};

/// A call in a lane: a future to await, or to block on with [`wait`](Self::wait), of the job's result or a
/// [`LaneError`].
///
/// The first poll queues the call; if the lane's queue is full, it waits for room behind earlier calls. Dropping it
/// cancels the call: a job that has not begun never will, and one that has is dropped. Options set after the first poll
/// have no effect.
///
/// # Panics
/// If it is polled after it has completed.
#[must_use = "a call does nothing unless it is awaited or waited for"]
pub struct LaneCall<C: LaneClient, R> {
    state: CallState<C, R>,
}

enum CallState<C: LaneClient, R> {
    Unsent(Unsent<C, R>),
    Waiting(Boxed<Result<R, LaneError<C::Error>>>),
    Done,
}

/// A call that is not queued yet.
struct Unsent<C: LaneClient, R> {
    executor: Arc<Executor<'static>>,
    lane: Arc<Lane<C>>,
    work: Work<C>,
    answered: ReplyReceiver<R, C::Error>,
    deadline: Instant,
    full: WhenFull,
}

type ReplyReceiver<R, E> = Receiver<Result<R, LaneError<E>>>;

impl<C: LaneClient, R: Send + 'static> LaneCall<C, R> {
    pub(super) fn new(
        executor: &Arc<Executor<'static>>,
        lane: &Arc<Lane<C>>,
        work: Work<C>,
        answered: ReplyReceiver<R, C::Error>,
        deadline: Instant,
    ) -> Self {
        let (executor, lane) = (executor.clone(), lane.clone());
        let full = WhenFull::Wait;
        Self { state: CallState::Unsent(Unsent { executor, lane, work, answered, deadline, full }) }
    }

    /// Ends the call with [`LaneError::Deadline`] unless it is answered by `at`.
    pub fn deadline(mut self, at: Instant) -> Self {
        if let CallState::Unsent(fresh) = &mut self.state {
            fresh.deadline = at;
        }
        self
    }

    /// Ends the call with [`LaneError::Deadline`] unless it is answered within `time` from now. More than a year is
    /// taken as a year.
    pub fn timeout(self, time: Duration) -> Self {
        self.deadline(Instant::now() + time.min(MAX_TIMEOUT))
    }

    /// Ends the call with [`LaneError::Full`] instead of waiting for room in the queue.
    pub fn unless_full(mut self) -> Self {
        if let CallState::Unsent(fresh) = &mut self.state {
            fresh.full = WhenFull::Fail;
        }
        self
    }

    /// Blocks this thread until the call is answered. For plain threads; tasks `.await` the call instead.
    ///
    /// # Errors
    /// [`LaneError`]; in particular `WouldDeadlock` from inside a function or a job that the lane waits for.
    pub fn wait(self) -> Result<R, LaneError<C::Error>> {
        wait_graph::block_on(self)
    }
}

impl<C: LaneClient, R: Send + 'static> Unsent<C, R> {
    async fn make(self) -> Result<R, LaneError<C::Error>> {
        let Self { executor, lane, work, answered, deadline, full } = self;
        let refused = |error| match error {
            CallError::WouldDeadlock { chain } => LaneError::WouldDeadlock { chain },
            _ => unreachable!("a wait is refused for no other reason"),
        };
        let mut wait = poll_fn(|cx| Poll::Ready(Wait::begin(&lane.waiter, cx))).await.map_err(refused)?;
        let state = lane.reserve(full)?;
        let id = lane.enqueue(&executor, state, deadline, work);
        // A call that waits on the executor must not own it.
        drop(executor);
        let _place = Place { lane: &lane, id };
        // The lane also checks the deadline, but it may have no thread, or be busy with another call.
        let answer = async { answered.recv().await.unwrap_or(Err(LaneError::Closed)) };
        let late = async {
            Timer::at(deadline).await;
            Err(lane.deadline_error())
        };
        let deadlock = async { Err(refused(poll_fn(|cx| wait.poll_deadlock(&lane.waiter, cx)).await)) };
        answer.or(deadlock).or(late).await
    }
}

// No field is structurally pinned.
impl<C: LaneClient, R> Unpin for LaneCall<C, R> {}

impl<C: LaneClient, R: Send + 'static> Future for LaneCall<C, R> {
    type Output = Result<R, LaneError<C::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waiting = match mem::replace(&mut self.state, CallState::Done) {
            CallState::Unsent(fresh) => Box::pin(fresh.make()),
            CallState::Waiting(waiting) => waiting,
            CallState::Done => panic!("the call was polled after its end"),
        };
        let answer = waiting.poll(cx);
        if answer.is_pending() {
            self.state = CallState::Waiting(waiting);
        }
        answer
    }
}

impl<C: LaneClient, R> fmt::Debug for LaneCall<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            CallState::Unsent(_) => "fresh",
            CallState::Waiting(_) => "waiting",
            CallState::Done => "done",
        };
        f.debug_struct("LaneCall").field("state", &state).finish_non_exhaustive()
    }
}

/// The place of a call in a queue. Dropping it removes the call.
struct Place<'a, C: LaneClient> {
    lane: &'a Lane<C>,
    id: u64,
}

impl<C: LaneClient> Drop for Place<'_, C> {
    fn drop(&mut self) {
        panic::drop_quietly(self.lane.remove(self.id));
    }
}
