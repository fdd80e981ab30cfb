//! Collects output, so that several writes become one system call.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::AsyncWrite;

/// A buffer with this many bytes is written before more is added.
const HIGH_WATER_MARK: usize = 16 * 1024;
/// An empty buffer keeps at most this capacity, in bytes.
const RETAINED_CAPACITY: usize = 512;

/// Bytes waiting to be written to a stream.
#[derive(Debug, Default)]
pub(in crate::transport) struct WriteBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` are written.
    written: usize,
    /// The last attempt to flush returned `Pending`.
    blocked: bool,
}

impl WriteBuffer {
    /// Returns `true` if the buffer should be written before more is added.
    pub(in crate::transport) fn is_full(&self) -> bool {
        self.bytes.len() - self.written >= HIGH_WATER_MARK
    }

    pub(in crate::transport) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `bytes`, or the first 16 KiB of them, and returns how many were appended.
    pub(in crate::transport) fn append_some(&mut self, bytes: &[u8]) -> usize {
        let some = &bytes[..bytes.len().min(HIGH_WATER_MARK)];
        self.bytes.extend_from_slice(some);
        some.len()
    }

    /// Returns the buffer to append to.
    pub(in crate::transport) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes everything to `stream` and flushes it. After an error the buffer is empty.
    ///
    /// Several places of one task flush the same buffer. If one of them succeeds where another had to wait, the stream
    /// wakes nobody, so this wakes the task.
    pub(in crate::transport) fn poll_flush_to(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let flushed = self.poll_write_and_flush(cx, stream);
        if flushed.is_pending() {
            self.blocked = true;
        } else if std::mem::take(&mut self.blocked) {
            cx.waker().wake_by_ref();
        }
        flushed
    }

    fn poll_write_and_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let result = self.poll_write_all(cx, stream);
        if result.is_pending() {
            self.discard_written();
        }
        let result = ready!(result);
        self.written = 0;
        self.bytes.clear();
        self.bytes.shrink_to(RETAINED_CAPACITY);
        result?;
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the written bytes, which would accumulate if the buffer never became empty. Moves fewer bytes than it
    /// drops.
    fn discard_written(&mut self) {
        if self.written > HIGH_WATER_MARK && self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts this many bytes, then blocks.
    struct Narrow(usize);

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn written_bytes_do_not_accumulate() {
        let mut buffer = WriteBuffer::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // One message remains unwritten all the time.
        buffer.append_some(&[0; 1000]);
        for _ in 0..1000 {
            assert!(!buffer.is_full());
            buffer.append_some(&[0; 1000]);
            assert!(buffer.poll_flush_to(&mut cx, &mut Narrow(1000)).is_pending());
        }
        assert!(buffer.bytes.capacity() < 4 * HIGH_WATER_MARK, "{}", buffer.bytes.capacity());
        assert!(buffer.poll_flush_to(&mut cx, &mut Narrow(1000)).is_ready());
        assert!(buffer.is_empty());
    }
}
