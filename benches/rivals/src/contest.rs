//! What contestants do, each in its own best way.

use std::future::Future;
use std::time::Duration;

use crate::platform::Platform;
use crate::server::State;

/// What can be started to take part.
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

    /// Has [`State::note`] called, and does not wait for it. There is room for the message.
    fn go(&self, n: u64);

    /// Calls [`State::echo`] `in_flight` times before it looks at the first answer, and that `bursts` times.
    /// Adds up the answers.
    fn bursts(&self, bursts: u32, in_flight: u32) -> impl Future<Output = u64> + Send;

    /// Calls [`State::echo`] of three servers, each with what the one before answered.
    fn waterfall(steps: &[Self; 3], n: u64) -> impl Future<Output = u64> + Send {
        async move {
            let [a, b, c] = steps;
            c.call1(b.call1(a.call1(n).await).await).await
        }
    }
}

/// [`Contestant::bursts`] of those whose calls begin before they are awaited: they are kept, and then awaited in
/// their order, which is how the answers come. That is cheaper than to select among them.
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

/// Those whose server's loop runs closures for others.
pub(crate) trait Posts: Entrant {
    /// Has `job` run on the server's loop, and waits for what it gives.
    fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> impl Future<Output = u64> + Send;
}

/// A loop with timers that run something on its state.
pub(crate) trait Timers: Entrant {
    type Armed: Send;

    /// Arms `timers` timers, each to call [`State::note`]. The clock knows them all when this is done.
    fn arm(&mut self, timers: u32, after: Duration) -> impl Future<Output = Self::Armed> + Send;

    /// Cancels timers; nothing is left of them when this is done.
    fn cancel(&mut self, armed: Self::Armed) -> impl Future<Output = ()> + Send;

    /// Waits, idle, until the timers are due, no later than `after` from now. Where the caller runs the loop,
    /// this runs it until all of them have fired.
    fn fire(&mut self, armed: Self::Armed, after: Duration) -> impl Future<Output = ()> + Send;
}
