//! A pipe over a byte stream, such as TCP or memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::lingering_close::LingeringClose;
use super::read_buffer::with_read_buffer;
use crate::transport::pipe::{CloseReason, Pipe, Received, Stream};

/// Carries unframed bytes.
#[derive(Debug)]
pub struct StreamPipe<T> {
    stream: T,
    /// Set once the sending side is closed and the peer may still be sending.
    lingering: Option<Box<LingeringClose>>,
}

impl<T: Stream> StreamPipe<T> {
    /// Wraps a stream.
    pub fn new(stream: T) -> Self {
        Self { stream, lingering: None }
    }
}

impl<T: Stream> Pipe for StreamPipe<T> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        with_read_buffer(|buffer| {
            let count = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            into.extend_from_slice(&buffer[..count]);
            Poll::Ready(Ok(if count == 0 { Received::Eof } else { Received::Data }))
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

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_close(cx))?;
            if matches!(reason, CloseReason::Done | CloseReason::Stopping { busy: false }) {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = self.lingering.get_or_insert_with(|| Box::new(LingeringClose::new()));
        lingering.poll(cx, &mut self.stream).map(Ok)
    }
}
