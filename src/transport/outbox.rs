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
    /// Whoever wanted it out was told to wait.
    awaited: bool,
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
    ///
    /// It is tried from several places. A stream that takes the bytes in one wakes nobody who was told to wait in
    /// another, so that is done here.
    pub(super) fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let out = self.poll_write_and_flush(cx, stream);
        if out.is_pending() {
            self.awaited = true;
        } else if std::mem::take(&mut self.awaited) {
            cx.waker().wake_by_ref();
        }
        out
    }

    fn poll_write_and_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let written = self.poll_write_all(cx, stream);
        if written.is_pending() {
            self.forget_sent();
        }
        let written = ready!(written);
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

    /// Drops what has gone out, which would otherwise pile up while a peer always leaves something. Moves fewer bytes than
    /// it drops.
    fn forget_sent(&mut self) {
        if self.sent > ROOM && self.sent > self.gathered.len() / 2 {
            self.gathered.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then none until it is given room again.
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
    fn holds_little_more_than_what_has_yet_to_go_out() {
        let mut outbox = Outbox::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // One message stays behind all the time.
        outbox.take_some(&[0; 1000]);
        for _ in 0..1000 {
            assert!(!outbox.is_full());
            outbox.take_some(&[0; 1000]);
            assert!(outbox.poll_out(&mut cx, &mut Narrow(1000)).is_pending());
        }
        assert!(outbox.gathered.capacity() < 4 * ROOM, "{}", outbox.gathered.capacity());
        assert!(outbox.poll_out(&mut cx, &mut Narrow(1000)).is_ready());
        assert!(outbox.is_empty());
    }
}
