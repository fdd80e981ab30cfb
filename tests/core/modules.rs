//! Modules: several schedulers that start and stop together.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{CallError, Client, Functions, GoError, Id0};
use chanrpc::sched::{Handle, ModuleError, Modules, Scheduler};
use smol::Executor;

use crate::support::{Drops, LIMIT, ended, got};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

fn lines(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

struct State {
    log: Log,
    name: &'static str,
}

fn functions() -> Functions<State> {
    let mut functions = Functions::new();
    functions.register0("note", |state: &mut State, what: String| note(&state.log, what)).unwrap();
    functions
}

/// Modules that record their starts and stops.
fn modules(
    executor: &Arc<Executor<'static>>,
    log: &Log,
    names: &[&'static str],
) -> (Modules, mpsc::Receiver<Handle<State>>) {
    let mut modules = Modules::new(executor);
    let (sender, handles) = mpsc::channel();
    for &name in names {
        let (executor, log, sender) = (executor.clone(), log.clone(), sender.clone());
        let init = move || {
            note(&log, format!("init {name}"));
            let scheduler = Scheduler::new(&executor, functions(), |_| State { log, name });
            sender.send(scheduler.handle()).unwrap();
            Ok(scheduler)
        };
        modules.add(name, init, |state| note(&state.log, format!("stop {}", state.name)));
    }
    (modules, handles)
}

/// Runs modules on a thread until `shutdown`.
fn run(
    executor: Arc<Executor<'static>>,
    modules: Modules,
    shutdown: impl Future<Output = ()> + Send + 'static,
    patience: Duration,
) -> Result<(), ModuleError> {
    ended(thread::spawn(move || smol::block_on(executor.run(modules.run(shutdown, patience)))))
}

#[test]
fn modules_start_in_order_and_stop_in_reverse() {
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let (modules, handles) = modules(&executor, &log, &["a", "b", "c"]);
    assert!(format!("{modules:?}").contains("\"b\""));
    let shutdown = async move {
        let clients: Vec<Client> = handles.iter().map(|handle| handle.client()).collect();
        for (client, name) in clients.iter().zip(["a", "b", "c"]) {
            client.call0("note", format!("run {name}")).await.unwrap();
        }
    };
    run(executor, modules, shutdown, LIMIT).unwrap();
    let expected = ["init a", "init b", "init c", "run a", "run b", "run c", "stop c", "stop b", "stop a"];
    assert_eq!(lines(&log), expected);
}

#[test]
fn module_is_drained_while_earlier_ones_still_run() {
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let (modules, handles) = modules(&executor, &log, &["storage", "game"]);
    let shutdown = async move {
        let (storage, game) = (got(&handles), got(&handles));
        let own = game.clone();
        let save = move |state: &mut State| {
            let log = state.log.clone();
            // It is draining, and what it does in `stop` reaches the other module.
            let saved = move |_: &mut State, result: Result<(), CallError>| {
                result.unwrap();
                note(&log, "saved");
            };
            own.call0(&storage.client(), "note", "save".to_owned()).then(saved).unwrap();
        };
        game.spawn(pending_until(game.clone()), move |state, _| save(state)).unwrap();
    };
    run(executor, modules, shutdown, LIMIT).unwrap();
    assert_eq!(lines(&log)[2..], ["save", "saved", "stop game", "stop storage"]);
}

/// Waits until a module accepts no more work.
async fn pending_until(module: Handle<State>) {
    while !module.is_closed() {
        smol::future::yield_now().await;
    }
}

#[test]
fn module_that_fails_to_start_stops_earlier_ones() {
    for panics in [false, true] {
        let (executor, log) = (Arc::new(Executor::new()), Log::default());
        let (mut modules, handles) = modules(&executor, &log, &["a", "b"]);
        let init = move || -> Result<Scheduler<State>, _> {
            assert!(!panics, "no luck");
            Err("no such file".into())
        };
        modules.add("bad", init, |_| ());
        let late = log.clone();
        let init = move || -> Result<Scheduler<State>, _> {
            note(&late, "init late");
            Err("never".into())
        };
        modules.add("late", init, |_| ());
        let begun = log.clone();
        let shutdown = async move { note(&begun, "run") };
        let error = run(executor, modules, shutdown, LIMIT).unwrap_err();
        let message = error.to_string();
        match error {
            ModuleError::Init { module, reason } => {
                assert_eq!((module.as_str(), reason.to_string().as_str()), ("bad", "no such file"));
                assert!(!panics);
            }
            ModuleError::Panicked { module, message } => {
                assert_eq!((module.as_str(), message.as_str()), ("bad", "no luck"));
                assert!(panics);
            }
            error => panic!("{error}"),
        }
        assert!(message.contains("bad"), "{message}");
        assert_eq!(lines(&log), ["init a", "init b", "stop b", "stop a"]);
        assert!(handles.iter().all(|handle| handle.is_closed()));
    }
}

#[test]
fn late_module_is_named_and_the_others_stop_cleanly() {
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let (modules, handles) = modules(&executor, &log, &["a", "b", "c"]);
    let drops = Drops::default();
    let guard = drops.guard();
    let shutdown = async move {
        // A call that never ends; the drain's deadline ends it, and `stop` still has time.
        got(&handles);
        got(&handles).spawn(pending::<()>(), move |_, _| drop(guard)).unwrap();
    };
    let late = |end: Result<(), ModuleError>| match end.unwrap_err() {
        ModuleError::Late { modules } => modules,
        error => panic!("{error}"),
    };
    assert_eq!(late(run(executor.clone(), modules, shutdown, Duration::from_millis(5))), ["b"]);
    assert_eq!(lines(&log)[3..], ["stop c", "stop b", "stop a"]);
    drop(executor);
    assert_eq!(drops.count(), 1);

    // Closing cannot end a function that blocks its thread, but ends one that awaits indefinitely.
    let (blocked, free) = mpsc::channel::<()>();
    let free = Arc::new(Mutex::new(free));
    let (begin, begun) = async_channel::bounded(1);
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let mut list = Modules::new(&executor);
    for name in ["a", "stuck", "c"] {
        let (executor, log) = (executor.clone(), log.clone());
        let (guard, stop, free, begin) = (drops.guard(), log.clone(), free.clone(), begin.clone());
        let init = move || {
            let mut functions = Functions::new();
            functions.register_async(Id0::new("hang"), |_: &mut _, (): ()| Box::pin(pending::<()>()))?;
            functions.register0("block", move |_: &mut _, (): ()| {
                begin.try_send(()).unwrap();
                assert!(free.lock().unwrap().recv().is_err(), "nothing is sent");
            })?;
            let scheduler = Scheduler::new(&executor, functions, |_| guard);
            match name {
                "stuck" => scheduler.client().go("block", ()).map_err(GoError::into_error)?,
                _ => scheduler.client().go("hang", ()).map_err(GoError::into_error)?,
            }
            Ok(scheduler)
        };
        list.add(name, init, move |_| note(&stop, name));
    }
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let threads = [(); 2].map(|()| {
        let (executor, stopped) = (executor.clone(), stopped.clone());
        thread::spawn(move || smol::block_on(executor.run(stopped.recv())).unwrap_err())
    });
    // This thread runs no module.
    let shutdown = async { begun.recv().await.unwrap() };
    let error = smol::block_on(list.run(shutdown, Duration::from_millis(5))).unwrap_err();
    assert_eq!(lines(&log), ["c", "a"]);
    drop(blocked);
    drop(stop);
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(error.to_string().contains("stuck"));
    assert_eq!(late(Err(error)), ["c", "stuck", "a"], "functions that await for ever were cut off");
    drop(executor);
    assert_eq!(drops.count(), 4, "it was cut off, and its state dropped");
}

#[test]
fn panic_in_stop_affects_no_other_module() {
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let (mut list, _handles) = modules(&executor, &log, &["a"]);
    let own = executor.clone();
    let init = move || Ok(Scheduler::new(&own, Functions::new(), |_| ()));
    list.add("bad", init, |()| panic!("at the end"));
    run(executor, list, ready(()), LIMIT).unwrap();
    assert_eq!(lines(&log), ["init a", "stop a"]);

    // Also for a module that never ran.
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let (mut list, _handles) = modules(&executor, &log, &["a"]);
    let own = executor.clone();
    let init = move || Ok(Scheduler::new(&own, Functions::new(), |_| ()));
    list.add("bad", init, |()| panic!("at the end"));
    list.add("worse", || Err::<Scheduler<()>, _>("no".into()), |()| ());
    assert!(matches!(run(executor, list, ready(()), LIMIT), Err(ModuleError::Init { .. })));
    assert_eq!(lines(&log), ["init a", "stop a"]);
}

#[test]
fn module_that_ends_by_itself_is_not_an_error() {
    let (executor, log) = (Arc::new(Executor::new()), Log::default());
    let (modules, handles) = modules(&executor, &log, &["a", "b"]);
    let seen = log.clone();
    let shutdown = async move {
        let (a, b) = (got(&handles), got(&handles));
        a.close();
        while !lines(&seen).iter().any(|line| line == "stop a") {
            smol::future::yield_now().await;
        }
        b.client().call0("note", "b goes on".to_owned()).await.unwrap();
    };
    run(executor, modules, shutdown, LIMIT).unwrap();
    assert_eq!(lines(&log)[2..], ["stop a", "b goes on", "stop b"]);
}

#[test]
fn dropping_the_future_stops_all_modules() {
    for ticks in [0, 1, 100] {
        let executor = Arc::new(Executor::new());
        let (drops, stops) = (Drops::default(), Arc::new(AtomicUsize::new(0)));
        let mut modules = Modules::new(&executor);
        let (sender, handles) = mpsc::channel();
        for name in ["a", "b"] {
            let (own, sender, guard, stops) =
                (executor.clone(), sender.clone(), drops.guard(), stops.clone());
            let init = move || {
                let scheduler = Scheduler::new(&own, Functions::new(), |_| guard);
                sender.send(scheduler.handle()).unwrap();
                Ok(scheduler)
            };
            modules.add(name, init, move |_| _ = stops.fetch_add(1, Ordering::SeqCst));
        }
        drop(sender);
        let mut run = Box::pin(modules.run(pending(), LIMIT));
        assert!(smol::block_on(smol::future::poll_once(&mut run)).is_none());
        for _ in 0..ticks {
            executor.try_tick();
        }
        let handles: Vec<_> = handles.iter().collect();
        let posted: Vec<_> = handles.iter().map(|handle| handle.post(|_| ()).unwrap()).collect();
        drop(run);
        while executor.try_tick() {}
        assert!(handles.iter().all(Handle::is_closed), "{ticks}");
        for posted in posted {
            let answer = posted.timeout(LIMIT).wait();
            assert!(matches!(answer, Err(CallError::Closed | CallError::Unanswered)), "{answer:?}");
        }
        assert_eq!((drops.count(), stops.load(Ordering::SeqCst)), (2, 0));
    }
}
