//! Reads that would most likely be in vain.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};

/// A stream that is not asked for more once a read has taken all that was there, until its reader
/// [resumes](Self::resume): answers to what has come go out first, and with them perhaps the peer's reason to say more.
#[derive(Debug)]
pub(super) struct Sparing<T> {
    inner: T,
    /// The latest read left nothing.
    drained: bool,
    /// There was a read since, which was put off.
    put_off: bool,
}

impl<T> Sparing<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, drained: false, put_off: false }
    }

    /// Lets the stream be read again. Tells whether a read was put off, and so must be tried again: nobody will be woken
    /// for it.
    pub(super) fn resume(&mut self) -> bool {
        self.drained = false;
        std::mem::take(&mut self.put_off)
    }

    /// The stream itself.
    pub(super) fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Sparing<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.drained {
            self.put_off = true;
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        self.drained = matches!(read, Poll::Ready(Ok(count)) if 0 < count && count < into.len());
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sparing<T> {
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
