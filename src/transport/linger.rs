//! The end of a connection whose peer may still be sending.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::io::AsyncWriteExt;
use smol::Timer;

use super::Stream;

/// How long a peer may take to notice that nothing more is read.
const TIME: Duration = Duration::from_secs(1);
/// How much it may send meanwhile.
const BYTES: usize = 4 << 20;
/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Writes the last bytes to a peer that may still be sending, and ends the stream.
///
/// # Errors
/// If the peer takes them not, or not in time.
pub async fn last_words(stream: &mut impl Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    farewell(stream, true).await;
    Ok(())
}

/// Ends a stream, whose peer may be gone already, or have left something `unread`.
pub(super) async fn farewell(stream: &mut impl Stream, unread: bool) {
    let closed = poll_fn(|cx| Pin::new(&mut *stream).poll_close(cx)).await;
    if closed.is_ok() && unread {
        let mut linger = Linger::new();
        poll_fn(|cx| linger.poll(cx, stream)).await;
    }
}

/// Reads and drops what a peer sends, after it was told the last and until it ends too, or has had its time.
///
/// A socket that is closed while there is something to read resets the connection, and a reset overtakes what was sent:
/// the peer would never learn what it did wrong (RFC 9112, section 9.6).
#[derive(Debug)]
pub(super) struct Linger {
    timer: Timer,
    left: usize,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self { timer: Timer::after(TIME), left: BYTES }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut impl Stream) -> Poll<()> {
        loop {
            if Pin::new(&mut self.timer).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut dropped = [0; READ];
            match Pin::new(&mut *stream).poll_read(cx, &mut dropped) {
                Poll::Ready(Ok(1..)) if self.left == 0 => return Poll::Ready(()),
                Poll::Ready(Ok(count @ 1..)) => self.left = self.left.saturating_sub(count),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
