//! A pipe over WebSocket: each message is one text or binary frame.

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

use super::buffered_stream::BufferedStream;
use crate::receive_deadline::ReceiveDeadline;
use crate::transport::pipe::{CloseReason, Pipe, Received, Stream};
use crate::transport::stream::{Heartbeat, LingeringClose, PeerIdle, keepalive_error};

/// Size of tungstenite's read buffer, which each connection holds, in bytes.
const READ: usize = 512;

/// Carries messages in text or binary frames, whichever the peer used last. Answers pings, and pings a silent peer.
pub struct WebSocket<T> {
    stream: WebSocketStream<BufferedStream<T>>,
    /// Send binary frames.
    binary: bool,
    always_binary: bool,
    /// The name of the setting that limits the length of a message, for error messages.
    limit_name: &'static str,
    /// A ping or pong must be written before more is read.
    control_frame_due: bool,
    heartbeat: Option<Heartbeat>,
    /// Maximum pause within a message.
    stall_timeout: Duration,
    /// Maximum length of a message, in bytes.
    max: usize,
    /// Set while a message is partially received, and until its timer expires.
    partial: Option<Box<PartialMessage>>,
    /// A message was not completed in time.
    timed_out: bool,
    /// Set while a close frame with a reason is sent.
    closing: Option<Box<CloseState>>,
}

/// Timeout of a partially received message.
struct PartialMessage {
    /// `None` once the message is complete. The timer is kept, so that a busy connection sets few.
    deadline: Option<ReceiveDeadline>,
    timer: Timer,
}

/// The progress of closing with a reason.
enum CloseState {
    /// The close frame is not yet passed to tungstenite.
    Queued(CloseFrame),
    /// The close frame is being written.
    Sent,
    /// The close frame is written; the peer's data is discarded.
    Lingering(LingeringClose),
}

impl<T: Stream> WebSocket<T> {
    /// Creates the server's side of a connection whose HTTP upgrade is complete.
    ///
    /// `prefix` contains the bytes already read after the request head. `max` is the maximum length of a message, in
    /// bytes. A peer that is silent for `keepalive` is pinged, and closed after as long again. A message may pause for
    /// `stall_timeout`.
    pub async fn accept(
        stream: T,
        prefix: Vec<u8>,
        max: usize,
        keepalive: Duration,
        stall_timeout: Duration,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(max))
            .max_frame_size(Some(max));
        let mut stream = BufferedStream::new(stream);
        stream.frames.advance(&prefix);
        stream.received = prefix.len();
        let stream = WebSocketStream::from_partially_read(stream, prefix, Role::Server, Some(config)).await;
        Self {
            stream,
            binary: false,
            always_binary: false,
            limit_name: "limits.message",
            control_frame_due: false,
            heartbeat: Heartbeat::new(keepalive),
            stall_timeout,
            max,
            partial: None,
            timed_out: false,
            closing: None,
        }
    }

    /// Sends only binary frames, whatever the peer sends.
    #[must_use]
    pub fn always_binary(self) -> Self {
        Self { binary: true, always_binary: true, ..self }
    }

    /// Sets the name of the setting to report for a message that is too long, instead of `limits.message`.
    #[must_use]
    pub fn with_limit_name(self, limit_name: &'static str) -> Self {
        Self { limit_name, ..self }
    }

    /// Sets the close frame to be sent when the pipe is closed.
    fn set_close_frame(&mut self, code: CloseCode, reason: impl Into<Utf8Bytes>) -> Received {
        self.closing = Some(Box::new(CloseState::Queued(CloseFrame { code, reason: reason.into() })));
        Received::Closed
    }

    /// Records that the message is complete.
    fn message_complete(&mut self) {
        self.stream.get_mut().received = 0;
        if let Some(partial) = &mut self.partial {
            partial.deadline = None;
        }
    }

    /// Returns `Ready` if a partially received message was not completed in time.
    fn poll_message_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stream = self.stream.get_mut();
        if !stream.frames.is_partial() {
            // Only control frames were received.
            self.message_complete();
            // Keep the timer until it expires.
            if self.partial.as_mut().is_some_and(|partial| Pin::new(&mut partial.timer).poll(cx).is_ready()) {
                self.partial = None;
            }
            return Poll::Pending;
        }
        let now = Instant::now();
        let received = std::mem::take(&mut stream.received);
        let stall_timeout = self.stall_timeout;
        let PartialMessage { deadline, timer } = &mut **self.partial.get_or_insert_with(|| {
            Box::new(PartialMessage { deadline: None, timer: Timer::after(stall_timeout) })
        });
        let deadline = deadline.get_or_insert(ReceiveDeadline::new(now));
        deadline.progress(received, now);
        loop {
            ready!(Pin::new(&mut *timer).poll(cx));
            let at = deadline.deadline(stall_timeout, self.max);
            if at <= now {
                return Poll::Ready(());
            }
            timer.set_at(at);
        }
    }

    /// Writes output that tungstenite leaves behind: once a connection is closed, it flushes nothing.
    fn poll_flush_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream.get_mut();
        if stream.output.is_empty() { Poll::Ready(Ok(())) } else { Pin::new(stream).poll_flush(cx) }
    }

    fn send_ping(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // If the output buffer has no room, it contains enough for the peer to react to.
        if Pin::new(&mut self.stream).poll_ready(cx).map_err(into_io)?.is_ready() {
            Pin::new(&mut self.stream).start_send(Message::Ping(Default::default())).map_err(into_io)?;
            self.control_frame_due = true;
        }
        Ok(())
    }

    /// Pings a silent peer. Returns `Ready` if the ping must be written now.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(heartbeat) = &mut self.heartbeat else { return Poll::Pending };
        if std::mem::take(&mut self.stream.get_mut().active) {
            heartbeat.record_activity();
        }
        match ready!(heartbeat.poll(cx)) {
            PeerIdle::Dead => Poll::Ready(Err(keepalive_error())),
            PeerIdle::PingDue => Poll::Ready(self.send_ping(cx)),
        }
    }
}

impl<T: Stream> Pipe for WebSocket<T> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        loop {
            if self.control_frame_due {
                ready!(self.poll_flush(cx))?;
                self.control_frame_due = false;
            }
            let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(cx) else {
                let stream = self.stream.get_mut();
                if stream.stream.resume() {
                    // Read even if the output cannot be written yet.
                    let _ = !stream.output.is_empty() && self.poll_flush(cx)?.is_ready();
                    continue;
                }
                if self.poll_message_timeout(cx).is_ready() {
                    self.timed_out = true;
                    return Poll::Ready(Ok(self.set_close_frame(CloseCode::Policy, MESSAGE_TIMEOUT)));
                }
                ready!(self.poll_heartbeat(cx))?;
                continue;
            };
            match next {
                Some(Ok(Message::Text(text))) => {
                    self.message_complete();
                    self.binary = self.always_binary;
                    into.extend_from_slice(text.as_bytes());
                }
                Some(Ok(Message::Binary(bytes))) => {
                    self.message_complete();
                    self.binary = true;
                    into.extend_from_slice(&bytes);
                }
                Some(Ok(frame)) => {
                    self.control_frame_due = frame.is_ping();
                    // A control frame (header, mask and payload) is no progress of a partially received message.
                    let received = &mut self.stream.get_mut().received;
                    *received = received.saturating_sub(2 + 4 + frame.len());
                    continue;
                }
                Some(Err(Error::Capacity(CapacityError::MessageTooLong { max_size, .. }))) => {
                    let reason = format!("a message of more than {max_size} bytes ({})", self.limit_name);
                    return Poll::Ready(Ok(self.set_close_frame(CloseCode::Size, reason)));
                }
                Some(Err(Error::Utf8(_))) => {
                    return Poll::Ready(Ok(self.set_close_frame(CloseCode::Invalid, "not UTF-8")));
                }
                // The peer disconnected, so a close frame would not reach it.
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(Received::Closed));
                }
                Some(Err(Error::Protocol(error))) => {
                    return Poll::Ready(Ok(self.set_close_frame(CloseCode::Protocol, error.to_string())));
                }
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(Received::Closed));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
            return Poll::Ready(Ok(Received::Data));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.stream.get_mut();
        ready!(stream.poll_ready(cx))?;
        // Bypasses tungstenite, which would copy the message twice more and keep a buffer as large as the longest ever.
        let opcode = OpCode::Data(if self.binary { Data::Binary } else { Data::Text });
        if opcode == OpCode::Data(Data::Text) {
            std::str::from_utf8(bytes).map_err(io::Error::other)?;
        }
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        header.format(bytes.len() as u64, stream.output.bytes_mut()).map_err(into_io)?;
        stream.output.bytes_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(into_io)?;
        self.poll_flush_rest(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Poll<io::Result<()>> {
        match reason {
            CloseReason::Stopping { .. } if self.closing.is_none() => {
                self.set_close_frame(CloseCode::Away, "the node is stopping");
            }
            CloseReason::Closed if self.closing.is_none() => {
                self.set_close_frame(CloseCode::Normal, "closed by the node");
            }
            _ => {}
        }
        let Some(closing) = &mut self.closing else {
            return match ready!(Pin::new(&mut self.stream).poll_close(cx)) {
                Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => self.poll_flush_rest(cx),
                Err(error) => Poll::Ready(Err(into_io(error))),
            };
        };
        loop {
            match &mut **closing {
                CloseState::Queued(frame) => {
                    let frame = Message::Close(Some(frame.clone()));
                    ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(into_io)?;
                    Pin::new(&mut self.stream).start_send(frame).map_err(into_io)?;
                    **closing = CloseState::Sent;
                }
                CloseState::Sent => {
                    ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(into_io)?;
                    ready!(Pin::new(self.stream.get_mut()).poll_flush(cx))?;
                    ready!(Pin::new(self.stream.get_mut().stream.get_mut()).poll_close(cx))?;
                    **closing = CloseState::Lingering(LingeringClose::new());
                }
                CloseState::Lingering(lingering) => {
                    ready!(lingering.poll(cx, self.stream.get_mut().stream.get_mut()));
                    let timeout = || io::Error::new(io::ErrorKind::TimedOut, MessageTimeout);
                    return Poll::Ready(if self.timed_out { Err(timeout()) } else { Ok(()) });
                }
            }
        }
    }

    fn ping(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        // What came before is no sign of life.
        self.stream.get_mut().heard = false;
        self.send_ping(cx).map(|()| true)
    }

    fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.stream.get_mut().heard)
    }
}

impl<T> fmt::Debug for WebSocket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("binary", &self.binary).finish_non_exhaustive()
    }
}

const MESSAGE_TIMEOUT: &str = "a message was not completed in time (limits.stall_timeout)";

#[derive(Debug)]
struct MessageTimeout;

impl fmt::Display for MessageTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MESSAGE_TIMEOUT)
    }
}

impl std::error::Error for MessageTimeout {}

pub(in crate::transport) fn is_message_timeout(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<MessageTimeout>)
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
