//! Writes that are gathered until whoever writes has nothing more to say for now.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};

use super::Stream;
use super::sparing::Sparing;

/// With so many bytes gathered, writing goes on before more are.
const ROOM: usize = 16 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEPT: usize = 1024;

/// One of two hands on a stream. Who has the one reads and writes, and its flushes do nothing; who has the other lets
/// out what was gathered. So all answers to what was read at once are written at once.
pub(super) struct Cork<T>(Arc<Mutex<Corked<T>>>);

struct Corked<T> {
    stream: Sparing<T>,
    gathered: Vec<u8>,
    /// How many of these have gone out.
    sent: usize,
    /// Why they do not go out. The one who reads and writes is told.
    error: Option<io::Error>,
}

impl<T: Stream> Cork<T> {
    /// Takes hold of a stream with both hands.
    pub(super) fn new(stream: T) -> (Self, Self) {
        let stream = Sparing::new(stream);
        let corked = Corked { stream, gathered: Vec::new(), sent: 0, error: None };
        let corked = Arc::new(Mutex::new(corked));
        (Self(corked.clone()), Self(corked))
    }

    /// Writes what was gathered. If that fails, the other hand will find the stream broken.
    pub(super) fn poll_out(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut corked = self.lock();
        if let Err(error) = ready!(corked.poll_out(cx)) {
            corked.error = Some(error);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(())
    }

    /// Lets the stream be read again, with what was gathered on its way. Tells whether the other hand must try that.
    pub(super) fn resume(&self) -> bool {
        self.lock().stream.resume()
    }

    /// Lets go of the stream, once the other hand has. What was gathered and not let out is lost.
    pub(super) fn into_inner(self) -> Option<T> {
        let corked = Arc::into_inner(self.0)?;
        Some(corked.into_inner().unwrap_or_else(PoisonError::into_inner).stream.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Corked<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Stream> Corked<T> {
    /// Writes what was gathered. After an error there is nothing left to write.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = ready!(self.poll_write_all(cx));
        self.sent = 0;
        self.gathered.clear();
        self.gathered.shrink_to(KEPT);
        written?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Stream> AsyncRead for Cork<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut corked = self.lock();
        match corked.error.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut corked.stream).poll_read(cx, into),
        }
    }
}

impl<T: Stream> AsyncWrite for Cork<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut corked = self.lock();
        if let Some(error) = corked.error.take() {
            return Poll::Ready(Err(error));
        }
        if corked.gathered.len() - corked.sent >= ROOM {
            ready!(corked.poll_out(cx))?;
        }
        corked.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut corked = self.lock();
        ready!(corked.poll_out(cx))?;
        Pin::new(&mut corked.stream).poll_close(cx)
    }
}
