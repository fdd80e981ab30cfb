//! RPC by POST: each body is one message, handled by a session of its own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use smol::future::{Boxed, FutureExt};

use crate::message::{Fault, code};
use crate::route::ShutdownSignal;
use crate::session::{Session, SessionError};
use crate::transport::Alarm;
use crate::transport::http::HttpRequest;

/// Handles the only message of a session. Returns the output if it is available at once, and otherwise a future of it,
/// whose memory the usual request thus does not need.
///
/// The message is answered even while the node stops. After `force_stop`, it is answered with an error.
pub(super) fn answer(
    mut session: Session,
    message: Vec<u8>,
    request: &mut HttpRequest,
    force_stop: impl FnOnce() -> ShutdownSignal,
) -> Result<Vec<u8>, Boxed<Result<Vec<u8>, SessionError>>> {
    *session.input() = message;
    session.received(Instant::now());
    if session.has_replied() {
        return Ok(session.take_output());
    }
    note_running(&session, request);
    Err(finish(session, force_stop()).boxed())
}

/// Lets the connection of a request know how long the function that it has called runs.
#[cfg(feature = "grpc")]
pub(super) fn note_running(session: &Session, request: &mut HttpRequest) {
    if let Some(mailbox) = session.mailbox() {
        let running: std::sync::Arc<dyn std::any::Any + Send + Sync> = mailbox;
        request.set_running(std::sync::Arc::downgrade(&running));
    }
}

/// Over HTTP/1, a peer that cancels a request must connect again.
#[cfg(not(feature = "grpc"))]
fn note_running(_: &Session, _: &mut HttpRequest) {}

/// Drives a session that has received everything until its requests are answered, and returns the output.
pub(super) fn finish(
    mut session: Session,
    mut force_stop: ShutdownSignal,
) -> impl Future<Output = Result<Vec<u8>, SessionError>> + Send {
    let mut alarm = Alarm::default();
    let (mut output, mut force_stopped) = (Vec::new(), false);
    session.end(Instant::now());
    poll_fn(move |cx| {
        loop {
            let progress = session.poll_replies(cx, Instant::now()).is_ready();
            if !force_stopped && Pin::new(&mut force_stop).poll(cx).is_ready() {
                force_stopped = true;
                session.fail_all(&Fault::new(code::CLOSED, "the node is stopping"));
            }
            output.append(&mut session.take_output());
            if session.has_replied() {
                return Poll::Ready(match session.error() {
                    Some(error) if error.is_logged() => Err(error),
                    _ => Ok(std::mem::take(&mut output)),
                });
            }
            if session.has_yielded() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if progress {
                continue;
            }
            if alarm.poll(session.next_deadline(), cx).is_pending() {
                return Poll::Pending;
            }
            session.expire(Instant::now());
        }
    })
}
