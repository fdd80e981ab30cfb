//! What the requests of one connection hold: memory for bodies and responses, and functions that still run.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};

/// What the requests of one connection hold. All of them run in one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Load(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// The requests with a body in memory, in their order.
    bodies: BTreeMap<u64, Held>,
    /// The size of those bodies, in bytes, and the part of it in complete ones.
    held: usize,
    complete: usize,
    /// The size of the responses that wait for the peer, in bytes.
    output: usize,
    /// Pieces of responses passed to h2 so far.
    sent: u64,
    /// Responses that are streams, and take no place of a call.
    streams: usize,
    /// The functions of cancelled requests.
    abandoned: Vec<Weak<dyn Any + Send + Sync>>,
    /// Responses that were given up, since the peer did not read them.
    stalled: u32,
    /// The requests whose bodies are held back.
    waiting: Vec<Waker>,
}

/// The body of one request.
#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    is_complete: bool,
}

impl Load {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request whose body is to be read, and returns its number.
    pub(super) fn add_body(&self) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.bodies.insert(number, Held::default());
        number
    }

    /// Returns `true` if more of a body may be taken from the peer. Otherwise the task is woken when that may change.
    ///
    /// All bodies together take up to `max` bytes, the maximum of one. The oldest that is incomplete may always go on,
    /// unless the complete ones alone take that much: then two incomplete ones cannot wait for each other. So all take
    /// less than three times `max`, besides the first data of each: small messages pass whatever the large ones do.
    pub(super) fn may_read(&self, number: u64, max: usize, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let is_oldest = || {
            let mut incomplete = state.bodies.iter().filter(|(_, held)| !held.is_complete);
            incomplete.next().is_none_or(|(oldest, _)| *oldest == number)
        };
        let is_first = state.bodies.get(&number).is_some_and(|held| held.bytes == 0);
        if is_first || state.held < max || (state.complete < max && is_oldest()) {
            return true;
        }
        state.waiting.push(cx.waker().clone());
        false
    }

    /// Adds bytes to a body.
    pub(super) fn add_bytes(&self, number: u64, bytes: usize) {
        let mut state = self.lock();
        if let Some(held) = state.bodies.get_mut(&number) {
            held.bytes += bytes;
            state.held += bytes;
        }
    }

    /// Notes that a body is complete.
    pub(super) fn complete_body(&self, number: u64) {
        let mut state = self.lock();
        if let Some(held) = state.bodies.get_mut(&number).filter(|held| !held.is_complete) {
            held.is_complete = true;
            state.complete += held.bytes;
            state.wake();
        }
    }

    /// Removes a body.
    pub(super) fn remove_body(&self, number: u64) {
        let mut state = self.lock();
        if let Some(held) = state.bodies.remove(&number) {
            if held.is_complete {
                state.complete -= held.bytes;
            }
            state.held -= held.bytes;
            state.wake();
        }
    }

    /// Counts a response that is a stream, until the result is dropped.
    pub(super) fn add_stream(&self) -> StreamGuard {
        self.lock().streams += 1;
        StreamGuard(self.clone())
    }

    /// Returns the number of responses that are streams.
    pub(super) fn streams(&self) -> usize {
        self.lock().streams
    }

    /// Adds a response of this size that waits for the peer, until the result is dropped.
    pub(super) fn add_output(&self, bytes: usize) -> OutputGuard {
        self.lock().output += bytes;
        OutputGuard { load: self.clone(), bytes }
    }

    /// Returns the size of the responses that wait for the peer, in bytes.
    pub(super) fn output(&self) -> usize {
        self.lock().output
    }

    /// Returns the number of pieces of responses that were passed to h2.
    pub(super) fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// Adds the function of a request that has ended, if it still runs.
    pub(super) fn add_abandoned(&self, function: Weak<dyn Any + Send + Sync>) {
        if function.strong_count() > 0 {
            self.lock().abandoned.push(function);
        }
    }

    /// Returns the number of functions that still run although their requests have ended.
    pub(super) fn abandoned(&self) -> usize {
        let mut state = self.lock();
        state.abandoned.retain(|function| function.strong_count() > 0);
        state.abandoned.len()
    }

    /// Counts a response that was given up, since the peer did not read it.
    pub(super) fn add_stalled(&self) {
        self.lock().stalled += 1;
    }

    /// Returns the number of responses that were given up.
    pub(super) fn stalled(&self) -> u32 {
        self.lock().stalled
    }
}

impl State {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// A response that is a stream.
pub(super) struct StreamGuard(Load);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.lock().streams -= 1;
    }
}

/// A response that waits for the peer.
pub(super) struct OutputGuard {
    load: Load,
    bytes: usize,
}

impl OutputGuard {
    /// Notes that a part was passed to h2, which bounds what it holds.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes -= bytes;
        let mut state = self.load.lock();
        state.output -= bytes;
        state.sent += 1;
    }
}

impl Drop for OutputGuard {
    fn drop(&mut self) {
        self.load.lock().output -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_together_are_bounded_and_the_oldest_goes_on() {
        let (load, cx) = (Load::default(), Context::from_waker(Waker::noop()));
        let max = 100;
        let (one, two, three) = (load.add_body(), load.add_body(), load.add_body());
        load.add_bytes(one, 60);
        load.add_bytes(two, 59);
        assert!(load.may_read(three, max, &cx), "the first data of each");
        load.add_bytes(three, 1);
        let may = |load: &Load| [one, two, three].map(|body| load.may_read(body, max, &cx));
        assert_eq!(may(&load), [true, false, false]);
        load.add_bytes(one, 40);
        load.complete_body(one);
        // Its function runs: nothing more is read until it ends.
        assert_eq!(may(&load)[1..], [false, false]);
        load.remove_body(one);
        assert_eq!(may(&load)[1..], [true, true]);
        load.remove_body(two);
        load.remove_body(three);
        let state = load.lock();
        assert_eq!((state.held, state.complete, state.bodies.len()), (0, 0, 0));
    }

    #[test]
    fn functions_of_ended_requests_count_until_they_end() {
        let load = Load::default();
        let function: Arc<dyn Any + Send + Sync> = Arc::new(());
        load.add_abandoned(Arc::downgrade(&function));
        assert_eq!(load.abandoned(), 1);
        drop(function);
        assert_eq!(load.abandoned(), 0);
    }
}
