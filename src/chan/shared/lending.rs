//! Lending the state to sync callers, who run plain functions in place while the loop sleeps.

use std::any::Any;
use std::mem;
use std::task::Waker;

use super::{Inner, Origin, Phase, Shared, State, StateOwner, wake};
use crate::chan::error::Failure;
use crate::chan::function::Body;
use crate::chan::functions::Found;
use crate::chan::panic;
use crate::chan::spin::Availability;
use crate::chan::sync::MutexGuard;

/// The maximum depth of functions that run inside one another on one thread. Deeper calls are queued, so that no chain
/// of servers overflows the stack of the thread that calls the first.
const MAX_DEPTH: u32 = 64;

impl Shared {
    /// Runs a plain function on this thread if the state is free and no call is queued. Otherwise returns the
    /// arguments.
    pub(in crate::chan) fn run_in_place<A, R>(
        &self,
        found: &Found<'_, A, R>,
        arguments: A,
    ) -> Result<Result<R, Failure>, A> {
        let Body::Now(function) = &found.function.body else { return Err(arguments) };
        if panic::depth() >= MAX_DEPTH {
            return Err(arguments);
        }
        let Some(mut borrowed) = self.borrow() else { return Err(arguments) };
        let result =
            self.run_as_function(Origin::Function(found.number), || function(borrowed.state(), arguments));
        Ok(match result {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(Failure::Failed(error)),
            Err(panic) => Err(Failure::Panicked(panic)),
        })
    }

    /// Lends the state to a caller if it is free and no call is queued.
    fn borrow(&self) -> Option<Borrowed<'_>> {
        let mut wait = self.spin.begin();
        while wait.spin() {
            let mut inner = self.inner.lock();
            if !inner.queue.is_empty() || inner.phase != Phase::Open {
                return None;
            }
            match mem::replace(&mut inner.owner, StateOwner::Caller) {
                StateOwner::Free(state) => {
                    self.spin.set_availability(Availability::Busy);
                    self.counters.executed_in_place();
                    drop(inner);
                    wait.succeeded();
                    return Some(Borrowed { shared: self, state: Some(state) });
                }
                owner => inner.owner = owner,
            }
            if !self.spin.is_busy() {
                return None;
            }
        }
        None
    }
}

/// The state while a caller runs a function in place. Dropping it returns the state.
struct Borrowed<'a> {
    shared: &'a Shared,
    state: Option<State>,
}

impl Borrowed<'_> {
    fn state(&mut self) -> &mut dyn Any {
        match &mut self.state {
            Some(state) => &mut **state,
            None => unreachable!("only a drop takes the state"),
        }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.inner.lock();
        if matches!(inner.owner, StateOwner::LastCaller) {
            return end(inner, self.state.take());
        }
        self.shared.spin.set_availability(Availability::Free);
        if let Some(state) = self.state.take() {
            inner.owner = StateOwner::Free(state);
        }
        if !inner.queue.is_empty() || inner.phase != Phase::Open {
            let sleeper = inner.take_sleeper();
            drop(inner);
            wake(sleeper);
        }
    }
}

/// Drops the state of a server whose loop has ended meanwhile.
#[cold]
fn end(mut inner: MutexGuard<'_, Inner>, state: Option<State>) {
    inner.owner = StateOwner::Gone;
    let watchers = mem::take(&mut inner.watchers);
    drop(inner);
    watchers.into_iter().for_each(Waker::wake);
    panic::drop_quietly(state);
}
