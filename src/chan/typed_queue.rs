//! The queued calls of one function, with their types.

use std::any::Any;
use std::collections::VecDeque;

use super::error::CallError;
use super::panic;
use super::reply::Responder;

/// A queued call that waits for an answer.
pub(super) struct QueuedCall<A, R> {
    pub(super) arguments: A,
    pub(super) responder: Responder<R>,
}

/// A queued call in go mode.
pub(super) struct GoCall<A>(pub(super) A);

/// The calls of one function and one mode, oldest first.
pub(super) trait TypedQueue: Any + Send {
    /// Answers all calls with an error.
    fn fail(&mut self, error: &CallError);
}

impl dyn TypedQueue {
    pub(super) fn of<T: QueueItem>() -> Box<Self> {
        Box::new(VecDeque::<T>::new())
    }

    pub(super) fn pop<T: QueueItem>(&mut self) -> Option<T> {
        self.items().pop_front()
    }

    pub(super) fn items<T: QueueItem>(&mut self) -> &mut VecDeque<T> {
        match (self as &mut dyn Any).downcast_mut() {
            Some(items) => items,
            None => unreachable!("the table compared the types before the call was queued"),
        }
    }
}

impl<T: QueueItem> TypedQueue for VecDeque<T> {
    fn fail(&mut self, error: &CallError) {
        for item in std::mem::take(self) {
            item.fail(error);
        }
    }
}

/// An element of a [`TypedQueue`].
pub(super) trait QueueItem: Send + 'static {
    fn fail(self, error: &CallError);
}

impl<A: Send + 'static, R: Send + 'static> QueueItem for QueuedCall<A, R> {
    fn fail(self, error: &CallError) {
        self.responder.finish(Err(error.clone()));
        panic::drop_quietly(self.arguments);
    }
}

impl<A: Send + 'static> QueueItem for GoCall<A> {
    fn fail(self, _: &CallError) {
        panic::drop_quietly(self.0);
    }
}
