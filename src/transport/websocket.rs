//! A pipe over WebSocket frames (RFC 6455): one message a frame.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::error::{CapacityError, Error};
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use futures_lite::stream::Stream as _;
use futures_sink::Sink;

use super::{Pipe, Received, Stream};

/// Bytes read at once. Every connection holds such a buffer.
const READ: usize = 2 * 1024;
/// Bytes that are gathered before they are written.
const WRITE: usize = 16 * 1024;

/// Carries text messages. Binary ones are taken as text; pings are answered.
pub struct WebSocket<T> {
    stream: WebSocketStream<T>,
    /// Bytes taken since the last flush.
    unflushed: usize,
    /// The peer has pinged, and its pong is to be written before anything more is read.
    owes_pong: bool,
    /// The close frame that says what the peer did wrong.
    complaint: Option<CloseFrame>,
}

impl<T: Stream> WebSocket<T> {
    /// Takes the server's side of a connection whose HTTP upgrade is done. `first` was read after the head.
    /// Messages are of at most `max` bytes.
    pub async fn accept(stream: T, first: Vec<u8>, max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(WRITE)
            .max_message_size(Some(max))
            .max_frame_size(Some(max));
        let stream = WebSocketStream::from_partially_read(stream, first, Role::Server, Some(config)).await;
        Self { stream, unflushed: 0, owes_pong: false, complaint: None }
    }

    /// Says what is wrong, as far as the peer listens, and ends.
    fn poll_complain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.complaint.is_some() {
            ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(into_io)?;
            let frame = self.complaint.take();
            Pin::new(&mut self.stream).start_send(Message::Close(frame)).map_err(into_io)?;
        }
        Pin::new(&mut self.stream).poll_flush(cx).map_err(into_io)
    }
}

impl<T: Stream> Pipe for WebSocket<T> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        loop {
            if self.complaint.is_some() {
                ready!(self.poll_complain(cx))?;
                return Poll::Ready(Ok(Received::Gone));
            }
            if self.owes_pong {
                ready!(self.poll_flush(cx))?;
                self.owes_pong = false;
            }
            match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => into.extend_from_slice(text.as_bytes()),
                Some(Ok(Message::Binary(bytes))) => into.extend_from_slice(&bytes),
                Some(Ok(frame)) => {
                    self.owes_pong = frame.is_ping();
                    continue;
                }
                Some(Err(Error::Capacity(CapacityError::MessageTooLong { max_size, .. }))) => {
                    let reason = format!("a message of more than {max_size} bytes (limits.message)").into();
                    self.complaint = Some(CloseFrame { code: CloseCode::Size, reason });
                    continue;
                }
                Some(Err(Error::Utf8(_))) => {
                    self.complaint =
                        Some(CloseFrame { code: CloseCode::Invalid, reason: "not UTF-8".into() });
                    continue;
                }
                Some(Err(Error::Protocol(error))) => {
                    let reason = error.to_string().into();
                    self.complaint = Some(CloseFrame { code: CloseCode::Protocol, reason });
                    continue;
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
        if self.unflushed >= WRITE {
            ready!(self.poll_flush(cx))?;
        }
        ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(into_io)?;
        let text = String::from_utf8(bytes.to_vec()).map_err(io::Error::other)?;
        Pin::new(&mut self.stream).start_send(Message::text(text)).map_err(into_io)?;
        self.unflushed += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(into_io)?;
        self.unflushed = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(into_io(error))),
        }
    }
}

impl<T> fmt::Debug for WebSocket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("unflushed", &self.unflushed).finish_non_exhaustive()
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
