//! An async call of a loop.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::error::ScheduleError;
use super::shared::{Phase, Shared};
use crate::chan::{CallError, FunctionId, Kind, Target};

/// An async call, made by [`then`](Self::then). Its callback runs on the loop after every outcome.
#[must_use = "nothing is called before `then`"]
pub struct HandleCall<'h, S: 'static, T, A, R> {
    shared: &'h Arc<Shared<S>>,
    target: &'h T,
    id: FunctionId,
    kind: Kind,
    arguments: A,
    timeout: Option<Duration>,
    result: PhantomData<fn() -> R>,
}

impl<'h, S: 'static, T, A, R> HandleCall<'h, S, T, A, R> {
    pub(super) fn new(
        shared: &'h Arc<Shared<S>>,
        target: &'h T,
        id: FunctionId,
        kind: Kind,
        arguments: A,
    ) -> Self {
        Self { shared, target, id, kind, arguments, timeout: None, result: PhantomData }
    }
}

impl<S: 'static, T: Target<A, R>, A: Send + 'static, R: Send + 'static> HandleCall<'_, S, T, A, R> {
    /// Ends the call with [`CallError::Deadline`] unless it is answered within `timeout` from [`then`](Self::then).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{CallError, Functions, Id1, Scheduler, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| false);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// // Nothing runs the server.
    /// let call = handle.call(&client, ADD, 5).timeout(Duration::from_millis(1));
    /// call.then(|late, sum| *late = sum == Err(CallError::Deadline))?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// assert!(smol::block_on(executor.run(owner)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the call. `callback` gets the loop's state and the result.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use chanrpc::{CallError, Functions, Id1, Scheduler, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| Vec::new());
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// handle.call(&client, ADD, 5).then(|log, sum| log.push(sum))?;
    /// handle.call1(&client, "subtract", 5).then(|log, difference| log.push(difference))?;
    /// # assert!(smol::block_on(executor.run(handle.drain(Duration::from_secs(20)))));
    /// let log = smol::block_on(executor.run(owner));
    /// assert!(log.contains(&Ok(5)));
    /// assert!(log.contains(&Err(CallError::Unknown("subtract".into()))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ScheduleError`] if too many calls are pending or the scheduler is closed. Every other error goes to the
    /// callback.
    pub fn then(
        self,
        callback: impl FnOnce(&mut S, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), ScheduleError> {
        let Self { shared, target, id, kind, arguments, timeout, .. } = self;
        if shared.phase() == Phase::Closed {
            return Err(ScheduleError::Closed);
        }
        // The lock is released before the call is made, which may drop values of the user's.
        let prepared = shared.callbacks().prepare(|| target.counter(), timeout, callback);
        match prepared {
            Ok(prepared) => prepared.submit(target, &id, kind, arguments),
            Err(callback) => {
                drop(callback);
                return Err(ScheduleError::Full { setting: "calls", limit: shared.callbacks().limit() });
            }
        }
        Ok(())
    }
}

impl<S: 'static, T, A, R> fmt::Debug for HandleCall<'_, S, T, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleCall")
            .field("function", &self.id)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
