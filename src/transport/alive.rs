//! Peers that vanish without a word: the machine lost its power, or the network its way.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smol::Timer;
use smol::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

/// Probes of a silent connection, spread over as much time as the silence before them.
const PROBES: u32 = 4;

/// Has the system end a connection whose peer has sent nothing for `silence`, and then answers no probe for as long
/// again. Nothing if that is 0.
///
/// # Errors
/// If the system does not do so.
pub fn keep_alive(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    if silence.is_zero() {
        return Ok(());
    }
    // Systems count seconds, and from 1.
    let whole = |time: Duration| Duration::from_secs(time.as_secs().max(1));
    let probes = TcpKeepalive::new()
        .with_time(whole(silence))
        .with_interval(whole(silence / PROBES))
        .with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Counts how long a peer is silent, for who can ask it for a sign of life.
///
/// The system's own probes end where something else than the peer answers them, a proxy say, and wait while bytes are
/// on their way.
#[derive(Debug)]
pub struct Pulse {
    half: Duration,
    timer: Timer,
    /// Halves of the time that have passed in silence.
    silent: u8,
}

/// What silence calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The peer should be asked for a sign of life.
    Long,
    /// It was asked and gave none.
    Final,
}

impl Pulse {
    /// Allows for `silence` until the peer is asked, and as much again until it is given up. None if that is 0.
    pub fn new(silence: Duration) -> Option<Self> {
        let half = silence / 2;
        (!half.is_zero()).then(|| Self { half, timer: Timer::after(half), silent: 0 })
    }

    /// Takes note that something came.
    pub fn heard(&mut self) {
        self.silent = 0;
    }

    /// Waits for a silence that calls for something. Time in which this is not polled does not count.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Silence> {
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.timer.set_after(self.half);
            self.silent = self.silent.saturating_add(1);
            match self.silent {
                2 => return Poll::Ready(Silence::Long),
                4.. => return Poll::Ready(Silence::Final),
                _ => {}
            }
        }
    }
}

/// The peer gave no sign of life.
#[derive(Debug)]
struct Vanished;

impl fmt::Display for Vanished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer has vanished: it does not answer (limits.keepalive)")
    }
}

impl std::error::Error for Vanished {}

/// The error that ends a connection whose peer gave no sign of life.
pub fn vanished() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, Vanished)
}

pub(super) fn is_vanished(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Vanished>)
}
