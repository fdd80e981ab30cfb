//! Protects a node from peers that do not read, and from peers that never stop sending.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
use smol::Timer;

/// Consecutive reads before other tasks run.
const MAX_READS: u32 = 16;

/// Fails writes if the peer accepts no byte for a given time, and yields after a number of consecutive reads.
///
/// Without the timeout, a peer that never reads would hold its output buffers, and the task that writes them, for ever.
/// Without the yield, a peer that sends without pause would occupy the executor, since a readable socket never blocks.
#[derive(Debug)]
pub struct StallTimeout<T> {
    inner: T,
    timeout: Duration,
    /// Reads since the last one that blocked.
    reads: u32,
    /// Runs while a write is blocked.
    timer: Option<Timer>,
}

impl<T> StallTimeout<T> {
    /// Wraps a stream whose writes fail after being blocked for `timeout`.
    pub fn new(inner: T, timeout: Duration) -> Self {
        Self { inner, timeout, reads: 0, timer: None }
    }

    fn check_timeout(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Timer::after(self.timeout));
        ready!(Pin::new(timer).poll(cx));
        // The write is no longer blocked: it has failed.
        self.timer = None;
        Poll::Ready(Err(stall_error()))
    }
}

#[derive(Debug)]
struct Stalled;

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer does not read the data sent to it (limits.stall_timeout)")
    }
}

impl std::error::Error for Stalled {}

/// Returns the error of a peer that does not read.
pub(in crate::transport) fn stall_error() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, Stalled)
}

pub(in crate::transport) fn is_stall_timeout(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Stalled>)
}

impl<T: AsyncRead + Unpin> AsyncRead for StallTimeout<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reads += 1;
        if self.reads > MAX_READS {
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        if read.is_pending() {
            self.reads = 0;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StallTimeout<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.check_timeout(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.check_timeout(cx, written)
    }

    /// Does not flush while a write is blocked: the write must complete first, and a flush of smol's sockets (async-net
    /// 2.0) drops the waker registered by the write, so that the writer would never be woken.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.timer.is_some() {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use super::*;

    /// A socket that accepts nothing, and whose flush drops the waker of a blocked write.
    struct Full {
        waker: Option<Waker>,
    }

    impl AsyncWrite for Full {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            self.waker = Some(cx.waker().clone());
            Poll::Pending
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.waker = None;
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn failed_write_does_not_block_flush() {
        let mut stream = StallTimeout::new(Full { waker: None }, Duration::ZERO);
        let written = smol::block_on(poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"x")));
        assert!(is_stall_timeout(&written.unwrap_err()));
        assert!(Pin::new(&mut stream).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn flush_keeps_waker_of_blocked_write() {
        let mut stream = StallTimeout::new(Full { waker: None }, Duration::from_secs(3600));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut stream).poll_flush(cx).is_ready());
        assert!(Pin::new(&mut stream).poll_write(cx, b"x").is_pending());
        assert!(Pin::new(&mut stream).poll_flush(cx).is_pending());
        assert!(stream.inner.waker.is_some(), "the blocked writer is never woken");
    }
}
