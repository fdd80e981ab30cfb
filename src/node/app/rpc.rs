//! RPC by POST: each body is one message, handled by a session of its own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use smol::future::{Boxed, FutureExt};

use crate::driver::Alarm;
use crate::message::{Fault, code};
use crate::route::ShutdownSignal;
use crate::session::{Session, SessionError};

/// Handles the only message of a session. Returns the output if it is available at once, and otherwise a future of it,
/// whose memory the usual request thus does not need.
///
/// The message is answered even while the node stops. After `force_stop`, it is answered with an error.
pub(super) fn answer(
    mut session: Session,
    message: Vec<u8>,
    force_stop: impl FnOnce() -> ShutdownSignal,
) -> Result<Vec<u8>, Boxed<Result<Vec<u8>, SessionError>>> {
    *session.input() = message;
    session.received(Instant::now());
    if session.has_replied() {
        return Ok(session.take_output());
    }
    Err(finish(session, force_stop()).boxed())
}

/// Drives a session that has received everything until its requests are answered, and returns the output.
fn finish(
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
