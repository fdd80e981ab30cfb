//! Closes a connection whose peer may still be sending.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::io::AsyncWriteExt;
use smol::Timer;

use crate::transport::pipe::Stream;

/// How long to wait for the peer to close its side.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How many bytes to discard meanwhile.
const MAX_DISCARDED: usize = 4 << 20;
/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Writes the final bytes to a peer that may still be sending, and closes the stream.
///
/// # Errors
/// If writing fails or times out.
pub async fn send_and_close(stream: &mut impl Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    close_stream(stream, true).await;
    Ok(())
}

/// Closes a stream, ignoring errors: the peer may already be gone. With `unread`, the peer may still be sending, and
/// its data is discarded first.
pub(in crate::transport) async fn close_stream(stream: &mut impl Stream, unread: bool) {
    let closed = poll_fn(|cx| Pin::new(&mut *stream).poll_close(cx)).await;
    if closed.is_ok() && unread {
        let mut lingering = LingeringClose::new();
        poll_fn(|cx| lingering.poll(cx, stream)).await;
    }
}

/// Reads and discards the peer's data after the sending side is closed, until the peer closes too or a limit is
/// reached.
///
/// Closing a socket that has unread data resets the connection, and the reset overtakes the data sent before: the peer
/// would never read the reason of the close (RFC 9112, section 9.6).
#[derive(Debug)]
pub(in crate::transport) struct LingeringClose {
    timer: Timer,
    remaining: usize,
}

impl LingeringClose {
    pub(in crate::transport) fn new() -> Self {
        Self { timer: Timer::after(TIMEOUT), remaining: MAX_DISCARDED }
    }

    pub(in crate::transport) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut impl Stream) -> Poll<()> {
        loop {
            if Pin::new(&mut self.timer).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut discarded = [0; READ];
            match Pin::new(&mut *stream).poll_read(cx, &mut discarded) {
                Poll::Ready(Ok(1..)) if self.remaining == 0 => return Poll::Ready(()),
                Poll::Ready(Ok(count @ 1..)) => self.remaining = self.remaining.saturating_sub(count),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
