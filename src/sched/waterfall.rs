//! Async steps, one after the other.
//!
//! A chain is built of continuations: each step is told what comes after it. It runs on the loop where it needs the
//! state, and on the executor where it waits, and hands itself from one to the other.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;

use super::error::Rejected;
use super::service::Service;
use crate::chan::{Answer, CallError, Client, FunctionId, Kind, Many, Names, One, Results, Zero};

/// A chain of steps, each fed with the result of the one before, that ends at the first error. Nothing happens before
/// [`finish`](Self::finish).
///
/// `T` is the result so far, and `E` the error, into which [`CallError`] can turn. The loop is never blocked, and a
/// panic in a step is [`CallError::Panicked`].
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use chanrpc::chan::{CallError, Functions, Server};
/// use chanrpc::sched::{Handle, Scheduler};
///
/// let mut prices = Functions::new();
/// prices.register1("price", |_: &mut (), item: String| item.len() as u32)?;
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
///     .call1::<u32>(&price, "price")
///     .job(|price| price * 2) // something slow
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
    service: Arc<Service<S>>,
    deadline: Option<Duration>,
    chain: Chain<S, T, E>,
}

/// The steps so far, to be run with the state and what comes after them.
type Chain<S, T, E> = Box<dyn FnOnce(&mut S, Run, After<S, T, E>) -> Next<S> + Send>;
/// What comes after a step.
type After<S, T, E> = Box<dyn FnOnce(&mut S, Run, Result<T, E>) -> Next<S> + Send>;
/// A future whose output goes on with the state.
type Wait<S> = Pin<Box<dyn Future<Output = Resume<S>> + Send>>;
type Resume<S> = Box<dyn FnOnce(&mut S) -> Next<S> + Send>;

/// What all steps of one run know.
#[derive(Clone, Copy)]
struct Run {
    deadline: Option<Instant>,
}

impl Run {
    /// Nothing that comes after the deadline is a result.
    fn in_time<T, E: From<CallError>>(self, result: Result<T, E>) -> Result<T, E> {
        match self.deadline {
            Some(at) if result.is_ok() && at <= Instant::now() => Err(CallError::Deadline.into()),
            _ => result,
        }
    }

    fn left(self) -> Option<Duration> {
        self.deadline.map(|at| at.saturating_duration_since(Instant::now()))
    }

    async fn limit<T>(self, future: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        match self.deadline {
            Some(at) => {
                let late = async {
                    Timer::at(at).await;
                    Err(CallError::Deadline)
                };
                future.or(late).await
            }
            None => future.await,
        }
    }
}

/// Where a chain goes on.
enum Next<S> {
    Wait(Wait<S>),
    /// In a callback, or nowhere.
    End,
}

impl<S, T, E> Waterfall<S, T, E>
where
    S: 'static,
    T: Send + 'static,
    E: From<CallError> + Send + 'static,
{
    pub(super) fn new(service: Arc<Service<S>>, value: T) -> Self {
        let chain: Chain<S, T, E> = Box::new(|state, run, after| after(state, run, Ok(value)));
        Self { service, deadline: None, chain }
    }

    /// Computes something with the state.
    pub fn step<U: Send + 'static>(
        self,
        step: impl FnOnce(&mut S, T) -> Result<U, E> + Send + 'static,
    ) -> Waterfall<S, U, E> {
        let service = self.service.clone();
        self.link(move |state, run, value, after: After<S, U, E>| {
            let result = match service.host.watch("a step", || step(state, value)) {
                Ok(result) => result,
                Err(error) => Err(error.into()),
            };
            after(state, run, result)
        })
    }

    /// Awaits a future that is made with the state: a call to another node, for instance.
    pub fn then<U, F, G>(self, step: impl FnOnce(&mut S, T) -> F + Send + 'static) -> Waterfall<S, U, E>
    where
        U: Send + 'static,
        F: Future<Output = Result<U, G>> + Send + 'static,
        G: Into<E> + Send + 'static,
    {
        let service = self.service.clone();
        self.link(move |state, run, value, after: After<S, U, E>| {
            let future = match service.host.watch("a step", || step(state, value)) {
                Ok(future) => future,
                Err(error) => return after(state, run, Err(error.into())),
            };
            Next::Wait(Box::pin(async move {
                let limited = run.limit(service.host.watch_future("a step", future)).await;
                let result = limited.map_err(E::from).and_then(|result| result.map_err(Into::into));
                let resume: Resume<S> = Box::new(move |state| after(state, run, result));
                resume
            }))
        })
    }

    /// Calls a function of no result with the result so far, waiting for room if its queue is full.
    pub fn call0(self, client: &Client, id: impl Names<Zero, T, ()>) -> Waterfall<S, (), E> {
        self.call(client, id.into(), Kind::Zero)
    }

    /// Calls a function of one result with the result so far. See [`call0`](Self::call0).
    pub fn call1<R: Send + 'static>(self, client: &Client, id: impl Names<One, T, R>) -> Waterfall<S, R, E> {
        self.call(client, id.into(), Kind::One)
    }

    /// Calls a function of several results with the result so far. See [`call0`](Self::call0).
    pub fn call_n<R: Results>(self, client: &Client, id: impl Names<Many, T, R>) -> Waterfall<S, R, E> {
        self.call(client, id.into(), Kind::Many)
    }

    fn call<R: Send + 'static>(self, client: &Client, id: FunctionId, kind: Kind) -> Waterfall<S, R, E> {
        let (service, client) = (self.service.clone(), client.clone());
        self.link(move |_, run, arguments, after: After<S, R, E>| {
            let driver = service.clone();
            let go_on = move |state: &mut S, result: Result<R, CallError>| {
                drive(&driver, after(state, run, result.map_err(E::from)));
            };
            // An async call of the loop itself is the shortest way. Only where there is no room for it, a task waits.
            match service.call(&client, (&id, kind), arguments, run.left(), go_on) {
                Ok(()) => Next::End,
                Err((arguments, go_on)) => Next::Wait(Box::pin(async move {
                    let result = run.limit(client.call(&id, kind, arguments).elsewhere()).await;
                    let resume: Resume<S> = Box::new(move |state| {
                        go_on(state, result);
                        Next::End
                    });
                    resume
                })),
            }
        })
    }

    /// Runs something that blocks on another thread, with the result so far.
    pub fn job<U: Send + 'static>(self, work: impl FnOnce(T) -> U + Send + 'static) -> Waterfall<S, U, E> {
        let service = self.service.clone();
        self.then(move |_, value| {
            let (responder, answer) = Answer::from(service.host.clone());
            let host = service.host.clone();
            // A panic drops the responder, which answers with it.
            let job = move || drop(host.watch("a job", move || responder.reply(work(value))));
            let taken = service.jobs.run(Box::new(job)).is_ok();
            async move { if taken { answer.await } else { Err(CallError::Full) } }
        })
    }

    /// Ends the chain with [`CallError::Deadline`] unless all of it has run within this time from [`finish`](Self::finish).
    pub fn timeout(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Starts the chain; `callback` gets the state and the last result, or the first error.
    ///
    /// # Errors
    /// [`Rejected`]: too much is open, or the scheduler is closed.
    pub fn finish(
        self,
        callback: impl FnOnce(&mut S, Result<T, E>) + Send + 'static,
    ) -> Result<(), Rejected> {
        let Self { service, deadline, chain } = self;
        let permit = service.permit()?;
        let run = Run { deadline: deadline.and_then(|time| Instant::now().checked_add(time)) };
        let driver = service.clone();
        service.give_back(Box::new(move |state| {
            let last: After<S, T, E> = Box::new(move |state, run, result| {
                drop(permit);
                callback(state, run.in_time(result));
                Next::End
            });
            drive(&driver, chain(state, run, last));
        }));
        Ok(())
    }

    /// Puts a step behind those there are. It is left out after an error or the deadline.
    fn link<U: Send + 'static>(
        self,
        step: impl FnOnce(&mut S, Run, T, After<S, U, E>) -> Next<S> + Send + 'static,
    ) -> Waterfall<S, U, E> {
        let Self { service, deadline, chain } = self;
        let chain: Chain<S, U, E> = Box::new(move |state, run, after| {
            let next: After<S, T, E> = Box::new(move |state, run, result| match run.in_time(result) {
                Ok(value) => step(state, run, value, after),
                Err(error) => after(state, run, Err(error)),
            });
            chain(state, run, next)
        });
        Waterfall { service, deadline, chain }
    }
}

/// Goes on with a chain, on the executor as long as it waits.
fn drive<S: 'static>(service: &Arc<Service<S>>, next: Next<S>) {
    let Next::Wait(wait) = next else { return };
    let driver = service.clone();
    service.spawn(async move {
        let resume = wait.await;
        let service = driver.clone();
        driver.give_back(Box::new(move |state| drive(&service, resume(state))));
    });
}

impl<S: 'static, T, E> fmt::Debug for Waterfall<S, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waterfall").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
