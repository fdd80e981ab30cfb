//! The scheduler: everything that reaches its loop, and in which order.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::chan::{CallError, Client, Functions, Id1, Responder, Server};
use chanrpc::sched::{Handle, ScheduleError, Scheduler, SchedulerSettings, TimerId};
use smol::Executor;
use smol::stream::{self, StreamExt};

use crate::support::{Bomb, DropGuard, Drops, LIMIT, Service, Woken, ended, eventually, got};

struct State {
    me: Handle<State>,
    log: Vec<String>,
    kept: Vec<Responder<u64>>,
    /// Servers that never reply.
    deaf: Vec<Server<()>>,
    count: usize,
}

impl State {
    fn new(me: &Handle<Self>) -> Self {
        Self { me: me.clone(), log: Vec::new(), kept: Vec::new(), deaf: Vec::new(), count: 0 }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }
}

fn functions() -> Functions<State> {
    let mut functions = Functions::new();
    functions
        .register1("echo", |_: &mut State, value: u64| value)
        .unwrap()
        .register0("write", |state, what: String| state.log.push(what))
        .unwrap()
        .register_deferred(Id1::new("keep"), |state, _: u64, responder| state.kept.push(responder))
        .unwrap()
        .register0("panic", |_, ()| panic!("in a call"))
        .unwrap();
    functions
}

fn start() -> Service<State> {
    start_with(SchedulerSettings::default())
}

fn start_with(settings: SchedulerSettings) -> Service<State> {
    Service::start(settings.backtrace_limit(0), functions(), State::new)
}

/// A server that never runs its calls, with room for many.
fn deaf() -> Server<()> {
    let mut functions = Functions::new();
    functions.register1("never", |_: &mut (), value: u64| value).unwrap();
    Server::new((), functions)
}

/// Makes a closure own the value.
fn keep<T>(_: T) {}

fn full(setting: &'static str, limit: usize) -> ScheduleError {
    ScheduleError::Full { setting, limit }
}

#[test]
fn events_run_one_at_a_time_from_all_sources_on_any_number_of_threads() {
    struct Alone {
        busy: Arc<AtomicBool>,
        count: usize,
    }
    impl Alone {
        fn enter(&mut self) {
            assert!(!self.busy.swap(true, Ordering::SeqCst), "two at a time");
            thread::yield_now();
            self.count += 1;
            assert!(self.busy.swap(false, Ordering::SeqCst), "two at a time");
        }
    }

    const EACH: usize = 200;
    let mut functions = Functions::new();
    functions.register1("enter", |alone: &mut Alone, (): ()| alone.enter()).unwrap();
    let executor = Arc::new(Executor::new());
    let settings = SchedulerSettings::default().posts(10_000).calls(10_000);
    let scheduler = Scheduler::with_settings(&executor, functions, settings, |_| Alone {
        busy: Arc::default(),
        count: 0,
    });
    let (me, client) = (scheduler.handle(), scheduler.client());
    let owner = executor.spawn(scheduler.run());
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
        })
        .collect();
    let (timed, timers) = mpsc::channel();
    me.every(Duration::ZERO, move |alone| {
        alone.enter();
        let _ = timed.send(());
    })
    .unwrap();
    let barrier = Arc::new(Barrier::new(3));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (me, client, barrier) = (me.clone(), client.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                for n in 0..EACH {
                    client.call1::<_, ()>("enter", ()).timeout(LIMIT).wait().unwrap();
                    drop(me.post(Alone::enter).unwrap());
                    let called = me.call1(&client, "enter", ()).then(|alone, result: Result<(), _>| {
                        // The queue may have been full.
                        assert!(matches!(result, Ok(()) | Err(CallError::Full)));
                        alone.enter();
                    });
                    called.unwrap();
                    if n % 10 == 0 {
                        me.spawn(ready(()), |alone, _| alone.enter()).unwrap();
                        me.attach_stream(stream::once(()), |alone, ()| alone.enter()).unwrap();
                    }
                }
            })
        })
        .collect();
    callers.into_iter().for_each(ended);
    (0..EACH).for_each(|_| got(&timers));
    // A drain drops unfinished streams; nothing else.
    assert!(smol::block_on(me.drain(LIMIT)));
    let alone = smol::block_on(owner);
    assert!(alone.count >= 3 * (3 * EACH + EACH / 10) + EACH, "{}", alone.count);
    assert_eq!(client.stats().panicked, 0);
    drop(stop);
    for worker in workers {
        let _ = ended(worker);
    }
}

#[test]
fn posts_from_several_threads_run_in_order_of_their_serials() {
    let service = start_with(SchedulerSettings::default().posts(100_000));
    let barrier = Arc::new(Barrier::new(4));
    let order: Arc<std::sync::Mutex<Vec<usize>>> = Arc::default();
    let posters: Vec<_> = (0..4)
        .map(|thread| {
            let (me, barrier, order) = (service.me.clone(), barrier.clone(), order.clone());
            thread::spawn(move || {
                barrier.wait();
                (0..2000)
                    .map(|n| {
                        let name = thread * 2000 + n;
                        let order = order.clone();
                        let posted = me.post(move |_| order.lock().unwrap().push(name)).unwrap();
                        (posted.serial(), name)
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut posted: Vec<_> = posters.into_iter().flat_map(ended).collect();
    posted.sort_unstable();
    assert!(posted.windows(2).all(|pair| pair[0].0 < pair[1].0), "a serial came twice");
    for thread in 0..4 {
        let own = posted.iter().map(|(_, name)| name).filter(|name| *name / 2000 == thread);
        assert!(own.is_sorted(), "later posts have greater serials");
    }
    service.ask(|_| ());
    service.close();
    let names: Vec<_> = posted.into_iter().map(|(_, name)| name).collect();
    assert_eq!(*order.lock().unwrap(), names);
}

#[test]
fn threads_and_tasks_wait_for_the_result_of_a_post() {
    let service = start();
    assert_eq!(service.me.post(|_| "thread").unwrap().wait().unwrap(), "thread");
    assert_eq!(smol::block_on(async { service.me.post(|_| 7).unwrap().await.unwrap() }), 7);
    // From a task of the loop's own executor.
    let (sender, receiver) = mpsc::channel();
    let me = service.me.clone();
    let task = async move { me.post(|state| state.count).unwrap().await.unwrap() };
    service.me.spawn(task, move |_, result| sender.send(result.unwrap()).unwrap()).unwrap();
    assert_eq!(got(&receiver), 0);

    let release = service.block();
    let late = service.me.post(|state| state.note("late")).unwrap().timeout(Duration::from_millis(2)).wait();
    assert!(matches!(late, Err(CallError::Deadline)), "{late:?}");
    drop(service.me.post(|state| state.note("dropped")).unwrap());
    drop(release);
    let Err(CallError::Panicked(panic)) = service.me.post(|_| panic!("no")).unwrap().wait() else {
        panic!("no panic")
    };
    assert_eq!(panic.message(), "no");
    assert_eq!(service.close().log, ["late", "dropped"], "both have run all the same");
}

fn is_deadlock<T>(result: Result<T, CallError>) -> bool {
    matches!(result, Err(CallError::WouldDeadlock { chain }) if *chain[0] == *chain[1] && chain.len() == 2)
}

#[test]
fn loop_waiting_for_itself_fails_with_would_deadlock() {
    fn both(state: &mut State) -> bool {
        let client = state.me.client();
        is_deadlock(state.me.post(|_| ()).unwrap().wait())
            && is_deadlock(client.call1::<_, u64>("echo", 1_u64).wait())
    }

    let mut functions = functions();
    functions.register1("both", |state: &mut State, (): ()| both(state)).unwrap();
    let service = Service::start(SchedulerSettings::default(), functions, State::new);
    let (sender, answers) = mpsc::channel();
    let tell = |what: &'static str| {
        let sender = sender.clone();
        move |state: &mut State| sender.send((what, both(state))).unwrap()
    };
    assert!(service.client.call1::<_, bool>("both", ()).timeout(LIMIT).wait().unwrap());
    drop(service.me.post(tell("post")).unwrap());
    service.me.after(Duration::ZERO, tell("timer")).unwrap();
    let callback = tell("callback");
    let called = service
        .me
        .call1(&service.client, "echo", 1_u64)
        .then(move |state, _: Result<u64, _>| callback(state));
    called.unwrap();
    let callback = tell("job");
    service.me.spawn_blocking(|| (), move |state, _| callback(state)).unwrap();
    let callback = tell("future");
    service.me.spawn(ready(()), move |state, _| callback(state)).unwrap();
    let callback = tell("stream");
    service.me.attach_stream(stream::once(()), move |state, ()| callback(state)).unwrap();
    let (step, end) = (tell("step"), tell("end"));
    let step = move |state: &mut State, ()| {
        step(state);
        Ok::<_, CallError>(())
    };
    service.me.waterfall().step(step).finish(move |state, _| end(state)).unwrap();
    let mut told: Vec<_> = (0..8).map(|_| got(&answers)).collect();
    told.sort_unstable();
    let names = ["callback", "end", "future", "job", "post", "step", "stream", "timer"];
    assert_eq!(told, names.map(|name| (name, true)));
    service.close();
}

#[test]
fn loops_waiting_for_each_other_fail_with_would_deadlock() {
    struct Half {
        other: Option<Handle<Half>>,
    }
    let mut functions = Functions::new();
    functions
        .register1("ask", |half: &mut Half, deep: u64| -> Result<(), CallError> {
            let other = half.other.as_ref().unwrap();
            match deep {
                0 => other.post(|_| ()).unwrap().wait(),
                _ => other.client().call1::<_, Result<(), CallError>>("ask", deep - 1).wait()?,
            }
        })
        .unwrap();
    let make = |name: &'static str, functions| {
        let settings = SchedulerSettings::default().name(name);
        Service::start(settings, functions, |_| Half { other: None })
    };
    let (a, b) = (
        make("a", std::mem::take(&mut functions)),
        make("b", {
            let mut functions = Functions::new();
            functions
                .register1("ask", |half: &mut Half, _: u64| {
                    half.other.as_ref().unwrap().post(|_| ()).unwrap().wait()
                })
                .unwrap();
            functions
        }),
    );
    let (of_a, of_b) = (a.me.clone(), b.me.clone());
    a.ask(move |half| half.other = Some(of_b));
    b.ask(move |half| half.other = Some(of_a));
    let asked = a.client.call1::<_, Result<(), CallError>>("ask", 1_u64).timeout(LIMIT).wait().unwrap();
    let Err(CallError::WouldDeadlock { chain }) = asked else { panic!("{asked:?}") };
    assert_eq!(chain.join(" -> "), "b -> a -> b");
    // The other direction is not a cycle.
    a.client.call1::<_, Result<(), CallError>>("ask", 0_u64).timeout(LIMIT).wait().unwrap().unwrap();
    a.close();
    b.close();
}

#[test]
fn exceeding_a_limit_names_the_setting_and_capacity_returns() {
    let settings = SchedulerSettings::default()
        .capacity(2)
        .posts(2)
        .calls(2)
        .timers(2)
        .workers(1)
        .jobs(1)
        .open(4)
        .streams(2);
    let service = start_with(settings);
    let (me, client) = (&service.me, &service.client);
    let note = |state: &mut State| state.count += 1;

    for _ in 0..3 {
        let release = service.block();
        // Posts.
        drop((me.post(note).unwrap(), me.post(note).unwrap()));
        assert_eq!(me.post(note).unwrap_err(), full("posts", 2));
        // Incoming calls.
        client.go("write", "1".to_owned()).unwrap();
        client.go("write", "2".to_owned()).unwrap();
        assert!(matches!(client.go("write", "3".to_owned()).unwrap_err().error(), CallError::Full));
        // Outgoing calls.
        let deaf = deaf();
        let answered = |state: &mut State, result: Result<u64, CallError>| {
            assert!(matches!(result, Err(CallError::Closed)));
            state.count += 1;
        };
        for _ in 0..2 {
            me.call1(&deaf.client(), "never", 1_u64).then(answered).unwrap();
        }
        let refused = me.call1(&deaf.client(), "never", 9_u64).then(answered).unwrap_err();
        assert_eq!(refused, ScheduleError::Full { setting: "calls", limit: 2 });
        drop(deaf);
        // Timers.
        let one = me.after(LIMIT, note).unwrap();
        let two = me.every(LIMIT, note).unwrap();
        assert_eq!(me.after(LIMIT, note), Err(full("timers", 2)));
        assert!(me.cancel(one) && me.cancel(two));
        assert!(!me.cancel(one), "it is gone already");
        // Streams.
        let attached = [(), ()].map(|()| me.attach_stream(stream::pending::<()>(), |_, ()| ()).unwrap());
        assert_eq!(me.attach_stream(stream::pending::<()>(), |_, ()| ()).unwrap_err(), full("streams", 2));
        attached.into_iter().for_each(chanrpc::sched::StreamHandle::detach);
        // Blocking jobs: one runs, one waits.
        let (open, gate) = mpsc::channel::<()>();
        me.spawn_blocking(move || keep(gate.recv_timeout(LIMIT)), move |state, _| note(state)).unwrap();
        me.spawn_blocking(|| (), move |state, _| note(state)).unwrap();
        assert_eq!(me.spawn_blocking(|| (), |_, _| ()), Err(full("jobs", 1)));
        // Everything that is open.
        me.spawn(ready(()), move |state, _| note(state)).unwrap();
        me.waterfall::<CallError>().finish(move |state, _| note(state)).unwrap();
        assert_eq!(me.spawn_blocking(|| (), |_, _| ()), Err(full("open", 4)));
        assert_eq!(me.spawn(ready(()), |_, _| ()), Err(full("open", 4)));
        assert_eq!(me.waterfall::<CallError>().finish(|_, _| ()), Err(full("open", 4)));
        drop((open, release));

        let counter = Arc::new(AtomicUsize::new(0));
        eventually("everything has run", || {
            let seen = counter.clone();
            let _ = me
                .post(move |state| seen.store(state.count, Ordering::SeqCst))
                .map(chanrpc::sched::PostHandle::wait);
            counter.load(Ordering::SeqCst) == 8
        });
        service.ask(|state| state.count = 0);
    }
    let message = full("posts", 2).to_string();
    assert!(message.contains('2') && message.contains("SchedulerSettings::posts"), "{message}");
    assert_eq!(service.close().log.len(), 6);
}

/// Taking all waiting posts at once does not free capacity.
#[test]
fn limit_of_posts_includes_those_taken_by_the_loop() {
    let service = start_with(SchedulerSettings::default().posts(4));
    let release = service.block();
    let (begins, begun) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let _first = service.me.post(move |_| {
        begins.send(()).unwrap();
        let _ = gate.recv_timeout(LIMIT);
    });
    (0..3).for_each(|_| drop(service.me.post(|_| ()).unwrap()));
    drop(release);
    got(&begun);
    // Three wait, so one more fits.
    drop(service.me.post(|_| ()).unwrap());
    assert_eq!(service.me.post(|_| ()).unwrap_err(), full("posts", 4));
    drop(open);
    service.close();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flood {
    Calls,
    Posts,
    Callbacks,
    Returns,
    Timers,
    Stream,
    Waterfalls,
}

const FLOOD: usize = 40_000;
const PROBE: usize = 500;
/// The number of flood events within which every other source must run.
const TURN: usize = 3000;

/// Schedules one event of a flood, which schedules the next.
fn flood(state: &mut State, kind: Flood) {
    state.count += 1;
    if state.count == PROBE {
        probe(state);
    }
    if state.count >= FLOOD {
        if state.count == FLOOD {
            state.note("the flood has ended");
        }
        return;
    }
    let me = &state.me;
    match kind {
        Flood::Calls => me.client().go("flood", ()).unwrap(),
        Flood::Posts => drop(me.post(move |state| flood(state, kind)).unwrap()),
        Flood::Callbacks => {
            let next = move |state: &mut State, _: Result<u64, CallError>| flood(state, kind);
            me.call1(&me.client(), "echo", 1_u64).then(next).unwrap();
        }
        Flood::Returns => me.spawn(ready(()), move |state, _| flood(state, kind)).unwrap(),
        Flood::Waterfalls => me
            .waterfall::<CallError>()
            .then(|_, ()| ready(Ok::<_, CallError>(())))
            .finish(move |state, _| flood(state, kind))
            .unwrap(),
        Flood::Timers | Flood::Stream => {}
    }
}

/// Schedules one event of every source.
fn probe(state: &mut State) {
    fn seen(what: &'static str) -> impl Fn(&mut State) + Send {
        move |state| state.note(format!("{what} {}", state.count))
    }
    let me = state.me.clone();
    let client = me.client();
    client.go("seen", ()).unwrap();
    drop(me.post(seen("post")).unwrap());
    let callback = seen("callback");
    me.call1(&client, "echo", 1_u64).then(move |state, _: Result<u64, _>| callback(state)).unwrap();
    let late = seen("deadline");
    let deaf = deaf();
    let called =
        me.call1(&deaf.client(), "never", 1_u64).timeout(Duration::ZERO).then(move |state, result| {
            assert!(matches!(result, Err::<u64, _>(CallError::Deadline)));
            late(state);
        });
    called.unwrap();
    state.deaf.push(deaf);
    let future = seen("future");
    me.spawn(ready(()), move |state, _| future(state)).unwrap();
    me.after(Duration::ZERO, seen("timer")).unwrap();
    let item = seen("stream");
    me.attach_stream(stream::once(()), move |state, ()| item(state)).unwrap();
    let end = seen("waterfall");
    let step = |_: &mut State, ()| ready(Ok::<_, CallError>(()));
    me.waterfall::<CallError>().then(step).finish(move |state, _| end(state)).unwrap();
}

#[test]
fn flood_from_one_source_does_not_starve_the_others() {
    for kind in [
        Flood::Calls,
        Flood::Posts,
        Flood::Callbacks,
        Flood::Returns,
        Flood::Timers,
        Flood::Stream,
        Flood::Waterfalls,
    ] {
        let mut functions = functions();
        functions
            .register0("flood", |state: &mut State, ()| flood(state, Flood::Calls))
            .unwrap()
            .register0("seen", |state, ()| state.note(format!("call {}", state.count)))
            .unwrap();
        let service = Service::start(SchedulerSettings::default(), functions, State::new);
        let sources = match kind {
            Flood::Stream => 8,
            _ => 40,
        };
        service.ask(move |state| {
            for _ in 0..sources {
                let me = state.me.clone();
                match kind {
                    Flood::Timers => {
                        me.every(Duration::ZERO, move |state| flood(state, kind)).unwrap();
                    }
                    Flood::Stream => {
                        let enough = stream::repeat(()).take(FLOOD);
                        me.attach_stream(enough, move |state, ()| flood(state, kind)).unwrap();
                    }
                    _ => flood(state, kind),
                }
            }
        });
        let log = smol::block_on(async {
            loop {
                let log = service.me.post(|state| state.log.clone()).unwrap().timeout(LIMIT).await.unwrap();
                if log.iter().any(|line| line == "the flood has ended") {
                    return log;
                }
            }
        });
        for what in ["call", "post", "callback", "deadline", "future", "timer", "stream", "waterfall"] {
            let at = log.iter().find_map(|line| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok());
            let at: usize = at.unwrap_or_else(|| panic!("{kind:?}: no turn for the {what}: {log:?}"));
            assert!(at <= PROBE + TURN, "{kind:?}: the {what} had to wait until {at}");
        }
        service.close();
    }
}

#[test]
fn timers_fire_in_order_of_their_due_times() {
    let service = start();
    let release = service.block();
    // This is the order of the due times if all were set within one unit; on a slow machine, use a longer unit.
    let mut unit = Duration::from_millis(1);
    let end = loop {
        let began = Instant::now();
        let timers = [(3, "c"), (1, "a"), (2, "b")]
            .map(|(units, name)| service.me.after(unit * units, move |state| state.note(name)).unwrap());
        let (ended, end) = mpsc::channel();
        let last = service.me.after(unit * 4, move |_| ended.send(()).unwrap()).unwrap();
        if began.elapsed() < unit {
            break end;
        }
        timers.into_iter().chain([last]).for_each(|timer| assert!(service.me.cancel(timer)));
        unit *= 2;
    };
    service.me.after(Duration::MAX, |state| state.note("never")).unwrap();
    service.me.every(Duration::MAX, |state| state.note("never")).unwrap();
    // The others are set while the loop sleeps indefinitely.
    drop(release);
    got(&end);
    let (earlier, early) = mpsc::channel();
    service.ask(|_| ());
    service.me.after(Duration::ZERO, move |_| earlier.send(()).unwrap()).unwrap();
    got(&early);
    assert_eq!(service.close().log, ["a", "b", "c"]);
}

#[test]
fn every_source_wakes_a_sleeping_loop() {
    let executor = Arc::new(Executor::new());
    let scheduler = Scheduler::new(&executor, functions(), State::new);
    let (me, client) = (scheduler.handle(), scheduler.client());
    let mut run = Box::pin(scheduler.run());
    let woken = Arc::new(Woken::default());
    let deaf = deaf();
    me.after(LIMIT, |_| ()).unwrap();
    for source in 0..6 {
        woken.sleep(&mut run);
        assert!(!woken.take());
        match source {
            0 => client.go("write", String::new()).unwrap(),
            1 => drop(me.post(|_| ()).unwrap()),
            2 => drop(me.after(Duration::ZERO, |_| ()).unwrap()),
            3 => me.call1(&client, "nope", 1_u64).then(|_, _: Result<u64, _>| ()).unwrap(),
            4 => {
                let other = deaf.client();
                let timed = me.call1(&other, "never", 1_u64).timeout(LIMIT);
                timed.then(|_, _: Result<u64, _>| ()).unwrap();
            }
            _ => {
                me.spawn(ready(()), |_, _| ()).unwrap();
                while executor.try_tick() {}
            }
        }
        assert!(woken.take(), "{source}");
    }
    woken.sleep(&mut run);
    me.close();
    assert!(woken.take());
    smol::block_on(run);
}

#[test]
fn late_loop_skips_missed_ticks() {
    const PERIOD: Duration = Duration::from_millis(10);
    let service = start();
    let (tick, ticks) = mpsc::channel();
    service.me.every(PERIOD, move |_| keep(tick.send(Instant::now()))).unwrap();
    got(&ticks);
    let (release, begin) = (service.block(), Instant::now());
    eventually("the loop is late", || begin.elapsed() > 20 * PERIOD);
    while ticks.try_recv().is_ok() {}
    let late = Instant::now();
    drop(release);
    for n in 0..8 {
        let at = got(&ticks).saturating_duration_since(late);
        assert!(at + 2 * PERIOD >= n * PERIOD, "tick {n} after {at:?}: it catches up");
    }
    service.close();
}

/// The indices of the periods in which a timer fired, on a loop that was delayed repeatedly.
#[test]
fn delayed_loop_resumes_with_the_next_full_period() {
    let service = start();
    let period = Duration::from_millis(20);
    let begun = Instant::now();
    let (tick, ticks) = mpsc::channel();
    let every = move |_: &mut State| {
        let periods = begun.elapsed().as_nanos() / period.as_nanos();
        tick.send(periods).unwrap();
        // Ticks are missed, the last of them by more than half its period.
        if periods.is_multiple_of(3) {
            thread::sleep(period * 5 / 2);
        }
    };
    service.me.every(period, every).unwrap();
    let seen: Vec<_> = (0..12).map(|_| got(&ticks)).collect();
    assert!(seen.windows(2).all(|two| two[0] < two[1]), "two ticks in one period: {seen:?}");
    service.close();
}

/// More calls and posts of 1 ms each than the loop can run, beside a future that must make progress.
#[test]
fn slow_events_on_a_busy_loop_do_not_starve_others() {
    const SLOW: Duration = Duration::from_millis(2);
    let executor = Arc::new(Executor::new());
    let settings = SchedulerSettings::default().posts(1_000);
    let scheduler = Scheduler::with_settings(&executor, Functions::new(), settings, |_| 0);
    let me = scheduler.handle();
    let _owner = executor.spawn(scheduler.run());
    let (ran, timers, others) = smol::block_on(executor.run(async {
        for _ in 0..1_000 {
            let slow = |ran: &mut u32| {
                *ran += 1;
                thread::sleep(SLOW);
            };
            drop(me.post(slow).unwrap());
        }
        let (fired, fires) = smol::channel::bounded(1);
        me.after(SLOW, move |ran| fired.try_send(*ran).unwrap()).unwrap();
        let other = executor.spawn(async {
            let begun = Instant::now();
            for _ in 0..20 {
                smol::future::yield_now().await;
            }
            begun.elapsed()
        });
        // This future must be polled as well.
        smol::Timer::after(SLOW).await;
        let (seen, me_seen) = smol::channel::bounded(1);
        me.spawn(std::future::ready(()), move |ran, _| seen.try_send(*ran).unwrap()).unwrap();
        (me_seen.recv().await.unwrap(), fires.recv().await.unwrap(), other.await)
    }));
    // Out of a thousand. Only the order counts; the duration depends on the machine.
    assert!(ran < 100, "{ran} slow posts ran before the main future went on");
    assert!(timers < 100, "{timers} slow posts ran before the timer");
    assert!(others < SLOW * 500, "{others:?} for 20 turns of another task");
}

#[test]
fn timers_can_be_cancelled_from_anywhere_even_when_due() {
    let service = start_with(SchedulerSettings::default().timers(3));
    // Due, but it has not run.
    let release = service.block();
    let due = service.me.after(Duration::ZERO, |state| state.note("cancelled")).unwrap();
    let other = service.me.every(Duration::ZERO, |state| state.note("cancelled")).unwrap();
    assert!(service.me.cancel(due) && service.me.cancel(other));
    drop(release);
    service.ask(|_| ());

    // By its own callback, which is then dropped.
    let own: Arc<std::sync::OnceLock<TimerId>> = Arc::default();
    let drops = Drops::default();
    let (guard, timer) = (drops.guard(), own.clone());
    let release = service.block();
    let id = service.me.every(Duration::ZERO, move |state| {
        let _guard = &guard;
        state.note("once");
        assert!(state.me.cancel(*timer.get().unwrap()));
        assert!(!state.me.cancel(*timer.get().unwrap()));
    });
    own.set(id.unwrap()).unwrap();
    drop(release);
    eventually("it is cancelled", || drops.count() == 1);
    assert!(!service.me.cancel(id.unwrap()));

    // By another timer that is due at the same time and runs first.
    let release = service.block();
    let victim: Arc<std::sync::OnceLock<TimerId>> = Arc::default();
    let found = victim.clone();
    let killer = move |state: &mut State| assert!(state.me.cancel(*found.get().unwrap()));
    service.me.after(Duration::ZERO, killer).unwrap();
    let guard = drops.guard();
    let id = service.me.after(Duration::ZERO, move |state| {
        drop(guard);
        state.note("killed");
    });
    victim.set(id.unwrap()).unwrap();
    drop(release);
    eventually("it is cancelled", || drops.count() == 2);

    // A timer that is running is no longer set: its slot is free, and it cannot be cancelled.
    let (sender, receiver) = mpsc::channel();
    let release = service.block();
    let own: Arc<std::sync::OnceLock<TimerId>> = Arc::default();
    let timer = own.clone();
    for _ in 0..2 {
        service.me.after(Duration::MAX, |_| ()).unwrap();
    }
    let id = service.me.after(Duration::ZERO, move |state: &mut State| {
        assert!(!state.me.cancel(*timer.get().unwrap()));
        state.me.after(Duration::ZERO, move |_| sender.send(()).unwrap()).unwrap();
    });
    own.set(id.unwrap()).unwrap();
    drop(release);
    got(&receiver);
    assert_eq!(service.client.stats().panicked, 0);
    assert_eq!(service.close().log, ["once"]);
}

#[test]
#[cfg(feature = "cron")]
fn cron_timer_fires_repeatedly() {
    let service = start();
    let (tick, ticks) = mpsc::channel();
    let cron = chanrpc::sched::Cron::parse("* * * * * *", chanrpc::sched::Zone::Utc).unwrap();
    let id = service.me.cron(cron, move |_| _ = tick.send(std::time::SystemTime::now())).unwrap();
    let times: Vec<_> = (0..2).map(|_| got(&ticks)).collect();
    let second = |time: &std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(second(&times[0]) < second(&times[1]), "once in a second: {times:?}");
    assert!(service.me.cancel(id));
    assert!(ticks.iter().next().is_none(), "the callback is dropped");
    service.close();
}

#[test]
fn blocking_jobs_run_off_the_loop_with_bounded_concurrency_in_order() {
    let service = start_with(SchedulerSettings::default().workers(2).jobs(100));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begins, begun) = mpsc::channel();
    let (open, gate) = smol::channel::unbounded::<()>();
    for n in 0..20 {
        let (running, most, begins, gate) = (running.clone(), most.clone(), begins.clone(), gate.clone());
        let work = move || {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            begins.send(n).unwrap();
            let _ = gate.recv_blocking();
            running.fetch_sub(1, Ordering::SeqCst);
            n
        };
        service.me.spawn_blocking(work, |state, n| state.note(n.unwrap().to_string())).unwrap();
    }
    let mut first = [got(&begun), got(&begun)];
    first.sort_unstable();
    assert_eq!(first, [0, 1]);
    // Two are running, and the loop is responsive.
    service.ask(|_| ());
    assert_eq!(running.load(Ordering::SeqCst), 2);
    assert!(begun.try_recv().is_err(), "no more than two run");
    for n in 2..20 {
        smol::block_on(open.send(())).unwrap();
        assert_eq!(got(&begun), n, "those that wait start in their order");
    }
    drop(open);
    assert_eq!(service.drain().log.len(), 20);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn panic_in_a_blocking_job_is_its_result_and_frees_the_thread() {
    let service = start_with(SchedulerSettings::default().workers(1));
    let (sender, results) = mpsc::channel();
    for n in 0..4 {
        let sender = sender.clone();
        service
            .me
            .spawn_blocking(
                move || assert!(n % 2 == 1, "job {n}"),
                move |_, result| sender.send(result).unwrap(),
            )
            .unwrap();
    }
    for n in 0..4 {
        match got(&results) {
            Err(CallError::Panicked(panic)) if n % 2 == 0 => assert_eq!(panic.message(), format!("job {n}")),
            Ok(()) => assert_eq!(n % 2, 1),
            Err(error) => panic!("{error}"),
        }
    }
    service.close();
}

#[test]
fn result_of_a_blocking_job_after_the_end_is_dropped() {
    let service = start_with(SchedulerSettings::default().workers(1));
    let drops = Drops::default();
    let (begins, begun) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let (result, callback, waiting) = (drops.guard(), drops.guard(), drops.guard());
    let work = move || {
        begins.send(()).unwrap();
        let _ = gate.recv_timeout(LIMIT);
        result
    };
    service.me.spawn_blocking(work, move |_, _| drop(callback)).unwrap();
    got(&begun);
    service.me.spawn_blocking(move || drop(waiting), |_, _| ()).unwrap();
    let me = service.me.clone();
    service.close();
    assert_eq!(drops.count(), 1, "a job that waits never runs");
    assert_eq!(me.spawn_blocking(|| (), |_, _| ()), Err(ScheduleError::Closed));
    drop(open);
    eventually("all is dropped", || drops.count() == 3);
}

#[test]
fn futures_and_streams_deliver_values_and_panics() {
    let service = start();
    let (sender, results) = mpsc::channel();
    let tell = sender.clone();
    service.me.spawn(async { 5 }, move |_, five| tell.send(format!("{}", five.unwrap())).unwrap()).unwrap();
    assert_eq!(got(&results), "5");
    let tell = sender.clone();
    let thrown = async { panic!("thrown") };
    service
        .me
        .spawn::<()>(thrown, move |_, error| tell.send(error.unwrap_err().to_string()).unwrap())
        .unwrap();
    assert!(got(&results).ends_with("thrown"));

    // A stream that ends, one that panics, and one whose callback panics: each is dropped with its values.
    let drops = Drops::default();
    for case in 0..3 {
        let (tell, source, callback) = (sender.clone(), drops.guard(), drops.guard());
        let items = stream::iter(0..5).map(move |n| {
            let _source = &source;
            assert!((case, n) != (1, 3), "the stream panics");
            n
        });
        let each = move |_: &mut State, n: i32| {
            let _callback = &callback;
            tell.send(n.to_string()).unwrap();
            assert!((case, n) != (2, 2), "the callback panics");
        };
        service.me.attach_stream(items, each).unwrap();
        let seen = || got(&results).parse::<i32>().unwrap();
        let expected = [5, 3, 3][case];
        for n in 0..expected {
            assert_eq!(seen(), n);
        }
        eventually("all is dropped", || drops.count() == 2 * (case as u32 + 1));
        assert!(results.try_recv().is_err());
    }
    service.close();
}

#[test]
fn stream_is_polled_only_as_fast_as_the_loop_consumes() {
    let service = start();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let (begins, begun) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let items = stream::repeat(()).map(move |()| counter.fetch_add(1, Ordering::SeqCst));
    let attached = service.me.attach_stream(items, move |_, n| {
        begins.send(n).unwrap();
        let _ = gate.recv_timeout(LIMIT);
    });
    for n in 0..10 {
        assert_eq!(got(&begun), n);
        assert_eq!(taken.load(Ordering::SeqCst), n + 1);
        open.send(()).unwrap();
    }
    assert_eq!(got(&begun), 10);
    attached.unwrap().detach();
    drop(open);
    assert!(begun.recv().is_err(), "the callback of a detached stream is dropped");
    service.close();
}

#[test]
fn running_work_is_dropped_when_the_scheduler_ends() {
    for drained in [false, true] {
        let service = start();
        let drops = Drops::default();
        let guard = drops.guard();
        let never = stream::pending::<()>().map(move |()| keep(&guard));
        service.me.attach_stream(never, |_, ()| ()).unwrap();
        let guard = drops.guard();
        service.me.every(LIMIT, move |_| keep(&guard)).unwrap();
        if drained {
            service.drain();
        } else {
            let (future, callback) = (drops.guard(), drops.guard());
            let never = async move {
                pending::<()>().await;
                drop(future);
            };
            service.me.spawn(never, move |_, _| drop(callback)).unwrap();
            service.close();
        }
        eventually("all is dropped", || drops.count() == if drained { 2 } else { 4 });
    }
}

#[test]
fn async_call_with_a_deadline_runs_its_callback_once() {
    let service = start();
    let mut deaf = deaf();
    let (sender, results) = mpsc::channel();
    let tell = || {
        let sender = sender.clone();
        move |_: &mut State, result: Result<u64, CallError>| sender.send(result).unwrap()
    };
    let client = deaf.client();
    service.me.call1(&client, "never", 1_u64).timeout(Duration::from_millis(2)).then(tell()).unwrap();
    assert!(matches!(got(&results), Err(CallError::Deadline)));
    assert_eq!(client.stats().timed_out, 1);
    assert!(smol::block_on(deaf.exec()), "it was queued");
    assert_eq!((client.stats().executed, client.stats().cancelled), (0, 1), "and never begins");
    // A deadline that is not reached, and one beyond the clock's range.
    service.me.call1(&client, "never", 2_u64).timeout(LIMIT).then(tell()).unwrap();
    service.me.call1(&client, "never", 3_u64).timeout(Duration::MAX).then(tell()).unwrap();
    // Each source has its own queue, so the second runs only after the first.
    for expected in [2, 3] {
        assert!(smol::block_on(deaf.exec()));
        assert_eq!(got(&results).unwrap(), expected);
    }
    service.drain();
    drop(sender);
    assert!(results.recv().is_err(), "no callback comes twice");
}

#[test]
fn drain_runs_pending_work_and_the_work_it_creates() {
    let service = start();
    let mut deaf = deaf();
    let client = deaf.client();
    let release = service.block();
    service.client.go("write", "call".to_owned()).unwrap();
    let own = client.clone();
    let chain = move |state: &mut State| {
        state.note("post");
        // A call that starts a job, which starts a future, which starts a waterfall.
        let called = state.me.call1(&own, "never", 1_u64).then(|state, result: Result<u64, CallError>| {
            result.unwrap();
            state.note("callback");
            let job = |state: &mut State, _: Result<(), _>| {
                state.note("job");
                let future = |state: &mut State, _: Result<(), _>| {
                    state.note("future");
                    let fall = state.me.waterfall::<CallError>().spawn_blocking(|()| ());
                    fall.finish(|state, _| state.note("waterfall")).unwrap();
                };
                state.me.spawn(ready(()), future).unwrap();
            };
            state.me.spawn_blocking(|| (), job).unwrap();
        });
        called.unwrap();
    };
    drop(service.me.post(chain).unwrap());
    service.me.after(LIMIT, |state| state.note("timer")).unwrap();
    let drops = Drops::default();
    let guard = drops.guard();
    service.me.attach_stream(stream::pending::<()>().map(move |()| keep(&guard)), |_, ()| ()).unwrap();
    let me = service.me.clone();
    let drain = thread::spawn(move || smol::block_on(me.drain(LIMIT)));
    eventually("it begins", || service.me.is_closed());
    assert_eq!(service.me.after(Duration::ZERO, |_| ()), Err(ScheduleError::Closed));
    assert_eq!(service.me.attach_stream(stream::once(()), |_, ()| ()).unwrap_err(), ScheduleError::Closed);
    assert!(matches!(service.client.go("write", String::new()).unwrap_err().error(), CallError::Closed));
    eventually("no more posts", || matches!(service.me.post(|_| ()), Err(ScheduleError::Closed)));
    drop(release);
    // It waits for a reply that is sent only now.
    eventually("the call is made", || client.stats().queued == 1);
    eventually("the stream is dropped", || drops.count() == 1);
    assert!(!drain.is_finished());
    assert!(smol::block_on(deaf.exec()));
    assert!(ended(drain));
    let mut log = service.end().log;
    log[..2].sort_unstable();
    assert_eq!(log, ["call", "post", "callback", "job", "future", "waterfall"]);
}

#[test]
fn drain_ends_at_its_deadline() {
    let service = start();
    let drops = Drops::default();
    let guard = drops.guard();
    service.me.spawn(pending::<()>(), move |_, _| drop(guard)).unwrap();
    assert!(!smol::block_on(service.me.drain(Duration::from_millis(5))));
    let me = service.me.clone();
    service.end();
    eventually("it is dropped", || drops.count() == 1);
    assert!(!smol::block_on(me.drain(LIMIT)), "not everything was done, and that stays so");

    let idle = start();
    assert!(smol::block_on(idle.me.drain(LIMIT)));
    idle.end();
}

#[test]
fn close_answers_all_waiting_callers() {
    let service = start_with(SchedulerSettings::default().capacity(1));
    let mut deaf = deaf();
    let client = service.client.clone();
    let deferred = thread::spawn({
        let client = client.clone();
        move || client.call1::<_, u64>("keep", 1_u64).wait()
    });
    eventually("it is kept", || service.ask(|state| state.kept.len()) == 1);
    let release = service.block();
    let posted = service.me.post(|_| ()).unwrap();
    let queued = thread::spawn({
        let client = client.clone();
        move || client.call1::<_, u64>("echo", 1_u64).wait()
    });
    eventually("it is queued", || client.stats().queued == 1);
    let for_room = thread::spawn({
        let client = client.clone();
        move || client.call1::<_, u64>("echo", 2_u64).wait()
    });
    eventually("it waits for room", || client.stats().waiting == 1);
    // The reply has arrived, but its callback has not run when the scheduler ends.
    let (sender, receiver) = mpsc::channel::<()>();
    let keeps_me = service.me.clone();
    let called = service.me.call1(&deaf.client(), "never", 1_u64).then(move |_, _: Result<u64, _>| {
        keeps_me.close();
        sender.send(()).unwrap();
    });
    called.unwrap();
    assert!(smol::block_on(deaf.exec()));
    let me = service.me.clone();
    me.close();
    me.close();
    drop(release);
    let state = service.end();
    assert!(matches!(posted.timeout(LIMIT).wait(), Err(CallError::Closed | CallError::Unanswered)));
    assert!(matches!(ended(queued), Err(CallError::Closed)));
    assert!(matches!(ended(for_room), Err(CallError::Closed)));
    assert!(matches!(receiver.recv_timeout(LIMIT), Err(mpsc::RecvTimeoutError::Disconnected)));
    assert!(!deferred.is_finished(), "the state that has its responder is there");
    drop(state);
    assert!(matches!(ended(deferred), Err(CallError::Unanswered)));

    // Nothing follows.
    assert!(me.is_closed());
    assert_eq!(me.post(|_| ()).unwrap_err(), ScheduleError::Closed);
    assert_eq!(me.after(Duration::ZERO, |_| ()), Err(ScheduleError::Closed));
    assert_eq!(me.spawn(ready(()), |_, _| ()), Err(ScheduleError::Closed));
    assert_eq!(me.attach_stream(stream::once(()), |_, ()| ()).unwrap_err(), ScheduleError::Closed);
    assert_eq!(me.waterfall::<CallError>().finish(|_, _| ()), Err(ScheduleError::Closed));
    let late = me.call1(&deaf.client(), "never", 1_u64).then(|_, _: Result<u64, _>| ());
    assert_eq!(late, Err(ScheduleError::Closed));
    assert!(!smol::block_on(deaf.exec()), "it was not made");
}

#[test]
fn loop_may_close_itself_and_returns_its_state() {
    for source in 0..4 {
        let service = start();
        let end = |state: &mut State| {
            state.me.close();
            state.note("closed");
            drop(state.me.post(|state| state.note("after the end")));
        };
        match source {
            0 => drop(service.me.post(end).unwrap()),
            1 => drop(service.me.every(Duration::ZERO, end).unwrap()),
            2 => service.me.spawn(ready(()), move |state, _| end(state)).unwrap(),
            _ => {
                let called = service
                    .me
                    .call1(&service.client, "echo", 1_u64)
                    .then(move |state, _: Result<u64, _>| end(state));
                called.unwrap();
            }
        }
        assert_eq!(service.end().log, ["closed"]);
    }
}

/// A state that holds a handle to its own scheduler.
struct Own {
    _kept: (Handle<Own>, DropGuard),
}

/// Covers all ways a scheduler ends: run or not, with its executor alive or not.
#[test]
fn dropped_scheduler_leaves_nothing_behind() {
    for case in 0..5 {
        let executor = Arc::new(Executor::new());
        let drops = Drops::default();
        let deaf = deaf();
        let scheduler = Scheduler::new(&executor, Functions::new(), |me: &Handle<Own>| {
            // Each of these holds a handle, as do the state and the work waiting for the loop.
            let own = || (me.clone(), drops.guard());
            let kept = own();
            let _ = me.after(LIMIT, move |_| drop(kept));
            let kept = own();
            let _ = me.every(LIMIT, move |_| keep(&kept));
            let kept = own();
            let _ = me.spawn(pending::<()>(), move |_, _| drop(kept));
            let kept = own();
            let _ = me.attach_stream(stream::pending::<()>(), move |_, ()| keep(&kept));
            let kept = own();
            let other = deaf.client();
            let timed = me.call1(&other, "never", 1_u64).timeout(LIMIT);
            let _ = timed.then(move |_, _: Result<u64, CallError>| drop(kept));
            let kept = own();
            let _ =
                me.call1(&me.client(), "nope", 1_u64).then(move |_, _: Result<u64, CallError>| drop(kept));
            let kept = own();
            let fall = me.waterfall::<CallError>().then(|_, ()| pending::<Result<(), CallError>>());
            let _ = fall.finish(move |_, _| drop(kept));
            Own { _kept: own() }
        });
        let handle = scheduler.handle();
        let kept = (handle.clone(), drops.guard());
        let posted = handle.post(move |_| drop(kept)).unwrap();
        let mut run = Box::pin(scheduler.run());
        match case {
            0 => drop(run),
            1 => {
                assert!(smol::block_on(smol::future::poll_once(&mut run)).is_none());
                drop(run);
            }
            2 => {
                // On an executor that ends without running it.
                executor.spawn(run).detach();
            }
            3 => {
                executor.spawn(run).detach();
                while executor.try_tick() {}
            }
            _ => {
                handle.close();
                drop(smol::block_on(run));
            }
        }
        drop(executor);
        let answer = posted.timeout(LIMIT).wait();
        match case {
            1 | 3 => answer.unwrap(),
            _ => assert!(
                matches!(answer, Err(CallError::Unanswered | CallError::Closed)),
                "{case}: {answer:?}"
            ),
        }
        assert!(handle.is_closed());
        assert_eq!(handle.post(|_| ()).unwrap_err(), ScheduleError::Closed);
        assert_eq!(drops.count(), 9, "case {case}");
    }
}

#[test]
fn state_holding_its_own_handle_is_dropped_with_the_scheduler() {
    let drops = Drops::default();
    let guard = drops.guard();
    let service = Service::start(SchedulerSettings::default(), Functions::new(), |me| Own {
        _kept: (me.clone(), guard),
    });
    let kept = (service.me.clone(), drops.guard());
    service.me.every(Duration::ZERO, move |_| keep(&kept)).unwrap();
    service.ask(|_| ());
    let state = service.close();
    assert_eq!(drops.count(), 1);
    drop(state);
    assert_eq!(drops.count(), 2);
}

#[test]
fn panic_in_any_event_leaves_the_loop_alive() {
    let service = start();
    let (me, client) = (&service.me, &service.client);
    assert!(matches!(client.call0("panic", ()).timeout(LIMIT).wait(), Err(CallError::Panicked(_))));
    let posted = me.post(|_| panic!("in a post")).unwrap();
    assert!(matches!(posted.timeout(LIMIT).wait(), Err::<(), _>(CallError::Panicked(_))));
    me.call1(client, "echo", 1_u64).then(|_, _: Result<u64, _>| panic!("in a callback")).unwrap();
    let timed = me.call1(client, "echo", 1_u64).timeout(LIMIT);
    timed.then(|_, _: Result<u64, _>| panic!("in a callback with a deadline")).unwrap();
    me.after(Duration::ZERO, |_| panic!("in a timer")).unwrap();
    me.spawn_blocking(|| (), |_, _| panic!("of a job")).unwrap();
    me.spawn(ready(()), |_, _| panic!("of a future")).unwrap();
    me.attach_stream(stream::repeat(()), |_, ()| panic!("of a stream")).unwrap();
    me.waterfall::<CallError>().finish(|_, _| panic!("of a waterfall")).unwrap();
    // A repeating timer continues.
    let (tick, ticks) = mpsc::channel();
    let every = me.every(Duration::from_millis(1), move |_| {
        let _ = tick.send(());
        panic!("again and again")
    });
    (0..3).for_each(|_| got(&ticks));
    assert!(me.cancel(every.unwrap()));
    eventually("all have panicked", || client.stats().panicked >= 12);
    service.ask(|state| state.note("alive"));
    assert_eq!(service.drain().log, ["alive"]);
}

/// Values passed to a scheduler may panic in `drop`; all other work is still done.
#[test]
fn panic_while_dropping_a_value_affects_nothing_else() {
    for drained in [false, true] {
        let service = start_with(SchedulerSettings::default().workers(1));
        let (me, drops) = (service.me.clone(), Drops::default());
        let release = service.block();
        let (open, gate) = mpsc::channel::<()>();
        for n in 0..2 {
            let (bomb, guard) = (Bomb, drops.guard());
            me.every(LIMIT, move |_| keep((&bomb, &guard))).unwrap();
            let (bomb, guard) = (Bomb, drops.guard());
            let never = stream::pending::<()>().map(move |()| keep((&bomb, &guard)));
            me.attach_stream(never, |_, ()| ()).unwrap();
            if drained {
                continue;
            }
            let (bomb, guard) = (Bomb, drops.guard());
            drop(me.post(move |_| drop((bomb, guard))).unwrap());
            let (bomb, guard) = (Bomb, drops.guard());
            let never = async move {
                pending::<()>().await;
                drop((bomb, guard));
            };
            me.spawn(never, |_, _| ()).unwrap();
            let (bomb, guard) = (Bomb, drops.guard());
            let called = me
                .call1(&me.client(), "nope", n)
                .then(move |_, _: Result<u64, CallError>| drop((bomb, guard)));
            called.unwrap();
        }
        if !drained {
            // A thread is busy, so the others wait.
            me.spawn_blocking(move || keep(gate.recv_timeout(LIMIT)), |_, _| ()).unwrap();
            for _ in 0..2 {
                let (bomb, guard) = (Bomb, drops.guard());
                me.spawn_blocking(move || drop((bomb, guard)), |_, _| ()).unwrap();
            }
        }
        if drained {
            drop(release);
            service.drain();
        } else {
            me.close();
            drop(release);
            service.end();
        }
        drop(open);
        let expected = if drained { 4 } else { 12 };
        eventually("all are dropped", || drops.count() == expected);
    }

    // A timer that cancels itself.
    let service = start();
    let bomb = Bomb;
    let own: Arc<std::sync::OnceLock<TimerId>> = Arc::default();
    let (timer, release) = (own.clone(), service.block());
    let (sender, receiver) = mpsc::channel();
    let id = service.me.every(Duration::ZERO, move |state| {
        let _bomb = &bomb;
        sender.send(state.me.cancel(*timer.get().unwrap())).unwrap();
    });
    own.set(id.unwrap()).unwrap();
    drop(release);
    assert!(got(&receiver));
    service.ask(|_| ());
    service.close();
}

/// A scheduler drops values without holding its locks.
#[test]
fn dropped_values_may_use_the_scheduler() {
    struct Uses(Handle<State>, Client);
    impl Drop for Uses {
        fn drop(&mut self) {
            let _ = self.0.post(|_| ());
            let _ = self.0.after(LIMIT, |_| ());
            let _ = self.0.spawn(ready(()), |_, _| ());
            let _ = self.0.spawn_blocking(|| (), |_, _| ());
            let _ = self.0.attach_stream(stream::once(()), |_, ()| ());
            let _ = self.0.call1(&self.1, "never", 1_u64).then(|_, _: Result<u64, _>| ());
        }
    }
    let settings =
        SchedulerSettings::default().posts(1).calls(1).timers(1).jobs(0).workers(1).open(1).streams(1);
    let service = start_with(settings);
    let (me, deaf) = (service.me.clone(), deaf());
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let release = service.block();
        for _ in 0..3 {
            let uses = || Uses(me.clone(), deaf.client());
            let user = uses();
            let _ = me.post(move |_| drop(user));
            let user = uses();
            let _ = me.after(LIMIT, move |_| drop(user)).map(|timer| me.cancel(timer));
            let user = uses();
            let _ = me.every(LIMIT, move |_| keep(&user));
            let user = uses();
            let _ = me.call1(&deaf.client(), "never", 1_u64).then(move |_, _: Result<u64, _>| drop(user));
            let user = uses();
            let _ = me.spawn_blocking(|| (), move |_, _| drop(user));
            let user = uses();
            let _ = me.spawn(ready(()), move |_, _| drop(user));
            let user = uses();
            let _ = me.attach_stream(stream::once(()), move |_, ()| keep(&user));
        }
        me.close();
        drop(release);
        service.end();
        done.send(()).unwrap();
    });
    got(&is_done);
}

#[test]
fn loop_draining_itself_fails_immediately() {
    let service = start();
    let drained = service.me.post(|state| smol::block_on(state.me.drain(Duration::MAX))).unwrap();
    assert!(!drained.timeout(LIMIT).wait().unwrap(), "it cannot wait for its own end");
    assert!(smol::block_on(service.me.drain(LIMIT)), "it ends all the same");
    service.end();
}

#[test]
fn concurrent_drains_both_report_aborted_work() {
    let service = start();
    service.me.spawn(pending::<()>(), |_, _| ()).unwrap();
    let patient = service.me.clone();
    let patient = thread::spawn(move || smol::block_on(patient.drain(LIMIT)));
    eventually("it drains", || service.me.is_closed());
    assert!(!smol::block_on(service.me.drain(Duration::from_millis(5))));
    assert!(!ended(patient));
    service.end();
}

#[test]
fn drain_reports_an_aborted_post() {
    let service = start();
    let release = service.block();
    let posted = service.me.post(|_| ()).unwrap();
    let patient = service.me.clone();
    let patient = thread::spawn(move || smol::block_on(patient.drain(LIMIT)));
    eventually("it drains", || service.me.is_closed());
    service.me.close();
    drop(release);
    assert!(!ended(patient));
    assert!(matches!(posted.timeout(LIMIT).wait(), Err(CallError::Closed | CallError::Unanswered)));
    service.end();
}
