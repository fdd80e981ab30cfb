//! Queued calls in order, without a box for each.
//!
//! The order is a list of function numbers. The arguments of a call are in the [`TypedQueue`] of its function. So a
//! call costs no allocation of its own, whatever its arguments are, and no `unsafe`.
//!
//! A function's queues are created at its first call, so an idle server pays nothing for the size of its table. A large
//! buffer is released when the server is idle ([`Queue::release`]).

use std::any::Any;
use std::collections::VecDeque;
use std::mem;

use super::error::CallError;
use super::function::{AnyFunction, RunningFuture};
use super::typed_queue::{GoCall, QueueItem, QueuedCall, TypedQueue};

/// Empty buffers of up to this size in bytes are kept, so that a hundred calls in flight allocate none.
pub(super) const KEEP: usize = 16 * 1024;

/// Calls of any functions of one table, oldest first.
#[derive(Default)]
pub(super) struct Queue {
    order: VecDeque<Key>,
    /// The calls of each function and mode, sorted by key.
    queues: Vec<(Key, Box<dyn TypedQueue>)>,
    /// Index of the most recently used queue; most calls are for the same function as the previous call.
    last: usize,
    /// Set once a buffer has grown beyond [`KEEP`].
    large: bool,
}

/// The key of a typed queue: twice the function's number, and 1 more if its calls are in go mode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u32);

impl Key {
    fn new(function: usize, go: bool) -> Self {
        match u32::try_from(2 * function + usize::from(go)) {
            Ok(key) => Self(key),
            Err(_) => unreachable!("a table has fewer functions"),
        }
    }

    fn function(self) -> usize {
        self.0 as usize / 2
    }

    fn is_go(self) -> bool {
        self.0 % 2 == 1
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn push_call<A: Send + 'static, R: Send + 'static>(
        &mut self,
        function: usize,
        call: QueuedCall<A, R>,
    ) {
        self.push(Key::new(function, false), call);
    }

    pub(super) fn push_go<A: Send + 'static>(&mut self, function: usize, post: GoCall<A>) {
        self.push(Key::new(function, true), post);
    }

    fn push<T: QueueItem>(&mut self, entry: Key, item: T) {
        let queue = match self.queues.get_mut(self.last) {
            Some((last, queue)) if *last == entry => queue,
            _ => {
                let found = self.queues.binary_search_by_key(&entry, |(other, _)| *other);
                self.last = found.unwrap_or_else(|at| {
                    self.queues.insert(at, (entry, <dyn TypedQueue>::of::<T>()));
                    at
                });
                &mut self.queues[self.last].1
            }
        };
        let items = queue.items::<T>();
        if items.len() == items.capacity() {
            items.reserve(1);
            self.large |= items.capacity() * size_of::<T>() > KEEP;
        }
        items.push_back(item);
        if self.order.len() == self.order.capacity() {
            self.order.reserve(1);
            self.large |= self.order.capacity() * size_of::<Key>() > KEEP;
        }
        self.order.push_back(entry);
    }

    /// Removes the oldest call's key from the order, and returns it with its queue.
    #[inline]
    fn pop(&mut self) -> Option<(Key, &mut dyn TypedQueue)> {
        let entry = self.order.pop_front()?;
        if self.queues.get(self.last).is_none_or(|(last, _)| *last != entry) {
            match self.queues.binary_search_by_key(&entry, |(other, _)| *other) {
                Ok(found) => self.last = found,
                Err(_) => unreachable!("a call's queue is created before its key is pushed"),
            }
        }
        Some((entry, &mut *self.queues[self.last].1))
    }

    /// Returns the number of the oldest call's function.
    pub(super) fn front(&self) -> Option<usize> {
        Some(self.order.front()?.function())
    }

    /// Runs the oldest call with its function, whose number [`front`](Self::front) returned. Returns `false` if the
    /// call was cancelled and thus not run.
    pub(super) fn run_front(&mut self, function: &dyn AnyFunction, state: &mut dyn Any) -> bool {
        match self.pop() {
            Some((key, calls)) if key.is_go() => {
                function.run_go(calls, state);
                true
            }
            Some((_, calls)) => function.run_call(calls, state),
            None => false,
        }
    }

    /// Begins the oldest call with its async function. Returns `None` if the call was cancelled.
    pub(super) fn begin_front<'s>(
        &mut self,
        function: &dyn AnyFunction,
        state: &'s mut dyn Any,
    ) -> Option<RunningFuture<'s>> {
        match self.pop()? {
            (key, calls) if key.is_go() => function.begin_go(calls, state),
            (_, calls) => function.begin_call(calls, state),
        }
    }

    /// Answers all calls with an error.
    pub(super) fn fail(&mut self, error: &CallError) {
        self.order.clear();
        for (_, queue) in &mut self.queues {
            queue.fail(error);
        }
    }

    /// Returns `true` if a buffer has grown large.
    pub(super) fn is_large(&self) -> bool {
        self.large
    }

    /// Returns the buffers of an empty queue if some have grown large. The caller drops them without a lock, since
    /// freeing much memory takes time.
    pub(super) fn release(&mut self) -> Option<Self> {
        (self.large && self.is_empty()).then(|| mem::take(self))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chan::functions::{FunctionTable, Functions};

    type Block = [u8; 1024];

    fn table(functions: i64) -> Functions<u64> {
        let mut table = Functions::new();
        for number in 0..functions {
            table.register0(number, |sum: &mut u64, block: Block| *sum += u64::from(block[0])).unwrap();
        }
        table
    }

    fn run(queue: &mut Queue, table: &FunctionTable) -> u64 {
        let mut sum = 0_u64;
        while let Some(number) = queue.front() {
            assert!(queue.run_front(table.function(number), &mut sum));
        }
        sum
    }

    #[test]
    fn lists_are_made_at_a_functions_first_call() {
        let table = table(50);
        let mut queue = Queue::default();
        assert_eq!(queue.queues.capacity(), 0);
        for function in [49, 7, 49, 8, 7] {
            queue.push_go(function, GoCall([1_u8; 1024]));
        }
        assert_eq!(queue.queues.len(), 3);
        assert_eq!(run(&mut queue, table.table()), 5);
    }

    #[test]
    fn only_large_buffers_are_released_and_only_empty_ones() {
        let table = table(1);
        let mut queue = Queue::default();
        queue.push_go(0, GoCall([1_u8; 1024]));
        assert!(run(&mut queue, table.table()) == 1 && queue.release().is_none(), "it is small");
        for _ in 0..100 {
            queue.push_go(0, GoCall([1_u8; 1024]));
        }
        assert!(queue.release().is_none(), "it is not empty");
        assert_eq!(run(&mut queue, table.table()), 100);
        assert!(queue.release().is_some());
        assert!(queue.queues.is_empty() && queue.order.capacity() == 0 && queue.release().is_none());
    }
}
