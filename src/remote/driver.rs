//! Drives one connection: connects, writes requests, reads replies, and reconnects.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smol::Timer;
use smol::future::yield_now;

use super::connection::{Connection, NextOutput};
use super::dial::dial;
use crate::codec::jsonrpc::{self, ReceivedReply, ReplyId};
use crate::codec::{FrameResult, LineFramer};
use crate::config::Limits;
use crate::message::{Fault, code};
use crate::transport::{CloseReason, Heartbeat, PeerIdle, Pipe, Received, StreamPipe, keepalive_error, tls};

/// The shortest wait between attempts to connect.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait between attempts to connect, before jitter.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The size of a reply without its result, in bytes. The other node limits the result.
const REPLY_ENVELOPE: usize = 64 * 1024;

/// Runs a connection until it is lost, or for as long as the client exists if it is `persistent`.
pub(super) async fn run(connection: Arc<Connection>, persistent: bool) {
    let address = &connection.target().address;
    let mut backoff = MIN_BACKOFF;
    let mut failure_logged = false;
    loop {
        connection.set_connecting();
        let (reason, unwritten) = match dial(connection.target()).await {
            Ok(stream) => {
                backoff = MIN_BACKOFF;
                connection.set_connected();
                // Lets waiting calls queue their requests, so that the preface needs no blank line.
                yield_now().await;
                if failure_logged {
                    log::info!("reconnected to {address}");
                    failure_logged = false;
                }
                let mut writing = WriteProgress { bytes: connection.preface(), written: 0 };
                let reason = match exchange(&connection, StreamPipe::new(stream), &mut writing).await {
                    Ok(()) => "closed by the other node".to_owned(),
                    Err(error) => {
                        if tls::is_certificate_rejection(&error) {
                            connection.set_unprocessed();
                        }
                        error.to_string()
                    }
                };
                (reason, writing.unwritten())
            }
            Err(error) => (error.to_string(), 0),
        };
        connection.set_disconnected(&reason, unwritten);
        // Only the first failure is logged at the level of info.
        let level = if failure_logged { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "no connection to {address}: {reason}");
        failure_logged = true;
        if !persistent || connection.is_closing() {
            return;
        }
        // Jitter, so that many clients of one node do not reconnect at the same moment.
        Timer::after(backoff.mul_f64(0.5 + fastrand::f64())).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Output that was taken from a connection to be written.
struct WriteProgress {
    bytes: Vec<u8>,
    written: usize,
}

impl WriteProgress {
    /// Returns the number of bytes that are known not to be written.
    fn unwritten(&self) -> usize {
        self.bytes.len() - self.written
    }
}

/// Writes requests and reads replies until the connection ends.
async fn exchange(
    connection: &Connection,
    mut pipe: impl Pipe,
    writing: &mut WriteProgress,
) -> io::Result<()> {
    let limits = &connection.target().limits;
    let (mut input, mut lines) = (Vec::new(), LineFramer::new(limits.message + REPLY_ENVELOPE));
    let mut heartbeat = Heartbeat::new(limits.keepalive);
    // An error with a null id is most likely the reason for which the other node closes the connection.
    let mut last_error: Option<Fault> = None;
    poll_fn(|cx| {
        if poll_write(connection, &mut pipe, writing, cx)? {
            return pipe.poll_close(cx, CloseReason::Done);
        }
        let Poll::Ready(received) = pipe.poll_receive(cx, &mut input)? else {
            // A ping wakes the task to be written.
            return heartbeat
                .as_mut()
                .map_or(Poll::Pending, |heartbeat| poll_heartbeat(connection, heartbeat, cx));
        };
        if let Some(heartbeat) = &mut heartbeat {
            heartbeat.record_activity();
        }
        read(connection, limits, &mut lines, &mut input, &mut last_error)?;
        if received == Received::Eof {
            let reason =
                last_error.take().map(|fault| format!("closed by the other node: {}", fault.message));
            return Poll::Ready(reason.map_or(Ok(()), |reason| Err(io::Error::other(reason))));
        }
        // More input may be available, but other tasks and the timers run first.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Pings a silent peer. Returns `Ready` if the peer remains silent.
fn poll_heartbeat(
    connection: &Connection,
    heartbeat: &mut Heartbeat,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let idle = ready!(heartbeat.poll(cx));
        if connection.is_full() {
            // The other node reads nothing until it answers a call, so that a ping would get no reply.
            heartbeat.record_activity();
        } else if idle == PeerIdle::Dead {
            return Poll::Ready(Err(keepalive_error()));
        } else {
            connection.ping();
        }
    }
}

/// Writes queued output. Returns `true` if all of it is written and the connection is closing.
fn poll_write(
    connection: &Connection,
    pipe: &mut impl Pipe,
    writing: &mut WriteProgress,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    loop {
        let WriteProgress { bytes, written } = &mut *writing;
        if *written == bytes.len() {
            bytes.clear();
            *written = 0;
            if let NextOutput::None { closing } = connection.take_output(bytes, cx) {
                // TLS may hold back bytes for which the socket has no space.
                let _ = pipe.poll_flush(cx)?;
                return Ok(closing);
            }
        }
        match pipe.poll_send(cx, &bytes[*written..]) {
            Poll::Ready(Ok(count)) => *written += count,
            Poll::Ready(Err(error)) => {
                // A socket that fails has accepted none of these bytes. TLS may have sent some.
                if connection.target().tls.is_some() {
                    *written = bytes.len();
                }
                return Err(error);
            }
            Poll::Pending => return Ok(false),
        }
    }
}

/// Completes the calls whose replies are in the input.
fn read(
    connection: &Connection,
    limits: &Limits,
    lines: &mut LineFramer,
    input: &mut Vec<u8>,
    last_error: &mut Option<Fault>,
) -> io::Result<()> {
    // A TLS alert or handshake record.
    if let [0x15 | 0x16, 3, ..] = input[..] {
        return Err(io::Error::other(
            "the node speaks TLS at this port: use --ca FILE, or tls under [[function]]",
        ));
    }
    let mut at = 0;
    loop {
        match lines.next_frame(&input[at..]) {
            FrameResult::Frame(line, cut) => {
                let line = &input[at + line.start..at + line.end];
                for reply in jsonrpc::decode_replies(line, limits.depth) {
                    if let ReceivedReply { id: ReplyId::Null, outcome: Err(fault) } = &reply {
                        *last_error = Some(fault.clone());
                    }
                    connection.complete(reply)?;
                }
                at += cut;
            }
            FrameResult::TooLong(cut) => {
                let message = format!("a reply of more than {} bytes (limits.message)", limits.message);
                let Some(id) = jsonrpc::reply_id_in_prefix(&input[at..at + cut]) else {
                    return Err(io::Error::other(message));
                };
                let outcome = Err(Fault::new(code::REPLY_TOO_LARGE, message));
                connection.complete(ReceivedReply { id, outcome })?;
                at += cut;
            }
            FrameResult::Invalid(why) => return Err(io::Error::other(why)),
            FrameResult::Incomplete(cut) => {
                input.drain(..at + cut);
                return Ok(());
            }
        }
    }
}
