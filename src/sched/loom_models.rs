//! Models of a loop's wake-ups and of its end, run as those of the [core](crate::chan::loom_models) are.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use loom::thread::spawn;
use smol::Executor;

use super::{Handle, Scheduler};
use crate::chan::Functions;
use crate::chan::loom_models::{block_on, large_model};

/// A loop over a number. Nothing runs on its executor.
fn made() -> (Scheduler<u64>, Handle<u64>) {
    let executor = Arc::new(Executor::new());
    let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    let handle = scheduler.handle();
    (scheduler, handle)
}

#[test]
fn a_posted_task_wakes_the_loop_and_is_answered() {
    large_model(|| {
        let (scheduler, handle) = made();
        let poster = spawn(move || {
            let posted = handle.post(|number| {
                *number += 1;
                *number
            });
            assert_eq!(block_on(posted.unwrap()).unwrap(), 1);
            handle.close();
        });
        assert_eq!(block_on(scheduler.run()), 1);
        poster.join().unwrap();
    });
}

#[test]
fn of_several_posted_tasks_none_is_forgotten() {
    large_model(|| {
        let (scheduler, handle) = made();
        drop(handle.post(|number| *number += 1).unwrap());
        let poster = spawn(move || {
            drop(handle.post(|number| *number += 1).unwrap());
            let posted = handle.post(|number| {
                *number += 1;
                *number
            });
            assert_eq!(block_on(posted.unwrap()).unwrap(), 3);
            handle.close();
        });
        assert_eq!(block_on(scheduler.run()), 3);
        poster.join().unwrap();
    });
}

#[test]
fn closing_ends_a_loop_whatever_it_is_about_to_do() {
    large_model(|| {
        let (scheduler, handle) = made();
        let closer = spawn(move || handle.close());
        block_on(scheduler.run());
        closer.join().unwrap();
    });
}

#[test]
fn a_drain_runs_what_was_taken_before() {
    large_model(|| {
        let (scheduler, handle) = made();
        let drainer = spawn(move || {
            let posted = handle.post(|number| *number += 1).unwrap();
            assert!(block_on(handle.drain(Duration::MAX)));
            assert!(block_on(posted).is_ok());
        });
        assert_eq!(block_on(scheduler.run()), 1);
        drainer.join().unwrap();
    });
}
