//! Moves bytes between exchanges and sockets.

use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::io::{AsyncRead, AsyncWrite};

use super::exchange::Exchange;
use super::tally::Tally;

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;
/// How often one connection may go on before others have their turn.
const TURN: usize = 4;
/// How long a thread that waits in the system looks at nothing else.
const LOOK: Duration = Duration::from_millis(50);

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) tally: Tally,
    buffer: Vec<u8>,
}

impl Common {
    pub(super) fn new(connections: usize) -> Self {
        Self { tally: Tally::new(connections), buffer: vec![0; BUFFER] }
    }
}

/// Drives the only connection of a thread, which waits in the system itself: nothing costs less.
pub(super) fn block(
    mut exchange: Exchange<'_>,
    mut stream: TcpStream,
    start: Instant,
    common: &mut Common,
    is_stopped: impl Fn() -> bool,
) -> io::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    let Common { tally, buffer } = common;
    let mut now = start.elapsed();
    let mut step = |exchange: &mut Exchange<'_>, now: &mut Duration, tally: &mut Tally| {
        exchange.send(*now, tally);
        while !exchange.output().is_empty() {
            match pause(stream.write(exchange.output()))? {
                Some(count) => exchange.sent(count),
                None => break,
            }
        }
        if exchange.is_done(*now) {
            return Ok(());
        }
        let count = pause(stream.read(buffer))?;
        *now = start.elapsed();
        match count {
            Some(count) => exchange.received(&buffer[..count], *now, tally).map_err(str::to_owned),
            None => Ok(()),
        }
    };
    let lost = loop {
        let lost = step(&mut exchange, &mut now, tally).err();
        if lost.is_some() || exchange.is_done(now) || is_stopped() {
            break lost;
        }
    };
    exchange.finish(now, lost, tally);
    Ok(())
}

/// Bytes moved, or `None` if it is not the time for it.
fn pause(result: io::Result<usize>) -> Result<Option<usize>, String> {
    match result {
        Ok(0) => Err(CLOSED.to_owned()),
        Ok(count) => Ok(Some(count)),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
            _ => Err(error.to_string()),
        },
    }
}

const CLOSED: &str = "the server closed the connection";

/// Drives one of a thread's many connections.
pub(super) struct Driven<'a> {
    pub(super) exchange: Exchange<'a>,
    pub(super) stream: smol::net::TcpStream,
    pub(super) start: Instant,
    pub(super) common: Arc<Mutex<Common>>,
    pub(super) timer: Option<(Duration, Timer)>,
    pub(super) finished: bool,
}

/// Broken off, it still tells what it waits for.
impl Drop for Driven<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let mut common = self.common.lock().unwrap_or_else(PoisonError::into_inner);
            self.exchange.finish(self.start.elapsed(), None, &mut common.tally);
        }
    }
}

impl Driven<'_> {
    /// Goes one round. `Ready` with why, if the connection carries no more.
    fn step(&mut self, now: &mut Duration, cx: &mut Context<'_>) -> Result<Moved, String> {
        let mut common = self.common.lock().unwrap_or_else(PoisonError::into_inner);
        let Common { tally, buffer } = &mut *common;
        self.exchange.send(*now, tally);
        let mut moved = Moved::Nothing;
        while !self.exchange.output().is_empty() {
            match taken(Pin::new(&mut self.stream).poll_write(cx, self.exchange.output()))? {
                Some(count) => self.exchange.sent(count),
                None => break,
            }
            moved = Moved::Some;
        }
        if let Some(count) = taken(Pin::new(&mut self.stream).poll_read(cx, buffer))? {
            *now = self.start.elapsed();
            self.exchange.received(&buffer[..count], *now, tally)?;
            moved = Moved::Some;
        }
        Ok(moved)
    }
}

#[derive(PartialEq)]
enum Moved {
    Some,
    Nothing,
}

fn taken(poll: Poll<io::Result<usize>>) -> Result<Option<usize>, String> {
    match poll {
        Poll::Pending => Ok(None),
        Poll::Ready(result) => pause(result),
    }
}

impl Future for Driven<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..TURN {
            let mut now = this.start.elapsed();
            let moved = this.step(&mut now, cx);
            if moved.is_err() || this.exchange.is_done(now) {
                let mut common = this.common.lock().unwrap_or_else(PoisonError::into_inner);
                this.exchange.finish(now, moved.err(), &mut common.tally);
                this.finished = true;
                return Poll::Ready(());
            }
            if moved == Ok(Moved::Some) {
                continue;
            }
            let time = this.exchange.next_time(now);
            if this.timer.as_ref().is_none_or(|(at, _)| *at != time) {
                this.timer = Some((time, Timer::at(this.start + time)));
            }
            let due = |(_, timer): &mut (_, Timer)| Pin::new(timer).poll(cx).is_ready();
            if !this.timer.as_mut().is_some_and(due) {
                return Poll::Pending;
            }
            this.timer = None;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
