//! Blocking work on a bounded number of threads.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chan::panic::drop_each_quietly;
use crate::chan::sync::{Mutex, MutexGuard};

/// Runs up to `workers` jobs at a time. Further jobs wait in order.
pub(super) struct BlockingPool {
    state: Mutex<State>,
    workers: usize,
    queue: usize,
}

/// A job. It catches its own panics.
pub(super) type Job = Box<dyn FnOnce() + Send>;

struct State {
    running: usize,
    waiting: VecDeque<Job>,
}

impl BlockingPool {
    pub(super) fn new(workers: usize, queue: usize) -> Arc<Self> {
        let state = Mutex::new(State { running: 0, waiting: VecDeque::new() });
        Arc::new(Self { state, workers: workers.max(1), queue })
    }

    /// Runs a job, built from `parts`, as soon as a worker is free. If the queue is full, returns the parts.
    pub(super) fn run<P>(self: &Arc<Self>, parts: P, job: impl FnOnce(P) -> Job) -> Result<(), P> {
        let state = self.state.lock();
        if state.running >= self.workers && state.waiting.len() >= self.queue {
            return Err(parts);
        }
        self.enter(state, job(parts));
        Ok(())
    }

    /// Runs a job as soon as a worker is free, even if the queue is full. The caller bounds the number of such jobs.
    pub(super) fn run_when_free(self: &Arc<Self>, job: Job) {
        self.enter(self.state.lock(), job);
    }

    fn enter(self: &Arc<Self>, mut state: MutexGuard<'_, State>, job: Job) {
        if state.running >= self.workers {
            state.waiting.push_back(job);
            return;
        }
        state.running += 1;
        drop(state);
        let jobs = self.clone();
        smol::unblock(move || jobs.work(job)).detach();
    }

    /// Drops the queued jobs.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        drop_each_quietly(waiting);
    }

    fn work(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            job();
            let mut state = self.state.lock();
            next = state.waiting.pop_front();
            if state.waiting.is_empty() {
                // Release the memory of a burst.
                state.waiting = VecDeque::new();
            }
            if next.is_none() {
                state.running -= 1;
            }
        }
    }
}
