//! Moves bytes between connections' state machines and their sockets.

use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::io::{AsyncRead, AsyncWrite};

use super::Socket;
use super::connection::Connection;
use super::stats::Stats;

/// The maximum number of bytes per read.
const BUFFER: usize = 64 * 1024;
/// The maximum number of rounds per poll of a connection, before the thread's other connections run.
const ROUNDS_PER_POLL: usize = 4;
/// How long a blocking read or write lasts before the thread checks the time and whether to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// State shared by the connections of one thread.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stats: Stats,
    buffer: Vec<u8>,
}

impl Shared {
    pub(super) fn new(connections: usize) -> Self {
        Self { stats: Stats::new(connections), buffer: vec![0; BUFFER] }
    }
}

/// Drives the only connection of a thread with blocking I/O, which is cheapest, or without ever sleeping.
pub(super) fn run_alone(
    mut connection: Connection<'_>,
    mut stream: TcpStream,
    start: Instant,
    shared: &mut Shared,
    is_stopped: impl Fn() -> bool,
    spin: bool,
) -> io::Result<()> {
    stream.set_nonblocking(spin)?;
    stream.set_read_timeout(Some(POLL_INTERVAL))?;
    stream.set_write_timeout(Some(POLL_INTERVAL))?;
    let Shared { stats, buffer } = shared;
    let mut now = start.elapsed();
    let mut step = |connection: &mut Connection<'_>, now: &mut Duration, stats: &mut Stats| {
        connection.send(*now, stats);
        while !connection.output().is_empty() {
            match or_would_block(stream.write(connection.output()))? {
                Some(count) => connection.advance(count),
                None => break,
            }
        }
        if connection.is_done(*now) {
            return Ok(());
        }
        let count = or_would_block(stream.read(buffer))?;
        *now = start.elapsed();
        match count {
            Some(count) => connection.received(&buffer[..count], *now, stats).map_err(str::to_owned),
            None => Ok(()),
        }
    };
    let lost = loop {
        let lost = step(&mut connection, &mut now, stats).err();
        if lost.is_some() || connection.is_done(now) || is_stopped() {
            break lost;
        }
    };
    connection.finish(now, lost, stats);
    Ok(())
}

/// Returns the number of bytes moved, or `None` if the operation would block.
fn or_would_block(result: io::Result<usize>) -> Result<Option<usize>, String> {
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

/// The future that drives one of several connections of a thread.
pub(super) struct ConnectionTask<'a> {
    pub(super) connection: Connection<'a>,
    pub(super) stream: Box<dyn Socket>,
    pub(super) start: Instant,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) timer: Option<(Duration, Timer)>,
    pub(super) finished: bool,
}

/// Records unanswered calls if the future is dropped before it ends.
impl Drop for ConnectionTask<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            self.connection.finish(self.start.elapsed(), None, &mut shared.stats);
        }
    }
}

impl ConnectionTask<'_> {
    /// Writes and reads once. Fails with the reason if the connection is lost.
    fn step(&mut self, now: &mut Duration, cx: &mut Context<'_>) -> Result<Progress, String> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { stats, buffer } = &mut *shared;
        self.connection.send(*now, stats);
        let mut progress = Progress::None;
        while !self.connection.output().is_empty() {
            match or_pending(Pin::new(&mut self.stream).poll_write(cx, self.connection.output()))? {
                Some(count) => self.connection.advance(count),
                None => break,
            }
            progress = Progress::Made;
        }
        // Not while a write waits, whose waker a flush of smol's sockets forgets.
        if self.connection.output().is_empty()
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            return Err(error.to_string());
        }
        if let Some(count) = or_pending(Pin::new(&mut self.stream).poll_read(cx, buffer))? {
            *now = self.start.elapsed();
            self.connection.received(&buffer[..count], *now, stats)?;
            progress = Progress::Made;
        }
        Ok(progress)
    }
}

#[derive(PartialEq)]
enum Progress {
    Made,
    None,
}

fn or_pending(poll: Poll<io::Result<usize>>) -> Result<Option<usize>, String> {
    match poll {
        Poll::Pending => Ok(None),
        Poll::Ready(result) => or_would_block(result),
    }
}

impl Future for ConnectionTask<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..ROUNDS_PER_POLL {
            let mut now = this.start.elapsed();
            let progress = this.step(&mut now, cx);
            if progress.is_err() || this.connection.is_done(now) {
                let mut shared = this.shared.lock().unwrap_or_else(PoisonError::into_inner);
                this.connection.finish(now, progress.err(), &mut shared.stats);
                this.finished = true;
                return Poll::Ready(());
            }
            if progress == Ok(Progress::Made) {
                continue;
            }
            let time = this.connection.next_time(now);
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
