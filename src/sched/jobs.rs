//! Work that blocks, on a bounded number of threads.

use crate::chan::sync::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Runs jobs, some at a time, the others in their order.
pub(super) struct Jobs {
    state: Mutex<State>,
    workers: usize,
    queue: usize,
}

/// A job; it sees to its own panics.
pub(super) type Job = Box<dyn FnOnce() + Send>;

struct State {
    running: usize,
    waiting: VecDeque<Job>,
}

impl Jobs {
    pub(super) fn new(workers: usize, queue: usize) -> Arc<Self> {
        let state = Mutex::new(State { running: 0, waiting: VecDeque::new() });
        Arc::new(Self { state, workers: workers.max(1), queue })
    }

    pub(super) fn queue(&self) -> usize {
        self.queue
    }

    /// Runs a job as soon as a worker is free; gives it back if too many wait already.
    pub(super) fn run(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.running < self.workers {
            state.running += 1;
            drop(state);
            let jobs = self.clone();
            smol::unblock(move || jobs.work(job)).detach();
        } else if state.waiting.len() < self.queue {
            state.waiting.push_back(job);
        } else {
            return Err(job);
        }
        Ok(())
    }

    /// Forgets the jobs that wait.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        super::service::discard(waiting);
    }

    fn work(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            job();
            let mut state = self.state.lock();
            next = state.waiting.pop_front();
            if next.is_none() {
                state.running -= 1;
            }
        }
    }
}
