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
    /// When the latest rest ended.
    rested: Option<Instant>,
}

/// What ends a rest.
pub(super) enum Rested {
    /// More of the head is there, or the peer says no more.
    More,
    /// The head has not come in time.
    Late,
    /// The peer has gone without a word, or whoever was to end the rest did.
    Over,
}

impl Wait {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, began: None, timer: Timer::after(limit.min(LULL)), rested: None }
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
        // One that has just rested has a while for the remainder of the head.
        let lull = self.rested.map_or(began, |rested| rested.max(began)) + LULL;
        let lull = began.checked_add(self.limit).map_or(lull, |end| end.min(lull));
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            // Also if it has fired: it has to fire again the next time.
            self.timer.set_at(lull);
            if lull <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }

    /// Waits on until more of the head comes, or it is too late, or there is a reason to `end`.
    ///
    /// # Errors
    /// The stream's, if a part of the head had come.
    pub(super) async fn rest<T: Stream>(
        &mut self,
        stream: &mut Peeked<T>,
        end: impl Future<Output = ()>,
    ) -> io::Result<Rested> {
        let has_begun = stream.is_ahead();
        let more = async {
            match stream.peek().await {
                Ok(_) => Ok(Rested::More),
                Err(error) if has_begun => Err(error),
                // Many end a connection that nobody needs any more by a reset, or without TLS's last words.
                Err(_) => Ok(Rested::Over),
            }
        };
        let deadline = self.began.and_then(|(_, began)| began.checked_add(self.limit));
        let late = async {
            deadline.map_or_else(Timer::never, Timer::at).await;
            Ok(Rested::Late)
        };
        let over = async {
            end.await;
            Ok(Rested::Over)
        };
        // Late first: a peer that sends bit by bit would put it off.
        let rested = late.or(more).or(over).await;
        self.rested = Some(Instant::now());
        rested
    }
}
