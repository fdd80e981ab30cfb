//! The pipes of a program, as the loop reads and writes them.
//!
//! A process that leaves its program's group may hold a pipe for ever, so a pipe must be given up whoever holds its other
//! end. Where the system tells when a pipe is ready, as Unix does, no thread ever waits for one, and dropping this end is
//! all there is to it. Windows tells that of sockets only. There a thread waits, one of its own, so that programs take
//! none of the blocking pool; it ends when the group does, since no process leaves a job.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::thread;

use async_channel::{Receiver, Sender};
use filedescriptor::{AsRawFileDescriptor, FileDescriptor};
use smol::Async;
use smol::future::yield_now;

/// How much is read at once: as much as a pipe usually holds.
const CHUNK: usize = 64 * 1024;
/// How much a thread reads at once, which has two such chunks in hand.
const THREADS_CHUNK: usize = 16 * 1024;
/// A new pipe has room for so much on every system.
const ROOM: usize = 2 * 1024;
/// The most that a pipe can hold: Linux's `pipe-max-size`.
const CAPACITY: usize = 1 << 20;

/// Tells when this end of a pipe is ready, and keeps it from blocking. `None` if the system cannot.
fn watch(pipe: &impl AsRawFileDescriptor) -> io::Result<Option<Async<FileDescriptor>>> {
    let mut twin = FileDescriptor::dup(pipe).map_err(system_error)?;
    match twin.set_non_blocking(true) {
        Ok(()) => Async::new_nonblocking(twin).map(Some),
        Err(filedescriptor::Error::OnlySocketsNonBlocking) => Ok(None),
        Err(error) => Err(system_error(error)),
    }
}

fn system_error(error: filedescriptor::Error) -> io::Error {
    use filedescriptor::Error::{Cloexec, Dup, Fcntl, FionBio, Io};
    match error {
        Dup { source, .. } | Cloexec(source) | Fcntl(source) | FionBio(source) | Io(source) => source,
        other => io::Error::other(other.to_string()),
    }
}

/// Where a program's output arrives.
pub(super) enum Output {
    Watched {
        pipe: PipeReader,
        ready: Async<FileDescriptor>,
        /// The last chunk was a full one, so more is likely to be there.
        more: bool,
    },
    Threaded(Receiver<io::Result<Vec<u8>>>),
}

impl Output {
    /// Makes a pipe, and returns the end for the program as well.
    pub(super) fn new() -> io::Result<(Self, PipeWriter)> {
        let (pipe, end) = io::pipe()?;
        let output = match watch(&pipe)? {
            Some(ready) => Self::Watched { pipe, ready, more: false },
            None => {
                let (sender, chunks) = async_channel::bounded(1);
                thread::Builder::new().name("output".to_owned()).spawn(move || forward(pipe, &sender))?;
                Self::Threaded(chunks)
            }
        };
        Ok((output, end))
    }

    /// Waits for output and hands it to `take`. `false` at its end, which comes when no process holds the other
    /// end any more. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        match self {
            Self::Watched { pipe, ready, more } => loop {
                if *more {
                    // The reads of a program that writes without end are not to hold up everybody else.
                    yield_now().await;
                } else {
                    ready.readable().await?;
                }
                if let Some(count) = read(pipe, &mut take)? {
                    *more = count == CHUNK;
                    return Ok(count > 0);
                }
                *more = false;
            },
            Self::Threaded(chunks) => match chunks.recv().await {
                Ok(chunk) => chunk.map(|chunk| {
                    take(&chunk);
                    true
                }),
                Err(_) => Ok(false),
            },
        }
    }

    /// Hands to `take` what the group has written, once the group is dead.
    ///
    /// A process that has escaped may go on writing. What the group wrote is in front of that, and no more than the pipe
    /// can hold.
    pub(super) async fn rest(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        if let Self::Watched { pipe, .. } = self {
            let mut left = CAPACITY;
            while left > 0 {
                match read(pipe, &mut take)? {
                    Some(count @ 1..) => left = left.saturating_sub(count),
                    Some(0) | None => break,
                }
                yield_now().await;
            }
            return Ok(());
        }
        while self.next(&mut take).await? {}
        Ok(())
    }
}

/// Reads a chunk. `None` if nothing is there yet, and 0 at the end.
fn read(pipe: &mut PipeReader, take: &mut impl FnMut(&[u8])) -> io::Result<Option<usize>> {
    let mut chunk = [0; CHUNK];
    loop {
        match pipe.read(&mut chunk) {
            Ok(count) => {
                take(&chunk[..count]);
                return Ok(Some(count));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Passes on what comes out of a pipe, until its end or until nobody wants it; blocks.
fn forward(mut pipe: PipeReader, chunks: &Sender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = vec![0; THREADS_CHUNK];
        let read = match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                Ok(chunk)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if chunks.send_blocking(read).is_err() || failed {
            return;
        }
    }
}

/// What is still to be written to a program's stdin.
///
/// A program need not read it, so a failed write is no error: what the program missed shows in its answer.
pub(super) struct Input {
    pipe: PipeWriter,
    ready: Async<FileDescriptor>,
    bytes: Vec<u8>,
}

impl Input {
    /// Makes a pipe and writes into it as much of `bytes` as it has room for. Returns the end for the program, and what
    /// is left to do.
    pub(super) fn new(bytes: Vec<u8>) -> io::Result<(PipeReader, Option<Self>)> {
        let (end, mut pipe) = io::pipe()?;
        if bytes.len() <= ROOM {
            pipe.write_all(&bytes)?;
            return Ok((end, None));
        }
        let Some(ready) = watch(&pipe)? else {
            let write = move || drop(pipe.write_all(&bytes));
            thread::Builder::new().name("input".to_owned()).spawn(write)?;
            return Ok((end, None));
        };
        Ok((end, Some(Self { pipe, ready, bytes })))
    }

    /// Writes the rest, until nobody can read it any more.
    pub(super) async fn write(mut self) {
        let mut written = 0;
        while written < self.bytes.len() {
            match self.pipe.write(&self.bytes[written..]) {
                Ok(count) => {
                    written += count;
                    yield_now().await;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.ready.writable().await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}
