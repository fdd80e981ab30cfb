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

use super::call::Call;
use super::permit::{Permit, Release};
use super::{Provider, ProviderKind};
use crate::config::Workers;
use crate::metrics::WorkerStats;
use limit::{Limit, Scope};
use state::{QueuedCall, Rejected, State};

/// The limits of a registry, and the queues of the functions that they apply to.
#[derive(Default)]
pub(super) struct Admission {
    state: Mutex<State>,
}

impl Admission {
    /// Sets the limits that functions share: all of them, or those with one kind of provider. Those that remain keep their
    /// counters. Starts no call that waits.
    pub(super) fn set_shared(&self, node: Option<Workers>, providers: Vec<(ProviderKind, Workers)>) {
        let node = node.map(|workers| Limit::new(Scope::Node, &workers));
        let providers =
            providers.into_iter().map(|(kind, workers)| Limit::new(Scope::Provider(kind), &workers));
        self.lock().set_shared(node.into_iter().chain(providers).collect());
    }

    /// Returns `true` if a limit applies to all functions with this kind of provider.
    pub(super) fn limits_all(&self, kind: ProviderKind) -> bool {
        self.lock().limits.iter().any(|limit| limit.is_shared_by(kind))
    }

    /// Adds a function or family with a limit of its `own`, or without. Returns its queue, unless no limit applies.
    pub(super) fn add(
        self: &Arc<Self>,
        name: &str,
        kind: ProviderKind,
        own: Option<&Workers>,
    ) -> Option<QueueSlot> {
        let own = own.map(|workers| Limit::new(Scope::Function(name.to_owned(), kind), workers));
        let index = self.lock().add(kind, own)?;
        let admission = Arc::downgrade(self);
        Some(QueueSlot { index, in_use: Arc::new(InUse { admission, index }) })
    }

    /// Removes a function, whose calls that run or are queued are still answered.
    fn remove(self: &Arc<Self>, queue: usize) {
        self.lock().remove_function(queue);
        // The others may use more of the workers that they share.
        self.start_waiting();
    }

    /// Starts the queued calls that may run.
    pub(super) fn start_waiting(self: &Arc<Self>) {
        while let Some((queue, call)) = self.next() {
            self.start(queue, call);
        }
    }

    /// As [`State::next`]. A method, so that the lock is released before the call starts.
    fn next(&self) -> Option<(usize, QueuedCall)> {
        self.lock().next()
    }

    /// Acquires the workers of a call, if it may run now.
    pub(super) fn try_acquire(self: &Arc<Self>, queue: usize) -> Option<InlinePermit<'_>> {
        let acquired = self.lock().try_start(queue);
        acquired.then(|| InlinePermit { admission: self, queue })
    }

    /// Queues a call, or answers why it cannot. Workers that were released in the meantime start it at once.
    pub(super) fn enqueue(self: &Arc<Self>, queue: usize, provider: &Arc<dyn Provider>, call: Call<'_>) {
        if let Err(fault) = provider.check(call.params()) {
            return call.reply(Err(fault));
        }
        let call = QueuedCall::new(provider.clone(), call);
        let mut state = self.lock();
        if state.try_start(queue) {
            drop(state);
            return self.start(queue, call);
        }
        let rejected = state.enqueue(queue, call, self.waker(queue), Instant::now());
        drop(state);
        reject(rejected);
    }

    /// Returns what makes the waker of a queued call from its sequence number.
    fn waker(self: &Arc<Self>, queue: usize) -> impl Fn(u64) -> Waker {
        move |sequence| {
            let admission = Arc::downgrade(self);
            Waker::from(Arc::new(CancelWaker { admission, queue, sequence }))
        }
    }

    /// Rejects all queued calls, and every call from now on.
    pub(super) fn close(&self) {
        let rejected = self.lock().close();
        reject(rejected);
    }

    pub(super) fn stats(&self) -> Vec<WorkerStats> {
        let mut state = self.lock();
        let rejected = state.expire(Instant::now());
        let stats = state.limits.iter().filter(|limit| limit.is_in_use()).map(Limit::stats).collect();
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
        call.run();
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
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

/// The queue of a function or family, from its registration until it is removed and none of its calls is passed on.
#[derive(Clone)]
pub(super) struct QueueSlot {
    index: usize,
    in_use: Arc<InUse>,
}

/// Removes the queue of a function when the last one drops it.
struct InUse {
    admission: Weak<Admission>,
    index: usize,
}

impl QueueSlot {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.in_use, &other.in_use)
    }

    /// Changes the limit of the function's own, if it has one. Starts no call that waits.
    pub(super) fn set_workers(&self, count: usize) {
        if let Some(admission) = self.in_use.admission.upgrade() {
            admission.lock().set_workers(self.index, count);
        }
    }

    /// Replaces the limit of the function's own, if it has one. Starts no call that waits.
    pub(super) fn set_limit(&self, workers: &Workers) {
        if let Some(admission) = self.in_use.admission.upgrade() {
            admission.lock().set_limit(self.index, workers);
        }
    }

    /// Has the calls that wait answered by another provider.
    pub(super) fn set_provider(&self, provider: &Arc<dyn Provider>) {
        if let Some(admission) = self.in_use.admission.upgrade() {
            // What it replaces is dropped after the lock is released.
            let replaced = admission.lock().set_provider(self.index, provider);
            drop(replaced);
        }
    }

    /// Takes the calls that wait in an earlier queue, which takes no more of them. Starts none.
    pub(super) fn take_waiting(&self, earlier: &Self) {
        if let Some(admission) = self.in_use.admission.upgrade() {
            let waker = admission.waker(self.index);
            admission.lock().move_waiting(earlier.index, self.index, waker);
        }
    }

    /// Notes that the function is no longer registered, for the limits that it shares with others. Starts no call that waits.
    pub(super) fn retire(&self) {
        if let Some(admission) = self.in_use.admission.upgrade() {
            admission.lock().retire(self.index);
        }
    }

    /// Fails the calls that wait, and all that come to wait.
    pub(super) fn fail_waiting(&self) {
        if let Some(admission) = self.in_use.admission.upgrade() {
            let rejected = admission.lock().withdraw(self.index);
            reject(rejected);
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.upgrade() {
            admission.remove(self.index);
        }
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
