//! What a drain says of a scheduler's end, and what ends there without having run.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{CallError, Client, Functions, Server};
use chanrpc::sched::{Handle, ModuleError, Modules, Scheduler, Settings};
use smol::{Executor, Task};

use crate::support::{Bomb, LIMIT, ended, eventually};

/// Counts what has run.
type Ran = usize;

/// A scheduler on an executor that only a test runs.
struct Idle {
    executor: Arc<Executor<'static>>,
    me: Handle<Ran>,
    client: Client,
    task: Task<Ran>,
}

impl Idle {
    fn new() -> Self {
        let mut functions = Functions::new();
        functions.register0("run", |ran: &mut Ran, (): ()| *ran += 1).unwrap();
        let executor = Arc::new(Executor::new());
        let settings = Settings { backtrace_limit: 0, ..Settings::default() };
        let scheduler = Scheduler::with_settings(&executor, functions, settings, |_| 0);
        let (me, client) = (scheduler.handle(), scheduler.client());
        let task = executor.spawn(scheduler.run());
        Self { executor, me, client, task }
    }

    /// Runs whatever can run.
    fn settle(&self) {
        while self.executor.try_tick() {}
    }
}

/// Runs calls of its one function when it is told to.
fn helper() -> Server<()> {
    let mut functions = Functions::new();
    functions.register0("help", |_: &mut (), (): ()| ()).unwrap();
    Server::new((), functions)
}

const MANY: usize = 10;

type Named<F> = (&'static str, F);

/// Each queues something for the loop, which is ready to run.
fn kinds() -> Vec<Named<fn(&Idle)>> {
    vec![
        ("posts", |idle| drop(idle.me.post(|ran| *ran += 1).unwrap())),
        ("calls", |idle| idle.client.go("run", ()).unwrap()),
        ("timers", |idle| {
            idle.me.after(Duration::ZERO, |ran| *ran += 1).unwrap();
        }),
        ("callbacks", |idle| {
            let mut helper = helper();
            idle.me.call0(&helper.client(), "help", ()).then(|ran, _| *ran += 1).unwrap();
            assert!(smol::block_on(helper.exec()));
        }),
        ("pending calls", |idle| {
            let helper = helper();
            idle.me.call0(&helper.client(), "help", ()).then(|ran, _| *ran += 1).unwrap();
            // The server goes away with the scheduler at the latest.
            idle.me.start(ready(helper), |_, _| ()).unwrap();
        }),
        ("futures", |idle| idle.me.start(ready(()), |ran, _| *ran += 1).unwrap()),
        ("jobs", |idle| {
            let (done, is_done) = mpsc::channel::<()>();
            idle.me.job(move || drop(done), |ran, _| *ran += 1).unwrap();
            assert!(is_done.recv_timeout(LIMIT).is_err(), "nothing is sent");
        }),
        ("waterfalls", |idle| {
            let waterfall = idle.me.waterfall::<CallError>();
            waterfall.finish(|ran, _| *ran += 1).unwrap();
        }),
    ]
}

/// Ends a loop that never ran.
type End = fn(Idle) -> Handle<Ran>;

/// Ways in which a loop ends that never ran.
fn ends() -> Vec<Named<End>> {
    vec![
        ("its task is cancelled", |idle| {
            drop(idle.task);
            // The executor drops what is cancelled.
            while idle.executor.try_tick() {}
            idle.me
        }),
        ("its executor is dropped", |idle| {
            drop(idle.executor);
            idle.me
        }),
        ("it is closed", |idle| {
            idle.me.close();
            idle.settle();
            idle.me
        }),
    ]
}

#[test]
fn a_drain_never_says_that_all_was_run_when_it_was_not() {
    for (kind, queue) in kinds() {
        for (way, end) in ends() {
            for drains_first in [false, true] {
                let idle = Idle::new();
                for _ in 0..MANY {
                    queue(&idle);
                }
                let me = idle.me.clone();
                let early = drains_first.then(|| {
                    let me = me.clone();
                    thread::spawn(move || smol::block_on(me.drain(LIMIT)))
                });
                if drains_first {
                    eventually("it drains", || me.is_closed());
                }
                let me = end(idle);
                assert!(!smol::block_on(me.drain(LIMIT)), "{kind} were left when {way}");
                if let Some(early) = early {
                    assert!(!ended(early), "{kind} were left when {way}, and that after a drain had begun");
                }
            }
        }
    }
}

#[test]
fn a_drain_says_that_all_was_run_when_it_was() {
    for (kind, queue) in kinds() {
        for (way, end) in ends() {
            let idle = Idle::new();
            for _ in 0..MANY {
                queue(&idle);
            }
            let ran = || {
                idle.settle();
                let posted = idle.me.post(|ran| *ran).unwrap();
                idle.settle();
                posted.timeout(LIMIT).wait().unwrap()
            };
            eventually(kind, || ran() == MANY);
            idle.settle();
            // What waits for a later moment is no work.
            idle.me.after(LIMIT, |_| ()).unwrap();
            idle.me.every(LIMIT, |_| ()).unwrap();
            let me = end(idle);
            assert!(smol::block_on(me.drain(LIMIT)), "all {kind} had run when {way}");
        }
    }
}

#[test]
fn what_the_loop_has_taken_and_not_run_is_left_too() {
    // A turn of the loop ends before all of them.
    let idle = Idle::new();
    for _ in 0..200 {
        drop(idle.me.post(|ran| *ran += 1).unwrap());
    }
    assert!(idle.executor.try_tick());
    drop(idle.task);
    while idle.executor.try_tick() {}
    assert!(!smol::block_on(idle.me.drain(LIMIT)));
}

#[test]
fn timers_that_are_due_are_run_by_a_drain() {
    let idle = Idle::new();
    idle.me.after(Duration::ZERO, |ran| *ran += 1).unwrap();
    idle.me.every(Duration::from_nanos(1), |ran| *ran += 10).unwrap();
    idle.me.every(LIMIT, |ran| *ran += 100).unwrap();
    let Idle { executor, me, task, .. } = idle;
    let ran = smol::block_on(executor.run(async {
        assert!(me.drain(LIMIT).await);
        task.await
    }));
    assert_eq!(ran, 11);
}

/// What is never run and panics when it is dropped, twice over, ends no process.
#[test]
fn values_that_panic_together_when_a_scheduler_ends_harm_nobody() {
    for (_, end) in ends() {
        let idle = Idle::new();
        for _ in 0..MANY {
            let bomb = Bomb;
            drop(idle.me.post(move |_| drop(bomb)).unwrap());
            let bomb = Bomb;
            idle.me.after(Duration::ZERO, move |_| drop(bomb)).unwrap();
            let (bomb, other) = (Bomb, Bomb);
            let chain = idle.me.waterfall::<CallError>().step(move |_, ()| {
                drop(bomb);
                Ok(())
            });
            let chain = chain.step(move |_, ()| {
                drop(other);
                Ok(())
            });
            chain.finish(|_, _| ()).unwrap();
        }
        let me = end(idle);
        assert!(!smol::block_on(me.drain(LIMIT)));
    }
    // Taken by the loop, but not run.
    let idle = Idle::new();
    for _ in 0..64 {
        drop(idle.me.post(|_| ()).unwrap());
    }
    for _ in 0..MANY {
        let bomb = Bomb;
        drop(idle.me.post(move |_| drop(bomb)).unwrap());
    }
    assert!(idle.executor.try_tick());
    drop(idle.task);
    while idle.executor.try_tick() {}
}

#[test]
fn a_handle_may_be_used_while_its_thread_unwinds() {
    struct Last(Handle<Ran>, Client);
    impl Drop for Last {
        fn drop(&mut self) {
            let Self(me, client) = self;
            drop(me.post(|ran| *ran += 1).unwrap());
            me.after(Duration::ZERO, |ran| *ran += 1).unwrap();
            me.job(|| (), |ran, _| *ran += 1).unwrap();
            me.start(ready(()), |ran, _| *ran += 1).unwrap();
            me.call0(client, "run", ()).then(|ran, _| *ran += 1).unwrap();
            me.waterfall::<CallError>().step(|_, ()| Ok(())).finish(|ran, _| *ran += 1).unwrap();
        }
    }

    let Idle { executor, me, client, task } = Idle::new();
    let last = Last(me.clone(), client);
    let unwound = thread::spawn(move || {
        let _last = last;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(unwound.join().is_err());
    let ran = smol::block_on(executor.run(async {
        assert!(me.drain(LIMIT).await);
        task.await
    }));
    // The call has run as well.
    assert_eq!(ran, 7);
}

#[test]
fn a_module_that_leaves_something_is_named() {
    let executor = Arc::new(Executor::new());
    let mut modules = Modules::new(&executor);
    let stopped = Arc::new(AtomicUsize::new(0));
    for name in ["a", "b", "c"] {
        let (executor, stopped) = (executor.clone(), stopped.clone());
        let init = move || {
            let scheduler = Scheduler::new(&executor, Functions::new(), |_| name);
            let me = scheduler.handle();
            match name {
                // It waits for ever for a call.
                "b" => me.start(std::future::pending::<()>(), |_, _| ())?,
                // It has ended by itself, when that is its own affair.
                "c" => {
                    drop(me.post(|_| ())?);
                    me.close();
                }
                _ => {}
            }
            Ok(scheduler)
        };
        modules.add(name, init, move |_| {
            stopped.fetch_add(1, Ordering::Relaxed);
        });
    }
    // Until the last has ended.
    let ended = stopped.clone();
    let shutdown = async move {
        while ended.load(Ordering::Relaxed) == 0 {
            smol::future::yield_now().await;
        }
        smol::future::yield_now().await;
    };
    let end = smol::block_on(executor.run(modules.run(shutdown, Duration::from_millis(5))));
    let Err(ModuleError::Late { modules }) = &end else { panic!("{end:?}") };
    assert_eq!(modules, &["b"]);
    assert_eq!(stopped.load(Ordering::Relaxed), 3);
}
