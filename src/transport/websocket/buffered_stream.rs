//! The buffers below tungstenite, so that it needs few system calls with small buffers of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};

use super::frame_tracker::FrameTracker;
use crate::transport::stream::{ReadGate, WriteBuffer, with_read_buffer};

/// Bytes read at once, however few are requested.
const READ: usize = 16 * 1024;

/// A stream that reads ahead, and writes when it is flushed.
#[derive(Debug)]
pub(super) struct BufferedStream<T> {
    pub(super) stream: ReadGate<T>,
    /// Bytes read ahead. The first `consumed` of them are already returned.
    read_ahead: Vec<u8>,
    consumed: usize,
    pub(super) output: WriteBuffer,
    /// A read has completed since the owner last reset this. The first bytes of a message on a slow line count as
    /// activity.
    pub(super) active: bool,
    /// The same, for the session.
    pub(super) heard: bool,
    /// Tracks the frames in the bytes returned.
    pub(super) frames: FrameTracker,
    /// Number of bytes returned since the owner last reset this.
    pub(super) received: usize,
}

impl<T> BufferedStream<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream: ReadGate::new(stream),
            read_ahead: Vec::new(),
            consumed: 0,
            output: WriteBuffer::default(),
            active: false,
            heard: false,
            frames: FrameTracker::default(),
            received: 0,
        }
    }
}

impl<T: AsyncWrite + Unpin> BufferedStream<T> {
    /// Waits until the output buffer accepts more, and writes it if it is full.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_full() {
            self.output.poll_flush_to(cx, &mut self.stream)
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for BufferedStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, read_ahead, consumed, active, heard, frames, received, .. } = &mut *self;
        if read_ahead.is_empty() {
            return with_read_buffer(|buffer| {
                let read = Pin::new(stream).poll_read(cx, &mut buffer[..READ]);
                *active |= read.is_ready();
                *heard |= read.is_ready();
                let count = ready!(read)?;
                let (now, later) = buffer[..count].split_at(count.min(into.len()));
                into[..now.len()].copy_from_slice(now);
                frames.advance(now);
                *received += now.len();
                read_ahead.extend_from_slice(later);
                Poll::Ready(Ok(now.len()))
            });
        }
        let rest = &read_ahead[*consumed..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        frames.advance(&rest[..count]);
        *received += count;
        *consumed += count;
        if *consumed == read_ahead.len() {
            (*read_ahead, *consumed) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for BufferedStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        self.output.bytes_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { output, stream, .. } = &mut *self;
        output.poll_flush_to(cx, stream)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
