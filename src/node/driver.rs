//! Drives one session over one pipe.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use smol::Timer;

use crate::message::{Fault, code};
use crate::route::ShutdownSignal;
use crate::session::Session;
use crate::transport::{CloseReason, Pipe, Received};

/// Rounds of reading and replying before other connections run. A socket that always has more to read would otherwise
/// occupy the executor.
const ROUND_BUDGET: u32 = 4;
/// Messages handled before other connections run.
const MESSAGE_BUDGET: u64 = 64;
/// Messages of a framed transport that are read before their replies are flushed.
const READS_PER_FLUSH: u32 = 64;

/// Moves bytes between `pipe` and `session` until the peer has finished sending and everything is answered.
///
/// After `stop`, it no longer reads, and ends when everything received is answered. After `force_stop`, it answers the
/// remaining calls with an error. Without a `stop` it reads to the peer's end even while the node stops.
///
/// A plain function with one closure: an `async` one would hold its arguments twice, in the memory of every idle
/// connection.
pub(super) fn drive(
    mut session: Session,
    mut pipe: Box<dyn Pipe + Send + '_>,
    mut stop: Option<ShutdownSignal>,
    mut force_stop: ShutdownSignal,
) -> impl Future<Output = io::Result<()>> + Send {
    let mut alarm: Option<(Instant, Timer)> = None;
    let (mut stopped, mut force_stopped, mut busy) = (false, false, false);
    let mut closing = None;
    poll_fn(move |cx| {
        // Once the pipe has nothing to read, the task is woken when it does.
        let mut drained = false;
        let (start, messages) = (Instant::now(), session.message_count());
        for round in 1..=ROUND_BUDGET {
            if let Some(why) = closing {
                return pipe.poll_close(cx, why).map(|closed| match session.error() {
                    Some(error) if error.is_logged() => closed.and(Err(io::Error::other(error))),
                    _ => closed,
                });
            }
            let mut now = Instant::now();
            let mut progress = session.poll_replies(cx, now).is_ready();
            if write(&mut session, &mut *pipe, cx)? {
                now = Instant::now();
                progress = true;
            }
            let flushed = pipe.poll_flush(cx)?.is_ready();

            if !stopped && stop.as_mut().is_some_and(|stop| Pin::new(stop).poll(cx).is_ready()) {
                stopped = true;
                busy = progress || !session.is_idle();
            }
            // The forced stop follows the stop.
            let may_force = !force_stopped && (stopped || stop.is_none());
            if may_force && Pin::new(&mut force_stop).poll(cx).is_ready() {
                force_stopped = true;
                session.fail_all(&Fault::new(code::CLOSED, "the node is stopping"));
                progress = true;
            }
            let mut reads = 0;
            while !drained && !stopped && session.wants_input() {
                match pipe.poll_receive(cx, session.input())? {
                    Poll::Ready(Received::Data) => {
                        session.received(now);
                        progress = true;
                        reads += 1;
                        if !session.is_framed() || reads >= READS_PER_FLUSH || session.is_budget_spent(start)
                        {
                            break;
                        }
                        // Not flushed yet, but written before the next read, which may be the end.
                        write(&mut session, &mut *pipe, cx)?;
                    }
                    Poll::Ready(Received::Eof) => {
                        session.end(now);
                        progress = true;
                    }
                    Poll::Ready(Received::Closed) => {
                        closing = Some(CloseReason::Done);
                        progress = true;
                        break;
                    }
                    Poll::Pending => drained = true,
                }
            }

            if closing.is_some() {
                continue;
            }
            let budget_spent = round == ROUND_BUDGET
                || session.message_count() - messages >= MESSAGE_BUDGET
                || session.is_budget_spent(start);
            if progress && budget_spent {
                // Replies must not wait for the next turn of this connection.
                write(&mut session, &mut *pipe, cx)?;
                let _ = pipe.poll_flush(cx)?;
                break;
            }
            if progress || session.has_yielded() {
                continue;
            }
            // A peer that has finished sending waits for its replies only; a node that stops also for notifications.
            let why = match (session.is_read_closed(), session.has_failed()) {
                (true, false) => session.is_flushed().then_some(CloseReason::Done),
                (true, true) => session.is_flushed().then_some(CloseReason::Refused),
                _ => (stopped && session.is_idle()).then_some(CloseReason::Stopping { busy }),
            };
            closing = why.filter(|_| flushed);
            if closing.is_some() {
                continue;
            }
            match session.next_deadline() {
                None => alarm = None,
                Some(deadline) if alarm.as_ref().is_some_and(|(at, _)| *at == deadline) => {}
                Some(deadline) => alarm = Some((deadline, Timer::at(deadline))),
            }
            if !alarm.as_mut().is_some_and(|(_, timer)| Pin::new(timer).poll(cx).is_ready()) {
                return Poll::Pending;
            }
            alarm = None;
            session.expire(Instant::now());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Writes output while the pipe accepts it. Returns `true` if it accepted any.
fn write(session: &mut Session, pipe: &mut dyn Pipe, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut progress = false;
    while !session.output().is_empty() {
        let Poll::Ready(written) = pipe.poll_send(cx, session.output())? else { break };
        session.consume_output(written);
        progress = true;
    }
    Ok(progress)
}
