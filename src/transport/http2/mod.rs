//! HTTP/2 connections. h2 reads and writes the frames; an [`HttpService`] answers the requests, as over HTTP/1. A
//! [`Client`] sends them.
//!
//! One future drives a connection and all its requests. Nothing is spawned, and h2's tokio is only I/O traits.

mod body;
mod client;
mod error;
mod io;
mod load;
mod respond;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use hyper::body::Bytes;
use smol::Timer;
use smol::future::FutureExt;

use super::http::{HttpService, RequestLimits};
use super::pipe::Stream;
use super::stream::{Alarm, Heartbeat, PeerIdle, keepalive_error, stall_error};
pub use client::{Answer, Client, ClientLimits, RequestError, Requests};
pub use error::Http2Error;
use io::{Progress, TokioStream};
use load::Load;
use respond::respond;

/// The window of each request, in bytes: the data that its peer may send before this node reads it.
pub const STREAM_WINDOW: u32 = 65_535;
/// Maximum length of the head of a request, in bytes.
const MAX_HEAD: u32 = 16 * 1024;
/// Peers assume that they may have this many requests until they are told otherwise (RFC 9113, section 6.5.2).
const MIN_STREAMS: usize = 100;
/// Requests that h2 itself has refused, for which it need not be to blame: those that a peer sends before it knows the
/// maximum number.
const MAX_REFUSED: usize = 4 * MIN_STREAMS;
/// Yields to other tasks after this many requests or this much time.
const BUDGET: (u32, Duration) = (64, Duration::from_millis(10));
/// How long a peer that was asked to leave may take for it, if nothing of it runs, and it has read what was sent to it.
const LEAVE: Duration = Duration::from_secs(1);
/// Responses that may be given up since the peer does not read them. After one more, the connection ends.
const MAX_STALLED: u32 = 1;
/// A connection without a request for this many times `keepalive` is asked to leave: h2 has buffers that it never frees.
const IDLE_KEEPALIVES: u32 = 5;
/// How often to check whether the functions of cancelled requests have ended, while no request is taken because of them.
const RECHECK: Duration = Duration::from_millis(20);

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Limits of each request.
    pub request: RequestLimits,
    /// Maximum number of requests that are answered at once. Further ones wait.
    pub in_flight: usize,
    /// Amount of responses that wait for the peer, in bytes, beyond which no further request is taken.
    pub output: usize,
    /// Maximum number of frames in a row that belong to no request.
    pub control_frames: usize,
    /// How long a peer may be silent before it is pinged, and after that before it is given up; 0 never pings.
    pub keepalive: Duration,
    /// How long a peer may go without a token that may do nothing without one.
    pub auth_timeout: Duration,
}

impl Http2Limits {
    /// Returns the number of requests that a peer may have open.
    fn max_streams(&self) -> usize {
        self.in_flight.max(MIN_STREAMS)
    }

    /// Returns the maximum number of frames in a row that belong to no request. An honest peer may cancel all its requests
    /// at once.
    fn max_control_frames(&self) -> usize {
        self.control_frames.max(2 * self.max_streams())
    }

    fn builder(&self) -> Builder {
        let streams = self.max_streams();
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(saturated(streams))
            .initial_window_size(STREAM_WINDOW)
            // A request that waits cannot take the room of one that is read.
            .initial_connection_window_size(connection_window(self.in_flight))
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(self.output.min(STREAM_WINDOW as usize))
            // Requests that were cancelled before they were taken; an honest peer may cancel all that it has.
            .max_pending_accept_reset_streams(streams)
            .max_local_error_reset_streams(Some(streams + MAX_REFUSED));
        builder
    }
}

/// Returns the window of a connection, in bytes: what its peer may send before this node reads it.
pub fn connection_window(in_flight: usize) -> u32 {
    const MAX: u32 = (1 << 31) - 1;
    STREAM_WINDOW.saturating_mul(saturated(in_flight.max(MIN_STREAMS))).min(MAX)
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Serves one connection until it ends. After `stop`, the peer is asked to send no further requests, and the connection
/// ends when those it has sent are answered.
///
/// # Errors
/// [`Http2Error`] if the connection fails, or if the peer breaks the protocol or a limit.
pub async fn serve(
    stream: impl Stream,
    service: &impl HttpService,
    limits: Http2Limits,
    stop: impl Future<Output = ()>,
) -> Result<(), Http2Error> {
    let (progress, load) = (Progress::default(), Load::default());
    let handshake = async {
        let stream = TokioStream::new(stream, &progress);
        limits.builder().handshake::<_, Bytes>(stream).await.map_err(Http2Error::from)
    };
    let late = async {
        Timer::after(limits.request.head_timeout).await;
        Err(Http2Error::SlowHead)
    };
    let mut stop = pin!(stop);
    let stopped = async {
        stop.as_mut().await;
        Ok(None)
    };
    // A stop ends it at once if the peer has sent nothing yet.
    let Some(mut connection) = async { handshake.or(late).await.map(Some) }.or(stopped).await? else {
        return Ok(());
    };
    let mut watch = Watch::new(&mut connection, &progress, &limits);
    let mut running = FuturesUnordered::new();
    // Requests that wait, which their peer may cancel.
    let mut waiting: VecDeque<(hyper::Request<RecvStream>, SendResponse<Bytes>)> = VecDeque::new();
    let (mut is_stopping, mut ending) = (false, None);
    poll_fn(|cx| {
        if !is_stopping && stop.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.graceful_shutdown();
        }
        waiting.retain_mut(|(_, sender)| sender.poll_reset(cx).is_pending());
        let (began, mut answered) = (Instant::now(), 0);
        let mut is_paused = false;
        progress.set_paused(is_paused);
        loop {
            let mut has_advanced = false;
            while let Poll::Ready(Some(())) = running.poll_next_unpin(cx) {
                has_advanced = true;
                answered += 1;
            }
            let abandoned = load.abandoned();
            let calls = running.len().saturating_sub(load.streams()) + abandoned;
            let is_full = calls >= limits.in_flight || load.output() >= limits.output;
            watch.recheck = is_full && abandoned > 0;
            if let Some((request, sender)) = (!is_full).then(|| waiting.pop_front()).flatten() {
                running.push(respond(service, request, sender, &load, limits));
                continue;
            }
            // Both read, and write what there is to write.
            let accepted = if waiting.len() >= limits.max_streams() {
                connection.poll_closed(cx).map(|closed| closed.err().map(Err))
            } else {
                connection.poll_accept(cx)
            };
            match accepted {
                Poll::Ready(Some(Err(_)) | None) if ending.is_some() => {
                    return Poll::Ready(ending.take().map_or(Ok(()), Err));
                }
                Poll::Ready(Some(request)) => {
                    waiting.push_back(request?);
                    has_advanced = true;
                    // Others may have been read with it. Their responses are written at once.
                    if !std::mem::replace(&mut is_paused, true) {
                        progress.set_paused(true);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if std::mem::take(&mut is_paused) => {
                    progress.set_paused(false);
                    continue;
                }
                Poll::Pending => {}
            }
            if !has_advanced {
                break;
            }
            if answered >= BUDGET.0 || began.elapsed() > BUDGET.1 {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let fault = if load.stalled() > MAX_STALLED {
            Some(Http2Error::Stream(stall_error()))
        } else {
            progress.is_flooded(load.sent(), limits.max_control_frames()).then_some(Http2Error::Flood)
        };
        if ending.is_none() && fault.is_some() {
            ending = fault;
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            cx.waker().wake_by_ref();
        }
        let is_idle = running.is_empty() && waiting.is_empty();
        watch.is_leaving |= is_stopping;
        match watch.poll(cx, is_idle, load.sent()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(Watched::Gone)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(Watched::TokenDue)) if service.awaits_token() => {
                Poll::Ready(Err(Http2Error::NoToken))
            }
            Poll::Ready(Ok(Watched::Idle)) => {
                connection.graceful_shutdown();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Ok(Watched::Recheck | Watched::TokenDue)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
}

/// The timers of a connection.
struct Watch<'a> {
    progress: &'a Progress,
    /// The number of bytes received when that was last checked.
    seen: u64,
    heartbeat: Option<Heartbeat>,
    pings: Option<PingPong>,
    head_timeout: Duration,
    /// How long the connection may be without a request; 0 for ever.
    max_idle: Duration,
    idle_since: Option<Instant>,
    /// The functions of cancelled requests are to be checked soon.
    recheck: bool,
    /// The peer was asked to leave.
    is_leaving: bool,
    /// Since when it could have left.
    leaving_since: Option<Instant>,
    stall_timeout: Duration,
    /// The pieces of responses that were passed to h2, and the signs of the peer, when that was last checked.
    output: (u64, u64),
    /// Output waited for the peer to read then.
    was_blocked: bool,
    /// When a response was last sent, or a sign came of a peer that may still be reading it.
    reading_since: Option<Instant>,
    /// When it must have presented a token, if it needs one.
    token_due: Option<Instant>,
    alarm: Alarm,
}

/// What a timer requires.
enum Watched {
    /// The connection has had no request for long.
    Idle,
    /// The peer was asked to leave, and has not, though it has no request.
    Gone,
    /// A token is due, if one is needed.
    TokenDue,
    Recheck,
}

impl<'a> Watch<'a> {
    fn new<T>(connection: &mut Connection<T, Bytes>, progress: &'a Progress, limits: &Http2Limits) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        Self {
            progress,
            seen: 0,
            heartbeat: Heartbeat::new(limits.keepalive),
            pings: connection.ping_pong(),
            head_timeout: limits.request.head_timeout,
            max_idle: limits.keepalive * IDLE_KEEPALIVES,
            idle_since: None,
            recheck: false,
            is_leaving: false,
            leaving_since: None,
            stall_timeout: limits.request.stall_timeout,
            output: (0, 0),
            was_blocked: false,
            reading_since: None,
            token_due: Some(Instant::now() + limits.auth_timeout),
            alarm: Alarm::default(),
        }
    }

    /// Returns until when a peer that was asked to leave may still be reading responses. While a write is blocked, the
    /// stream itself has a timeout.
    fn reads_until(&mut self, sent: u64, now: Instant) -> Option<Instant> {
        let before = std::mem::replace(&mut self.output, (sent, self.progress.signs()));
        let was_blocked = std::mem::replace(&mut self.was_blocked, self.progress.is_blocked());
        let may_read = |since: &Instant| was_blocked || now < *since + self.stall_timeout;
        self.reading_since = self.reading_since.filter(may_read);
        if sent != before.0 || (self.reading_since.is_some() && self.output != before) {
            self.reading_since = Some(now);
        }
        self.reading_since.map(|since| since + self.stall_timeout)
    }

    /// Waits until a timer requires something. `sent` is the number of pieces of responses so far.
    fn poll(&mut self, cx: &mut Context<'_>, is_idle: bool, sent: u64) -> Poll<Result<Watched, Http2Error>> {
        if let Some(pings) = &mut self.pings {
            let _ = pings.poll_pong(cx);
        }
        loop {
            let bytes = self.progress.bytes();
            let Some(heartbeat) = &mut self.heartbeat else { break };
            if bytes != std::mem::replace(&mut self.seen, bytes) {
                heartbeat.record_activity();
            }
            match heartbeat.poll(cx) {
                Poll::Pending => break,
                // Fails only if the last one is not answered yet.
                Poll::Ready(PeerIdle::PingDue) => {
                    if let Some(pings) = &mut self.pings {
                        let _ = pings.send_ping(Ping::opaque());
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(PeerIdle::Dead) => {
                    return Poll::Ready(Err(Http2Error::Stream(keepalive_error())));
                }
            }
        }
        let now = Instant::now();
        let late = self.progress.incomplete_since().map(|since| since + self.head_timeout);
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
        let leave = self.idle_since.filter(|_| !self.max_idle.is_zero()).map(|since| since + self.max_idle);
        self.leaving_since = (self.is_leaving && is_idle).then(|| self.leaving_since.unwrap_or(now));
        let reads_until = self.reads_until(sent, now);
        let gone = self.leaving_since.filter(|_| !self.progress.is_blocked());
        let gone = gone.map(|since| reads_until.unwrap_or(since).max(since + LEAVE));
        let recheck = self.recheck.then(|| now + RECHECK);
        std::task::ready!(
            self.alarm.poll([late, leave, gone, recheck, self.token_due].into_iter().flatten().min(), cx)
        );
        let now = Instant::now();
        if late.is_some_and(|late| late <= now) {
            return Poll::Ready(Err(Http2Error::SlowHead));
        }
        if gone.is_some_and(|gone| gone <= now) {
            return Poll::Ready(Ok(Watched::Gone));
        }
        if self.token_due.take_if(|due| *due <= now).is_some() {
            return Poll::Ready(Ok(Watched::TokenDue));
        }
        if leave.is_some_and(|leave| leave <= now) {
            self.max_idle = Duration::ZERO;
            self.is_leaving = true;
            return Poll::Ready(Ok(Watched::Idle));
        }
        Poll::Ready(Ok(Watched::Recheck))
    }
}
