//! A stream whose first bytes can be inspected before they are read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};

/// A stream with a prefix of bytes that were peeked at or pushed back, and are read first.
#[derive(Debug)]
pub struct Rewind<T> {
    inner: T,
    prefix: Vec<u8>,
}

impl<T: AsyncRead + Unpin> Rewind<T> {
    /// Wraps a stream.
    pub fn new(inner: T) -> Self {
        Self { inner, prefix: Vec::new() }
    }

    /// Waits for more bytes and returns everything peeked so far. At the end of the stream it returns the same bytes
    /// again.
    ///
    /// # Errors
    /// If reading fails.
    pub async fn peek(&mut self) -> io::Result<&[u8]> {
        poll_fn(|cx| {
            // On the stack of each poll, so that it takes no memory while waiting.
            let mut bytes = [0; 512];
            let count = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut bytes))?;
            self.prefix.extend_from_slice(&bytes[..count]);
            Poll::Ready(io::Result::Ok(()))
        })
        .await?;
        Ok(&self.prefix)
    }

    /// Returns the prefix that is not yet read, and the stream that continues after it.
    pub fn into_parts(self) -> (Vec<u8>, T) {
        (self.prefix, self.inner)
    }

    /// Returns `true` if peeked bytes are not yet read.
    pub fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Pushes back bytes that were already read.
    #[must_use]
    pub fn rewind(mut self, bytes: &[u8]) -> Self {
        self.prefix.splice(..0, bytes.iter().copied());
        self
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, into);
        }
        let count = into.len().min(self.prefix.len());
        into[..count].copy_from_slice(&self.prefix[..count]);
        self.prefix.drain(..count);
        if self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewind<T> {
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
