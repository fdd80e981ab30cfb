//! The interface between a session's driver and a transport.

use std::io;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};

/// A bidirectional byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Carries the input and output of one session.
pub trait Pipe {
    /// Appends received data to `into`: some bytes, or exactly one message if the transport has frames.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>>;

    /// Accepts some of `bytes` for sending, or all of them as one message if the transport has frames. Returns the
    /// number of bytes accepted.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Writes all accepted bytes to the peer.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Flushes, then closes the sending side and gives the peer the reason if the transport can express it.
    fn poll_close(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Poll<io::Result<()>>;

    /// Pings the peer, if the transport has pings. Returns `false` otherwise.
    ///
    /// # Errors
    /// If the peer has disconnected.
    fn ping(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let _ = cx;
        Ok(false)
    }

    /// Returns `true` if the peer has sent anything since this was last called, if the transport has pings.
    fn take_activity(&mut self) -> bool {
        false
    }
}

/// Why a pipe is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer ended its side and has received every reply.
    Done,
    /// The peer violated the protocol and may still be sending.
    Refused,
    /// A function has closed the connection. The peer may still be sending.
    Closed,
    /// This node is shutting down.
    Stopping {
        /// Requests of this peer were in progress; their replies were sent just before the close.
        busy: bool,
    },
}

/// The result of [`Pipe::poll_receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes or one message.
    Data,
    /// The peer closed its sending side and may still read.
    Eof,
    /// The peer closed both directions.
    Closed,
}
