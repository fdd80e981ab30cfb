//! The builder of a waterfall, a list of async steps that [`chain`](super::chain) runs.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::chain::{Await, Block, Call, Chain, Compute, Steps, Work};
use super::error::ScheduleError;
use super::shared::Shared;
use crate::chan::{CallError, FunctionId, Id, Kind, KindMarker, Results, Target};

/// A chain of steps, each with the result of the previous one, that ends at the first error. Nothing happens before
/// [`finish`](Self::finish).
///
/// `T` is the current result and `E` the error, which can be created from a [`CallError`]. The chain never blocks the
/// loop. A panic in a step becomes [`CallError::Panicked`].
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use chanrpc::chan::{CallError, Functions, Id1, Server};
/// use chanrpc::sched::{Handle, Scheduler};
///
/// const PRICE: Id1<String, u32> = Id1::new("price");
///
/// let mut prices = Functions::new();
/// prices.register(PRICE, |_: &mut (), item| item.len() as u32)?;
/// let prices = Server::new((), prices);
/// let price = prices.client();
///
/// struct Cart { sum: u32 }
/// let executor = Arc::new(smol::Executor::new());
/// let cart = Scheduler::new(&executor, Functions::new(), |_| Cart { sum: 0 });
/// let me = cart.handle();
/// let tasks = (executor.spawn(prices.run()), executor.spawn(cart.run()));
///
/// me.waterfall::<CallError>()
///     .step(|_, ()| Ok("cheese".to_owned()))
///     .call(&price, PRICE)
///     .spawn_blocking(|price| price * 2) // something slow
///     .step(|cart: &mut Cart, price| { cart.sum += price; Ok(cart.sum) })
///     .timeout(Duration::from_secs(5))
///     .finish(|cart, sum| assert_eq!(sum.unwrap(), cart.sum))?;
///
/// smol::block_on(executor.run(me.drain(Duration::from_secs(5))));
/// assert_eq!(smol::block_on(tasks.1).sum, 12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `finish`"]
pub struct Waterfall<S: 'static, T, E> {
    shared: Arc<Shared<S>>,
    time: Option<Duration>,
    steps: Steps<S, E>,
    /// The result of the last step.
    result: PhantomData<fn() -> T>,
}

impl<S, T, E> Waterfall<S, T, E>
where
    S: 'static,
    T: Send + 'static,
    E: From<CallError> + Send + 'static,
{
    pub(super) fn new(shared: Arc<Shared<S>>, value: T) -> Self {
        Self { shared, time: None, steps: Steps::new(value), result: PhantomData }
    }

    /// Runs a closure on the state.
    pub fn step<U: Send + 'static>(
        self,
        step: impl FnOnce(&mut S, T) -> Result<U, E> + Send + 'static,
    ) -> Waterfall<S, U, E> {
        self.push(Compute::new(step))
    }

    /// Awaits a future that a closure creates from the state.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Scheduler};
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// # use chanrpc::CallError;
    /// handle
    ///     .waterfall::<CallError>()
    ///     .then(|state, ()| smol::future::ready(Ok::<_, CallError>(*state + 42)))
    ///     .finish(|state, n| *state = n.unwrap())?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert_eq!(smol::block_on(executor.run(owner)), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn then<U, F, G>(self, step: impl FnOnce(&mut S, T) -> F + Send + 'static) -> Waterfall<S, U, E>
    where
        U: Send + 'static,
        F: Future<Output = Result<U, G>> + Send + 'static,
        G: Into<E> + Send + 'static,
    {
        self.push(Await::new(step))
    }

    /// Calls the function of a typed id with the current result, and waits for room if its queue is full. `target` is a
    /// [`Client`](crate::chan::Client) or a `Remote`.
    pub fn call<C, K, R>(self, target: &C, id: Id<K, T, R>) -> Waterfall<S, R, E>
    where
        C: Target<T, R>,
        K: KindMarker<R>,
        R: Send + 'static,
    {
        self.push(Call::<C, T>::new(target, id.into_untyped(), K::KIND))
    }

    /// Calls a function without a result by its text, number or type. See [`call`](Self::call).
    pub fn call0<C: Target<T, ()>>(self, target: &C, id: impl Into<FunctionId>) -> Waterfall<S, (), E> {
        self.push(Call::<C, T>::new(target, id.into(), Kind::Zero))
    }

    /// Calls a function with one result by its text, number or type. See [`call`](Self::call).
    pub fn call1<R: Send + 'static>(
        self,
        target: &impl Target<T, R>,
        id: impl Into<FunctionId>,
    ) -> Waterfall<S, R, E> {
        self.push(Call::<_, T>::new(target, id.into(), Kind::One))
    }

    /// Calls a function with several results by its text, number or type. See [`call`](Self::call).
    pub fn call_n<R: Results>(
        self,
        target: &impl Target<T, R>,
        id: impl Into<FunctionId>,
    ) -> Waterfall<S, R, E> {
        self.push(Call::<_, T>::new(target, id.into(), Kind::Many))
    }

    /// Runs blocking work on another thread with the current result. It waits in the queue even if
    /// [`SchedulerSettings::jobs`](super::SchedulerSettings::jobs) jobs wait already. If the deadline passes before it begins, it never
    /// does.
    pub fn spawn_blocking<U: Send + 'static>(
        self,
        work: impl FnOnce(T) -> U + Send + 'static,
    ) -> Waterfall<S, U, E> {
        self.push(Block::new(work))
    }

    /// Ends the chain with [`CallError::Deadline`] unless all of it has run within this time from
    /// [`finish`](Self::finish).
    pub fn timeout(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Starts the chain. `callback` gets the state and the last result, or the first error.
    ///
    /// # Errors
    /// [`ScheduleError`] if too many are open, or the scheduler is closed.
    pub fn finish(
        self,
        callback: impl FnOnce(&mut S, Result<T, E>) + Send + 'static,
    ) -> Result<(), ScheduleError> {
        let Self { shared, time, steps, .. } = self;
        let guard = shared.open_guard()?;
        let chain = Chain::new(&shared, steps, time, guard, callback);
        shared.push_completion(Box::new(|state| chain.advance(state)));
        Ok(())
    }

    /// Adds a step, which is skipped after an error or the deadline.
    fn push<U: Send + 'static>(self, step: impl Work<S, E, U>) -> Waterfall<S, U, E> {
        let Self { shared, time, mut steps, .. } = self;
        steps.push(step);
        Waterfall { shared, time, steps, result: PhantomData }
    }
}

impl<S: 'static, T, E> fmt::Debug for Waterfall<S, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waterfall").field("time", &self.time).finish_non_exhaustive()
    }
}
