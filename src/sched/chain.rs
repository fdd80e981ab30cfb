//! A running waterfall: a list of steps, and the loop over them.
//!
//! A step stores its result until the next one takes it, so it costs one allocation. A chain of any length needs no
//! more stack than one step, also when it is dropped.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;

use super::shared::{OpenGuard, Shared};
use crate::chan::panic::{drop_each_quietly, drop_quietly};
use crate::chan::{CallError, FunctionId, Kind, Target, oneshot};

/// One step of a chain.
trait Step<S: 'static, E>: Send {
    /// Runs the step. Returns the chain if it can continue immediately; otherwise the step keeps it.
    fn run(self: Box<Self>, state: &mut S, chain: Box<Chain<S, E>>) -> Option<Box<Chain<S, E>>>;

    /// Returns the slot of the result, an `Option` of the result's type.
    fn output(&mut self) -> &mut dyn Any;
}

/// The steps of a chain. All of them are dropped even if dropping one panics.
pub(super) struct Steps<S: 'static, E>(Vec<Box<dyn Step<S, E>>>);

impl<S: 'static, E: 'static> Steps<S, E> {
    /// Creates the list for a chain whose first step takes `value`.
    pub(super) fn new<T: Send + 'static>(value: T) -> Self {
        Self(vec![Box::new(Link { work: None::<Start>, output: Some(value) })])
    }

    pub(super) fn push<U: Send + 'static>(&mut self, work: impl Work<S, E, U>) {
        self.0.push(Box::new(Link { work: Some(work), output: None }));
    }
}

impl<S: 'static, E> Drop for Steps<S, E> {
    fn drop(&mut self) {
        drop_each_quietly(std::mem::take(&mut self.0));
    }
}

/// The callback of a chain, called with the last step or with the first error.
type End<S, E> = Box<dyn FnOnce(&mut S, Result<Last<S, E>, E>) + Send>;

/// A running chain, on the loop or in the operation that it waits for.
pub(super) struct Chain<S: 'static, E> {
    shared: Arc<Shared<S>>,
    deadline: Option<Instant>,
    last: Last<S, E>,
    /// The remaining steps, in reverse order.
    rest: Steps<S, E>,
    end: End<S, E>,
    guard: OpenGuard<S>,
}

/// The most recent step, with its result.
struct Last<S: 'static, E>(Box<dyn Step<S, E>>);

impl<S: 'static, E> Last<S, E> {
    fn take<T: 'static>(&mut self) -> T {
        match self.0.output().downcast_mut::<Option<T>>().and_then(Option::take) {
            Some(value) => value,
            None => unreachable!("a step stores what the next one takes"),
        }
    }
}

impl<S: 'static, E: From<CallError> + Send + 'static> Chain<S, E> {
    /// Creates a chain whose last result is a `T`.
    pub(super) fn new<T: 'static>(
        shared: &Arc<Shared<S>>,
        mut steps: Steps<S, E>,
        time: Option<Duration>,
        guard: OpenGuard<S>,
        callback: impl FnOnce(&mut S, Result<T, E>) + Send + 'static,
    ) -> Box<Self> {
        steps.0.reverse();
        let Some(first) = steps.0.pop() else { unreachable!("a list of steps begins with a value") };
        Box::new(Self {
            shared: shared.clone(),
            deadline: time.and_then(|time| Instant::now().checked_add(time)),
            last: Last(first),
            rest: steps,
            end: Box::new(|state, result| callback(state, result.map(|mut last| last.take::<T>()))),
            guard,
        })
    }

    /// Runs steps until one waits or the chain ends.
    pub(super) fn advance(mut self: Box<Self>, state: &mut S) {
        loop {
            // Results after the deadline are discarded.
            if self.deadline.is_some_and(|at| at <= Instant::now()) {
                return self.fail(state, CallError::Deadline.into());
            }
            let Some(step) = self.rest.0.pop() else {
                let Self { last, end, guard, .. } = *self;
                guard.complete();
                return end(state, Ok(last));
            };
            match step.run(state, self) {
                Some(chain) => self = chain,
                None => return,
            }
        }
    }

    /// Ends the chain and drops the remaining steps.
    #[expect(clippy::boxed_local, reason = "it is in a box already")]
    fn fail(self: Box<Self>, state: &mut S, error: E) {
        let Self { last, rest, end, guard, .. } = *self;
        drop_quietly(last);
        drop(rest);
        guard.complete();
        end(state, Err(error));
    }

    /// Stores the result of a step, or ends the chain.
    fn resume<K: Work<S, E, U>, U: Send + 'static>(
        mut self: Box<Self>,
        state: &mut S,
        mut link: Box<Link<K, U>>,
        result: Result<U, E>,
    ) -> Option<Box<Self>> {
        match result {
            Ok(output) => {
                link.output = Some(output);
                self.last = Last(link);
                Some(self)
            }
            Err(error) => {
                self.fail(state, error);
                None
            }
        }
    }

    /// Stores the result of a step that has waited, and continues.
    fn advance_with<K: Work<S, E, U>, U: Send + 'static>(
        self: Box<Self>,
        state: &mut S,
        link: Box<Link<K, U>>,
        result: Result<U, E>,
    ) {
        if let Some(chain) = self.resume(state, link, result) {
            chain.advance(state);
        }
    }

    /// Awaits a future on the executor, at most until the deadline, and continues with its output.
    fn wait<K: Work<S, E, U>, U: Send + 'static, G: Into<E> + Send + 'static>(
        self: Box<Self>,
        state: &mut S,
        link: Box<Link<K, U>>,
        future: impl Future<Output = Result<Result<U, G>, CallError>> + Send + 'static,
    ) {
        let shared = self.shared.clone();
        let Some(executor) = shared.executor() else {
            return self.fail(state, CallError::Closed.into());
        };
        let done = shared.clone();
        shared.spawn(&executor, async move {
            let result = limit(self.deadline, future).await;
            done.push_completion(Box::new(move |state| {
                let server = &self.shared.server;
                let result = match result {
                    Ok(Ok(output)) => Ok(output),
                    Ok(Err(error)) => {
                        Err(server.catch_panic("a step", || error.into()).unwrap_or_else(E::from))
                    }
                    Err(error) => Err(error.into()),
                };
                self.advance_with(state, link, result);
            }));
        });
    }
}

/// Awaits a future at most until the deadline.
async fn limit<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let Some(at) = deadline else { return future.await };
    let late = async {
        Timer::at(at).await;
        Err(CallError::Deadline)
    };
    future.or(late).await
}

/// The work of a step.
pub(super) trait Work<S: 'static, E, U>: Send + Sized + 'static {
    /// Runs with the previous step's result. `link` stores its own result.
    fn run(
        self,
        state: &mut S,
        chain: Box<Chain<S, E>>,
        link: Box<Link<Self, U>>,
    ) -> Option<Box<Chain<S, E>>>;
}

/// A step: its work until it begins, and its result until the next step takes it.
pub(super) struct Link<K, U> {
    work: Option<K>,
    output: Option<U>,
}

impl<S: 'static, E: 'static, K: Work<S, E, U>, U: Send + 'static> Step<S, E> for Link<K, U> {
    fn run(mut self: Box<Self>, state: &mut S, chain: Box<Chain<S, E>>) -> Option<Box<Chain<S, E>>> {
        match self.work.take() {
            Some(work) => work.run(state, chain, self),
            None => unreachable!("a step runs once"),
        }
    }

    fn output(&mut self) -> &mut dyn Any {
        &mut self.output
    }
}

/// The work of the first step, which has only a result.
enum Start {}

impl<S: 'static, E: 'static, U: Send + 'static> Work<S, E, U> for Start {
    fn run(self, _: &mut S, _: Box<Chain<S, E>>, _: Box<Link<Self, U>>) -> Option<Box<Chain<S, E>>> {
        match self {}
    }
}

/// Runs a closure on the state.
pub(super) struct Compute<F, T>(F, PhantomData<fn(T)>);

/// Awaits a future that a closure creates from the state.
pub(super) struct Await<F, T>(F, PhantomData<fn(T)>);

/// Runs a blocking closure.
pub(super) struct Block<F, T>(F, PhantomData<fn(T)>);

/// Calls a function of a server.
pub(super) struct Call<C, T> {
    target: C,
    id: FunctionId,
    kind: Kind,
    arguments: PhantomData<fn(T)>,
}

impl<F, T> Compute<F, T> {
    pub(super) fn new(step: F) -> Self {
        Self(step, PhantomData)
    }
}

impl<F, T> Await<F, T> {
    pub(super) fn new(step: F) -> Self {
        Self(step, PhantomData)
    }
}

impl<F, T> Block<F, T> {
    pub(super) fn new(work: F) -> Self {
        Self(work, PhantomData)
    }
}

impl<C: Clone, T> Call<C, T> {
    pub(super) fn new(target: &C, id: FunctionId, kind: Kind) -> Self {
        Self { target: target.clone(), id, kind, arguments: PhantomData }
    }
}

impl<S, E, F, T, U> Work<S, E, U> for Compute<F, T>
where
    S: 'static,
    E: From<CallError> + Send + 'static,
    F: FnOnce(&mut S, T) -> Result<U, E> + Send + 'static,
    T: 'static,
    U: Send + 'static,
{
    fn run(
        self,
        state: &mut S,
        mut chain: Box<Chain<S, E>>,
        link: Box<Link<Self, U>>,
    ) -> Option<Box<Chain<S, E>>> {
        let value = chain.last.take();
        let result = chain.shared.server.catch_panic("a step", || (self.0)(state, value));
        chain.resume(state, link, result.unwrap_or_else(|error| Err(error.into())))
    }
}

impl<S, E, F, T, A, U, G> Work<S, E, U> for Await<F, T>
where
    S: 'static,
    E: From<CallError> + Send + 'static,
    F: FnOnce(&mut S, T) -> A + Send + 'static,
    A: Future<Output = Result<U, G>> + Send + 'static,
    G: Into<E> + Send + 'static,
    T: 'static,
    U: Send + 'static,
{
    fn run(
        self,
        state: &mut S,
        mut chain: Box<Chain<S, E>>,
        link: Box<Link<Self, U>>,
    ) -> Option<Box<Chain<S, E>>> {
        let value = chain.last.take();
        let server = chain.shared.server.clone();
        match server.catch_panic("a step", || (self.0)(state, value)) {
            Ok(future) => chain.wait(state, link, server.catch_panic_future("a step", future)),
            Err(error) => chain.fail(state, error.into()),
        }
        None
    }
}

impl<S, E, F, T, U> Work<S, E, U> for Block<F, T>
where
    S: 'static,
    E: From<CallError> + Send + 'static,
    F: FnOnce(T) -> U + Send + 'static,
    T: Send + 'static,
    U: Send + 'static,
{
    fn run(
        self,
        state: &mut S,
        mut chain: Box<Chain<S, E>>,
        link: Box<Link<Self, U>>,
    ) -> Option<Box<Chain<S, E>>> {
        let value = chain.last.take();
        let server = chain.shared.server.clone();
        let (responder, reply) = oneshot(server.clone());
        // A panic drops the responder, which answers with it.
        let work = move || {
            // A job whose deadline passed in the queue never begins.
            if !responder.is_abandoned() {
                responder.reply((self.0)(value));
            }
        };
        chain.shared.jobs.run_when_free(Box::new(move || drop(server.catch_panic("a job", work))));
        chain.wait(state, link, async move { reply.await.map(Ok::<U, E>) });
        None
    }
}

impl<S, E, C, T, U> Work<S, E, U> for Call<C, T>
where
    C: Target<T, U>,
    S: 'static,
    E: From<CallError> + Send + 'static,
    T: Send + 'static,
    U: Send + 'static,
{
    fn run(
        self,
        state: &mut S,
        mut chain: Box<Chain<S, E>>,
        link: Box<Link<Self, U>>,
    ) -> Option<Box<Chain<S, E>>> {
        let Self { target, id, kind, .. } = self;
        let arguments = chain.last.take::<T>();
        let shared = chain.shared.clone();
        let deadline = chain.deadline;
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let advance = move |state: &mut S, result: Result<U, CallError>| {
            chain.advance_with(state, link, result.map_err(E::from));
        };
        // An async call of the loop is the shortest way. Without room for it, a task waits.
        if let Err((arguments, advance)) = shared.call(&target, (&id, kind), arguments, left, advance) {
            let Some(executor) = shared.executor() else {
                advance(state, Err(CallError::Closed));
                return None;
            };
            let done = shared.clone();
            shared.spawn(&executor, async move {
                let result = limit(deadline, target.request(id, kind, arguments, deadline, false)).await;
                done.push_completion(Box::new(move |state| advance(state, result)));
            });
        }
        None
    }
}
