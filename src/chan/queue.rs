//! Calls in the order in which they came, without a box for each.
//!
//! The order is a list of function numbers; what goes with a call waits in a list of its function, whose element type
//! is the function's. So a call costs no allocation of its own, whatever its arguments are, and no `unsafe`.

use std::any::Any;
use std::collections::VecDeque;

use super::error::CallError;
use super::function::{AnyFunction, Rest};
use super::lot::{Call, Lot, Post};

/// Calls of any functions of one table, oldest first.
#[derive(Default)]
pub(super) struct Queue {
    order: VecDeque<Entry>,
    /// By function: the calls that want an answer.
    calls: Vec<Box<dyn Lot>>,
    /// By function: the calls in go mode.
    posts: Vec<Box<dyn Lot>>,
}

/// Says in which lot the next call waits.
#[derive(Clone, Copy)]
struct Entry {
    function: usize,
    post: bool,
}

impl Queue {
    /// Creates an empty queue for the functions of a table. (The default one has room for none.)
    pub(super) fn of<'f>(functions: impl Iterator<Item = &'f dyn AnyFunction> + Clone) -> Self {
        Self {
            order: VecDeque::new(),
            calls: functions.clone().map(AnyFunction::calls).collect(),
            posts: functions.map(AnyFunction::posts).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn push_call<A: Send + 'static, R: Send + 'static>(
        &mut self,
        function: usize,
        call: Call<A, R>,
    ) {
        self.calls[function].items().push_back(call);
        self.order.push_back(Entry { function, post: false });
    }

    pub(super) fn push_post<A: Send + 'static>(&mut self, function: usize, post: Post<A>) {
        self.posts[function].items().push_back(post);
        self.order.push_back(Entry { function, post: true });
    }

    /// Returns the number of the function that the oldest call is for.
    pub(super) fn front(&self) -> Option<usize> {
        Some(self.order.front()?.function)
    }

    /// Runs the oldest call with its function, which is that of the number that [`front`](Self::front) gave, and
    /// tells whether it did: not if its caller has given up.
    pub(super) fn run_front(&mut self, function: &dyn AnyFunction, state: &mut dyn Any) -> bool {
        match self.order.pop_front() {
            Some(Entry { function: number, post: true }) => {
                function.run_post(&mut *self.posts[number], state);
                true
            }
            Some(Entry { function: number, post: false }) => {
                function.run_call(&mut *self.calls[number], state)
            }
            None => false,
        }
    }

    /// Begins the oldest call with its async function; `None` if its caller has given up.
    pub(super) fn begin_front<'s>(
        &mut self,
        function: &dyn AnyFunction,
        state: &'s mut dyn Any,
    ) -> Option<Rest<'s>> {
        match self.order.pop_front()? {
            Entry { function: number, post: true } => function.begin_post(&mut *self.posts[number], state),
            Entry { function: number, post: false } => function.begin_call(&mut *self.calls[number], state),
        }
    }

    /// Answers all calls with an error.
    pub(super) fn fail(&mut self, error: &CallError) {
        self.order.clear();
        for lot in self.calls.iter_mut().chain(&mut self.posts) {
            lot.fail(error);
        }
    }
}
