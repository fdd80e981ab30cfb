//! Byte pipes: what carries bytes or whole frames between two peers, whatever they mean.

use std::error::Error;
use std::io;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};

mod alive;
mod cork;
mod frames;
mod guard;
mod heads;
pub mod http;
mod linger;
pub mod memory;
mod outbox;
mod site;
mod sparing;
mod stream;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
pub mod tls;
mod underlay;
mod websocket;

pub use alive::{Pulse, Silence, keep_alive, vanished};
pub use guard::{Guarded, Peeked};
pub use linger::last_words;
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

    /// Flushes, and tells the peer that nothing more comes, and why.
    fn poll_close(&mut self, cx: &mut Context<'_>, why: Closing) -> Poll<io::Result<()>>;
}

/// Why a pipe is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The peer has said all, and has its answers.
    Done,
    /// The peer makes no sense, and may go on.
    Refused,
    /// This end stops; if it was `busy` with what the peer wanted, the answers have just gone out.
    Stopping {
        /// There was something to answer.
        busy: bool,
    },
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
    has_cause(error, guard::is_stall)
}

/// Tells whether the peer was given up because it gave no sign of life.
pub fn is_vanished(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, alive::is_vanished)
}

/// Returns `true` if the peer was cut off because the rest of a message did not come in time.
pub fn is_late(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, websocket::is_late)
}

/// Returns `true` if the peer has gone without a last word, as by TLS's `close_notify`.
pub fn is_cut_short(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, |error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn has_cause(error: &(dyn Error + 'static), is_it: fn(&io::Error) -> bool) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_it) {
            return true;
        }
        cause = error.source();
    }
    false
}
