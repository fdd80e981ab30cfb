//! The operations that contestants implement, each in its own best way.

use std::future::Future;
use std::time::Duration;

use crate::platform::Platform;
use crate::server::State;

/// A contestant that can be started.
pub(crate) trait Entrant: Send + Sync + Sized + 'static {
    type Platform: Platform;

    fn name() -> String;

    fn start(on: &Self::Platform, state: State) -> impl Future<Output = Self> + Send;
}

/// A caller's handle to a server.
pub(crate) trait Contestant: Entrant + Clone {
    /// Calls [`State::nothing`].
    fn call0(&self, n: u64) -> impl Future<Output = ()> + Send;

    /// Calls [`State::echo`].
    fn call1(&self, n: u64) -> impl Future<Output = u64> + Send;

    /// Calls [`State::twice`].
    fn call_n(&self, n: u64) -> impl Future<Output = (u64, u64)> + Send;

    /// Calls [`State::echo`] from a thread that has no executor.
    fn wait1(&self, n: u64) -> u64 {
        smol::future::block_on(self.call1(n))
    }

    /// Calls [`State::note`] without waiting. The queue has room for the message.
    fn go(&self, n: u64);

    /// Starts `in_flight` calls of [`State::echo`] before awaiting the first result, `bursts` times. Returns the sum of
    /// the results.
    fn bursts(&self, bursts: u32, in_flight: u32) -> impl Future<Output = u64> + Send;

    /// Calls [`State::echo`] of three servers, each with the result of the previous one.
    fn waterfall(steps: &[Self; 3], n: u64) -> impl Future<Output = u64> + Send {
        async move {
            let [a, b, c] = steps;
            c.call1(b.call1(a.call1(n).await).await).await
        }
    }
}

/// Implements [`Contestant::bursts`] for contestants whose calls start before they are awaited. The calls are collected
/// and awaited in order, which is the order of the replies; this is cheaper than selecting among them.
pub(crate) async fn collect<F: Future<Output = u64>>(
    bursts: u32,
    in_flight: u32,
    begin: impl Fn(u64) -> F,
) -> u64 {
    let mut begun = Vec::with_capacity(in_flight as usize);
    let mut sum = 0;
    for _ in 0..bursts {
        begun.extend((0..in_flight).map(|n| begin(u64::from(n))));
        for answer in begun.drain(..) {
            sum += answer.await;
        }
    }
    sum
}

/// A contestant whose server's loop runs closures for others.
pub(crate) trait Posts: Entrant {
    /// Runs `job` on the server's loop and returns its result.
    fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> impl Future<Output = u64> + Send;
}

/// A contestant whose loop has timers that run functions on its state.
pub(crate) trait Timers: Entrant {
    type Armed: Send;

    /// Arms `timers` timers, each of which calls [`State::note`]. Returns when all are registered with the clock.
    fn arm(&mut self, timers: u32, after: Duration) -> impl Future<Output = Self::Armed> + Send;

    /// Cancels timers. Returns when they are removed.
    fn cancel(&mut self, armed: Self::Armed) -> impl Future<Output = ()> + Send;

    /// Waits idle until the timers are due, at most `after` from now. If the caller runs the loop, runs it until all
    /// timers have fired.
    fn fire(&mut self, armed: Self::Armed, after: Duration) -> impl Future<Output = ()> + Send;
}
