//! Admission: how many calls run at once, and which queued call runs next.
//!
//! From its start until it is answered, a call holds one worker of each limit that applies to it: its function's, its
//! provider's and the node's. It acquires all of them at once, or waits in its function's queue without holding any, so
//! that limits cannot deadlock. Functions take turns (round robin); within a function, calls run in order of arrival.

mod limit;
mod ready;
mod state;

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use super::Provider;
use super::call::Call;
use super::permit::{Permit, Release};
use crate::config::Workers;
use crate::metrics::WorkerStats;
use limit::Limit;
pub(super) use limit::Scope;
use ready::ReadyCall;
use state::{FunctionQueue, QueuedCall, Rejected, State};

/// The limits of a registry, and the queues of the functions that they apply to.
#[derive(Default)]
pub(super) struct Admission {
    state: Mutex<State>,
    /// The provider of each queue.
    providers: Vec<Arc<dyn Provider>>,
}

impl Admission {
    /// Adds a limit, while the registry is built; returns its index.
    pub(super) fn add_limit(&mut self, scope: Scope, workers: &Workers) -> usize {
        let limits = &mut self.state.get_mut().unwrap_or_else(PoisonError::into_inner).limits;
        limits.push(Limit::new(scope, workers));
        limits.len() - 1
    }

    /// Adds the queue of a function or family, to which the limits of these indices apply, from its own to the
    /// node's; returns the queue's index.
    pub(super) fn add_queue(&mut self, provider: Arc<dyn Provider>, limits: Vec<usize>) -> usize {
        let queues = &mut self.state.get_mut().unwrap_or_else(PoisonError::into_inner).queues;
        queues.push(FunctionQueue::new(limits));
        self.providers.push(provider);
        self.providers.len() - 1
    }

    /// Acquires the workers of a call, if it may run now.
    pub(super) fn try_acquire(self: &Arc<Self>, queue: usize) -> Option<InlinePermit<'_>> {
        let acquired = self.lock().try_start(queue);
        acquired.then(|| InlinePermit { admission: self, queue })
    }

    /// Queues a call, or answers why it cannot. Workers that were released in the meantime start it at once.
    pub(super) fn enqueue(self: &Arc<Self>, queue: usize, call: Call<'_>) {
        if let Err(fault) = self.providers[queue].check(call.params()) {
            return call.reply(Err(fault));
        }
        let call = QueuedCall::new(call);
        let mut state = self.lock();
        if state.try_start(queue) {
            drop(state);
            return self.start(queue, call);
        }
        let waker = |sequence| {
            let admission = Arc::downgrade(self);
            Waker::from(Arc::new(CancelWaker { admission, queue, sequence }))
        };
        let rejected = state.enqueue(queue, call, waker, Instant::now());
        drop(state);
        reject(rejected);
    }

    /// Rejects all queued calls, and every call from now on.
    pub(super) fn close(&self) {
        let rejected = self.lock().close();
        reject(rejected);
    }

    pub(super) fn stats(&self) -> Vec<WorkerStats> {
        let mut state = self.lock();
        let rejected = state.expire(Instant::now());
        let stats = state.limits.iter().map(Limit::stats).collect();
        drop(state);
        reject(rejected);
        stats
    }

    /// Releases the workers of a call, and starts the next one.
    fn release(self: &Arc<Self>, queue: usize) {
        let next = self.lock().finish(queue);
        if let Some((queue, call)) = next {
            self.start(queue, call);
        }
    }

    /// Starts a call whose workers have been acquired.
    fn start(self: &Arc<Self>, queue: usize, mut call: QueuedCall) {
        call.responder = call.responder.holding(Some(self.permit(queue)));
        ReadyCall { provider: self.providers[queue].clone(), call }.run();
    }

    fn permit(self: &Arc<Self>, queue: usize) -> Permit {
        let admission = Arc::downgrade(self);
        Permit::new(admission, queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("functions", &self.providers.len()).finish_non_exhaustive()
    }
}

/// The workers of a call that its provider has not answered or deferred yet.
pub(super) struct InlinePermit<'a> {
    admission: &'a Arc<Admission>,
    queue: usize,
}

impl Drop for InlinePermit<'_> {
    fn drop(&mut self) {
        self.admission.release(self.queue);
    }
}

impl Release for Admission {
    fn release_permit(self: Arc<Self>, queue: usize) {
        self.release(queue);
    }
}

impl From<InlinePermit<'_>> for Permit {
    fn from(permit: InlinePermit<'_>) -> Self {
        let permit = ManuallyDrop::new(permit);
        permit.admission.permit(permit.queue)
    }
}

/// Removes a queued call when it is cancelled. Wakers are dropped under the lock of the reply queue, so this one owns
/// nothing whose drop runs other code.
struct CancelWaker {
    admission: Weak<Admission>,
    queue: usize,
    sequence: u64,
}

impl Wake for CancelWaker {
    fn wake(self: Arc<Self>) {
        let Some(admission) = self.admission.upgrade() else { return };
        let (queue, sequence) = (self.queue, self.sequence);
        let rejected = admission.lock().remove_cancelled(queue, sequence, &self.into(), Instant::now());
        reject(rejected);
    }
}

/// Answers calls that will not run. Must not be called under the lock.
fn reject(rejected: impl IntoIterator<Item = Rejected>) {
    for (call, fault) in rejected {
        call.responder.send(Err(fault));
    }
}
