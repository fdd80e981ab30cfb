//! Bytes that are gathered, so that they go out together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::AsyncWrite;

/// With so many bytes gathered, they go out before more are.
const ROOM: usize = 16 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEPT: usize = 512;

/// What waits to be written to a stream.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    gathered: Vec<u8>,
    /// How many of these have gone out.
    sent: usize,
}

impl Outbox {
    /// Tells whether what is there should go out before more comes.
    pub(super) fn is_full(&self) -> bool {
        self.gathered.len() - self.sent >= ROOM
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Takes as many of these bytes as a full outbox holds, at most; returns how many.
    pub(super) fn take_some(&mut self, bytes: &[u8]) -> usize {
        let some = &bytes[..bytes.len().min(ROOM)];
        self.gathered.extend_from_slice(some);
        some.len()
    }

    /// Where more is appended.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Writes all of it, and flushes. After an error there is nothing left to write.
    pub(super) fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let written = ready!(self.poll_write_all(cx, stream));
        self.sent = 0;
        self.gathered.clear();
        self.gathered.shrink_to(KEPT);
        written?;
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.gathered[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}
