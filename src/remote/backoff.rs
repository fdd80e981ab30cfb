//! The waits between attempts to connect.

use std::future::Future;
use std::time::Duration;

use smol::Timer;
use smol::future::{FutureExt, pending};

/// The shortest wait.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait, before jitter.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// How long a connection must last to count as established: a peer that accepts connections and closes them is no better
/// than one that refuses them.
const ESTABLISHED: Duration = MAX_BACKOFF;

/// The wait before the next attempt, which doubles with each until a connection lasts.
pub(super) struct Backoff {
    next: Duration,
    /// A failure has been logged, and no connection has lasted since.
    is_failing: bool,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: MIN_BACKOFF, is_failing: false }
    }

    /// Drives a connection that has been made to `address`, and notes if it lasts.
    pub(super) async fn while_connected<T>(
        &mut self,
        address: &str,
        connection: impl Future<Output = T>,
    ) -> T {
        let lasts = async {
            Timer::after(ESTABLISHED).await;
            if self.is_failing {
                log::info!("reconnected to {address}");
            }
            *self = Self::new();
            pending().await
        };
        connection.or(lasts).await
    }

    /// Logs why there is no connection. Returns `true` unless that repeats an earlier failure.
    pub(super) fn failed(&mut self, address: &str, reason: &str) -> bool {
        let is_first = !std::mem::replace(&mut self.is_failing, true);
        let level = if is_first { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "no connection to {address}: {reason}");
        is_first
    }

    /// Returns the next wait. It has jitter, so that many clients of one node do not reconnect at the same moment.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + fastrand::f64());
        self.next = (self.next * 2).min(MAX_BACKOFF);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_that_lasts_ends_the_waits() {
        smol::block_on(async {
            let mut backoff = Backoff::new();
            for attempt in 0..8 {
                assert_eq!(backoff.failed("a:1", "closed by the peer"), attempt == 0);
                backoff.next();
                backoff.while_connected("a:1", async {}).await;
            }
            assert!(backoff.next() >= MAX_BACKOFF / 2);
            let lasting = backoff.while_connected("a:1", pending());
            lasting.or(async { _ = Timer::after(ESTABLISHED).await }).await;
            assert!(backoff.next() < 2 * MIN_BACKOFF);
            assert!(backoff.failed("a:1", "closed by the peer"));
        });
    }
}
