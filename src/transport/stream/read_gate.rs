//! Suppresses reads that would most likely block.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};

/// A stream that is not read again after a read has drained it (a short read), until its owner [resumes](Self::resume)
/// it. Replies to the data just read are sent first; often the peer sends no more before it has them. This saves the
/// system call that would return `EAGAIN`.
#[derive(Debug)]
pub(in crate::transport) struct ReadGate<T> {
    inner: T,
    /// The last read was short.
    drained: bool,
    /// A read was suppressed since.
    suppressed: bool,
}

impl<T> ReadGate<T> {
    pub(in crate::transport) fn new(inner: T) -> Self {
        Self { inner, drained: false, suppressed: false }
    }

    /// Lets the stream be read again. Returns `true` if a read was suppressed and must be retried now, since no waker
    /// is registered for it.
    pub(in crate::transport) fn resume(&mut self) -> bool {
        self.drained = false;
        std::mem::take(&mut self.suppressed)
    }

    pub(in crate::transport) fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    pub(in crate::transport) fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadGate<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.drained {
            self.suppressed = true;
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        self.drained = matches!(read, Poll::Ready(Ok(count)) if 0 < count && count < into.len());
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadGate<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
