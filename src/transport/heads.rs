//! The heads of requests over HTTP: which have come, and how long the next may take.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;

use super::{Peeked, Stream};

/// A connection that has waited for so long rests: what it would read and write with is given back. Long enough that one
/// which is busy sets few timers.
const LULL: Duration = Duration::from_millis(100);

/// Which requests of a connection have come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    heads: AtomicU64,
    answered: AtomicU64,
}

impl Progress {
    /// Counts a request whose head is there, until it is answered or dropped.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.heads.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// How many heads have come.
    pub(super) fn heads(&self) -> u64 {
        self.heads.load(Ordering::Relaxed)
    }

    /// Tells whether no request is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.heads() == self.answered.load(Ordering::Relaxed)
    }
}

/// A request from when its head is there.
pub(super) struct UnderWay<'a>(&'a Progress);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bounds how long a connection waits for the next head, of which it spends most at rest.
///
/// hyper's own bound sets a timer for each request, and each timer wakes the thread that waits for them all.
pub(super) struct Wait {
    limit: Duration,
    /// How many heads had come when the waiting began, and when that was.
    began: Option<(u64, Instant)>,
    /// Not later than the rest may begin.
    timer: Timer,
}

/// What ends a rest.
pub(super) enum Rested {
    /// More is there, or nothing more will come.
    Woken,
    /// The head has not come in time.
    Late,
    /// Whoever was to interrupt it did.
    Interrupted,
}

impl Wait {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, began: None, timer: Timer::after(limit.min(LULL)) }
    }

    /// `Ready` once a connection whose answers are all `out` has waited long enough to rest.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress, out: bool) -> Poll<()> {
        if !out || !progress.is_settled() {
            self.began = None;
            return Poll::Pending;
        }
        let heads = progress.heads();
        let began = match self.began {
            Some((before, began)) if before == heads => began,
            _ => self.began.insert((heads, Instant::now())).1,
        };
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            let lull = began + self.limit.min(LULL);
            if lull <= Instant::now() {
                self.timer.set_at(lull);
                return Poll::Ready(());
            }
            self.timer.set_at(lull);
        }
    }

    /// Waits on until more of the head comes, or it is too late, or `interrupt` is there.
    ///
    /// # Errors
    /// The stream's.
    pub(super) async fn rest<T: Stream>(
        &self,
        stream: &mut Peeked<T>,
        interrupt: impl Future<Output = ()>,
    ) -> io::Result<Rested> {
        let end = self.began.map_or_else(Instant::now, |(_, began)| began + self.limit);
        let woken = async { stream.peek().await.map(|_| Rested::Woken) };
        let late = async {
            Timer::at(end).await;
            Ok(Rested::Late)
        };
        let interrupted = async {
            interrupt.await;
            Ok(Rested::Interrupted)
        };
        // Late first: a peer that sends bit by bit would put it off.
        late.or(woken).or(interrupted).await
    }
}
