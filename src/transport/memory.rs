//! An in-memory connection, for tests and for a node embedded in the same process as its client.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};

/// One end of an in-memory connection.
pub struct Memory {
    reader: piper::Reader,
    writer: piper::Writer,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// Creates a connection that buffers up to `capacity` bytes in each direction.
///
/// # Panics
/// If `capacity` is 0.
pub fn pair(capacity: usize) -> (Memory, Memory) {
    let (left_reader, right_writer) = piper::pipe(capacity);
    let (right_reader, left_writer) = piper::pipe(capacity);
    let left = Memory { reader: left_reader, writer: left_writer };
    let right = Memory { reader: right_reader, writer: right_writer };
    (left, right)
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(cx, into)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(cx)
    }
}
