//! The heads of requests over HTTP: which have come, and how long the next may take.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smol::Timer;

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

/// Bounds how long a connection waits for the next head.
///
/// hyper's own bound sets a timer for each request, and each timer wakes the thread that waits for them all.
pub(super) struct HeadTimeout {
    limit: Duration,
    /// How many heads had come when the waiting began, and when that was.
    waiting: Option<(u64, Instant)>,
    /// Not later than the waiting may end.
    timer: Timer,
}

impl HeadTimeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, waiting: None, timer: Timer::after(limit) }
    }

    /// `Ready` once a connection whose answers are all `out` has waited for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress, out: bool) -> Poll<()> {
        if !out || !progress.is_settled() {
            self.waiting = None;
            return Poll::Pending;
        }
        let heads = progress.heads();
        let since = match self.waiting {
            Some((before, since)) if before == heads => since,
            _ => self.waiting.insert((heads, Instant::now())).1,
        };
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            let end = since + self.limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.set_at(end);
        }
    }
}
