//! A pipe over a stream of bytes: TCP, or memory.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::linger::Linger;
use super::{Closing, Pipe, Received, Stream};

/// How much is read at once.
const READ: usize = 64 * 1024;

thread_local! {
    /// Where reads land before their bytes go to a session. One for all connections of a thread, so that an
    /// idle connection has no read buffer at all.
    static LANDING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Lends the place where reads land.
pub(super) fn with_landing<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    LANDING.with_borrow_mut(|landing| read(landing))
}

/// Carries bytes as they come.
#[derive(Debug)]
pub struct Bytes<T> {
    stream: T,
    /// What remains to be done once the peer has been told the last.
    linger: Option<Box<Linger>>,
}

impl<T: Stream> Bytes<T> {
    /// Wraps a stream.
    pub fn new(stream: T) -> Self {
        Self { stream, linger: None }
    }
}

impl<T: Stream> Pipe for Bytes<T> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        with_landing(|landing| {
            let count = ready!(Pin::new(&mut self.stream).poll_read(cx, landing))?;
            into.extend_from_slice(&landing[..count]);
            Poll::Ready(Ok(if count == 0 { Received::End } else { Received::Some }))
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, why: Closing) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_close(cx))?;
            if matches!(why, Closing::Done | Closing::Stopping { busy: false }) {
                return Poll::Ready(Ok(()));
            }
        }
        self.linger.get_or_insert_with(|| Box::new(Linger::new())).poll(cx, &mut self.stream).map(Ok)
    }
}
