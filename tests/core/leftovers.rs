//! What a drain reports about a scheduler's end, and the work that ends without having run.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{CallError, Client, Functions, Server};
use chanrpc::sched::{Handle, ModuleError, Modules, Scheduler, SchedulerSettings};
use smol::{Executor, Task};

use crate::support::{Bomb, LIMIT, ended, eventually};

/// Counts executed work.
type Ran = usize;

/// A scheduler on an executor that only the test runs.
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
        let settings = SchedulerSettings::default().backtrace_limit(0);
        let scheduler = Scheduler::with_settings(&executor, functions, settings, |_| 0);
        let (me, client) = (scheduler.handle(), scheduler.client());
        let task = executor.spawn(scheduler.run());
        Self { executor, me, client, task }
    }

    /// Runs everything that is ready.
    fn settle(&self) {
        while self.executor.try_tick() {}
    }
}

/// A server with one function whose calls run when the test says so.
fn helper() -> Server<()> {
    let mut functions = Functions::new();
    functions.register0("help", |_: &mut (), (): ()| ()).unwrap();
    Server::new((), functions)
}

const MANY: usize = 10;

type Named<F> = (&'static str, F);

/// Each entry queues one kind of work that is ready to run.
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
            // The server is dropped with the scheduler at the latest.
            idle.me.spawn(ready(helper), |_, _| ()).unwrap();
        }),
        ("futures", |idle| idle.me.spawn(ready(()), |ran, _| *ran += 1).unwrap()),
        ("jobs", |idle| {
            let (done, is_done) = mpsc::channel::<()>();
            idle.me.spawn_blocking(move || drop(done), |ran, _| *ran += 1).unwrap();
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

/// The ways in which a loop that never ran can end.
fn ends() -> Vec<Named<End>> {
    vec![
        ("its task is cancelled", |idle| {
            drop(idle.task);
            // The executor drops cancelled tasks.
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
fn drain_is_false_if_not_all_work_ran() {
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
fn drain_is_true_if_all_work_ran() {
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
            // Timers that are not due do not count as work.
            idle.me.after(LIMIT, |_| ()).unwrap();
            idle.me.every(LIMIT, |_| ()).unwrap();
            let me = end(idle);
            assert!(smol::block_on(me.drain(LIMIT)), "all {kind} had run when {way}");
        }
    }
}

#[test]
fn events_taken_but_not_run_count_as_left() {
    // The loop's turn ends before all of them have run.
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
fn drain_runs_due_timers() {
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

/// Work that never runs and panics twice in `drop` does not abort the process.
#[test]
fn several_panics_in_drop_at_the_end_do_not_abort() {
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
    // Taken by the loop but not run.
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
fn handle_may_be_used_during_unwinding() {
    struct Last(Handle<Ran>, Client);
    impl Drop for Last {
        fn drop(&mut self) {
            let Self(me, client) = self;
            drop(me.post(|ran| *ran += 1).unwrap());
            me.after(Duration::ZERO, |ran| *ran += 1).unwrap();
            me.spawn_blocking(|| (), |ran, _| *ran += 1).unwrap();
            me.spawn(ready(()), |ran, _| *ran += 1).unwrap();
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
fn module_that_leaves_work_is_named() {
    let executor = Arc::new(Executor::new());
    let mut modules = Modules::new(&executor);
    let stopped = Arc::new(AtomicUsize::new(0));
    for name in ["a", "b", "c"] {
        let (executor, stopped) = (executor.clone(), stopped.clone());
        let init = move || {
            let scheduler = Scheduler::new(&executor, Functions::new(), |_| name);
            let me = scheduler.handle();
            match name {
                // It waits indefinitely for a call.
                "b" => me.spawn(std::future::pending::<()>(), |_, _| ())?,
                // It has ended by itself, which is not an error.
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
    // Wait until the last has ended.
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
