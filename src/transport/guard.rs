//! What every stream from the outside is wrapped in.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
use smol::Timer;

/// Reads in a row before other tasks have their turn.
const TURN: u32 = 16;

/// Cuts off a peer that takes no byte of what is sent to it for a given time, and interrupts one that always has
/// more to say.
///
/// Without the first, a peer that never reads holds its output buffers, and whoever writes them, for ever; without
/// the second, a peer that floods holds the executor, since a socket is not waited for while it has bytes.
#[derive(Debug)]
pub struct Guarded<T> {
    inner: T,
    patience: Duration,
    /// Reads since the last that found nothing.
    reads: u32,
    /// Runs while the peer takes nothing.
    stalled: Option<Timer>,
}

impl<T> Guarded<T> {
    /// Wraps a stream whose peer may take nothing for at most `patience`.
    pub fn new(inner: T, patience: Duration) -> Self {
        Self { inner, patience, reads: 0, stalled: None }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timer = self.stalled.get_or_insert_with(|| Timer::after(self.patience));
        ready!(Pin::new(timer).poll(cx));
        // The write waits no more.
        self.stalled = None;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Stall)))
    }
}

/// The peer took nothing for too long.
#[derive(Debug)]
struct Stall;

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer does not read what is sent to it (limits.stall_timeout)")
    }
}

impl std::error::Error for Stall {}

pub(super) fn is_stall(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Stall>)
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reads += 1;
        if self.reads > TURN {
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

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    /// While a write waits for room, the stream is not flushed: the write has to go first, and a flush of smol's sockets
    /// (async-net 2.0) drops the waker that the write has left, so that nobody would be told of the room.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stalled.is_some() {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// A stream whose first bytes can be looked at before they are read.
#[derive(Debug)]
pub struct Peeked<T> {
    inner: T,
    /// Looked at and not yet read.
    first: Vec<u8>,
}

impl<T: AsyncRead + Unpin> Peeked<T> {
    /// Wraps a stream.
    pub fn new(inner: T) -> Self {
        Self { inner, first: Vec::new() }
    }

    /// Waits for more bytes than were looked at before, and returns all. No more come if they are no more.
    pub async fn peek(&mut self) -> io::Result<&[u8]> {
        poll_fn(|cx| {
            // Made anew at each look, so that it takes no memory in between.
            let mut bytes = [0; 512];
            let count = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut bytes))?;
            self.first.extend_from_slice(&bytes[..count]);
            Poll::Ready(io::Result::Ok(()))
        })
        .await?;
        Ok(&self.first)
    }

    /// Takes the bytes that were looked at, so that what is read next follows them, and the stream.
    pub fn into_parts(self) -> (Vec<u8>, T) {
        (self.first, self.inner)
    }

    /// Tells whether bytes were looked at that are not yet read.
    pub fn is_ahead(&self) -> bool {
        !self.first.is_empty()
    }

    /// Puts bytes in front that were read already.
    #[must_use]
    pub fn preceded_by(mut self, bytes: &[u8]) -> Self {
        self.first.splice(..0, bytes.iter().copied());
        self
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Peeked<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, into);
        }
        let count = into.len().min(self.first.len());
        into[..count].copy_from_slice(&self.first[..count]);
        self.first.drain(..count);
        if self.first.is_empty() {
            self.first = Vec::new();
        }
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Peeked<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A socket whose pipe is full, and whose flush drops the waker of who waits for room.
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
    fn a_write_that_has_failed_holds_up_no_flush() {
        let mut stream = Guarded::new(Full { waker: None }, Duration::ZERO);
        let written = smol::block_on(poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"x")));
        assert!(is_stall(&written.unwrap_err()));
        assert!(Pin::new(&mut stream).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn a_flush_leaves_the_waker_of_a_write() {
        let mut stream = Guarded::new(Full { waker: None }, Duration::from_secs(3600));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut stream).poll_flush(cx).is_ready());
        assert!(Pin::new(&mut stream).poll_write(cx, b"x").is_pending());
        assert!(Pin::new(&mut stream).poll_flush(cx).is_pending());
        assert!(stream.inner.waker.is_some(), "nobody is told of room");
    }
}
