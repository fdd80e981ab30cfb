//! Calls that wait for room in a full queue without a future that is polled.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};

use async_channel::{Receiver, Sender};

use super::error::CallError;
use super::panic;
use super::queue::Queue;
use super::shared::{BlockedSender, Place, Shared};
use super::sync::Mutex;
use super::typed_queue::{GoCall, QueueItem, QueuedCall};

/// A call that waits until the queue has room, its caller cancels it, or the server ends.
///
/// It is its own waker: a cancellation by the caller wakes it.
pub(super) struct BlockedCall<A, R> {
    shared: Weak<Shared>,
    function: usize,
    state: Mutex<State<A, R>>,
}

struct State<A, R> {
    /// Taken at the end of the wait.
    call: Option<QueuedCall<A, R>>,
    /// Set before the waker is registered.
    place: Option<Place>,
}

impl<A: Send + 'static, R: Send + 'static> BlockedCall<A, R> {
    /// Queues a call behind all that wait for room.
    pub(super) fn wait(shared: &Arc<Shared>, function: usize, call: QueuedCall<A, R>) {
        let state = Mutex::new(State { call: Some(call), place: None });
        let blocked = Arc::new(Self { shared: Arc::downgrade(shared), function, state });
        match shared.wait_for_room(blocked.clone()) {
            Ok(place) => blocked.watch(place),
            Err(error) => blocked.fail(&error),
        }
    }

    /// Registers to be woken when the caller cancels the call.
    fn watch(self: Arc<Self>, place: Place) {
        let waker = Waker::from(self.clone());
        let mut state = self.state.lock();
        state.place = Some(place);
        let responder = state.call.as_mut().map(|call| &mut call.responder);
        let is_abandoned = responder
            .is_some_and(|responder| responder.poll_abandoned(&Context::from_waker(&waker)).is_ready());
        drop(state);
        if is_abandoned {
            self.cancel(&CallError::Unanswered);
        }
    }

    fn cancel(&self, error: &CallError) {
        let place = self.state.lock().place;
        if let (Some(shared), Some(place)) = (self.shared.upgrade(), place) {
            shared.cancel_wait(place);
        }
        self.fail(error);
    }
}

impl<A: Send + 'static, R: Send + 'static> BlockedSender for BlockedCall<A, R> {
    fn enqueue(&self, queue: &mut Queue) {
        if let Some(call) = self.state.lock().call.take() {
            queue.push_call(self.function, call);
        }
    }

    fn on_enqueued(&self) {}

    fn fail(&self, error: &CallError) {
        let call = self.state.lock().call.take();
        if let Some(call) = call {
            call.fail(error);
        }
    }
}

impl<A: Send + 'static, R: Send + 'static> Wake for BlockedCall<A, R> {
    /// Handles a caller that has cancelled the call, or that is gone and expects no answer. Since nothing else bounds
    /// the latter, at most as many of them may wait as the queue holds.
    fn wake(self: Arc<Self>) {
        let waiting = self.state.lock().call.as_ref().map(|call| call.responder.is_abandoned());
        match (waiting, self.shared.upgrade()) {
            (Some(true), _) => self.cancel(&CallError::Unanswered),
            (Some(false), Some(shared)) => {
                let stats = shared.stats();
                if stats.waiting > stats.capacity {
                    shared.counters.refused();
                    self.cancel(&CallError::Full);
                }
            }
            _ => {}
        }
    }
}

impl<A, R> Drop for BlockedCall<A, R> {
    fn drop(&mut self) {
        panic::drop_quietly(self.state.lock().call.take());
    }
}

/// Closed once a call in go mode is queued, or its server refuses it.
pub(crate) type Queued = Receiver<Infallible>;

/// A call in go mode that nothing withdraws while it waits for room.
pub(super) struct BlockedGo<A> {
    function: usize,
    call: Mutex<Option<GoCall<A>>>,
    queued: Sender<Infallible>,
}

impl<A: Send + 'static> BlockedGo<A> {
    /// Queues a call behind all that wait for room.
    pub(super) fn wait(shared: &Shared, function: usize, call: GoCall<A>) -> Queued {
        let (queued, receiver) = async_channel::bounded(1);
        let blocked = Arc::new(Self { function, call: Mutex::new(Some(call)), queued });
        if let Err(error) = shared.wait_for_room(blocked.clone()) {
            blocked.fail(&error);
        }
        receiver
    }
}

impl<A: Send + 'static> BlockedSender for BlockedGo<A> {
    fn enqueue(&self, queue: &mut Queue) {
        if let Some(call) = self.call.lock().take() {
            queue.push_go(self.function, call);
        }
    }

    fn on_enqueued(&self) {
        self.queued.close();
    }

    fn fail(&self, _: &CallError) {
        let call = self.call.lock().take();
        self.queued.close();
        panic::drop_quietly(call);
    }
}

impl<A> Drop for BlockedGo<A> {
    fn drop(&mut self) {
        panic::drop_quietly(self.call.lock().take());
    }
}
