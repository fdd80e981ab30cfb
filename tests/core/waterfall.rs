//! Waterfalls: chains of async steps on a scheduler.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::chan::{CallError, Client, Functions, Server};
use chanrpc::sched::{ScheduleError, SchedulerSettings, Waterfall};
use proptest::prelude::*;

use crate::support::{Bomb, Drops, LIMIT, Service, ended, eventually, got};

/// The error of a chain that fails.
#[derive(Debug)]
enum Trouble {
    Call(CallError),
    Own(&'static str),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[derive(Default)]
struct State {
    log: Vec<String>,
}

impl State {
    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }
}

fn start_with(settings: SchedulerSettings) -> Service<State> {
    let settings = settings.backtrace_limit(0);
    Service::start(settings, Functions::new(), |_| State::default())
}

fn start() -> Service<State> {
    start_with(SchedulerSettings::default())
}

/// A server on its own thread that lends its state to callers.
fn helper() -> Client {
    let mut functions = Functions::new();
    functions
        .register0("check", |_: &mut u64, n: u64| assert!(n < 1000, "too big"))
        .unwrap()
        .register1("double", |_, n: u64| n * 2)
        .unwrap()
        .register_n("split", |_, n: u64| (n / 10, n % 10))
        .unwrap()
        .register1("panic", |_, _: u64| -> u64 { panic!("in the server") })
        .unwrap();
    let server = Server::new(0, functions);
    let client = server.client();
    thread::spawn(move || smol::block_on(server.run()));
    client
}

/// Runs a chain and returns its result.
fn end<S: Send, T: Send + 'static, E: From<CallError> + Send + 'static>(
    chain: Waterfall<S, T, E>,
) -> Result<T, E> {
    let (sender, receiver) = mpsc::channel();
    chain.finish(move |_, result| sender.send(result).unwrap()).unwrap();
    let result = got(&receiver);
    assert!(receiver.recv_timeout(LIMIT).is_err(), "it ends once");
    result
}

#[test]
fn each_step_receives_the_result_of_the_previous_one() {
    let (service, helper) = (start(), helper());
    let chain = service
        .me
        .waterfall::<Trouble>()
        .step(|state, ()| {
            state.note("begin");
            Ok(21_u64)
        })
        .call1::<u64>(&helper, "double")
        .call_n::<(u64, u64)>(&helper, "split")
        .then(|state, (tens, ones)| {
            state.note(format!("{tens} {ones}"));
            async move { Ok::<_, Trouble>(vec![tens, ones]) }
        })
        .spawn_blocking(|digits| digits.into_iter().map(|digit| digit.to_string()).collect::<String>())
        .step(|_, text| text.parse::<u64>().map_err(|_| Trouble::Own("no number")))
        .call0(&helper, "check")
        .step(|state, ()| {
            state.note("end");
            Ok(state.log.len())
        })
        .timeout(LIMIT);
    assert_eq!(service.me.post(|state| state.log.len()).unwrap().wait().unwrap(), 0, "not before `finish`");
    assert_eq!(end(chain).unwrap(), 3);
    assert_eq!(service.close().log, ["begin", "4 2", "end"]);
}

/// A chain of six steps of all kinds, in which the step with index `bad` fails.
fn failing(service: &Service<State>, helper: &Client, bad: usize) -> Waterfall<State, u64, Trouble> {
    let (client, name) = (helper.clone(), |at: usize| if bad == at { "nope" } else { "double" });
    service
        .me
        .waterfall::<Trouble>()
        .step(move |state, ()| {
            state.note("0");
            if bad == 0 { Err(Trouble::Own("0")) } else { Ok(1_u64) }
        })
        .call1::<u64>(&client, name(1))
        .then(move |state, n| {
            state.note("2");
            async move { if bad == 2 { Err(Trouble::Own("2")) } else { Ok(n) } }
        })
        .spawn_blocking(move |n| {
            assert_ne!(bad, 3, "in a job");
            n
        })
        .then(move |state, n| {
            state.note("4");
            ready(if bad == 4 { Err(CallError::Full) } else { Ok(n) })
        })
        .step(move |state, n| {
            state.note("5");
            if bad == 5 { Err(Trouble::Own("5")) } else { Ok(n) }
        })
}

#[test]
fn first_error_ends_the_chain_and_no_later_step_starts() {
    let helper = helper();
    for bad in 0..=6 {
        let service = start();
        let result = end(failing(&service, &helper, bad));
        let expected = match (bad, result) {
            (0, Err(Trouble::Own("0"))) | (1, Err(Trouble::Call(CallError::Unknown(_)))) => &["0"][..],
            (2, Err(Trouble::Own("2"))) => &["0", "2"],
            (3, Err(Trouble::Call(CallError::Panicked(_)))) => &["0", "2"],
            (4, Err(Trouble::Call(CallError::Full))) => &["0", "2", "4"],
            (5, Err(Trouble::Own("5"))) | (6, Ok(2)) => &["0", "2", "4", "5"],
            (_, result) => panic!("{bad}: {result:?}"),
        };
        assert_eq!(service.close().log, expected, "{bad}");
    }
}

#[test]
fn panic_in_any_kind_of_step_is_the_chains_error() {
    let (service, helper) = (start(), helper());
    let begin = || service.me.waterfall::<CallError>().step(|_, ()| Ok(1_u64));
    let chains = [
        begin().step(|_, _| panic!("in a step")),
        begin().then(|_, _| -> std::future::Ready<Result<u64, CallError>> { panic!("making a future") }),
        begin().then(|_, _| async { if true { panic!("in a future") } else { Ok::<_, CallError>(1) } }),
        begin().spawn_blocking(|_| panic!("in a job")),
        begin().call1(&helper, "panic"),
    ];
    for (chain, message) in
        chains.into_iter().zip(["in a step", "making a future", "in a future", "in a job", "in the server"])
    {
        let unreached = chain.step(|state: &mut State, n: u64| {
            state.note("unreached");
            Ok(n)
        });
        match end(unreached) {
            Err(CallError::Panicked(panic)) => assert_eq!(panic.message(), message),
            result => panic!("{message}: {result:?}"),
        }
    }
    // In the final callback.
    service.me.waterfall::<CallError>().finish(|_, _| panic!("in the end")).unwrap();
    assert!(service.drain().log.is_empty());
}

/// Blocks for longer than `time`.
fn outlast(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() <= time {
        thread::yield_now();
    }
}

/// Retries with increasing times, because on a slow machine a short deadline may pass before the chain starts.
fn with_time_enough<T>(mut attempt: impl FnMut(Duration) -> Option<T>) -> T {
    let mut time = SOON;
    loop {
        if let Some(done) = attempt(time) {
            return done;
        }
        time *= 2;
        assert!(time < LIMIT, "no time is enough");
    }
}

const SOON: Duration = Duration::from_millis(5);

#[test]
fn deadline_covers_the_whole_chain() {
    let service = start();
    let begin = || service.me.waterfall::<CallError>().timeout(SOON);
    let is_late =
        |result: Result<(), CallError>| assert!(matches!(result, Err(CallError::Deadline)), "{result:?}");

    // A waiting step, which is then dropped.
    let drops = Drops::default();
    let guard = drops.guard();
    let never = move |_: &mut State, ()| async move {
        pending::<()>().await;
        drop(guard);
        Ok::<_, CallError>(())
    };
    is_late(end(begin().then(never)));
    assert_eq!(drops.count(), 1);
    // A step that panics in `drop`.
    let bomb = Bomb;
    let never = move |_: &mut State, ()| async move {
        pending::<()>().await;
        drop(bomb);
        Ok::<_, CallError>(())
    };
    is_late(end(begin().then(never)));
    // A call that is never answered.
    let deaf = with_time_enough(|time| {
        let mut functions = Functions::new();
        functions.register0("never", |_: &mut (), ()| ()).unwrap();
        let mut deaf = Server::new((), functions);
        is_late(end(begin().timeout(time).call0(&deaf.client(), "never")));
        smol::block_on(deaf.exec()).then_some(deaf)
    });
    assert_eq!((deaf.stats().executed, deaf.stats().cancelled), (0, 1), "it is given up");
    // A blocking job that keeps running.
    let (open, gate) = mpsc::channel::<()>();
    is_late(end(begin().spawn_blocking(move |()| _ = gate.recv_timeout(LIMIT))));
    drop(open);
    // A step that blocks for too long, as the last step and before another.
    let slow = |_: &mut State, ()| {
        outlast(SOON);
        Ok(())
    };
    is_late(end(begin().step(slow)));
    is_late(end(begin().step(slow).step(|state, ()| {
        state.note("too late");
        Ok(())
    })));
    // An error is returned unchanged, however late.
    let bad = end(begin().step(slow).timeout(LIMIT).step(|_, ()| Err::<(), _>(CallError::Full)));
    assert!(matches!(bad, Err(CallError::Full)), "the last deadline holds");
    with_time_enough(|time| {
        let bad = end(begin().timeout(time).step(move |_, ()| {
            outlast(time);
            Err::<(), _>(CallError::Full)
        }));
        matches!(bad, Err(CallError::Full)).then_some(())
    });
    // The time starts with `finish`, and is unlimited if it exceeds the clock's range.
    with_time_enough(|time| {
        let chain = begin().step(|_, ()| Ok(())).timeout(time);
        outlast(time);
        end(chain).ok()
    });
    end(begin().timeout(Duration::MAX).step(|_, ()| Ok(()))).unwrap();
    assert!(service.close().log.is_empty());
}

#[test]
fn waiting_step_does_not_block_the_loop() {
    let service = start();
    // A function and a job that block their threads. The executor has only the loop's thread.
    let (open, gate) = smol::channel::bounded::<()>(1);
    let (begins, begun) = mpsc::channel();
    let mut functions = Functions::new();
    let (tell, closed) = (begins.clone(), gate.clone());
    functions
        .register0("block", move |_: &mut (), ()| {
            tell.send("call").unwrap();
            let _ = closed.recv_blocking();
        })
        .unwrap()
        .register0("nothing", |_, ()| ())
        .unwrap();
    let server = Server::new((), functions);
    let client = server.client();
    let owner = thread::spawn(move || smol::block_on(server.run()));
    eventually("the server lends its state", || {
        client.call0("nothing", ()).wait().unwrap();
        client.stats().in_place > 0
    });
    let (sender, ends) = mpsc::channel();
    let finish = |chain: Waterfall<State, (), CallError>| {
        let sender = sender.clone();
        chain.finish(move |_, result| sender.send(result).unwrap()).unwrap();
    };
    finish(service.me.waterfall().call0(&client, "block"));
    assert_eq!(got(&begun), "call");
    finish(service.me.waterfall().spawn_blocking(move |()| {
        begins.send("job").unwrap();
        let _ = gate.recv_blocking();
    }));
    assert_eq!(got(&begun), "job");
    for n in 0..100 {
        assert_eq!(service.ask(move |_| n), n);
    }
    assert!(ends.try_recv().is_err());
    drop(open);
    got(&ends).unwrap();
    got(&ends).unwrap();
    drop(client);
    service.close();
    ended(owner);
}

#[test]
fn rejected_chain_is_dropped() {
    let service = start_with(SchedulerSettings::default().open(1));
    let (taken, refused) = (Drops::default(), Drops::default());
    let chain = |drops: &Drops| {
        let (step, last) = (drops.guard(), drops.guard());
        let chain = service.me.waterfall::<CallError>().then(move |_, ()| {
            drop(step);
            pending::<Result<(), CallError>>()
        });
        chain.finish(move |_, _| drop(last))
    };
    chain(&taken).unwrap();
    assert_eq!(chain(&refused), Err(ScheduleError::Full { setting: "open", limit: 1 }));
    assert_eq!(refused.count(), 2);
    eventually("the step has begun", || taken.count() == 1);
    let me = service.me.clone();
    service.close();
    eventually("all is dropped", || taken.count() == 2);
    assert_eq!(me.waterfall::<CallError>().finish(|_, _| ()), Err(ScheduleError::Closed));
}

#[test]
fn step_may_call_another_loop_and_its_own() {
    let mut functions = Functions::new();
    functions
        .register1("add", |total: &mut u64, n: u64| {
            *total += n;
            *total
        })
        .unwrap();
    let service = Service::start(SchedulerSettings::default(), functions, |_| 0_u64);
    let chain = service
        .me
        .waterfall::<CallError>()
        .step(|total, ()| {
            *total += 1;
            Ok(*total)
        })
        .call1::<u64>(&service.client, "add")
        .step(|total, n| {
            assert_eq!(*total, n);
            Ok(n)
        })
        .call1::<u64>(&service.client, "add");
    assert_eq!(end(chain).unwrap(), 4);
    assert_eq!(service.close(), 4);
}

#[test]
fn thousands_of_chains_and_long_chains_complete() {
    const MANY: usize = 3000;
    let service = start_with(SchedulerSettings::default().open(MANY).jobs(MANY));
    let helper = helper();
    let release = service.block();
    for n in 0..MANY {
        let first = service
            .me
            .waterfall::<CallError>()
            .step(move |_, ()| Ok(n as u64))
            .call1::<u64>(&helper, "double");
        let end = move |state: &mut State, result: Result<u64, _>| {
            assert_eq!(result.unwrap(), 2 * n as u64 + 1);
            state.note("");
        };
        match n % 3 {
            0 => first.spawn_blocking(|n| n + 1).finish(end).unwrap(),
            1 => first.then(|_, n| ready(Ok::<_, CallError>(n + 1))).finish(end).unwrap(),
            _ => first.step(|_, n| Ok(n + 1)).finish(end).unwrap(),
        }
    }
    let full = service.me.waterfall::<CallError>().finish(|_, _| ());
    assert_eq!(full, Err(ScheduleError::Full { setting: "open", limit: MANY }));
    drop(release);
    let service = {
        assert!(smol::block_on(service.me.drain(LIMIT)));
        service.end()
    };
    assert_eq!(service.log.len(), MANY);

    let service = start();
    let mut chain = service.me.waterfall::<CallError>().step(|_, ()| Ok(0_u64));
    for n in 0..500 {
        chain = if n % 2 == 0 {
            chain.step(|_, n| Ok(n + 1))
        } else {
            chain.then(|_, n| ready(Ok::<_, CallError>(n + 1)))
        };
    }
    assert_eq!(end(chain).unwrap(), 500);
    service.close();
}

#[derive(Clone, Debug)]
enum Step {
    Compute,
    Wait,
    WaitLong,
    Job,
    Call,
    Fail,
    FailLater,
    Panic,
    PanicInJob,
    Unknown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Compute),
        4 => Just(Step::Wait),
        2 => Just(Step::WaitLong),
        3 => Just(Step::Job),
        4 => Just(Step::Call),
        1 => Just(Step::Fail),
        1 => Just(Step::FailLater),
        1 => Just(Step::Panic),
        1 => Just(Step::PanicInJob),
        1 => Just(Step::Unknown),
    ];
    proptest::collection::vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Concurrent random chains: each runs its steps in order up to the first that fails, and ends once.
    #[test]
    fn random_chains_end_as_expected(chains in proptest::collection::vec(steps(), 1..8)) {
        let (service, helper) = (start(), helper());
        let (sender, ends) = mpsc::channel();
        let release = service.block();
        for (name, steps) in chains.iter().enumerate() {
            let mut chain = service.me.waterfall::<Trouble>().step(|_, ()| Ok(1_u64));
            for (at, step) in steps.iter().enumerate() {
                let mark = move |state: &mut State| state.note(format!("{name} {at}"));
                chain = match step {
                    Step::Compute => chain.step(move |state, n| { mark(state); Ok(n + 1) }),
                    Step::Wait => chain.then(move |state, n| { mark(state); ready(Ok::<_, Trouble>(n + 1)) }),
                    Step::WaitLong => chain.then(move |state, n| {
                        mark(state);
                        async move { smol::future::yield_now().await; Ok::<_, Trouble>(n + 1) }
                    }),
                    Step::Job => chain.spawn_blocking(|n| n + 1),
                    Step::Call => chain.call1::<u64>(&helper, "double"),
                    Step::Fail => chain.step(move |state, _| { mark(state); Err(Trouble::Own("fail")) }),
                    Step::FailLater => chain.then(move |state, _| { mark(state); async { Err(Trouble::Own("fail")) } }),
                    Step::Panic => chain.step(move |state, _| { mark(state); panic!("panic") }),
                    Step::PanicInJob => chain.spawn_blocking(|_| panic!("panic")),
                    Step::Unknown => chain.call1::<u64>(&helper, "nope"),
                };
            }
            let sender = sender.clone();
            chain.finish(move |state, result| {
                state.note(format!("{name} end"));
                sender.send((name, result)).unwrap();
            }).unwrap();
        }
        drop((release, sender));
        prop_assert!(smol::block_on(service.me.drain(LIMIT)));
        let log = service.end().log;
        let mut results: Vec<_> = ends.iter().collect();
        results.sort_by_key(|(name, _)| *name);
        prop_assert_eq!(results.len(), chains.len());
        for ((name, result), steps) in results.into_iter().zip(&chains) {
            let (mut value, mut expected, mut error) = (1_u64, Vec::new(), None);
            for (at, step) in steps.iter().enumerate() {
                if !matches!(step, Step::Job | Step::Call | Step::PanicInJob | Step::Unknown) {
                    expected.push(format!("{name} {at}"));
                }
                match step {
                    Step::Compute | Step::Wait | Step::WaitLong | Step::Job => value += 1,
                    Step::Call => value *= 2,
                    _ => { error = Some(step); break; }
                }
            }
            expected.push(format!("{name} end"));
            let mine: Vec<_> = log.iter().filter(|line| line.starts_with(&format!("{name} "))).cloned().collect();
            prop_assert_eq!(mine, expected);
            let fits = match (error, &result) {
                (None, Ok(n)) => *n == value,
                (Some(Step::Fail | Step::FailLater), Err(Trouble::Own("fail"))) => true,
                (Some(Step::Panic | Step::PanicInJob), Err(Trouble::Call(CallError::Panicked(_)))) => true,
                (Some(Step::Unknown), Err(Trouble::Call(CallError::Unknown(_)))) => true,
                _ => false,
            };
            prop_assert!(fits, "{:?}: {:?}", steps, result);
        }
    }
}

/// A chain's values are dropped with it, whatever it waits for.
#[test]
fn chain_pending_at_the_end_is_dropped() {
    let service = start();
    let (drops, ends) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
    let release = service.block();
    for n in 0..3 {
        let (step, last, ends) = (drops.guard(), drops.guard(), ends.clone());
        let chain = service.me.waterfall::<CallError>().step(move |_, ()| Ok(step));
        let chain = match n {
            0 => chain,
            _ => chain.then(|_, step| async move {
                pending::<()>().await;
                Ok::<_, CallError>(step)
            }),
        };
        let finish = move |_: &mut State, _| {
            drop(last);
            ends.fetch_add(1, Ordering::SeqCst);
        };
        chain.finish(finish).unwrap();
    }
    drop(release);
    eventually("the first has ended", || ends.load(Ordering::SeqCst) == 1);
    service.close();
    eventually("all is dropped", || drops.count() == 6);
    assert_eq!(ends.load(Ordering::SeqCst), 1);
}

/// More steps than the stack of a thread could hold if each step used any of it.
const LONG: usize = 20_000;

fn long(first: Waterfall<State, u64, CallError>) -> Waterfall<State, u64, CallError> {
    (0..LONG).fold(first, |chain, _| chain.step(|_, n| Ok(n + 1)))
}

#[test]
fn long_chain_does_not_overflow_the_stack_however_it_ends() {
    let service = start_with(SchedulerSettings::default().workers(1));
    let begin = || service.me.waterfall_with::<u64, CallError>(0);

    assert_eq!(end(long(begin())).unwrap(), LONG as u64);
    let failed = begin().step(|_, _| Err(CallError::Full));
    assert!(matches!(end(long(failed)), Err(CallError::Full)));
    let panicked = begin().step(|_, _: u64| -> Result<u64, CallError> { panic!("on purpose") });
    assert!(matches!(end(long(panicked)), Err(CallError::Panicked(_))));
    let late = long(begin()).timeout(Duration::ZERO);
    assert!(matches!(end(late), Err(CallError::Deadline)));
    let late = long(begin().then(|_, _| pending::<Result<u64, CallError>>()));
    assert!(matches!(end(late.timeout(Duration::from_millis(1))), Err(CallError::Deadline)));

    // A rejected chain, and chains that the scheduler's end finds in each possible state.
    drop(long(begin()));
    let helper = helper();
    let (free, is_free) = mpsc::channel::<()>();
    let waiting = [
        long(begin().then(|_, _| pending::<Result<u64, CallError>>())),
        long(begin().call1::<u64>(&helper, "double")),
        long(begin().spawn_blocking(move |n| is_free.recv().map_or(n, |()| n))),
        long(begin().spawn_blocking(|n| n)),
    ];
    for chain in waiting {
        chain.finish(|_, _| ()).unwrap();
    }
    let release = service.block();
    let last = long(begin());
    last.finish(|_, _| ()).unwrap();
    service.me.close();
    drop((release, free));
    service.end();
}

#[test]
fn panic_while_dropping_a_step_affects_nothing_else() {
    let service = start();
    let bombs = |chain: Waterfall<State, (), CallError>| {
        (0..3).fold(chain, |chain, _| {
            let bomb = Bomb;
            chain.step(move |_, ()| {
                drop(bomb);
                Ok(())
            })
        })
    };
    drop(bombs(service.me.waterfall()));
    let failed = bombs(service.me.waterfall().step(|_, ()| Err(CallError::Full)));
    assert!(matches!(end(failed), Err(CallError::Full)));
    let panicked = bombs(service.me.waterfall());
    assert!(matches!(end(panicked), Err(CallError::Panicked(_))));
    service.close();
}

#[test]
fn blocking_step_waits_for_a_free_thread() {
    let service = start_with(SchedulerSettings::default().workers(1).jobs(0));
    let (free, is_free) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let work = move || {
        begin.send(()).unwrap();
        let _ = is_free.recv_timeout(LIMIT);
    };
    service.me.spawn_blocking(work, |_, _| ()).unwrap();
    got(&begun);
    assert_eq!(
        service.me.spawn_blocking(|| (), |_, _| ()),
        Err(ScheduleError::Full { setting: "jobs", limit: 0 })
    );

    // More than the queue of jobs holds.
    let (done, results) = mpsc::channel();
    for n in 0..20 {
        let done = done.clone();
        let chain = service.me.waterfall_with::<_, CallError>(n).spawn_blocking(|n: u64| n + 1);
        chain.finish(move |_, result| done.send(result.unwrap()).unwrap()).unwrap();
    }
    // A step whose deadline passes before it starts never runs.
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    let late =
        service.me.waterfall::<CallError>().spawn_blocking(move |()| counted.fetch_add(1, Ordering::Relaxed));
    assert!(matches!(end(late.timeout(Duration::from_millis(5))), Err(CallError::Deadline)));
    assert!(results.try_recv().is_err(), "the only worker is busy");
    drop(free);
    assert_eq!((0..20).map(|_| got(&results)).sum::<u64>(), 210);
    assert!(smol::block_on(service.me.drain(LIMIT)));
    service.end();
    assert_eq!(ran.load(Ordering::Relaxed), 0, "it had passed its deadline");
}
