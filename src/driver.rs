//! Drives one session over one pipe.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::message::{Fault, code};
use crate::route::ShutdownSignal;
use crate::session::{Session, SessionError};
use crate::transport::{Alarm, CloseReason, Pipe, Received, tls};

/// Rounds of reading and replying before other connections run. A socket that always has more to read would otherwise
/// occupy the executor.
const ROUND_BUDGET: u32 = 4;
/// Messages handled before other connections run.
const MESSAGE_BUDGET: u64 = 64;
/// Reads, and turns of a session, after the peer has closed the connection.
const MAX_LAST_READS: u32 = 1024;
/// Messages of a framed transport that are read before their replies are flushed.
const READS_PER_FLUSH: u32 = 64;

/// Moves bytes between `pipe` and `session` until the peer has finished sending and everything is answered.
///
/// After `stop`, it no longer reads, and ends when everything received is answered. After `force_stop`, it answers the
/// remaining calls with an error. Without a `stop` it reads to the peer's end even while the node stops. A connection
/// that this node has established ends at once when the peer has finished sending and has no calls in flight.
///
/// A plain function with one closure: an `async` one would hold its arguments twice, in the memory of every idle
/// connection.
pub(crate) fn drive(
    mut session: Session,
    mut pipe: Box<dyn Pipe + Send + '_>,
    mut stop: Option<ShutdownSignal>,
    mut force_stop: Option<ShutdownSignal>,
) -> impl Future<Output = io::Result<()>> + Send {
    let mut alarm = Alarm::default();
    let (mut stopped, mut force_stopped, mut busy) = (false, false, false);
    let mut closing = None;
    let mut turn = move |session: &mut Session, cx: &mut Context<'_>| {
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
            if write(session, &mut *pipe, cx)? {
                now = Instant::now();
                progress = true;
            }
            let flushed = pipe.poll_flush(cx)?.is_ready();

            if !stopped && stop.as_mut().is_some_and(|stop| Pin::new(stop).poll(cx).is_ready()) {
                stopped = true;
                busy = progress || !session.is_idle();
                session.announce_stop();
                session.end_subscriptions("the node is stopping");
                progress = true;
            }
            // The forced stop follows the stop.
            let may_force = !force_stopped && (stopped || stop.is_none());
            if may_force && force_stop.as_mut().is_some_and(|force| Pin::new(force).poll(cx).is_ready()) {
                force_stopped = true;
                session.fail_all(&Fault::new(code::CLOSED, "the node is stopping"));
                progress = true;
            }
            let mut reads = 0;
            // A node that stops still takes the answers of a peer that it calls.
            let may_read = !stopped || (!force_stopped && session.awaits_peer());
            while !drained && may_read && session.wants_input() {
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
                        write(session, &mut *pipe, cx)?;
                    }
                    Poll::Ready(Received::Eof) => {
                        session.end(now);
                        progress = true;
                    }
                    Poll::Ready(Received::Closed) => {
                        session.disconnected(&session.close_reason(), false);
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
            if session.is_dialled() && session.is_read_closed() && session.has_replied() {
                return Poll::Ready(match session.error() {
                    Some(error) => Err(io::Error::other(error)),
                    None => Err(io::Error::other(session.close_reason())),
                });
            }
            let budget_spent = round == ROUND_BUDGET
                || session.message_count() - messages >= MESSAGE_BUDGET
                || session.is_budget_spent(start);
            if progress && budget_spent {
                // Replies must not wait for the next turn of this connection.
                write(session, &mut *pipe, cx)?;
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
                _ if session.is_closing() && session.is_dialled() => Some(CloseReason::Done),
                _ if session.is_closing() => Some(CloseReason::Closed),
                _ => {
                    let is_done = stopped && session.is_idle() && (force_stopped || !session.awaits_peer());
                    is_done.then_some(CloseReason::Stopping { busy })
                }
            };
            let is_stopping = matches!(why, Some(CloseReason::Stopping { .. }));
            if is_stopping && flushed && session.announce_end() {
                continue;
            }
            closing = why.filter(|_| flushed);
            if closing.is_some() {
                session.disconnected(&session.close_reason(), false);
                continue;
            }
            if session.take_ping() {
                if !pipe.ping(cx)? {
                    session.send_ping();
                }
                continue;
            }
            if alarm.poll(session.next_deadline(), cx).is_pending() {
                return Poll::Pending;
            }
            if pipe.take_activity() {
                session.note_activity();
            }
            session.expire(Instant::now());
            if session.has_vanished() {
                return Poll::Ready(Err(io::Error::other(SessionError::Vanished)));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    };
    poll_fn(move |cx| {
        let polled = turn(&mut session, cx);
        if let Poll::Ready(ended) = &polled {
            session_ended(&mut session, ended);
        }
        polled
    })
}

/// Fails the calls to the peer that are left.
fn session_ended(session: &mut Session, ended: &io::Result<()>) {
    match ended {
        Ok(()) => session.disconnected(&session.close_reason(), false),
        Err(error) => session.disconnected(&error.to_string(), tls::is_certificate_rejection(error)),
    }
}

/// Writes output while the pipe accepts it. Returns `true` if it accepted any.
fn write(session: &mut Session, pipe: &mut dyn Pipe, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut progress = false;
    while !session.output().is_empty() {
        match pipe.poll_send(cx, session.output()) {
            Poll::Pending => break,
            Poll::Ready(Ok(written)) => session.consume_output(written),
            Poll::Ready(Err(error)) => {
                session.write_failed();
                if session.is_dialled() {
                    receive_rest(session, pipe, cx);
                }
                return Err(error);
            }
        }
        progress = true;
    }
    Ok(progress)
}

/// Handles what the peer has sent before it closed the connection: answers, or that it has stopped.
fn receive_rest(session: &mut Session, pipe: &mut dyn Pipe, cx: &mut Context<'_>) {
    for _ in 0..MAX_LAST_READS {
        if session.wants_input()
            && !matches!(pipe.poll_receive(cx, session.input()), Poll::Ready(Ok(Received::Data)))
        {
            return;
        }
        session.received(Instant::now());
    }
}
