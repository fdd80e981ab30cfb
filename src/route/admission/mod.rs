//! How many calls run at once, and which of those that wait comes next.
//!
//! A call holds one worker of each gate that it passes (its function's, its provider's, the node's) from when it
//! begins until it is answered. It takes all of them at once or waits with none, in its function's queue, so
//! gates cannot wait for one another. Functions take turns, each call in the order of its function's calls.

mod gate;
mod state;
mod turn;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Instant;

use super::Provider;
use super::call::Call;
use crate::config::Workers;
use crate::metrics::WorkerStats;
use gate::Gate;
pub(super) use gate::Level;
use state::{Lane, State, Turned, Waiting};
use turn::Turn;

/// The gates of a registry. Functions that pass none are not known here.
#[derive(Default)]
pub(super) struct Admission {
    state: Mutex<State>,
    /// Who answers the calls of each lane.
    providers: Vec<Arc<dyn Provider>>,
}

impl Admission {
    /// Adds a gate, while the registry is built; returns its number.
    pub(super) fn gate(&mut self, level: Level, workers: &Workers) -> usize {
        let gates = &mut self.state.get_mut().unwrap_or_else(PoisonError::into_inner).gates;
        gates.push(Gate::new(level, workers));
        gates.len() - 1
    }

    /// Adds the function that `provider` answers and whose calls pass these gates, its own first; returns its
    /// number.
    pub(super) fn lane(&mut self, provider: Arc<dyn Provider>, path: Vec<usize>) -> usize {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).lanes.push(Lane::new(path));
        self.providers.push(provider);
        self.providers.len() - 1
    }

    /// Takes the workers of a call that is answered at once, if it may run now.
    pub(super) fn hold(self: &Arc<Self>, lane: usize) -> Option<Held<'_>> {
        let entered = self.lock().enter(lane);
        entered.then(|| Held { admission: self, lane })
    }

    /// Begins a call, or has it wait, or answers why it cannot.
    pub(super) fn admit(self: &Arc<Self>, lane: usize, mut call: Call<'_>) {
        let provider = &self.providers[lane];
        if self.lock().enter(lane) {
            call.reply.hold(Permit::new(self, lane));
            return provider.call(call);
        }
        if let Err(fault) = provider.check(call.params.as_ref()) {
            return call.reply.send(Err(fault));
        }
        let waiting = Waiting::new(call);
        let mut state = self.lock();
        // Workers may have become free meanwhile.
        if state.enter(lane) {
            drop(state);
            return self.begin(lane, waiting);
        }
        let waker = |ticket| Waker::from(Arc::new(Ticket { admission: Arc::downgrade(self), lane, ticket }));
        let turned = state.wait(lane, waiting, waker, Instant::now());
        drop(state);
        answer(turned);
    }

    /// Answers the calls that wait and lets none begin any more.
    pub(super) fn close(&self) {
        let turned = self.lock().close();
        answer(turned);
    }

    pub(super) fn stats(&self) -> Vec<WorkerStats> {
        let mut state = self.lock();
        let turned = state.take_late(Instant::now());
        let stats = state.gates.iter().map(Gate::stats).collect();
        drop(state);
        answer(turned);
        stats
    }

    /// Gives the workers of a call back, and begins the next.
    fn release(self: &Arc<Self>, lane: usize) {
        let next = self.lock().leave(lane);
        if let Some((lane, waiting)) = next {
            self.begin(lane, waiting);
        }
    }

    /// Begins a call that has its workers.
    fn begin(self: &Arc<Self>, lane: usize, mut waiting: Waiting) {
        waiting.reply.hold(Permit::new(self, lane));
        Turn { provider: self.providers[lane].clone(), waiting }.take();
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

/// The workers of a call that is answered at once.
pub(super) struct Held<'a> {
    admission: &'a Arc<Admission>,
    lane: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.admission.release(self.lane);
    }
}

/// The workers of a call that runs. Does not keep the gates: a provider that never answers would keep them, and they
/// the provider.
pub(super) struct Permit {
    admission: Weak<Admission>,
    lane: usize,
}

impl Permit {
    fn new(admission: &Arc<Admission>, lane: usize) -> Self {
        Self { admission: Arc::downgrade(admission), lane }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.upgrade() {
            admission.release(self.lane);
        }
    }
}

/// Hears that nobody wants the answer of a waiting call any more. Wakers are dropped under the inbox's lock, so
/// it keeps nothing that would run something then.
struct Ticket {
    admission: Weak<Admission>,
    lane: usize,
    ticket: u64,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        let Some(admission) = self.admission.upgrade() else { return };
        let (lane, ticket) = (self.lane, self.ticket);
        let turned = admission.lock().give_up(lane, ticket, &self.into(), Instant::now());
        answer(turned);
    }
}

/// Answers calls that will not run; never under the lock.
fn answer(turned: impl IntoIterator<Item = Turned>) {
    for (waiting, fault) in turned {
        waiting.reply.send(Err(fault));
    }
}
