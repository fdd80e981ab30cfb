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

/// Rounds of reading and answering, or messages, after which other connections have their turn. A socket that always has
/// more to give would otherwise never be left.
const TURN: (u32, u64) = (4, 64);
/// Messages of a framed transport that are read before what they gave is flushed.
const READ_ON: u32 = 64;

/// Moves bytes from `pipe` to `session` and back until the peer has ended and everything is answered, or
/// `stop` is there and what was begun is answered, which the `last_call` does for what is still missing.
/// Without a `stop` the peer is read to its end also while the node stops.
///
/// A plain function with one closure: an `async` one would hold everything that it is given twice, in the memory of
/// every idle connection.
pub(super) fn drive(
    mut session: Session,
    mut pipe: Box<dyn Pipe + Send + '_>,
    mut stop: Option<ShutdownSignal>,
    mut last_call: ShutdownSignal,
) -> impl Future<Output = io::Result<()>> + Send {
    let mut alarm: Option<(Instant, Timer)> = None;
    let (mut stopped, mut given_up, mut busy) = (false, false, false);
    let mut closing = None;
    poll_fn(move |cx| {
        // Once nothing is there to be read, the task will be woken when something is.
        let mut quiet = false;
        let (begun, taken) = (Instant::now(), session.taken());
        for round in 1..=TURN.0 {
            if let Some(why) = closing {
                return pipe.poll_close(cx, why).map(|closed| match session.verdict() {
                    Some(verdict) if verdict.is_told() => closed.and(Err(io::Error::other(verdict))),
                    _ => closed,
                });
            }
            let mut now = Instant::now();
            let mut moved = session.poll_answers(cx, now).is_ready();
            if send(&mut session, &mut *pipe, cx)? {
                now = Instant::now();
                moved = true;
            }
            let flushed = pipe.poll_flush(cx)?.is_ready();

            if !stopped && stop.as_mut().is_some_and(|stop| Pin::new(stop).poll(cx).is_ready()) {
                stopped = true;
                busy = moved || !session.is_idle();
            }
            // The last call comes after the signal to stop.
            let may_give_up = !given_up && (stopped || stop.is_none());
            if may_give_up && Pin::new(&mut last_call).poll(cx).is_ready() {
                given_up = true;
                session.give_up_all(&Fault::new(code::CLOSED, "the node is stopping"));
                moved = true;
            }
            let mut read = 0;
            while !quiet && !stopped && session.wants_input() {
                match pipe.poll_receive(cx, session.input())? {
                    Poll::Ready(Received::Data) => {
                        session.received(now);
                        moved = true;
                        read += 1;
                        if !session.is_framed() || read >= READ_ON || session.is_turn_over(begun) {
                            break;
                        }
                        // Not yet flushed, but before what comes next, which may be the end.
                        send(&mut session, &mut *pipe, cx)?;
                    }
                    Poll::Ready(Received::Eof) => {
                        session.end(now);
                        moved = true;
                    }
                    Poll::Ready(Received::Closed) => {
                        closing = Some(CloseReason::Done);
                        moved = true;
                        break;
                    }
                    Poll::Pending => quiet = true,
                }
            }

            if closing.is_some() {
                continue;
            }
            let over = round == TURN.0 || session.taken() - taken >= TURN.1 || session.is_turn_over(begun);
            if moved && over {
                // Nobody waits for answers until it is this connection's turn again.
                send(&mut session, &mut *pipe, cx)?;
                let _ = pipe.poll_flush(cx)?;
                break;
            }
            if moved || session.is_interrupted() {
                continue;
            }
            // A peer that has said all waits for its answers only; a node that stops, for everything.
            let why = match (session.has_ended(), session.is_broken()) {
                (true, false) => session.is_answered().then_some(CloseReason::Done),
                (true, true) => session.is_answered().then_some(CloseReason::Refused),
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

/// Hands output to the pipe, as far as it takes some; tells whether it took any.
fn send(session: &mut Session, pipe: &mut dyn Pipe, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut some = false;
    while !session.output().is_empty() {
        let Poll::Ready(sent) = pipe.poll_send(cx, session.output())? else { break };
        session.sent(sent);
        some = true;
    }
    Ok(some)
}
