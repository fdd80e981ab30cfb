//! Collects output until the writer has nothing more to write for now, like `TCP_CORK`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_lite::io::AsyncRead;
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::transport::pipe::Stream;
use crate::transport::stream::{ReadGate, WriteBuffer, with_read_buffer};

/// The handle that controls a [`CorkedStream`]: the responses to everything that was read at once are written with one
/// system call, when the owner of the cork flushes them.
pub(super) struct Cork<T>(Arc<Mutex<SharedIo<T>>>);

/// The handle that hyper reads and writes through. Its `flush` is a no-op.
pub(super) struct CorkedStream<T>(Arc<Mutex<SharedIo<T>>>);

/// What the two handles share.
struct SharedIo<T> {
    stream: ReadGate<T>,
    output: WriteBuffer,
    /// An error of [`Cork::poll_uncork`], to be returned by the next read or write.
    error: Option<io::Error>,
    /// A read or write returned `Pending`.
    blocked: bool,
    /// The last write returned `Pending`, so hyper has more to write.
    write_blocked: bool,
}

impl<T: Stream> Cork<T> {
    /// Corks a stream.
    pub(super) fn new(stream: T) -> (Self, CorkedStream<T>) {
        let io = Arc::new(Mutex::new(SharedIo {
            stream: ReadGate::new(stream),
            output: WriteBuffer::default(),
            error: None,
            blocked: false,
            write_blocked: false,
        }));
        (Self(io.clone()), CorkedStream(io))
    }

    /// Returns `true` if hyper has more to write than the buffer accepted.
    pub(super) fn is_write_blocked(&self) -> bool {
        lock(&self.0).write_blocked
    }

    /// Writes the collected output. If that fails, the next read or write of the corked stream returns the error.
    pub(super) fn poll_uncork(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut io = lock(&self.0);
        if let Err(error) = ready!(io.poll_flush(cx)) {
            io.error = Some(error);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(())
    }

    /// Returns `true` if a read or write of the corked stream returned `Pending` since the last call.
    pub(super) fn take_blocked(&self) -> bool {
        std::mem::take(&mut lock(&self.0).blocked)
    }

    /// Lets the stream be read again, after the output was flushed. Returns `true` if hyper must retry a read.
    pub(super) fn resume_reads(&self) -> bool {
        lock(&self.0).stream.resume()
    }

    /// Returns the stream, or `None` if `corked` belongs to another cork. Output that was not flushed is lost.
    pub(super) fn into_inner(self, corked: CorkedStream<T>) -> Option<T> {
        drop(corked);
        let io = Arc::into_inner(self.0)?;
        Some(io.into_inner().unwrap_or_else(PoisonError::into_inner).stream.into_inner())
    }
}

fn lock<T>(io: &Mutex<SharedIo<T>>) -> MutexGuard<'_, SharedIo<T>> {
    io.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Stream> SharedIo<T> {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_flush_to(cx, &mut self.stream)
    }
}

impl<T: Stream> Read for CorkedStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut io = lock(&self.0);
        if let Some(error) = io.error.take() {
            return Poll::Ready(Err(error));
        }
        // hyper's buffer is uninitialized; initializing it takes longer than copying the data.
        let read = with_read_buffer(|buffer| {
            let room = into.remaining().min(buffer.len());
            let count = ready!(Pin::new(&mut io.stream).poll_read(cx, &mut buffer[..room]))?;
            into.put_slice(&buffer[..count]);
            Poll::Ready(Ok(()))
        });
        io.blocked |= read.is_pending();
        read
    }
}

impl<T: Stream> Write for CorkedStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut io = lock(&self.0);
        if let Some(error) = io.error.take() {
            return Poll::Ready(Err(error));
        }
        if io.output.is_full() {
            let flushed = io.poll_flush(cx);
            io.write_blocked = flushed.is_pending();
            io.blocked |= io.write_blocked;
            ready!(flushed)?;
        }
        Poll::Ready(Ok(io.output.append_some(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A no-op: the server closes the stream after taking it back from the cork.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
