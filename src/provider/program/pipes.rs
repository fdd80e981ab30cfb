//! The pipes of a program, with async reads and writes.
//!
//! A process that leaves its program's group may hold a pipe forever, so it must be possible to abandon a pipe whose other
//! end is open. Where the system reports the readiness of pipes, as Unix does, no thread waits for one, and dropping this
//! end suffices. Windows reports the readiness of sockets only. There, a dedicated thread waits, so that programs occupy
//! none of the blocking pool; it ends with the group, since no process leaves a job.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;

use async_channel::{Receiver, Sender};
use filedescriptor::{AsRawFileDescriptor, FileDescriptor};
use futures_lite::{AsyncWrite, Stream};
use smol::future::yield_now;
use smol::{Async, Unblock};

/// The number of bytes read at once: the usual capacity of a pipe.
const CHUNK: usize = 64 * 1024;
/// The number of bytes that a thread reads at once; it buffers two such chunks.
const THREAD_CHUNK: usize = 16 * 1024;
/// The minimum capacity of a new pipe on every system.
const MIN_CAPACITY: usize = 2 * 1024;
/// The maximum capacity of a pipe: Linux's `pipe-max-size`.
const MAX_CAPACITY: usize = 1 << 20;

/// Makes this end of a pipe nonblocking, and registers it for readiness events. Returns `None` if the system does not
/// support that for pipes.
fn register(pipe: &impl AsRawFileDescriptor) -> io::Result<Option<Async<FileDescriptor>>> {
    let mut duplicate = FileDescriptor::dup(pipe).map_err(system_error)?;
    match duplicate.set_non_blocking(true) {
        Ok(()) => Async::new_nonblocking(duplicate).map(Some),
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

/// This end of a pipe from a program.
pub(super) enum OutputPipe {
    Async {
        pipe: PipeReader,
        ready: Async<FileDescriptor>,
        /// The last read returned a full chunk, so that more is likely available.
        more: bool,
    },
    Threaded {
        chunks: Pin<Box<Receiver<io::Result<Vec<u8>>>>>,
        /// The last chunk, as far as it is not read.
        rest: Vec<u8>,
    },
}

impl OutputPipe {
    /// Creates a pipe, and also returns the program's end.
    pub(super) fn new() -> io::Result<(Self, PipeWriter)> {
        let (pipe, end) = io::pipe()?;
        let output = match register(&pipe)? {
            Some(ready) => Self::Async { pipe, ready, more: false },
            None => {
                let (sender, chunks) = async_channel::bounded(1);
                thread::Builder::new().name("output".to_owned()).spawn(move || copy(pipe, &sender))?;
                Self::Threaded { chunks: Box::pin(chunks), rest: Vec::new() }
            }
        };
        Ok((output, end))
    }

    /// Waits for output and passes it to `take`. Returns `false` at the end, when no process holds the other end.
    ///
    /// Cancel safe: dropping the future loses no output.
    pub(super) async fn next(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        match self {
            Self::Async { pipe, ready, more } => loop {
                if *more {
                    // A program that writes continuously must not starve other tasks.
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
            Self::Threaded { chunks, .. } => match chunks.recv().await {
                Ok(chunk) => chunk.map(|chunk| {
                    take(&chunk);
                    true
                }),
                Err(_) => Ok(false),
            },
        }
    }

    /// Reads output into a buffer. Returns the number of bytes: 0 at the end, when no process holds the other end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Async { pipe, ready, .. } => loop {
                match pipe.read(into) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(ready.poll_readable(cx))?,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => return Poll::Ready(read),
                }
            },
            Self::Threaded { chunks, rest } => {
                if rest.is_empty() {
                    match ready!(chunks.as_mut().poll_next(cx)) {
                        Some(chunk) => *rest = chunk?,
                        None => return Poll::Ready(Ok(0)),
                    }
                }
                let count = rest.len().min(into.len());
                into[..count].copy_from_slice(&rest[..count]);
                rest.drain(..count);
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Passes the remaining output of a dead group to `take`.
    ///
    /// An escaped process may still be writing. The group's output precedes that, and is no longer than the pipe's
    /// capacity.
    pub(super) async fn drain(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        if let Self::Async { pipe, .. } = self {
            let mut left = MAX_CAPACITY;
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

/// Reads a chunk, passes it to `take` and returns its length: 0 at the end, `None` if nothing is available yet.
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

/// Copies chunks from a pipe to a channel, until the pipe ends or the channel closes. Blocks.
fn copy(mut pipe: PipeReader, chunks: &Sender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = vec![0; THREAD_CHUNK];
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

/// What a program reads as its stdin.
pub(super) type Stdin = std::process::Stdio;

/// This end of a pipe to a program that stays.
pub(super) enum InputStream {
    Async {
        pipe: PipeWriter,
        ready: Async<FileDescriptor>,
    },
    /// Writes on a thread of the blocking pool, which is held only while the pipe is full.
    Threaded(Unblock<PipeWriter>),
}

impl InputStream {
    /// Creates a pipe, and also returns the program's end.
    pub(super) fn new() -> io::Result<(Stdin, Self)> {
        let (end, pipe) = io::pipe()?;
        let stream = match register(&pipe)? {
            Some(ready) => Self::Async { pipe, ready },
            None => Self::Threaded(Unblock::new(pipe)),
        };
        Ok((end.into(), stream))
    }

    /// Writes some bytes, and returns their number.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Async { pipe, ready } => loop {
                match pipe.write(bytes) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(ready.poll_writable(cx))?,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    written => return Poll::Ready(written),
                }
            },
            Self::Threaded(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    /// Hands everything written to the system.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Async { .. } => Poll::Ready(Ok(())),
            Self::Threaded(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }
}

/// This end of a pipe to a program's stdin, and the bytes that remain to be written.
///
/// A program need not read its input, so a failed write is not an error.
pub(super) struct InputPipe {
    pipe: PipeWriter,
    ready: Async<FileDescriptor>,
    bytes: Vec<u8>,
}

impl InputPipe {
    /// Creates a pipe and writes `bytes` if they certainly fit. Returns the program's end, and this end if bytes remain to
    /// be written.
    pub(super) fn with(bytes: Vec<u8>) -> io::Result<(Stdin, Option<Self>)> {
        if bytes.is_empty() {
            return Ok((Stdin::null(), None));
        }
        let (end, mut pipe) = io::pipe()?;
        let end = Stdin::from(end);
        if bytes.len() <= MIN_CAPACITY {
            pipe.write_all(&bytes)?;
            return Ok((end, None));
        }
        let Some(ready) = register(&pipe)? else {
            let write = move || drop(pipe.write_all(&bytes));
            thread::Builder::new().name("input".to_owned()).spawn(write)?;
            return Ok((end, None));
        };
        Ok((end, Some(Self { pipe, ready, bytes })))
    }

    /// Writes the remaining bytes; stops early if the other end is closed.
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
