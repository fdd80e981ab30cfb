//! The stream as h2 takes it, and what the peer is in the middle of sending.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_lite::io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

/// Length of what a client sends before its first frame, in bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Length of the head of a frame, in bytes (section 4.1).
const FRAME_HEAD: usize = 9;
/// Frames that belong to no message are counted over this time.
const CONTROL_WINDOW: Duration = Duration::from_secs(10);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// Yields to other connections after this many bytes: they may be thousands of frames, each of which is answered.
const TURN: usize = 16 * 1024;

/// A stream with tokio's I/O traits, which h2 requires. The traits are all that is used of tokio.
pub(super) struct TokioStream<T> {
    inner: T,
    progress: Progress,
    /// Bytes received since the last yield.
    turn: usize,
}

/// What was received, as the loop of the connection sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Received>>);

/// Follows the frames in the bytes that are received.
#[derive(Debug, Default)]
struct Received {
    bytes: u64,
    /// Frames of HEADERS and DATA received.
    answers: u64,
    /// Other frames received since the last of HEADERS or DATA, in either direction.
    control: usize,
    /// When the first of them arrived.
    control_since: Option<Instant>,
    /// The stream is neither read nor written.
    is_paused: bool,
    /// The last write was blocked.
    is_blocked: bool,
    /// Writes that were blocked before.
    resumed: u64,
    /// The pieces of responses that were sent when that was last checked.
    sent: u64,
    /// Bytes of the preface received.
    preface: usize,
    head: [u8; FRAME_HEAD],
    /// Bytes of the head received.
    head_len: usize,
    /// Bytes of the frame's payload still to come.
    payload: usize,
    /// The first frame has ended.
    has_begun: bool,
    /// A head of a request has begun, whose last CONTINUATION is still to come.
    in_header_block: bool,
    /// When the frame or header block that is incomplete began, or the connection without a frame. None within DATA, whose time its body limits.
    incomplete_since: Option<Instant>,
}

impl<T> TokioStream<T> {
    pub(super) fn new(inner: T, progress: &Progress) -> Self {
        Self { inner, progress: progress.clone(), turn: 0 }
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of bytes received.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Returns a number that changes whenever the peer has sent something, or has read so that a blocked write goes on.
    pub(super) fn signs(&self) -> u64 {
        let received = self.lock();
        received.bytes + received.resumed
    }

    /// Returns `true` if output waits for the peer to read.
    pub(super) fn is_blocked(&self) -> bool {
        self.lock().is_blocked
    }

    /// Notes the result of a write.
    fn note_write(&self, is_blocked: bool) {
        let mut received = self.lock();
        let was_blocked = std::mem::replace(&mut received.is_blocked, is_blocked);
        received.resumed += u64::from(was_blocked && !is_blocked);
    }

    /// Of what a client receives: a server sends no preface.
    pub(super) fn of_client() -> Self {
        Self(Arc::new(Mutex::new(Received { preface: PREFACE, ..Received::default() })))
    }

    /// Returns the number of frames with a head or with data.
    pub(super) fn answers(&self) -> u64 {
        self.lock().answers
    }

    /// Returns `true` if the peer sends more than `max` frames that belong to no message (PING, SETTINGS, …), within ten
    /// seconds and without a piece of a request or of a response. `sent` is the number of pieces of responses so far.
    pub(super) fn is_flooded(&self, sent: u64, max: usize) -> bool {
        let mut received = self.lock();
        if sent != std::mem::replace(&mut received.sent, sent) {
            received.control = 0;
        }
        if received.control <= max {
            return false;
        }
        received.control = 0;
        received.control_since.is_some_and(|since| since.elapsed() < CONTROL_WINDOW)
    }

    /// Sets whether the stream is neither read nor written, while requests that were read are taken from h2: it would try
    /// both for each of them. Nothing wakes the task meanwhile.
    pub(super) fn set_paused(&self, is_paused: bool) {
        self.lock().is_paused = is_paused;
    }

    fn is_paused(&self) -> bool {
        self.lock().is_paused
    }

    /// Returns `true` if the first frame has arrived.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().has_begun
    }

    /// Returns when the peer began a frame or the head of a request that is incomplete. Data of a body does not count.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        self.lock().incomplete_since
    }
}

impl Received {
    fn feed(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let preface = bytes.len().min(PREFACE - self.preface);
        self.preface += preface;
        bytes = &bytes[preface..];
        let mut has_ended = false;
        while !bytes.is_empty() {
            if self.payload == 0 {
                let count = bytes.len().min(FRAME_HEAD - self.head_len);
                self.head[self.head_len..self.head_len + count].copy_from_slice(&bytes[..count]);
                self.head_len += count;
                bytes = &bytes[count..];
                if self.head_len < FRAME_HEAD {
                    break;
                }
                let [a, b, c, kind, flags, ..] = self.head;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                match kind {
                    HEADERS | CONTINUATION => self.in_header_block = flags & END_HEADERS == 0,
                    _ => {}
                }
                match kind {
                    DATA | HEADERS => {
                        self.answers += 1;
                        self.control = 0;
                    }
                    CONTINUATION => {}
                    _ => {
                        if self.control == 0 {
                            self.control_since = Some(Instant::now());
                        }
                        self.control += 1;
                    }
                }
            }
            let count = bytes.len().min(self.payload);
            self.payload -= count;
            bytes = &bytes[count..];
            if self.payload == 0 {
                self.head_len = 0;
                self.has_begun = true;
                has_ended |= !self.in_header_block;
            }
        }
        let in_data = self.head_len == FRAME_HEAD && self.head[3] == DATA;
        let is_incomplete = (self.head_len > 0 && !in_data) || self.in_header_block || !self.has_begun;
        if !is_incomplete {
            self.incomplete_since = None;
        } else if has_ended || self.incomplete_since.is_none() {
            self.incomplete_since = Some(Instant::now());
        }
    }
}

impl<T: AsyncRead + Unpin> tokio::io::AsyncRead for TokioStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, progress, turn } = self.get_mut();
        if progress.is_paused() {
            return Poll::Pending;
        }
        if *turn >= TURN {
            *turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = ready!(Pin::new(inner).poll_read(cx, into.initialize_unfilled()))?;
        *turn += count;
        let start = into.filled().len();
        into.advance(count);
        progress.lock().feed(&into.filled()[start..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> tokio::io::AsyncWrite for TokioStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { inner, progress, .. } = self.get_mut();
        if progress.is_paused() {
            return Poll::Pending;
        }
        let written = Pin::new(inner).poll_write(cx, bytes);
        progress.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, progress, .. } = self.get_mut();
        if progress.is_paused() {
            return Poll::Pending;
        }
        let written = Pin::new(inner).poll_write_vectored(cx, slices);
        progress.note_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u8, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD + usize::from(length), 0);
        frame
    }

    #[test]
    fn heads_are_incomplete_until_their_last_frame() {
        let (ping, data) = (frame(8, 6, 0), frame(9, DATA, 0));
        let head = [frame(5, HEADERS, 0), frame(5, CONTINUATION, 0)].concat();
        let end = frame(5, CONTINUATION, END_HEADERS);
        let whole = [frame(5, HEADERS, END_HEADERS), ping.clone(), data.clone()].concat();
        for (bytes, is_incomplete) in [
            (whole.clone(), false),
            (ping[..3].to_vec(), true),
            (ping[..FRAME_HEAD + 2].to_vec(), true),
            (data[..FRAME_HEAD + 2].to_vec(), false),
            (head.clone(), true),
            ([&head[..], &end[..3]].concat(), true),
            ([head, end, whole].concat(), false),
        ] {
            for step in 1..=bytes.len() {
                let mut received = Received { preface: PREFACE, has_begun: true, ..Received::default() };
                bytes.chunks(step).for_each(|bytes| received.feed(bytes));
                assert_eq!(received.incomplete_since.is_some(), is_incomplete, "{bytes:?} by {step}");
                assert_eq!(received.bytes, bytes.len() as u64);
            }
        }
    }

    #[test]
    fn frames_that_belong_to_no_message_are_counted_until_one_does() {
        let progress = Progress::of_client();
        let feed = |frames: &[u8]| progress.lock().feed(frames);
        feed(&frame(8, 6, 0).repeat(3));
        assert!(!progress.is_flooded(0, 3));
        feed(&frame(8, 6, 0));
        assert!(progress.is_flooded(0, 3));
        feed(&[frame(8, 6, 0).repeat(3), frame(1, HEADERS, END_HEADERS), frame(0, 4, 0)].concat());
        assert!(!progress.is_flooded(0, 3));
        feed(&frame(8, 6, 0).repeat(3));
        assert!(!progress.is_flooded(1, 3), "a response was sent");
        feed(&frame(8, 6, 0).repeat(4));
        let long_ago = Instant::now().checked_sub(CONTROL_WINDOW);
        progress.lock().control_since = long_ago;
        assert!(!progress.is_flooded(1, 3), "they are spread over a long time");
    }

    #[test]
    fn time_counts_from_the_beginning_of_a_head() {
        let mut received = Received::default();
        received.feed(&[b'x'; PREFACE]);
        assert!(received.incomplete_since.is_some(), "the first frame is due");
        received.feed(&frame(0, 4, 0));
        assert_eq!(received.incomplete_since, None);
        received.feed(&frame(5, HEADERS, 0));
        let began = received.incomplete_since;
        received.feed(&frame(5, CONTINUATION, 0));
        assert!(began.is_some() && received.incomplete_since == began);
    }
}
