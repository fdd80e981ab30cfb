//! What a WebSocket stands on, so that it needs few system calls with small buffers of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};

use super::frames::Frames;
use super::outbox::Outbox;
use super::sparing::Sparing;
use super::stream::with_landing;

/// Bytes read at once, however few are asked for.
const AHEAD: usize = 16 * 1024;

/// A stream that is read ahead, and written when it is flushed.
#[derive(Debug)]
pub(super) struct Underlay<T> {
    pub(super) stream: Sparing<T>,
    /// Was read and is not yet asked for: all but the first `given` bytes.
    ahead: Vec<u8>,
    given: usize,
    pub(super) outbox: Outbox,
    /// Something has come since this was last set back. Of a message on a slow line the first bytes are a sign of life.
    pub(super) heard: bool,
    /// What was given, and how much of it since this was last set back.
    pub(super) frames: Frames,
    pub(super) came: usize,
}

impl<T> Underlay<T> {
    pub(super) fn new(stream: T) -> Self {
        let stream = Sparing::new(stream);
        Self {
            stream,
            ahead: Vec::new(),
            given: 0,
            outbox: Outbox::default(),
            heard: false,
            frames: Frames::default(),
            came: 0,
        }
    }
}

impl<T: AsyncWrite + Unpin> Underlay<T> {
    /// Has what was gathered go out if it is much.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_full() { self.outbox.poll_out(cx, &mut self.stream) } else { Poll::Ready(Ok(())) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Underlay<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, ahead, given, heard, frames, came, .. } = &mut *self;
        if ahead.is_empty() {
            return with_landing(|landing| {
                let read = Pin::new(stream).poll_read(cx, &mut landing[..AHEAD]);
                *heard |= read.is_ready();
                let count = ready!(read)?;
                let (now, later) = landing[..count].split_at(count.min(into.len()));
                into[..now.len()].copy_from_slice(now);
                frames.pass(now);
                *came += now.len();
                ahead.extend_from_slice(later);
                Poll::Ready(Ok(now.len()))
            });
        }
        let rest = &ahead[*given..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        frames.pass(&rest[..count]);
        *came += count;
        *given += count;
        if *given == ahead.len() {
            (*ahead, *given) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Underlay<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        self.outbox.bytes().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { outbox, stream, .. } = &mut *self;
        outbox.poll_out(cx, stream)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
