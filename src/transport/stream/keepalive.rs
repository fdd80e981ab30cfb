//! Detects dead peers: machines that lost power, or networks that dropped the route.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smol::Timer;
use smol::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

/// Number of TCP keepalive probes, spread over a period as long as the silence before them.
const PROBES: u32 = 4;

/// Enables TCP keepalive: the system probes a peer that has been silent for `idle`, and closes the connection if no
/// probe is acknowledged for as long again. Does nothing if `idle` is 0.
///
/// # Errors
/// If the system rejects the socket options.
pub fn set_keepalive(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    if idle.is_zero() {
        return Ok(());
    }
    // Systems count in whole seconds, at least 1.
    let whole = |time: Duration| Duration::from_secs(time.as_secs().max(1));
    let probes =
        TcpKeepalive::new().with_time(whole(idle)).with_interval(whole(idle / PROBES)).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Measures how long a peer has been silent, for protocols that can ping it.
///
/// TCP keepalive alone is not enough: a proxy may acknowledge the probes instead of the peer, and no probes are sent
/// while data is in flight.
#[derive(Debug)]
pub(in crate::transport) struct Heartbeat {
    half: Duration,
    timer: Timer,
    /// Number of consecutive half periods without activity.
    silent_halves: u8,
}

/// What a silent peer requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum PeerIdle {
    /// The peer has been silent for one period and should be pinged.
    PingDue,
    /// The peer did not react to the ping within another period.
    Dead,
}

impl Heartbeat {
    /// Creates a heartbeat that pings after `period` of silence and declares the peer dead after as long again. Returns
    /// `None` if `period` is 0.
    pub(in crate::transport) fn new(period: Duration) -> Option<Self> {
        let half = period / 2;
        (!half.is_zero()).then(|| Self { half, timer: Timer::after(half), silent_halves: 0 })
    }

    /// Records that the peer sent something.
    pub(in crate::transport) fn record_activity(&mut self) {
        self.silent_halves = 0;
    }

    /// Waits until the peer must be pinged or is dead. Time during which this is not polled does not count.
    pub(in crate::transport) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PeerIdle> {
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.timer.set_after(self.half);
            self.silent_halves = self.silent_halves.saturating_add(1);
            match self.silent_halves {
                2 => return Poll::Ready(PeerIdle::PingDue),
                4.. => return Poll::Ready(PeerIdle::Dead),
                _ => {}
            }
        }
    }
}

#[derive(Debug)]
struct KeepaliveTimeout;

impl fmt::Display for KeepaliveTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer stopped responding (limits.keepalive)")
    }
}

impl std::error::Error for KeepaliveTimeout {}

/// Returns the error that ends a connection whose peer is [dead](PeerIdle::Dead).
pub(in crate::transport) fn keepalive_error() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, KeepaliveTimeout)
}

pub(in crate::transport) fn is_keepalive_timeout(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<KeepaliveTimeout>)
}
