//! Byte pipes: what carries bytes or whole frames between two peers, whatever they mean.

use std::error::Error;
use std::io;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};

mod guard;
pub mod http;
pub mod memory;
mod site;
mod stream;
mod websocket;

pub use guard::{Guarded, Peeked};
pub use site::Site;
pub use stream::Bytes;
pub use websocket::WebSocket;

/// A stream of bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Carries input and output of one session.
pub trait Pipe {
    /// Appends what the peer has sent to `into`: some bytes, or exactly one message.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>>;

    /// Takes some of these bytes, or exactly one message, on their way to the peer.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Sees that what was taken gets out.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Flushes, and tells the peer that nothing more comes.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// What [`Pipe::poll_receive`] has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes, or a message.
    Some,
    /// The peer sends nothing more, and may still read.
    End,
    /// The peer neither sends nor reads any more.
    Gone,
}

/// Tells whether the peer was cut off because it did not take what was sent to it.
pub fn is_stall(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(guard::is_stall) {
            return true;
        }
        cause = error.source();
    }
    false
}
