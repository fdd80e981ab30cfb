//! Lanes: calls in order by key, over servers in this process, over nodes, and over a fake client.
//!
//! Most tests drive the executor by hand: after [`settle`], nothing happens until the test, or time, continues.

use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use chanrpc::chan::{CallError, Client, Functions, Id1, Responder, Server};
use chanrpc::lanes::{LaneCall, LaneClient, LaneError, LaneSettings, LaneStats, Lanes};
use proptest::prelude::*;
use smol::Executor;

use crate::support::{Bomb, LIMIT, await_some, eventually, run};

/// A timeout that is expected to pass.
const SOON: Duration = Duration::from_millis(100);

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs everything that is ready.
fn settle(executor: &Executor<'static>) {
    while executor.try_tick() {}
}

/// Runs the executor until a call is answered.
fn answer<F: Future + Unpin>(executor: &Executor<'static>, mut call: F) -> F::Output {
    await_some("an answer", || {
        settle(executor);
        match poll(&mut call) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    })
}

/// A client that does nothing.
#[derive(Debug)]
struct Fake {
    dead: AtomicBool,
    /// Counts the existing clients.
    _alive: Arc<()>,
}

#[derive(Clone, Debug, PartialEq)]
enum FakeError {
    /// The client is dead.
    Gone,
    /// The client is fine.
    Refused,
    /// The attempt to dial with this number failed.
    NobodyThere(usize),
}

impl fmt::Display for FakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("gone"),
            Self::Refused => f.write_str("refused"),
            Self::NobodyThere(attempt) => write!(f, "nobody there, {attempt}"),
        }
    }
}

impl std::error::Error for FakeError {}

impl LaneClient for Fake {
    type Error = FakeError;

    fn is_fatal(error: &FakeError) -> bool {
        *error == FakeError::Gone
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

type FakeCall<R> = LaneCall<Fake, R>;
type Answered<R> = Result<R, LaneError<FakeError>>;

/// The results of the attempts to dial.
#[derive(Clone, Copy, PartialEq)]
enum Dial {
    Works,
    Fails,
    Hangs,
    Panics,
}

/// Lanes of [`Fake`] clients, and an executor driven by the test.
struct Fakes {
    executor: Arc<Executor<'static>>,
    lanes: Lanes<Fake>,
    dial: Arc<Mutex<Dial>>,
    attempts: Arc<Mutex<Vec<Instant>>>,
    alive: Arc<()>,
}

impl Fakes {
    fn new(settings: LaneSettings) -> Self {
        let executor = Arc::new(Executor::new());
        let (dial, attempts, alive) =
            (Arc::new(Mutex::new(Dial::Works)), Arc::new(Mutex::new(Vec::new())), Arc::new(()));
        let lanes = Lanes::new(&executor, settings, {
            let (dial, attempts, alive) = (dial.clone(), attempts.clone(), alive.clone());
            move |_| {
                let attempt = {
                    let mut attempts = attempts.lock().unwrap();
                    attempts.push(Instant::now());
                    attempts.len()
                };
                let (dial, alive) = (*dial.lock().unwrap(), alive.clone());
                async move {
                    match dial {
                        Dial::Works => Ok(Fake { dead: AtomicBool::new(false), _alive: alive }),
                        Dial::Fails => Err(FakeError::NobodyThere(attempt)),
                        Dial::Hangs => pending().await,
                        Dial::Panics => panic!("while dialling"),
                    }
                }
            }
        });
        Self { executor, lanes, dial, attempts, alive }
    }

    /// Creates one lane with a queue of the given capacity.
    fn one_lane(queue: usize) -> Self {
        Self::new(LaneSettings::default().lanes(1).queue(queue))
    }

    fn settle(&self) {
        settle(&self.executor);
    }

    fn answer<R: Send + 'static>(&self, call: FakeCall<R>) -> Answered<R> {
        answer(&self.executor, call)
    }

    fn set_dial(&self, dial: Dial) {
        *self.dial.lock().unwrap() = dial;
    }

    fn attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    fn clients(&self) -> usize {
        // The test holds one, and the lanes' dial function another.
        Arc::strong_count(&self.alive) - 2
    }

    /// Submits a job that waits for its result from the test.
    fn held(&self, key: u32) -> Held {
        let (job, gate) = gated();
        let mut held = Held { call: self.lanes.run(&key, job.into_job()), gate };
        assert!(poll(&mut held.call).is_pending());
        held
    }
}

/// A call whose job ends when the test says so.
struct Held {
    call: FakeCall<u32>,
    gate: Gate,
}

/// The test's handle to a job.
struct Gate {
    end: Sender<Result<u32, FakeError>>,
    /// How often it has started.
    begun: Arc<AtomicUsize>,
    /// Whether its future has been dropped.
    over: Arc<AtomicBool>,
}

impl Gate {
    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst) > 0
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn end(&self, result: Result<u32, FakeError>) {
        self.end.try_send(result).unwrap();
    }
}

struct Gated {
    end: Receiver<Result<u32, FakeError>>,
    begun: Arc<AtomicUsize>,
    over: SetOnDrop,
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn gated() -> (Gated, Gate) {
    let (end, ended) = async_channel::bounded(1);
    let (begun, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let job = Gated { end: ended, begun: begun.clone(), over: SetOnDrop(over.clone()) };
    (job, Gate { end, begun, over })
}

impl Gated {
    fn into_job<C>(self) -> impl FnOnce(C) -> smol::future::Boxed<Result<u32, FakeError>> + Send + use<C> {
        move |_| {
            self.begun.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                let _over = self.over;
                self.end.recv().await.unwrap()
            })
        }
    }
}

/// Returns keys of different lanes.
fn two_keys<C: LaneClient>(lanes: &Lanes<C>) -> (u32, u32) {
    let other = (1..).find(|key| lanes.lane_of(key) != lanes.lane_of(&0_u32));
    (0, other.unwrap())
}

fn sum(lanes: &Lanes<Fake>, key: u32) -> FakeCall<u32> {
    lanes.run(&key, |_| async { Ok(1 + 1) })
}

// Order and concurrency

#[test]
fn lane_runs_one_call_at_a_time_in_order() {
    let fakes = Fakes::one_lane(8);
    let calls: Vec<_> = (0..4).map(|_| fakes.held(7)).collect();
    for (at, held) in calls.into_iter().enumerate() {
        fakes.settle();
        assert!(held.gate.has_begun() && !held.gate.is_over());
        assert_eq!(
            fakes.lanes.stats().queued,
            3 - at,
            "the next begins only when the one before it has ended"
        );
        let ends = if at == 1 { Err(FakeError::Refused) } else { Ok(at as u32) };
        held.gate.end(ends.clone());
        fakes.settle();
        assert!(held.gate.is_over());
        match fakes.answer(held.call) {
            Ok(number) => assert_eq!(Ok(number), ends),
            Err(LaneError::Failed(error)) => assert_eq!(Err(error), ends),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(fakes.attempts(), 1, "one client served them all");
    assert!(fakes.executor.is_empty(), "a lane with nothing to do has no task");
}

#[test]
fn busy_lane_does_not_starve_other_tasks() {
    let fakes = Fakes::one_lane(1000);
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..1000 {
        let done = done.clone();
        let job = |_| async move { Ok(done.fetch_add(1, Ordering::SeqCst)) };
        fakes.lanes.go(&0, job).unwrap();
    }
    let seen = fakes.executor.spawn({
        let done = done.clone();
        async move { done.load(Ordering::SeqCst) }
    });
    assert!(answer(&fakes.executor, seen) < 200);
    fakes.settle();
    assert_eq!(done.load(Ordering::SeqCst), 1000);
}

#[test]
fn stuck_key_does_not_block_another() {
    let fakes = Fakes::new(LaneSettings::default());
    let (stuck, other) = two_keys(&fakes.lanes);
    let held = fakes.held(stuck);
    let mut behind = sum(&fakes.lanes, stuck);
    assert!(poll(&mut behind).is_pending());
    assert_eq!(fakes.answer(sum(&fakes.lanes, other)).unwrap(), 2);
    assert!(poll(&mut behind).is_pending());
    assert_eq!(fakes.attempts(), 2, "each lane has a client of its own");
    held.gate.end(Ok(5));
    assert_eq!(fakes.answer(held.call).unwrap(), 5);
    assert_eq!(fakes.answer(behind).unwrap(), 2);
}

#[test]
fn key_keeps_its_lane_and_keys_are_distributed() {
    let fakes = Fakes::new(LaneSettings::default());
    let lanes: Vec<_> = (0..1000_u32).map(|key| fakes.lanes.lane_of(&key)).collect();
    assert!(lanes.iter().all(|lane| *lane < 16));
    assert!((0..1000_u32).all(|key| fakes.lanes.clone().lane_of(&key) == lanes[key as usize]));
    for lane in 0..16 {
        // Each gets about 62.
        assert!(lanes.iter().filter(|chosen| **chosen == lane).count() > 10);
    }
    let none = Fakes::new(LaneSettings::default().lanes(0));
    assert_eq!(none.answer(sum(&none.lanes, 3)).unwrap(), 2, "no lanes are taken as one");
}

/// The functions of a server that records everything done to it.
fn functions() -> Functions<Vec<u32>> {
    let kept = Mutex::new(Vec::new());
    let mut functions = Functions::new();
    functions
        .register0("write", |entries: &mut Vec<u32>, entry: u32| entries.push(entry))
        .unwrap()
        .register1("sum", |entries, more: u32| entries.iter().sum::<u32>() + more)
        .unwrap()
        .register_n("all", |entries, ()| entries.clone())
        .unwrap()
        .register1(7, |entries, ()| entries.len())
        .unwrap()
        .register_deferred(Id1::new("never"), move |_, (): (), answer: Responder<u32>| {
            kept.lock().unwrap().push(answer);
        })
        .unwrap()
        .register0("panic", |_, text: String| panic!("{text}"))
        .unwrap();
    functions
}

fn pool_of(executor: &Arc<Executor<'static>>, client: Client, settings: LaneSettings) -> Lanes<Client> {
    Lanes::new(executor, settings, move |_| {
        let client = client.clone();
        async move { Ok(client) }
    })
}

#[test]
fn lanes_call_functions_of_all_kinds() {
    run(async |executor| {
        let server = Server::new(Vec::new(), functions());
        let lanes = pool_of(&executor, server.client(), LaneSettings::default());
        let owner = executor.spawn(server.run());
        lanes.call0("write", 5_u32).await.unwrap();
        lanes.keyed("a key").call0("write".to_owned(), 6_u32).await.unwrap();
        assert_eq!(lanes.call1::<_, u32>("sum", 1_u32).await.unwrap(), 12);
        assert_eq!(lanes.keyed(&[1, 2]).call1::<_, u32>("sum", 2_u32).await.unwrap(), 13);
        assert_eq!(lanes.call_n::<_, Vec<u32>>("all", ()).await.unwrap(), [5, 6]);
        assert_eq!(lanes.keyed(&7).call_n::<_, Vec<u32>>("all", ()).await.unwrap(), [5, 6]);
        assert_eq!(lanes.call1::<_, usize>(7, ()).await.unwrap(), 2);
        let panicked = lanes.call0("panic", "on purpose".to_owned()).await.unwrap_err();
        assert!(
            matches!(&panicked, LaneError::Failed(CallError::Panicked(panic)) if panic.message() == "on purpose")
        );
        let unknown = lanes.call0("absent", ()).await.unwrap_err();
        assert!(matches!(unknown, LaneError::Failed(CallError::Unknown(_))), "{unknown}");
        assert_eq!(lanes.stats().dialled as usize, used_lanes(&lanes), "nothing was wrong with the clients");
        drop(lanes);
        assert_eq!(owner.await, [5, 6], "with the lanes go their clients, and so the server ends");
    });

    fn used_lanes(lanes: &Lanes<Client>) -> usize {
        let texts = ["write", "a key", "sum", "all", "panic", "absent"].map(|text| lanes.lane_of(text));
        let mut used: Vec<_> = texts
            .into_iter()
            .chain([lanes.lane_of(&[1, 2]), lanes.lane_of(&7), lanes.lane_of(&7_i64)])
            .collect();
        used.sort_unstable();
        used.dedup();
        used.len()
    }
}

#[test]
fn unanswered_call_blocks_only_its_lane() {
    run(async |executor| {
        let server = Server::new(Vec::new(), functions());
        let lanes = pool_of(&executor, server.client(), LaneSettings::default());
        let _owner = executor.spawn(server.run());
        let (stuck, other) = two_keys(&lanes);
        let mut never = lanes.keyed(&stuck).timeout(SOON).call1::<_, u32>("never", ());
        assert!(poll(&mut never).is_pending());
        let behind = executor.spawn(lanes.keyed(&stuck).call1::<_, u32>("sum", 1_u32));
        assert_eq!(lanes.keyed(&other).call1::<_, u32>("sum", 1_u32).await.unwrap(), 1);
        assert!(matches!(never.await, Err(LaneError::Deadline)));
        assert_eq!(behind.await.unwrap(), 1, "and that until its deadline");
    });
}

#[test]
fn concurrent_calls_from_threads() {
    const THREADS: u32 = 4;
    const CALLS: u32 = 500;
    let executor = Arc::new(Executor::new());
    let server = Server::new(Vec::<u32>::new(), functions());
    // Few lanes and small queues for high contention.
    let settings = LaneSettings::default().lanes(2).queue(2);
    let lanes = pool_of(&executor, server.client(), settings);
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let drivers = [0, 1].map(|_| {
        let (executor, stopped) = (executor.clone(), stopped.clone());
        thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
    });
    let owner = executor.spawn(server.run());
    let callers: Vec<_> = (0..THREADS)
        .map(|caller| {
            let lanes = lanes.clone();
            thread::spawn(move || {
                // Several at a time, submitted in this order and awaited in reverse.
                for first in (0..CALLS).step_by(5) {
                    let calls: Vec<_> = (first..first + 5)
                        .map(|call| {
                            let mut call = lanes.keyed(&caller).call0("write", caller * CALLS + call);
                            let early = poll(&mut call);
                            (call, early)
                        })
                        .collect();
                    for (call, early) in calls.into_iter().rev() {
                        match early {
                            Poll::Ready(answer) => answer.unwrap(),
                            Poll::Pending => call.wait().unwrap(),
                        }
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    drop(lanes);
    let entries = smol::block_on(owner);
    stop.close();
    for driver in drivers {
        driver.join().unwrap().unwrap_err();
    }
    assert_eq!(entries.len() as u32, THREADS * CALLS);
    for caller in 0..THREADS {
        let of_caller: Vec<_> = entries.iter().filter(|entry| **entry / CALLS == caller).copied().collect();
        let in_order: Vec<_> = (caller * CALLS..(caller + 1) * CALLS).collect();
        assert_eq!(of_caller, in_order);
    }
}

// Full queues

#[test]
fn full_lane_waits_rejects_or_fails_as_configured() {
    let fakes = Fakes::one_lane(2);
    // Whether or not the lane has started the first call.
    for settled in [true, false] {
        let running = fakes.held(0);
        if settled {
            fakes.settle();
        }
        let queued = [fakes.held(0), fakes.held(0)];
        let mut refused = sum(&fakes.lanes, 0).unless_full();
        let Poll::Ready(Err(full)) = poll(&mut refused) else { panic!("it waits") };
        assert!(matches!(full, LaneError::Full { limit: 2 }), "{full}");
        assert!(full.to_string().contains("2 calls") && full.to_string().contains("LaneSettings::queue"));
        let not_gone = fakes.lanes.go(&0, |_| async { Ok(()) }).unwrap_err();
        assert!(matches!(not_gone.error(), LaneError::Full { limit: 2 }), "{not_gone:?}");

        // These wait for capacity in order, and no call overtakes them.
        let waiting = [fakes.held(0), fakes.held(0)];
        running.gate.end(Ok(0));
        assert_eq!(fakes.answer(running.call).unwrap(), 0);
        assert!(
            fakes.lanes.go(&0, not_gone.into_inner()).is_err(),
            "there is room, but not for those who come now"
        );
        for (at, held) in queued.into_iter().chain(waiting).enumerate() {
            fakes.settle();
            assert!(held.gate.has_begun(), "call {at}");
            held.gate.end(Ok(at as u32));
            assert_eq!(fakes.answer(held.call).unwrap(), at as u32);
        }
        assert_eq!(fakes.answer(sum(&fakes.lanes, 0).unless_full()).unwrap(), 2);
    }
    assert_eq!(fakes.lanes.stats().refused, 6);
}

#[test]
fn lane_without_a_queue_runs_one_call_and_rejects_others() {
    let fakes = Fakes::one_lane(0);
    let running = fakes.held(0);
    let refused = fakes.answer(sum(&fakes.lanes, 0).unless_full());
    assert!(matches!(refused, Err(LaneError::Full { limit: 0 })), "{refused:?}");
    running.gate.end(Ok(1));
    assert_eq!(fakes.answer(running.call).unwrap(), 1);
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0).unless_full()).unwrap(), 2);
}

#[test]
fn go_runs_in_order_and_returns_no_result() {
    let fakes = Fakes::one_lane(8);
    let running = fakes.held(0);
    let (job, gate) = gated();
    fakes.lanes.go(&0, job.into_job()).unwrap();
    let mut behind = sum(&fakes.lanes, 0);
    assert!(poll(&mut behind).is_pending());
    fakes.settle();
    assert!(!gate.has_begun());
    drop(running);
    fakes.settle();
    assert!(gate.has_begun() && poll(&mut behind).is_pending());
    gate.end(Err(FakeError::Refused));
    assert_eq!(fakes.answer(behind).unwrap(), 2);

    // It has a deadline too.
    let (job, gate) = gated();
    fakes.lanes.keyed(&0).timeout(SOON).go(job.into_job()).unwrap();
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2);
    assert!(gate.has_begun() && gate.is_over());
}

// Deadlines

#[test]
fn deadline_passes_in_the_queue() {
    let fakes = Fakes::one_lane(1);
    let running = fakes.held(0);
    let (job, gate) = gated();
    let late = fakes.lanes.run(&0, job.into_job()).timeout(SOON);
    let start = Instant::now();
    let late = fakes.answer(late).unwrap_err();
    assert!(matches!(late, LaneError::Deadline), "{late}");
    assert!(start.elapsed() >= SOON);
    assert!(gate.is_over() && !gate.has_begun(), "it never begins");
    assert_eq!(fakes.lanes.stats().queued, 0, "its place is free");

    // The same for a call waiting for capacity.
    let queued = fakes.held(0);
    let late = fakes.answer(sum(&fakes.lanes, 0).deadline(Instant::now() + SOON)).unwrap_err();
    assert!(matches!(late, LaneError::Deadline), "{late}");
    running.gate.end(Ok(1));
    fakes.settle();
    queued.gate.end(Ok(2));
    assert_eq!(fakes.answer(running.call).unwrap(), 1);
    assert_eq!(fakes.answer(queued.call).unwrap(), 2);
}

#[test]
fn deadline_in_the_past_fails_immediately() {
    let fakes = Fakes::one_lane(1);
    let (job, gate) = gated();
    let late = fakes.answer(fakes.lanes.run(&0, job.into_job()).deadline(Instant::now())).unwrap_err();
    assert!(matches!(late, LaneError::Deadline), "{late}");
    assert!(gate.is_over() && !gate.has_begun());
    // In go mode the lane must notice.
    let (job, gate) = gated();
    fakes.lanes.keyed(&0).timeout(Duration::ZERO).go(job.into_job()).unwrap();
    fakes.settle();
    assert!(gate.is_over() && !gate.has_begun());
    assert_eq!(fakes.attempts(), 0, "nothing is dialled for them");
}

#[test]
fn deadline_passes_while_the_call_runs() {
    let fakes = Fakes::one_lane(1);
    // On a busy machine it may expire before it starts.
    let (late, gate) = loop {
        let (job, gate) = gated();
        let mut late = fakes.lanes.run(&0, job.into_job()).timeout(SOON);
        if poll(&mut late).is_pending() {
            break (late, gate);
        }
    };
    // Its caller does not poll: the lane continues nevertheless.
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2);
    assert!(gate.has_begun() && gate.is_over());
    let late = fakes.answer(late).unwrap_err();
    assert!(matches!(late, LaneError::Deadline), "{late}");
    assert_eq!(fakes.attempts(), 1, "the client is kept");
}

#[test]
fn deadline_passes_while_the_lane_dials() {
    let fakes = Fakes::one_lane(1);
    fakes.set_dial(Dial::Hangs);
    let (job, gate) = gated();
    let late = fakes.answer(fakes.lanes.run(&0, job.into_job()).timeout(SOON)).unwrap_err();
    assert!(matches!(late, LaneError::Deadline), "{late}");
    assert!(late.to_string().contains("LaneSettings::timeout"), "{late}");
    fakes.settle();
    assert!(gate.is_over() && !gate.has_begun());
    // The next call dials again.
    fakes.set_dial(Dial::Works);
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2);
    assert_eq!(fakes.attempts(), 2);
}

#[test]
fn timeouts_of_settings_and_keys_apply() {
    let settings = LaneSettings::default().lanes(1).timeout(SOON);
    let fakes = Fakes::new(settings);
    assert!(matches!(fakes.answer(fakes.held(0).call), Err(LaneError::Deadline)));
    let start = Instant::now();
    let longer = SOON * 3;
    let call = fakes.lanes.keyed(&0).timeout(longer).run(|_| pending::<Result<(), _>>());
    assert!(matches!(fakes.answer(call), Err(LaneError::Deadline)));
    assert!(start.elapsed() >= longer);
    // The maximum duration does not overflow.
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0).timeout(Duration::MAX)).unwrap(), 2);
}

#[test]
fn deadline_passes_on_an_executor_that_does_not_run() {
    let fakes = Fakes::one_lane(1);
    let late = sum(&fakes.lanes, 0).timeout(SOON).wait();
    assert!(matches!(late, Err(LaneError::Deadline)), "{late:?}");
}

#[test]
fn job_knows_its_deadline() {
    let fakes = Fakes::one_lane(1);
    let deadline = Instant::now() + LIMIT;
    let told = fakes.lanes.run(&0, |turn| async move { Ok(turn.deadline()) }).deadline(deadline);
    assert_eq!(fakes.answer(told).unwrap(), deadline);
}

// Dead clients

#[test]
fn client_found_dead_by_a_job_is_replaced() {
    let fakes = Fakes::one_lane(8);
    let dies = fakes.held(0);
    let mut behind = sum(&fakes.lanes, 0);
    assert!(poll(&mut behind).is_pending());
    fakes.settle();
    dies.gate.end(Err(FakeError::Gone));
    assert!(matches!(fakes.answer(dies.call), Err(LaneError::Failed(FakeError::Gone))));
    assert_eq!(fakes.answer(behind).unwrap(), 2, "what was queued goes over the new one");
    assert_eq!((fakes.attempts(), fakes.clients()), (2, 1));
    // Other failures do not replace the client.
    let refused = fakes.held(0);
    refused.gate.end(Err(FakeError::Refused));
    assert!(fakes.answer(refused.call).is_err());
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2);
    assert_eq!(fakes.attempts(), 2);
}

#[test]
fn client_reporting_itself_dead_gets_no_calls() {
    let fakes = Fakes::one_lane(8);
    let dies = fakes.lanes.run(&0, |client| async move {
        client.dead.store(true, Ordering::SeqCst);
        Ok(())
    });
    fakes.answer(dies).unwrap();
    let alive = fakes.lanes.run(&0, |client| async move { Ok(!client.dead.load(Ordering::SeqCst)) });
    assert!(fakes.answer(alive).unwrap());
    assert_eq!((fakes.attempts(), fakes.clients()), (2, 1));
}

#[test]
fn backoff_between_failed_dials_grows_to_its_maximum() {
    let (pause, longest_pause) = (Duration::from_millis(4), Duration::from_millis(16));
    let fakes = Fakes::new(LaneSettings::default().lanes(1).pause(pause).longest_pause(longest_pause));
    fakes.set_dial(Dial::Fails);
    let mut waiting = sum(&fakes.lanes, 0);
    eventually("five attempts", || {
        fakes.settle();
        assert!(poll(&mut waiting).is_pending());
        fakes.attempts() == 5
    });
    fakes.set_dial(Dial::Works);
    assert_eq!(fakes.answer(waiting).unwrap(), 2, "the call waits until somebody is there");
    let stats = fakes.lanes.stats();
    assert_eq!((stats.dial_failures, stats.dialled), (5, 1));
    let attempts = fakes.attempts.lock().unwrap().clone();
    let least = [pause, pause * 2, longest_pause, longest_pause, longest_pause].map(|pause| pause / 2);
    for (pair, least) in attempts.windows(2).zip(least) {
        assert!(pair[1] - pair[0] >= least, "{attempts:?}");
    }
}

#[test]
fn unreachable_peer_fails_at_the_deadline() {
    let settings = LaneSettings::default().lanes(1).pause(Duration::ZERO).longest_pause(Duration::ZERO);
    let fakes = Fakes::new(settings);
    fakes.set_dial(Dial::Fails);
    let mut waiting = sum(&fakes.lanes, 0);
    eventually("another attempt", || {
        settle(&fakes.executor);
        assert!(poll(&mut waiting).is_pending());
        fakes.attempts() > 1
    });
    let mut behind = sum(&fakes.lanes, 0).timeout(SOON);
    assert!(poll(&mut behind).is_pending());
    assert!(matches!(fakes.answer(behind), Err(LaneError::Unreachable(_))));
    drop(waiting);

    let absent = fakes.answer(sum(&fakes.lanes, 0).timeout(SOON)).unwrap_err();
    let LaneError::Unreachable(error) = &absent else { panic!("{absent}") };
    assert!(matches!(**error, FakeError::NobodyThere(_)));
    assert!(absent.to_string().contains("nobody there"), "{absent}");
    let attempts = fakes.attempts.lock().unwrap().clone();
    let least = Duration::from_micros(500);
    assert!(attempts.windows(2).all(|pair| pair[1] - pair[0] >= least), "never without a pause");

    // A hanging attempt after a failed one.
    fakes.set_dial(Dial::Hangs);
    assert!(matches!(fakes.answer(sum(&fakes.lanes, 0).timeout(SOON)), Err(LaneError::Unreachable(_))));
    // All works from the first successful attempt on.
    fakes.set_dial(Dial::Works);
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2);
    let late = fakes.lanes.run(&0, |_| pending::<Result<(), _>>()).timeout(SOON);
    assert!(matches!(fakes.answer(late), Err(LaneError::Deadline)));
}

#[test]
fn backoff_longer_than_the_deadline_fails_immediately() {
    let hour = Duration::from_secs(3600);
    let settings = LaneSettings::default().lanes(1).pause(hour).longest_pause(hour);
    let fakes = Fakes::new(settings);
    fakes.set_dial(Dial::Fails);
    for _ in 0..3 {
        let absent = fakes.answer(sum(&fakes.lanes, 0)).unwrap_err();
        assert!(matches!(&absent, LaneError::Unreachable(error) if **error == FakeError::NobodyThere(1)));
    }
}

#[test]
fn lane_recovers_when_a_closed_server_is_replaced() {
    run(async |executor| {
        let (old, new) = (Server::new(vec![1], functions()), Server::new(vec![2], functions()));
        let current = Arc::new(Mutex::new(old.client()));
        let (closer, successor) = (old.closer(), new.client());
        let lanes = Lanes::new(&executor, LaneSettings::default().lanes(1), {
            let current = current.clone();
            move |_| {
                let client = current.lock().unwrap().clone();
                async move { if client.is_closed() { Err(CallError::Closed) } else { Ok(client) } }
            }
        });
        let _owners = [executor.spawn(old.run()), executor.spawn(new.run())];
        assert_eq!(lanes.call1::<_, u32>("sum", 0_u32).await.unwrap(), 1);
        closer.close();
        let waiting = executor.spawn(lanes.call1::<_, u32>("sum", 0_u32));
        while lanes.stats().dial_failures == 0 {
            smol::future::yield_now().await;
        }
        let absent = lanes.call1::<_, u32>("sum", 0_u32).timeout(SOON).await.unwrap_err();
        assert!(matches!(&absent, LaneError::Unreachable(error) if matches!(**error, CallError::Closed)));
        *current.lock().unwrap() = successor;
        assert_eq!(waiting.await.unwrap(), 2);
    });
}

// Closing

#[test]
fn closing_answers_calls_that_have_not_started() {
    let fakes = Fakes::one_lane(2);
    let running = fakes.held(0);
    fakes.settle();
    // The last one waits for capacity.
    let waiting = [fakes.held(0), fakes.held(0), fakes.held(0)];
    let fresh = sum(&fakes.lanes, 0);
    let (job, gone) = gated();
    let other = fakes.lanes.clone();
    assert!(!fakes.lanes.is_closed());
    fakes.lanes.close();
    assert!(other.is_closed());
    for Held { mut call, gate } in waiting {
        // Immediately, without running the executor.
        assert!(matches!(poll(&mut call), Poll::Ready(Err(LaneError::Closed))));
        assert!(!gate.has_begun() && gate.is_over());
    }
    assert!(matches!(fakes.answer(fresh), Err(LaneError::Closed)));
    assert!(matches!(fakes.answer(sum(&other, 0)), Err(LaneError::Closed)));
    let refused = other.go(&0, job.into_job()).unwrap_err();
    assert!(refused.is_closed());
    drop(refused);
    assert!(!gone.has_begun());
    fakes.lanes.close();

    assert!(!running.gate.is_over(), "what runs ends by itself");
    assert_eq!(fakes.clients(), 1);
    running.gate.end(Ok(3));
    assert_eq!(fakes.answer(running.call).unwrap(), 3);
    fakes.settle();
    assert_eq!(fakes.clients(), 0, "a closed lane keeps no client");
    assert!(fakes.executor.is_empty());
}

#[test]
fn closing_while_idle_drops_the_clients() {
    let fakes = Fakes::new(LaneSettings::default());
    for key in 0..100 {
        fakes.answer(sum(&fakes.lanes, key)).unwrap();
    }
    assert!(fakes.clients() > 1);
    fakes.lanes.close();
    assert_eq!(fakes.clients(), 0);
}

#[test]
fn closing_while_dialling() {
    for dial in [Dial::Hangs, Dial::Fails] {
        let fakes = Fakes::one_lane(2);
        fakes.set_dial(dial);
        let waiting = [fakes.held(0), fakes.held(0)];
        fakes.settle();
        assert_eq!(fakes.attempts(), 1);
        fakes.lanes.close();
        for held in waiting {
            assert!(matches!(fakes.answer(held.call), Err(LaneError::Closed)));
            assert!(!held.gate.has_begun());
        }
        assert!(fakes.executor.is_empty());
    }
}

#[test]
fn closed_lane_keeps_the_deadline_of_its_running_call() {
    let fakes = Fakes::one_lane(2);
    let (job, gate) = gated();
    let mut running = fakes.lanes.run(&0, job.into_job()).timeout(SOON);
    assert!(poll(&mut running).is_pending());
    fakes.settle();
    fakes.lanes.close();
    assert!(matches!(fakes.answer(running), Err(LaneError::Deadline)));
    fakes.settle();
    assert!(gate.is_over());
}

#[test]
fn dropping_the_last_handle_closes() {
    let mut fakes = Fakes::one_lane(2);
    let (running, mut queued) = (fakes.held(0), fakes.held(0));
    let mut fresh = sum(&fakes.lanes, 0);
    fakes.settle();
    let last = fakes.lanes.clone();
    fakes.lanes = Fakes::one_lane(1).lanes;
    assert!(poll(&mut queued.call).is_pending(), "there is another handle");
    drop(last);
    assert!(matches!(poll(&mut queued.call), Poll::Ready(Err(LaneError::Closed))));
    assert!(matches!(poll(&mut fresh), Poll::Ready(Err(LaneError::Closed))));
    running.gate.end(Ok(4));
    assert_eq!(fakes.answer(running.call).unwrap(), 4);
    fakes.settle();
    assert_eq!(Arc::strong_count(&fakes.alive), 1, "nothing is left of it");
}

#[test]
fn dropping_the_executor_answers_its_calls() {
    let fakes = Fakes::one_lane(2);
    let Fakes { executor, lanes, .. } = fakes;
    let (job, gate) = gated();
    let mut running = lanes.run(&0, job.into_job());
    assert!(poll(&mut running).is_pending());
    settle(&executor);
    assert!(gate.has_begun());
    drop((executor, lanes));
    assert!(gate.is_over());
    assert!(matches!(poll(&mut running), Poll::Ready(Err(LaneError::Closed))));
}

// Dropped calls

#[test]
fn panic_while_dropping_a_job_affects_nothing_else() {
    let fakes = Fakes::one_lane(8);
    let held = fakes.held(7);
    fakes.settle();
    let with_bomb = || {
        let bomb = Bomb;
        fakes.lanes.run(&7, move |_| async move {
            drop(bomb);
            Ok(1)
        })
    };
    let mut calls: Vec<_> = (0..3).map(|_| with_bomb()).collect();
    for call in &mut calls {
        assert!(poll(call).is_pending());
    }
    drop(calls.pop());
    fakes.lanes.close();
    for call in calls {
        assert!(matches!(fakes.answer(call), Err(LaneError::Closed)));
    }
    held.gate.end(Ok(1));
    assert_eq!(fakes.answer(held.call).unwrap(), 1);
}

/// An attempt to dial that blocks its thread past the deadline.
#[test]
fn job_does_not_start_after_its_deadline_if_dialling_is_slow() {
    let executor = Arc::new(Executor::new());
    let lanes = Lanes::new(&executor, LaneSettings::default().lanes(1), |_| async {
        thread::sleep(Duration::from_millis(20));
        Ok(Fake { dead: AtomicBool::new(false), _alive: Arc::new(()) })
    });
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let job = |_| async move {
        begins.store(true, Ordering::SeqCst);
        Ok(())
    };
    let call = lanes.keyed(&0).timeout(Duration::from_millis(10)).run(job);
    assert!(matches!(answer(&executor, call), Err(LaneError::Deadline)));
    assert!(!begun.load(Ordering::SeqCst));
    // The next call uses the client.
    assert_eq!(answer(&executor, lanes.run(&0, |_| async { Ok(3) })).unwrap(), 3);
    assert_eq!(lanes.stats().dialled, 1);
}

/// Jobs that block their thread.
#[test]
fn lane_with_slow_jobs_does_not_starve_other_tasks() {
    let fakes = Fakes::one_lane(1000);
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..500 {
        let done = done.clone();
        let job = |_| async move {
            thread::sleep(Duration::from_millis(2));
            Ok(done.fetch_add(1, Ordering::SeqCst))
        };
        fakes.lanes.go(&0, job).unwrap();
    }
    let main = smol::block_on(fakes.executor.run(async {
        smol::Timer::after(Duration::from_millis(2)).await;
        done.load(Ordering::SeqCst)
    }));
    assert!(main < 100, "{main} slow jobs ran before the main future went on");
    fakes.lanes.close();
}

#[test]
fn call_dropped_in_the_queue_never_starts() {
    let fakes = Fakes::one_lane(1);
    let (running, queued) = (fakes.held(0), fakes.held(0));
    fakes.settle();
    drop(queued.call);
    assert!(queued.gate.is_over(), "its job goes with it");
    assert_eq!(fakes.lanes.stats(), stats(0, 1, 0));
    let behind = fakes.held(0);
    assert_eq!(fakes.lanes.stats(), stats(1, 1, 0));
    running.gate.end(Ok(1));
    assert_eq!(fakes.answer(running.call).unwrap(), 1);
    fakes.settle();
    assert!(behind.gate.has_begun() && !queued.gate.has_begun());

    // A call that was never polled does not count.
    drop(sum(&fakes.lanes, 0));
    assert_eq!(fakes.lanes.stats(), stats(0, 1, 0));

    fn stats(queued: usize, running: usize, refused: u64) -> LaneStats {
        let mut stats = LaneStats::default();
        (stats.queued, stats.running, stats.refused, stats.dialled) = (queued, running, refused, 1);
        stats
    }
}

#[test]
fn dropping_a_running_call_ends_it() {
    let fakes = Fakes::one_lane(1);
    let (running, mut behind) = (fakes.held(0), sum(&fakes.lanes, 0));
    assert!(poll(&mut behind).is_pending());
    fakes.settle();
    assert!(running.gate.has_begun());
    drop(running.call);
    fakes.settle();
    assert!(running.gate.is_over());
    assert_eq!(fakes.answer(behind).unwrap(), 2, "the lane goes on");
}

#[test]
fn call_dropped_before_the_lane_takes_it_never_starts() {
    let fakes = Fakes::one_lane(1);
    drop(fakes.held(0).call);
    let dialling = fakes.held(0);
    fakes.set_dial(Dial::Hangs);
    fakes.settle();
    assert_eq!(fakes.attempts(), 1, "nothing was dialled for the first");
    drop(dialling.call);
    fakes.settle();
    assert!(!dialling.gate.has_begun() && dialling.gate.is_over());
    assert!(fakes.executor.is_empty(), "the attempt is given up with the call");
}

#[test]
fn call_dropped_just_before_its_client_connects_never_starts() {
    let executor = Arc::new(Executor::new());
    let (connect, connected) = async_channel::bounded::<()>(1);
    let lanes = Lanes::new(&executor, LaneSettings::default(), move |_| {
        let connected = connected.clone();
        async move {
            connected.recv().await.unwrap();
            Ok(Fake { dead: AtomicBool::new(false), _alive: Arc::default() })
        }
    });
    let (job, gate) = gated();
    let mut call = lanes.run(&0, job.into_job());
    assert!(poll(&mut call).is_pending());
    settle(&executor);
    drop(call);
    connect.try_send(()).unwrap();
    settle(&executor);
    assert!(!gate.has_begun() && gate.is_over());
}

// Panics

#[test]
fn panic_in_a_job_is_its_callers_error() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    fn message(answer: Answered<()>) -> String {
        match answer {
            Err(LaneError::Panicked(panic)) => panic.message().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    let fakes = Fakes::one_lane(8);
    let at_once = fakes.lanes.run(&0, |_| -> smol::future::Boxed<_> { panic!("at once") });
    let later = fakes.lanes.run(&0, |_| async {
        smol::future::yield_now().await;
        panic!("later")
    });
    let error = fakes.lanes.run(&0, |_| async { Err::<Bomb, _>(FakeError::Refused) });
    let timed_out = fakes.lanes.run(&0, |_| {
        let bomb = Bomb;
        async move {
            pending::<()>().await;
            drop(bomb);
            Ok(())
        }
    });
    assert_eq!(message(fakes.answer(at_once)), "at once");
    assert_eq!(message(fakes.answer(later)), "later");
    assert!(matches!(fakes.answer(error), Err(LaneError::Failed(FakeError::Refused))));
    assert!(matches!(fakes.answer(timed_out.timeout(SOON)), Err(LaneError::Deadline)));
    fakes.lanes.go(&0, |_| -> smol::future::Boxed<Result<(), _>> { panic!("to nobody") }).unwrap();
    fakes.lanes.go(&0, |_| async { Ok(Bomb) }).unwrap();
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2, "the lane lives on");
    assert_eq!(fakes.lanes.stats().panicked, 3);
    assert_eq!(fakes.attempts(), 1, "and keeps its client");
}

#[test]
fn panic_while_dialling_is_the_callers_error() {
    let fakes = Fakes::one_lane(8);
    fakes.set_dial(Dial::Panics);
    let panicked = fakes.answer(sum(&fakes.lanes, 0)).unwrap_err();
    let LaneError::Panicked(panic) = &panicked else { panic!("{panicked}") };
    assert!(panic.backtrace().contains("lanes.rs"), "{}", panic.backtrace());
    assert!(panicked.to_string().contains("while dialling"), "{panicked}");
    fakes.set_dial(Dial::Works);
    assert_eq!(fakes.answer(sum(&fakes.lanes, 0)).unwrap(), 2);
}

// Calls that would wait for themselves

#[test]
fn job_waiting_for_its_own_lane_fails() {
    let settings = LaneSettings::default().lanes(1).name("pool");
    let fakes = Fakes::new(settings);
    let again = fakes.lanes.clone();
    let outer = fakes.lanes.run(&0, |_| async move {
        let inner = again.run(&1, |_| async { Ok(()) }).await;
        // A go call does not wait.
        again.go(&1, |_| async { Ok(()) }).unwrap();
        Ok(inner.unwrap_err())
    });
    let error = fakes.answer(outer).unwrap();
    let LaneError::WouldDeadlock { chain } = &error else { panic!("{error}") };
    assert_eq!(chain.iter().map(|name| &**name).collect::<Vec<_>>(), ["pool 0", "pool 0"]);
    assert_eq!(error.to_string(), "waiting would deadlock: pool 0 -> pool 0");
}

#[test]
fn function_waiting_for_its_callers_lane_fails() {
    let executor = Arc::new(Executor::new());
    let mut functions = Functions::new();
    functions
        .register1("outer", |_: &mut (), lanes: Lanes<Client>| {
            lanes.call1::<_, u32>("inner", ()).wait().unwrap_err().to_string()
        })
        .unwrap()
        .register1("inner", |_, ()| 5_u32)
        .unwrap();
    let server = Server::new((), functions);
    let lanes = pool_of(&executor, server.client(), LaneSettings::default().lanes(1));
    let owner = thread::spawn(move || smol::block_on(server.run()));
    let call = lanes.call1::<_, String>("outer", lanes.clone());
    let error = smol::block_on(executor.run(call)).unwrap();
    assert_eq!(error, "waiting would deadlock: () -> lane 0 -> ()");
    drop((lanes, executor));
    owner.join().unwrap();
}

// Random orders of events

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Submits a call of a key that waits for capacity.
    Wait(u32),
    /// Submits one that does not wait.
    Try(u32),
    Go(u32),
    /// The caller of a call drops it.
    Leave(usize),
    /// The job running in the lane of a key ends.
    End(u32, End),
    /// The executor runs a few steps.
    Steps(usize),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Ok,
    Refused,
    Gone,
    Panic,
}

fn event() -> impl Strategy<Value = Event> {
    let key = 0..5_u32;
    let end =
        prop_oneof![3 => Just(End::Ok), 1 => Just(End::Refused), 1 => Just(End::Gone), 1 => Just(End::Panic)];
    prop_oneof![
        4 => key.clone().prop_map(Event::Wait),
        2 => key.clone().prop_map(Event::Try),
        2 => key.clone().prop_map(Event::Go),
        2 => (0..20_usize).prop_map(Event::Leave),
        5 => (key, end).prop_map(|(key, end)| Event::End(key, end)),
        2 => (1..4_usize).prop_map(Event::Steps),
    ]
}

/// The model of the lanes: per lane the unfinished calls, the running one first.
struct Model {
    fakes: Fakes,
    queue: usize,
    lanes: Vec<Vec<usize>>,
    calls: Vec<Made>,
    /// The recorded starts (`true`) and ends of calls.
    seen: Arc<Mutex<Vec<(usize, bool)>>>,
}

/// An accepted call.
struct Made {
    /// `None` in go mode, and once the caller has dropped it or been answered.
    call: Option<FakeCall<usize>>,
    end: Sender<End>,
}

impl Model {
    fn new(lanes: usize, queue: usize) -> Self {
        let fakes = Fakes::new(LaneSettings::default().lanes(lanes).queue(queue));
        Self { fakes, queue, lanes: vec![Vec::new(); lanes], calls: Vec::new(), seen: Arc::default() }
    }

    fn lane(&mut self, key: u32) -> &mut Vec<usize> {
        &mut self.lanes[self.fakes.lanes.lane_of(&key)]
    }

    /// Creates the job of the next call.
    fn job<C>(
        &self,
    ) -> (impl FnOnce(C) -> smol::future::Boxed<Result<usize, FakeError>> + Send + use<C>, Sender<End>) {
        struct Ended(usize, Arc<Mutex<Vec<(usize, bool)>>>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.1.lock().unwrap().push((self.0, false));
            }
        }

        let (end, ends) = async_channel::bounded(1);
        let (number, seen) = (self.calls.len(), self.seen.clone());
        let job = move |_| -> smol::future::Boxed<_> {
            seen.lock().unwrap().push((number, true));
            let ended = Ended(number, seen);
            Box::pin(async move {
                let _ended = ended;
                match ends.recv().await.unwrap() {
                    End::Ok => Ok(number),
                    End::Refused => Err(FakeError::Refused),
                    End::Gone => Err(FakeError::Gone),
                    End::Panic => panic!("on purpose"),
                }
            })
        };
        (job, end)
    }

    fn apply(&mut self, event: Event) {
        let number = self.calls.len();
        match event {
            Event::Wait(key) => {
                let (job, end) = self.job();
                let mut call = self.fakes.lanes.run(&key, job);
                assert!(poll(&mut call).is_pending());
                self.calls.push(Made { call: Some(call), end });
                self.lane(key).push(number);
            }
            Event::Try(key) => {
                let has_room = self.lane(key).len() <= self.queue;
                let (job, end) = self.job();
                let mut call = self.fakes.lanes.run(&key, job).unless_full();
                match poll(&mut call) {
                    Poll::Pending => {
                        assert!(has_room, "taken in spite of a full queue");
                        self.calls.push(Made { call: Some(call), end });
                        self.lane(key).push(number);
                    }
                    Poll::Ready(Err(LaneError::Full { limit })) if limit == self.queue => {
                        assert!(!has_room, "refused in spite of room");
                    }
                    other => panic!("{other:?}"),
                }
            }
            Event::Go(key) => {
                let has_room = self.lane(key).len() <= self.queue;
                let (job, end) = self.job();
                assert_eq!(self.fakes.lanes.go(&key, job).is_ok(), has_room);
                if has_room {
                    self.calls.push(Made { call: None, end });
                    self.lane(key).push(number);
                }
            }
            Event::Leave(number) => {
                let Some(call) = self.calls.get_mut(number).and_then(|made| made.call.take()) else { return };
                drop(call);
                self.lanes.iter_mut().for_each(|lane| lane.retain(|queued| *queued != number));
                self.fakes.settle();
            }
            Event::End(key, end) => {
                self.fakes.settle();
                let lane = self.lane(key);
                if lane.is_empty() {
                    return;
                }
                let number = lane.remove(0);
                let made = &mut self.calls[number];
                made.end.try_send(end).unwrap();
                self.fakes.settle();
                let Some(mut call) = made.call.take() else { return };
                match (poll(&mut call), end) {
                    (Poll::Ready(Ok(answer)), End::Ok) => assert_eq!(answer, number, "another's answer"),
                    (Poll::Ready(Err(LaneError::Failed(FakeError::Refused))), End::Refused)
                    | (Poll::Ready(Err(LaneError::Failed(FakeError::Gone))), End::Gone)
                    | (Poll::Ready(Err(LaneError::Panicked(_))), End::Panic) => {}
                    other => panic!("{other:?}"),
                }
            }
            Event::Steps(count) => {
                for _ in 0..count {
                    self.fakes.executor.try_tick();
                }
            }
        }
    }

    /// The running calls.
    fn running(&self) -> Vec<usize> {
        let mut running: Vec<_> = self.lanes.iter().filter_map(|lane| lane.first().copied()).collect();
        running.sort_unstable();
        running
    }

    fn check(&self) {
        self.fakes.settle();
        let seen = self.seen.lock().unwrap();
        let mut running: Vec<_> = seen
            .iter()
            .filter(|(number, begin)| *begin && !seen.contains(&(*number, false)))
            .map(|(number, _)| *number)
            .collect();
        running.sort_unstable();
        assert_eq!(running, self.running());
        for (at, (number, begin)) in seen.iter().enumerate() {
            assert!(!seen[..at].contains(&(*number, *begin)), "call {number} begins or ends twice");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn calls_of_a_lane_start_and_end_in_order(
        lanes in 1..4_usize,
        queue in 0..4_usize,
        events in prop::collection::vec((event(), any::<bool>()), 1..60),
        close in any::<bool>(),
    ) {
        let mut model = Model::new(lanes, queue);
        let mut of_lane = vec![Vec::new(); lanes];
        for (event, check) in events {
            let before = model.calls.len();
            model.apply(event);
            if let (Event::Wait(key) | Event::Try(key) | Event::Go(key), true) = (event, model.calls.len() > before) {
                of_lane[model.fakes.lanes.lane_of(&key)].push(before);
            }
            if check {
                model.check();
            }
        }
        model.check();
        if close {
            model.fakes.lanes.close();
            for queued in model.lanes.iter_mut().flat_map(|lane| lane.drain(1.min(lane.len())..)) {
                if let Some(mut call) = model.calls[queued].call.take() {
                    prop_assert!(matches!(poll(&mut call), Poll::Ready(Err(LaneError::Closed))));
                }
            }
            model.check();
        }
        // The remaining calls run to completion.
        for key in 0..5 {
            while !model.lane(key).is_empty() {
                model.apply(Event::End(key, End::Ok));
            }
        }
        model.check();
        prop_assert!(model.fakes.executor.is_empty());
        // In each lane, a call starts when the previous one has ended, in the order of submission.
        let seen = model.seen.lock().unwrap();
        for of_lane in of_lane {
            let seen: Vec<_> = seen.iter().filter(|(number, _)| of_lane.contains(number)).collect();
            for pair in seen.chunks(2) {
                prop_assert_eq!((pair[0].0, pair[0].1, pair[1].1), (pair[1].0, true, false));
            }
            prop_assert!(seen.is_sorted_by_key(|(number, _)| number));
        }
    }
}
