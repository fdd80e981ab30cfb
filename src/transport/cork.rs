//! Writes that are gathered until whoever writes has nothing more to say for now.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_lite::io::AsyncRead;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::Stream;
use super::outbox::Outbox;
use super::sparing::Sparing;
use super::stream::with_landing;

/// One of two hands on a stream. hyper has the one and reads and writes, and its flushes do nothing; who has the other lets
/// out what was gathered. So all answers to what was read at once are written at once.
pub(super) struct Cork<T>(Arc<Mutex<Corked<T>>>);

struct Corked<T> {
    stream: Sparing<T>,
    gathered: Outbox,
    /// Why it does not go out. The one who reads and writes is told.
    error: Option<io::Error>,
    /// A read or a write had to wait.
    blocked: bool,
    /// The latest write had to wait: the other hand has more.
    held_up: bool,
}

impl<T: Stream> Cork<T> {
    /// Takes hold of a stream with both hands.
    pub(super) fn new(stream: T) -> (Self, Self) {
        let stream = Sparing::new(stream);
        let corked =
            Corked { stream, gathered: Outbox::default(), error: None, blocked: false, held_up: false };
        let corked = Arc::new(Mutex::new(corked));
        (Self(corked.clone()), Self(corked))
    }

    /// Tells whether the other hand has something to write for which there was no room.
    pub(super) fn is_held_up(&self) -> bool {
        self.lock().held_up
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

    /// Tells whether the other hand has had to wait since the last time.
    pub(super) fn take_blocked(&self) -> bool {
        std::mem::take(&mut self.lock().blocked)
    }

    /// Lets the stream be read again, with what was gathered on its way. Tells whether the other hand must try that.
    pub(super) fn resume(&self) -> bool {
        self.lock().stream.resume()
    }

    /// Lets go of the stream, if `other` is the other hand. What was gathered and not let out is lost.
    pub(super) fn into_inner(self, other: Self) -> Option<T> {
        drop(other);
        let corked = Arc::into_inner(self.0)?;
        Some(corked.into_inner().unwrap_or_else(PoisonError::into_inner).stream.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Corked<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Stream> Corked<T> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered.poll_out(cx, &mut self.stream)
    }
}

impl<T: Stream> Read for Cork<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut corked = self.lock();
        if let Some(error) = corked.error.take() {
            return Poll::Ready(Err(error));
        }
        // hyper's buffer is not initialised, and to do that takes longer than to copy what comes.
        let read = with_landing(|landing| {
            let room = into.remaining().min(landing.len());
            let count = ready!(Pin::new(&mut corked.stream).poll_read(cx, &mut landing[..room]))?;
            into.put_slice(&landing[..count]);
            Poll::Ready(Ok(()))
        });
        corked.blocked |= read.is_pending();
        read
    }
}

impl<T: Stream> Write for Cork<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut corked = self.lock();
        if let Some(error) = corked.error.take() {
            return Poll::Ready(Err(error));
        }
        if corked.gathered.is_full() {
            let out = corked.poll_out(cx);
            corked.held_up = out.is_pending();
            corked.blocked |= corked.held_up;
            ready!(out)?;
        }
        Poll::Ready(Ok(corked.gathered.take_some(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The other hand sees to that.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
