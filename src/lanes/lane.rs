//! One lane: its queue, its client, and the task that runs its calls.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::future::{Future, pending, poll_fn};
use std::hash::BuildHasher;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::client::{LaneClient, Lease};
use super::error::LaneError;
use super::{LaneSettings, LaneStats, MAX_TIMEOUT};
use crate::chan::budget::Budget;
use crate::chan::panic;
use crate::chan::sync::{Mutex, MutexGuard};

use crate::chan::wait_graph::{self, Waiter};

/// The maximum number of calls that a lane makes before it yields to other tasks of its executor.
const CALL_BUDGET: u32 = 64;
/// The minimum pause between attempts to dial, so that no setting makes a lane spin.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// The log target of panics in jobs, so that a log can limit them.
const PANIC: &str = "chanrpc::panic";

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// A job: creates the future that runs it in a lane until a deadline, and answers.
pub(super) type Work<C> = Box<dyn FnOnce(Arc<Lane<C>>, Instant) -> Boxed<()> + Send>;
pub(super) type Dial<C> = Box<dyn Fn(usize) -> Boxed<Result<C, <C as LaneClient>::Error>> + Send + Sync>;

/// The part of a pool that its lanes share.
pub(super) struct PoolShared<C: LaneClient> {
    pub(super) settings: LaneSettings,
    pub(super) dial: Dial<C>,
    /// Closed with the pool.
    pub(super) closing: Receiver<()>,
}

/// A lane. It outlives its pool while calls run or wait in it.
pub(super) struct Lane<C: LaneClient> {
    pub(super) number: usize,
    /// The lane in the wait graph.
    pub(super) waiter: Waiter,
    pub(super) shared: Arc<PoolShared<C>>,
    /// No code of the user's runs, and no value of theirs is dropped, under this lock.
    state: Mutex<State<C>>,
}

pub(super) struct State<C: LaneClient> {
    /// The calls that have not begun, by number, in order. Calls beyond the first [`LaneSettings::queue`] wait for
    /// room; their callers remove them on cancellation.
    queue: BTreeMap<u64, Queued<C>>,
    next_id: u64,
    worker: Worker,
    closed: bool,
    client: Option<Arc<C>>,
    /// Set after a failed attempt to dial.
    backoff: Option<DialBackoff<C::Error>>,
    /// The counters. The current number of calls is in the other fields.
    totals: LaneStats,
}

/// A queued call. Dropping it answers it with [`LaneError::Closed`].
pub(super) struct Queued<C: LaneClient> {
    deadline: Instant,
    work: Work<C>,
}

/// The behaviour of a call when the queue is full.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum WhenFull {
    Wait,
    Fail,
}

/// The task that runs a lane's calls.
#[derive(Clone, Copy, PartialEq)]
enum Worker {
    /// None is running, since no call is queued.
    None,
    /// It has been spawned and has not taken its first call.
    Starting,
    Busy,
}

struct DialBackoff<E> {
    error: Arc<E>,
    /// The pause without its random variation.
    pause: Duration,
    until: Instant,
}

impl<C: LaneClient> State<C> {
    /// Takes the next call for the worker, which has to end if there is none.
    fn next(&mut self) -> Option<Queued<C>> {
        let next = self.queue.pop_first().map(|(_, next)| next);
        self.worker = if next.is_some() { Worker::Busy } else { Worker::None };
        next
    }
}

impl<C: LaneClient> Lane<C> {
    pub(super) fn new(number: usize, shared: Arc<PoolShared<C>>) -> Self {
        let state = State {
            queue: BTreeMap::new(),
            next_id: 0,
            worker: Worker::None,
            closed: false,
            client: None,
            backoff: None,
            totals: LaneStats::default(),
        };
        let name = format!("{} {number}", shared.settings.name);
        Self { number, waiter: Waiter::new(name.into()), shared, state: Mutex::new(state) }
    }

    /// Checks that the queue has room for one more call. This holds until the returned lock is released.
    pub(super) fn reserve(&self, full: WhenFull) -> Result<MutexGuard<'_, State<C>>, LaneError<C::Error>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(LaneError::Closed);
        }
        let limit = self.shared.settings.queue;
        // The first queued call of an idle worker does not wait.
        let room = limit.saturating_add(usize::from(state.worker != Worker::Busy));
        if full == WhenFull::Fail && state.queue.len() >= room {
            state.totals.refused += 1;
            return Err(LaneError::Full { limit });
        }
        Ok(state)
    }

    /// Queues a call and returns its number.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        executor: &Executor<'static>,
        mut state: MutexGuard<'_, State<C>>,
        deadline: Instant,
        work: Work<C>,
    ) -> u64 {
        let id = state.next_id;
        state.next_id += 1;
        state.queue.insert(id, Queued { deadline, work });
        let idle = state.worker == Worker::None;
        if idle {
            state.worker = Worker::Starting;
        }
        drop(state);
        if idle {
            // The task ends by itself, and catches panics.
            executor.spawn(run(self.clone())).detach();
        }
        id
    }

    /// Rejects further calls. Returns the queued calls and the client, to be dropped; this answers the calls.
    pub(super) fn close(&self) -> (impl Iterator<Item = Queued<C>> + use<C>, Option<Arc<C>>) {
        let mut state = self.state.lock();
        state.closed = true;
        // A busy worker takes the client when it ends.
        let client = if state.worker == Worker::Busy { None } else { state.client.take() };
        (mem::take(&mut state.queue).into_values(), client)
    }

    /// Removes a call from the queue if it has not begun.
    pub(super) fn remove(&self, id: u64) -> Option<Queued<C>> {
        self.state.lock().queue.remove(&id)
    }

    pub(super) fn stats(&self) -> LaneStats {
        let state = self.state.lock();
        let running = usize::from(state.worker == Worker::Busy);
        LaneStats { queued: state.queue.len(), running, ..state.totals }
    }

    /// Returns the error of a call whose deadline has passed.
    pub(super) fn deadline_error(&self) -> LaneError<C::Error> {
        match &self.state.lock().backoff {
            Some(backoff) => LaneError::Unreachable(backoff.error.clone()),
            None => LaneError::Deadline,
        }
    }

    /// Returns the lane's client. Dials until it succeeds, or until no further attempt is possible before the deadline.
    async fn client(&self, deadline: Instant) -> Result<Arc<C>, LaneError<C::Error>> {
        let kept = self.state.lock().client.clone();
        if let Some(client) = kept {
            if !client.is_dead() {
                return Ok(client);
            }
            let _dead = self.state.lock().client.take();
        }
        loop {
            let pause = self.state.lock().backoff.as_ref().map(|backoff| backoff.until);
            if let Some(until) = pause {
                if until >= deadline {
                    return Err(self.deadline_error());
                }
                Timer::at(until).await;
            }
            match (self.shared.dial)(self.number).await {
                Ok(client) => {
                    let client = Arc::new(client);
                    let late = Instant::now() >= deadline;
                    let mut state = self.state.lock();
                    state.totals.dialled += 1;
                    state.client = Some(client.clone());
                    let _up = state.backoff.take();
                    drop(state);
                    // Later calls use the client.
                    return if late { Err(LaneError::Deadline) } else { Ok(client) };
                }
                Err(error) => {
                    let _last = self.record_dial_failure(error);
                }
            }
        }
    }

    fn record_dial_failure(&self, error: C::Error) -> Option<DialBackoff<C::Error>> {
        let LaneSettings { pause, longest_pause, .. } = self.shared.settings;
        let mut state = self.state.lock();
        state.totals.dial_failures += 1;
        let pause = match &state.backoff {
            Some(last) => last.pause.saturating_mul(2),
            None => pause,
        };
        let pause = pause.clamp(MIN_PAUSE, longest_pause.clamp(MIN_PAUSE, MAX_TIMEOUT));
        // Random variation, so that many lanes do not dial one server at the same time.
        let chance = RandomState::new().hash_one(self.number) % 1024;
        let varied = pause.mul_f64(0.5 + chance as f64 / 1024.0);
        state.backoff.replace(DialBackoff { error: Arc::new(error), pause, until: Instant::now() + varied })
    }
}

/// The worker of a lane: runs its calls one at a time until none is left.
async fn run<C: LaneClient>(lane: Arc<Lane<C>>) {
    let mut budget = Budget::new(CALL_BUDGET);
    loop {
        let next = lane.state.lock().next();
        let Some(Queued { deadline, work }) = next else { break };
        budget.begin_call();
        budget.run(work(lane.clone(), deadline)).await;
        if budget.end_call() {
            budget.yield_now().await;
        }
    }
    let mut state = lane.state.lock();
    let left = if state.closed { state.client.take() } else { None };
    drop(state);
    panic::drop_quietly(left);
}

/// Combines a job with the sender of its reply.
pub(super) fn work<C, J, F, R>(job: J, answer: ReplySender<R, C::Error>) -> Work<C>
where
    C: LaneClient,
    J: FnOnce(Lease<C>) -> F + Send + 'static,
    F: Future<Output = Result<R, C::Error>> + Send + 'static,
    R: Send + 'static,
{
    Box::new(move |lane, deadline| {
        Box::pin(async move {
            let outcome = run_job(&lane, deadline, job, &answer).await;
            // The caller may have cancelled the call.
            panic::drop_quietly((answer.send(outcome), answer));
        })
    })
}

/// Runs a job with the lane's client. Returns `None` if the call was cancelled.
async fn run_job<C, J, F, R>(
    lane: &Arc<Lane<C>>,
    deadline: Instant,
    job: J,
    answer: &ReplySender<R, C::Error>,
) -> Option<Result<R, LaneError<C::Error>>>
where
    C: LaneClient,
    J: FnOnce(Lease<C>) -> F + Send + 'static,
    F: Future<Output = Result<R, C::Error>> + Send + 'static,
    R: Send + 'static,
{
    let work = {
        let lane = lane.clone();
        async move {
            let closed = async {
                let _ = lane.shared.closing.recv().await;
                Err(LaneError::Closed)
            };
            let client = lane.client(deadline).or(closed).await?;
            let result = job(Lease { client, deadline }).await;
            if let Err(error) = &result
                && C::is_fatal(error)
            {
                let _dead = lane.state.lock().client.take();
            }
            result.map_err(LaneError::Failed)
        }
    };
    let mut work = Box::pin(work);
    let mut cancelled = pin!(answer.cancelled());
    let mut timer = None;
    let mut function = wait_graph::RunningFunction::new(&lane.waiter);
    let outcome = poll_fn(|cx| {
        // Checked first, so that a job with the same deadline does not see it pass before the lane does.
        if Instant::now() >= deadline {
            return Poll::Ready(Some(Err(lane.deadline_error())));
        }
        if answer.is_cancelled() {
            return Poll::Ready(None);
        }
        let limit = lane.shared.settings.backtrace_limit;
        let polled =
            function.poll(cx, |cx| panic::with_capture(limit, || panic::catch(|| work.as_mut().poll(cx))));
        match polled {
            Ok(Poll::Ready(outcome)) => return Poll::Ready(Some(outcome)),
            Ok(Poll::Pending) => {}
            Err(panic) => {
                lane.state.lock().totals.panicked += 1;
                log::error!(target: PANIC, "{}: a job panicked: {}", lane.waiter.name(), panic.message());
                log::debug!(target: PANIC, "{}", panic.backtrace());
                return Poll::Ready(Some(Err(LaneError::Panicked(panic))));
            }
        }
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let timer = timer.get_or_insert_with(|| Timer::at(deadline));
        Pin::new(timer).poll(cx).map(|_| Some(Err(lane.deadline_error())))
    })
    .await;
    panic::drop_quietly(work);
    outcome
}

/// The sender of a call's reply; `None` in go mode. Dropping it unused answers with [`LaneError::Closed`].
pub(super) struct ReplySender<R, E>(pub(super) Option<Sender<Result<R, LaneError<E>>>>);

impl<R, E> ReplySender<R, E> {
    /// Sends the outcome. Returns it if it is not wanted.
    fn send(&self, outcome: Option<Result<R, LaneError<E>>>) -> Option<Result<R, LaneError<E>>> {
        match &self.0 {
            Some(caller) => caller.try_send(outcome?).err().map(async_channel::TrySendError::into_inner),
            None => outcome,
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(Sender::is_closed)
    }

    async fn cancelled(&self) {
        match &self.0 {
            Some(caller) => caller.closed().await,
            None => pending().await,
        }
    }
}

#[cfg(all(test, not(chanrpc_loom)))]
mod tests {
    use super::*;

    struct Nobody;

    impl LaneClient for Nobody {
        type Error = ();

        fn is_fatal((): &()) -> bool {
            false
        }
    }

    #[test]
    fn any_number_of_callers_leave_in_any_order() {
        const CALLERS: usize = 100_000;
        let (_open, closing) = async_channel::bounded(1);
        let dial: Dial<Nobody> = Box::new(|_| Box::pin(async { Err(()) }));
        let shared = PoolShared { settings: LaneSettings::default(), dial, closing };
        let lane = Arc::new(Lane::new(0, Arc::new(shared)));
        let executor = Executor::new();
        let begun = Instant::now();
        let mut places: Vec<u64> = Vec::new();
        for _ in 0..CALLERS {
            let Ok(state) = lane.reserve(WhenFull::Wait) else { panic!("it waits for room") };
            places.push(lane.enqueue(
                &executor,
                state,
                begun + MAX_TIMEOUT,
                Box::new(|_, _| Box::pin(async {})),
            ));
        }
        let to_come = begun.elapsed();
        let begun = Instant::now();
        // From the middle outwards.
        for n in 0..CALLERS {
            let at = if n % 2 == 0 { CALLERS / 2 + n / 2 } else { CALLERS / 2 - 1 - n / 2 };
            assert!(lane.remove(places[at]).is_some());
        }
        let to_leave = begun.elapsed();
        assert_eq!(lane.stats().queued, 0);
        assert!(to_leave < 20 * to_come, "{to_come:?} to come, {to_leave:?} to leave");
    }
}
