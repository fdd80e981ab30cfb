//! A pipe over WebSocket frames (RFC 6455): one message a frame.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Utf8Bytes;
use async_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use async_tungstenite::tungstenite::protocol::frame::FrameHeader;
use async_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use async_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use futures_lite::io::AsyncWrite as _;
use futures_lite::stream::Stream as _;
use futures_sink::Sink;
use smol::Timer;

use super::linger::Linger;
use super::underlay::Underlay;
use super::{Closing, Pipe, Pulse, Received, Silence, Stream, vanished};
use crate::pace::Pace;

/// Bytes that tungstenite takes at once. Every connection holds such a buffer.
const READ: usize = 512;

/// Carries messages, in text or binary frames as the peer did last, and answers pings. A silent peer is pinged.
pub struct WebSocket<T> {
    stream: WebSocketStream<Underlay<T>>,
    /// What is sent goes into binary frames.
    binary: bool,
    always_binary: bool,
    /// What sets how long a message may be.
    setting: &'static str,
    /// A ping, or the pong for the peer's, is to be written before anything more is read.
    owes_frame: bool,
    pulse: Option<Pulse>,
    /// How long a message that has begun may pause, and how long it may be.
    stall: Duration,
    max: usize,
    /// Only while a message has begun, or has lately.
    coming: Option<Box<Coming>>,
    /// One has not come in time.
    late: bool,
    /// Only in the end.
    farewell: Option<Box<Farewell>>,
}

/// A message that has begun.
struct Coming {
    /// `None` if it has come meanwhile. The timer stays, so that a connection which is busy sets few.
    pace: Option<Pace>,
    timer: Timer,
}

/// The end of a connection.
enum Farewell {
    /// The close frame that says why.
    ToSay(CloseFrame),
    /// It is on its way.
    Said,
    /// It is out, and the peer has its time to take note.
    Lingering(Linger),
}

impl<T: Stream> WebSocket<T> {
    /// Takes the server's side of a connection whose HTTP upgrade is done. `first` was read after the head.
    /// Messages are of at most `max` bytes. A peer may be silent for `keepalive` until it is pinged, and as long again, and
    /// pause for `stall` in the middle of a message.
    pub async fn accept(stream: T, first: Vec<u8>, max: usize, keepalive: Duration, stall: Duration) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(max))
            .max_frame_size(Some(max));
        let mut stream = Underlay::new(stream);
        stream.frames.pass(&first);
        stream.came = first.len();
        let stream = WebSocketStream::from_partially_read(stream, first, Role::Server, Some(config)).await;
        Self {
            stream,
            binary: false,
            always_binary: false,
            setting: "limits.message",
            owes_frame: false,
            pulse: Pulse::new(keepalive),
            stall,
            max,
            coming: None,
            late: false,
            farewell: None,
        }
    }

    /// Sends binary frames only, whatever the peer sends.
    #[must_use]
    pub fn always_binary(self) -> Self {
        Self { binary: true, always_binary: true, ..self }
    }

    /// Names another setting than `limits.message` to who sends too long a message.
    #[must_use]
    pub fn bounded_by(self, setting: &'static str) -> Self {
        Self { setting, ..self }
    }

    /// Has the peer told what it did wrong when the pipe is closed.
    fn complain(&mut self, code: CloseCode, reason: impl Into<Utf8Bytes>) -> Received {
        self.farewell = Some(Box::new(Farewell::ToSay(CloseFrame { code, reason: reason.into() })));
        Received::Gone
    }

    /// Notes that a message is whole.
    fn whole(&mut self) {
        self.stream.get_mut().came = 0;
        if let Some(coming) = &mut self.coming {
            coming.pace = None;
        }
    }

    /// `Ready` if the rest of a message does not come in time.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let underlay = self.stream.get_mut();
        if !underlay.frames.is_amid() {
            // What came was control frames.
            self.whole();
            // The timer ends by itself.
            if self.coming.as_mut().is_some_and(|coming| Pin::new(&mut coming.timer).poll(cx).is_ready()) {
                self.coming = None;
            }
            return Poll::Pending;
        }
        let now = Instant::now();
        let came = std::mem::take(&mut underlay.came);
        let stall = self.stall;
        let Coming { pace, timer } = &mut **self
            .coming
            .get_or_insert_with(|| Box::new(Coming { pace: None, timer: Timer::after(stall) }));
        let pace = pace.get_or_insert(Pace::new(now));
        pace.progress(came, now);
        loop {
            ready!(Pin::new(&mut *timer).poll(cx));
            let deadline = pace.deadline(stall, self.max);
            if deadline <= now {
                return Poll::Ready(());
            }
            timer.set_at(deadline);
        }
    }

    /// Lets out what tungstenite has left behind: once a connection is closed, it flushes nothing.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let underlay = self.stream.get_mut();
        if underlay.outbox.is_empty() { Poll::Ready(Ok(())) } else { Pin::new(underlay).poll_flush(cx) }
    }

    /// Pings a peer that has been silent for long. `Ready` if that is to be written now.
    fn poll_pulse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pulse) = &mut self.pulse else { return Poll::Pending };
        if std::mem::take(&mut self.stream.get_mut().heard) {
            pulse.heard();
        }
        match ready!(pulse.poll(cx)) {
            Silence::Final => Poll::Ready(Err(vanished())),
            Silence::Long => {
                // If there is no room for it, the peer has been sent enough to answer.
                if Pin::new(&mut self.stream).poll_ready(cx).map_err(into_io)?.is_ready() {
                    Pin::new(&mut self.stream)
                        .start_send(Message::Ping(Default::default()))
                        .map_err(into_io)?;
                    self.owes_frame = true;
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T: Stream> Pipe for WebSocket<T> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        loop {
            if self.owes_frame {
                ready!(self.poll_flush(cx))?;
                self.owes_frame = false;
            }
            let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(cx) else {
                let underlay = self.stream.get_mut();
                if underlay.stream.resume() {
                    // What does not get out yet is no reason not to read.
                    let _ = !underlay.outbox.is_empty() && self.poll_flush(cx)?.is_ready();
                    continue;
                }
                if self.poll_late(cx).is_ready() {
                    self.late = true;
                    return Poll::Ready(Ok(self.complain(CloseCode::Policy, LATE)));
                }
                ready!(self.poll_pulse(cx))?;
                continue;
            };
            match next {
                Some(Ok(Message::Text(text))) => {
                    self.whole();
                    self.binary = self.always_binary;
                    into.extend_from_slice(text.as_bytes());
                }
                Some(Ok(Message::Binary(bytes))) => {
                    self.whole();
                    self.binary = true;
                    into.extend_from_slice(&bytes);
                }
                Some(Ok(frame)) => {
                    self.owes_frame = frame.is_ping();
                    // It is no part of a message that has begun: its header, its mask and what it says.
                    let came = &mut self.stream.get_mut().came;
                    *came = came.saturating_sub(2 + 4 + frame.len());
                    continue;
                }
                Some(Err(Error::Capacity(CapacityError::MessageTooLong { max_size, .. }))) => {
                    let reason = format!("a message of more than {max_size} bytes ({})", self.setting);
                    return Poll::Ready(Ok(self.complain(CloseCode::Size, reason)));
                }
                Some(Err(Error::Utf8(_))) => {
                    return Poll::Ready(Ok(self.complain(CloseCode::Invalid, "not UTF-8")));
                }
                // The peer is gone without a word, so there is nobody to tell.
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(Received::Gone));
                }
                Some(Err(Error::Protocol(error))) => {
                    return Poll::Ready(Ok(self.complain(CloseCode::Protocol, error.to_string())));
                }
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(Received::Gone));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
            return Poll::Ready(Ok(Received::Some));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let underlay = self.stream.get_mut();
        ready!(underlay.poll_room(cx))?;
        // tungstenite would copy it twice more, and keep room for the longest ever.
        let opcode = OpCode::Data(if self.binary { Data::Binary } else { Data::Text });
        if opcode == OpCode::Data(Data::Text) {
            std::str::from_utf8(bytes).map_err(io::Error::other)?;
        }
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        header.format(bytes.len() as u64, underlay.outbox.bytes()).map_err(into_io)?;
        underlay.outbox.bytes().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(into_io)?;
        self.poll_out(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, why: Closing) -> Poll<io::Result<()>> {
        if self.farewell.is_none() && matches!(why, Closing::Stopping { .. }) {
            self.complain(CloseCode::Away, "the node is stopping");
        }
        let Some(farewell) = &mut self.farewell else {
            return match ready!(Pin::new(&mut self.stream).poll_close(cx)) {
                Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => self.poll_out(cx),
                Err(error) => Poll::Ready(Err(into_io(error))),
            };
        };
        loop {
            match &mut **farewell {
                Farewell::ToSay(frame) => {
                    let frame = Message::Close(Some(frame.clone()));
                    ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(into_io)?;
                    Pin::new(&mut self.stream).start_send(frame).map_err(into_io)?;
                    **farewell = Farewell::Said;
                }
                Farewell::Said => {
                    ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(into_io)?;
                    ready!(Pin::new(self.stream.get_mut()).poll_flush(cx))?;
                    ready!(Pin::new(self.stream.get_mut().stream.get_mut()).poll_close(cx))?;
                    **farewell = Farewell::Lingering(Linger::new());
                }
                Farewell::Lingering(linger) => {
                    ready!(linger.poll(cx, self.stream.get_mut().stream.get_mut()));
                    let late = || io::Error::new(io::ErrorKind::TimedOut, Late);
                    return Poll::Ready(if self.late { Err(late()) } else { Ok(()) });
                }
            }
        }
    }
}

impl<T> fmt::Debug for WebSocket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("binary", &self.binary).finish_non_exhaustive()
    }
}

/// Said of a message whose rest does not come.
const LATE: &str = "a message that had begun did not come in time (limits.stall_timeout)";

#[derive(Debug)]
struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(LATE)
    }
}

impl std::error::Error for Late {}

pub(super) fn is_late(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Late>)
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
