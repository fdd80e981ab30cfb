//! Lets hyper read requests and write responses while there are any.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;

use super::cork::Cork;
use super::error::ServeError;
use super::idle::{IdleTimer, RequestCounter};
use super::response::ResponseBody;
use crate::transport::pipe::Stream;
use crate::transport::stream::Rewind;

/// Maximum length of a request head, and of hyper's buffer for a body, in bytes.
const BUFFER: usize = 16 * 1024;
/// hyper yields after 16 consecutive requests. Poll it this many times more before the responses are written and other
/// tasks run.
const REPOLLS: u32 = 3;
/// Yields to other tasks after this many requests or this much time, before more is read.
const BUDGET: (u64, Duration) = (64, Duration::from_millis(10));

/// State shared by the requests of a connection and the loop that serves it.
#[derive(Debug, Default)]
pub(super) struct ConnState {
    pub(super) requests: RequestCounter,
    /// The node is shutting down.
    pub(super) stopping: AtomicBool,
    /// The peer may still be sending when it gets the last response.
    pub(super) unread: AtomicBool,
    /// A body is sent as it becomes available, until the connection ends.
    pub(super) streaming: AtomicBool,
    /// An upgrade to another protocol was accepted.
    pub(super) upgraded: AtomicBool,
}

/// The state of a connection after [`pump`].
pub(super) struct PumpResult<T> {
    pub(super) stream: Rewind<T>,
    /// How the connection ended; `None` if it is idle.
    pub(super) ended: Option<Result<(), ServeError>>,
}

/// Serves requests until the connection ends or becomes idle.
///
/// # Errors
/// If the connection ended with an error. An error that hyper has reported to the peer is in [`PumpResult::ended`],
/// since the stream must still be closed.
pub(super) async fn pump<T: Stream, H>(
    stream: Rewind<T>,
    handler: &H,
    state: &ConnState,
    idle: &mut IdleTimer,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<PumpResult<T>, ServeError>
where
    H: hyper::service::Service<
            hyper::Request<Incoming>,
            Response = hyper::Response<ResponseBody>,
            Error = Infallible,
        >,
{
    let ConnState { requests, stopping, .. } = state;
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(BUFFER);
    let (cork, stream) = Cork::new(stream);
    let mut connection = builder.serve_connection(stream, handler);
    let mut ended = None;
    let ended = poll_fn(|cx| {
        if !stopping.load(Ordering::Relaxed) && stop.as_mut().poll(cx).is_ready() {
            stopping.store(true, Ordering::Relaxed);
            Pin::new(&mut connection).graceful_shutdown();
        }
        let (before, started) = (requests.started(), Instant::now());
        let is_over_budget = || requests.started() - before >= BUDGET.0 || started.elapsed() > BUDGET.1;
        let mut repolls = 0;
        loop {
            if ended.is_none()
                && let Poll::Ready(result) = Pin::new(&mut connection).poll(cx)
            {
                ended = Some(result.map_err(ServeError::Http));
            }
            let yielded = ended.is_none() && !cork.take_blocked() && requests.is_idle();
            if yielded && repolls < REPOLLS && !is_over_budget() {
                repolls += 1;
                continue;
            }
            // Responses to pipelined requests are written together, and before more is read.
            let flushed = cork.poll_uncork(cx);
            if ended.is_some() {
                ready!(flushed);
            } else if cork.resume_reads() {
                // Other connections first: a peer that is quick to answer would otherwise be served several times before
                // them.
                if requests.started() == before && !is_over_budget() {
                    continue;
                }
                cx.waker().wake_by_ref();
            } else if !state.streaming.load(Ordering::Relaxed)
                && idle.poll(cx, requests, flushed.is_ready() && !cork.is_write_blocked()).is_ready()
            {
                return Poll::Ready(None);
            }
            return ended.take().map_or(Poll::Pending, |ended| Poll::Ready(Some(ended)));
        }
    })
    .await;
    let ended = match ended {
        Some(Err(error)) if !error.is_parse_error() => return Err(error),
        ended => ended,
    };
    let parts = connection.into_parts();
    let stream = cork.into_inner(parts.io).ok_or(ServeError::Stream(io::ErrorKind::BrokenPipe.into()))?;
    Ok(PumpResult { stream: stream.rewind(&parts.read_buf), ended })
}
