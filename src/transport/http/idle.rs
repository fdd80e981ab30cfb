//! Idle connections: bounds the wait for the next request head, and frees the buffers meanwhile.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;

use crate::transport::pipe::Stream;
use crate::transport::stream::Rewind;

/// A connection without a request for this long is idle and releases its buffers. Long enough that a busy connection
/// sets few timers.
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// Counts the requests of a connection.
#[derive(Debug, Default)]
pub(super) struct RequestCounter {
    started: AtomicU64,
    finished: AtomicU64,
}

impl RequestCounter {
    /// Counts a request whose head was received as in progress, until the guard is dropped.
    pub(super) fn start(&self) -> RequestGuard<'_> {
        self.started.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self)
    }

    /// Returns the number of request heads received.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Returns `true` if no request is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.started() == self.finished.load(Ordering::Relaxed)
    }
}

/// A request in progress.
pub(super) struct RequestGuard<'a>(&'a RequestCounter);

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.0.finished.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bounds the time that a connection waits for the next request head.
///
/// hyper's own timeout would set a timer for each request, and each timer wakes the thread that waits for all of them.
pub(super) struct IdleTimer {
    limit: Duration,
    /// The number of requests when the wait began, and its time.
    waiting: Option<(u64, Instant)>,
    /// Fires no later than the connection may become idle.
    timer: Timer,
    /// When the connection was last idle.
    last_idle: Option<Instant>,
}

/// Why [`IdleTimer::wait`] returned.
pub(super) enum IdleOutcome {
    /// More of a request head can be read, or the peer closed its side.
    Readable,
    /// The head was not received in time.
    HeadTimeout,
    /// The peer disconnected, or the node stops.
    Ended,
}

impl IdleTimer {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, waiting: None, timer: Timer::after(limit.min(IDLE_AFTER)), last_idle: None }
    }

    /// Returns `Ready` once the connection has waited long enough to be idle. `flushed` is `true` if all responses are
    /// written.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        requests: &RequestCounter,
        flushed: bool,
    ) -> Poll<()> {
        if !flushed || !requests.is_idle() {
            self.waiting = None;
            return Poll::Pending;
        }
        let started = requests.started();
        let since = match self.waiting {
            Some((before, since)) if before == started => since,
            _ => self.waiting.insert((started, Instant::now())).1,
        };
        // After an idle period, allow some time for the rest of the head.
        let idle_at = self.last_idle.map_or(since, |last| last.max(since)) + IDLE_AFTER;
        let idle_at = since.checked_add(self.limit).map_or(idle_at, |end| end.min(idle_at));
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            // Also after it has fired: it must fire again the next time.
            self.timer.set_at(idle_at);
            if idle_at <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }

    /// Waits until more of the head can be read, the time limit passes, or `end` completes.
    ///
    /// # Errors
    /// If the stream fails after a part of the head was received.
    pub(super) async fn wait<T: Stream>(
        &mut self,
        stream: &mut Rewind<T>,
        end: impl Future<Output = ()>,
    ) -> io::Result<IdleOutcome> {
        let has_partial_head = stream.has_prefix();
        let readable = async {
            match stream.peek().await {
                Ok(_) => Ok(IdleOutcome::Readable),
                Err(error) if has_partial_head => Err(error),
                // Many clients end an unused connection by a reset, or without TLS's close_notify.
                Err(_) => Ok(IdleOutcome::Ended),
            }
        };
        let deadline = self.waiting.and_then(|(_, since)| since.checked_add(self.limit));
        let timeout = async {
            deadline.map_or_else(Timer::never, Timer::at).await;
            Ok(IdleOutcome::HeadTimeout)
        };
        let ended = async {
            end.await;
            Ok(IdleOutcome::Ended)
        };
        // The timeout is polled first: a peer that sends byte by byte must not postpone it.
        let outcome = timeout.or(readable).or(ended).await;
        self.last_idle = Some(Instant::now());
        outcome
    }
}
