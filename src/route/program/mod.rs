//! One run of one program: arguments and stdin go in; exit code, stdout and the end of stderr come out.
//!
//! A program runs in a group of its own (a process group, on Windows a job), and the group never outlives the
//! run, whichever way that ends: exit, timeout, too much output, or a caller who gave up and dropped the
//! future. Only a process that leaves its group on purpose, as a daemon does, escapes.
//!
//! The caller's loop is never blocked: a program is started on the blocking pool, its pipes are read as they become ready,
//! and neither the kill nor the wait for what was killed takes a thread of the pool. When a run has its answer nothing of
//! it is left: no thread, no descriptor, no buffer, even if an escaped process still holds the other end of a pipe.

mod group;
mod inherited;
mod pipes;
mod start_error;
mod surroundings;

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use smol::Timer;
use smol::future::{or, try_zip};
use smol::lock::Semaphore;

use group::{Group, Pipes};
pub use inherited::keep_from_programs;
use pipes::Output;
pub(crate) use start_error::{Cause, StartError};
pub(crate) use surroundings::Surroundings;

/// How much of the end of stderr is kept.
const STDERR_TAIL: usize = 2 * 1024;
/// How long what the program left in the background may go on writing once it has exited.
const GRACE: Duration = Duration::from_millis(100);
/// How many programs are started at the same moment. A start can hang, as on a file system whose server is gone, and then
/// holds a thread of the blocking pool, where others look up names.
const STARTS: usize = 32;

/// What to run, and the bounds of one run.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program, looked up in `PATH` unless it is a path, and its arguments; no shell sees them.
    pub(crate) argv: Vec<String>,
    /// The working directory; the node's own if absent.
    pub(crate) directory: Option<PathBuf>,
    /// Its environment.
    pub(crate) surroundings: Arc<Surroundings>,
    /// What the program can read from its stdin, which ends after it.
    pub(crate) stdin: Vec<u8>,
    /// The longest that the run may take, its start included.
    pub(crate) timeout: Duration,
    /// The most bytes that the program may write to stdout.
    pub(crate) output_limit: usize,
}

/// Says what keeps a program from running in that directory, as far as it shows without running it.
pub(crate) fn missing(name: &str, directory: Option<&Path>, surroundings: &Surroundings) -> Option<String> {
    start_error::missing(name, directory, surroundings.path().as_deref())
}

/// What a run that ended by itself left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; absent if a signal ended the program.
    pub(crate) exit: Option<i32>,
    /// The signal that ended the program, where there are signals.
    pub(crate) signal: Option<i32>,
    /// All that was written to stdout.
    pub(crate) stdout: Vec<u8>,
    /// The last of what was written to stderr, at most 2 KiB.
    pub(crate) stderr: Vec<u8>,
}

/// Why a run did not end by itself.
#[derive(Debug)]
pub(crate) enum ProgramError {
    /// Nothing has run.
    NotStarted(StartError),
    /// The timeout passed; the group was killed.
    TimedOut {
        /// The last of what was written to stderr until then, at most 2 KiB.
        stderr: Vec<u8>,
    },
    /// stdout went beyond the limit; the group was killed.
    TooMuchOutput {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The system failed at reading from the program or at waiting for it, so its outcome is not known; the group was
    /// killed.
    Lost(io::Error),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(error) => error.fmt(f),
            Self::TimedOut { .. } => f.write_str(
                "the program was still running at its timeout: raise the timeout, or see what it waits for",
            ),
            Self::TooMuchOutput { limit } => write!(
                f,
                "the program wrote more than {limit} bytes to stdout and was ended: \
                 raise the limit, or make it write less"
            ),
            Self::Lost(error) => write!(
                f,
                "the program ran, and how it ended is not known, because the node lost touch with it ({error}): \
                 look at the node's system limits"
            ),
        }
    }
}

impl Error for ProgramError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotStarted(error) => Some(error),
            Self::Lost(error) => Some(error),
            Self::TimedOut { .. } | Self::TooMuchOutput { .. } => None,
        }
    }
}

/// Runs a program to its end or to the first of its bounds.
///
/// Dropping the future kills the program and all of its group.
///
/// # Errors
/// See [`ProgramError`]. An exit code other than 0 is no error here.
pub(crate) async fn run(program: Program) -> Result<Finished, ProgramError> {
    let timeout = program.timeout;
    let mut stderr = Vec::new();
    match within(timeout, supervise(program, &mut stderr)).await {
        Some(Ok((status, stdout))) => {
            Ok(Finished { exit: status.code(), signal: signal(status), stdout, stderr })
        }
        Some(Err(error)) => Err(error),
        None => Err(ProgramError::TimedOut { stderr }),
    }
}

/// One run but for its timeout. The end of stderr goes to the caller's buffer, which outlives a run that is
/// cut off.
async fn supervise(program: Program, stderr: &mut Vec<u8>) -> Result<(ExitStatus, Vec<u8>), ProgramError> {
    let limit = program.output_limit;
    let (group, pipes) = start(program).await.map_err(ProgramError::NotStarted)?;
    let Pipes { stdin, stdout, stderr: errors } = pipes;
    let mut stdout = Stdout { pipe: stdout, bytes: Vec::new(), limit };
    let mut stderr = Stderr { pipe: errors, tail: stderr };
    let input = async {
        if let Some(stdin) = stdin {
            stdin.write().await;
        }
        pending().await
    };
    let status = or(until_over(group, &mut stdout, &mut stderr), input).await?;
    Ok((status, stdout.bytes))
}

async fn start(mut program: Program) -> Result<(Group, Pipes), StartError> {
    static TURN: Semaphore = Semaphore::new(STARTS);
    let turn = TURN.acquire().await;
    // Whatever happens, a caller who has gone meanwhile included, ends in the group's drop.
    smol::unblock(move || {
        let _turn = turn;
        Group::start(&mut program).map_err(|error| StartError::new(error, &program))
    })
    .await
}

/// Reads all that the program writes, and waits until it has exited.
async fn until_over(
    mut group: Group,
    stdout: &mut Stdout,
    stderr: &mut Stderr<'_>,
) -> Result<ExitStatus, ProgramError> {
    let status = {
        let mut output = pin!(async { try_zip(stdout.read(), stderr.read()).await.map(|_| ()) });
        let closed = async { output.as_mut().await.map(|()| None) };
        let exited = async { group.exit().await.map(Some) };
        let Some(status) = or(closed, exited).await? else {
            // As a rule the streams close because the program exits; but it may also close them and run on.
            return group.imminent_exit().await;
        };
        // As a rule the streams are about to close as well. If not, a background process holds them open.
        if let Some(closed) = within(GRACE, output).await {
            return closed.map(|()| status);
        }
        status
    };
    drop(group);
    // Whoever of the group was writing is dead now, and what they wrote is still to be read. No clock ends that, for an
    // answer cut short because the machine is busy would look whole.
    try_zip(stdout.read_rest(), stderr.read_rest()).await?;
    Ok(status)
}

/// All of stdout, unless that is more than `limit`.
struct Stdout {
    pipe: Output,
    bytes: Vec<u8>,
    limit: usize,
}

impl Stdout {
    async fn read(&mut self) -> Result<(), ProgramError> {
        while self.pipe.next(|chunk| self.bytes.extend_from_slice(chunk)).await.map_err(ProgramError::Lost)? {
            self.check()?;
        }
        Ok(())
    }

    async fn read_rest(&mut self) -> Result<(), ProgramError> {
        let Self { pipe, bytes, limit } = self;
        let mut take = |chunk: &[u8]| {
            if bytes.len() <= *limit {
                bytes.extend_from_slice(chunk);
            }
        };
        pipe.rest(&mut take).await.map_err(ProgramError::Lost)?;
        self.check()
    }

    fn check(&self) -> Result<(), ProgramError> {
        let limit = self.limit;
        if self.bytes.len() > limit { Err(ProgramError::TooMuchOutput { limit }) } else { Ok(()) }
    }
}

/// All of stderr, of which only the end is kept.
struct Stderr<'a> {
    pipe: Output,
    tail: &'a mut Vec<u8>,
}

impl Stderr<'_> {
    async fn read(&mut self) -> Result<(), ProgramError> {
        let Self { pipe, tail } = self;
        while pipe.next(|chunk| keep(tail, chunk)).await.map_err(ProgramError::Lost)? {}
        Ok(())
    }

    async fn read_rest(&mut self) -> Result<(), ProgramError> {
        let Self { pipe, tail } = self;
        pipe.rest(|chunk| keep(tail, chunk)).await.map_err(ProgramError::Lost)
    }
}

/// Adds to a tail, and keeps only its end.
fn keep(tail: &mut Vec<u8>, chunk: &[u8]) {
    let chunk = &chunk[chunk.len().saturating_sub(STDERR_TAIL)..];
    let excess = (tail.len() + chunk.len()).saturating_sub(STDERR_TAIL);
    tail.drain(..excess);
    tail.extend_from_slice(chunk);
}

/// The result of a future, or nothing if it takes longer than that.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let timer = async {
        Timer::after(limit).await;
        None
    };
    or(async { Some(future.await) }, timer).await
}

/// The number of the signal that ended a program.
///
/// The standard library tells it through a trait of one family of systems, and these sources name none. What
/// it prints, `signal: 9 (SIGKILL)`, says the same, and says nothing of signals where there are none.
fn signal(status: ExitStatus) -> Option<i32> {
    let printed = status.to_string();
    let number = printed.strip_prefix("signal: ")?.split(' ').next()?;
    number.parse().ok()
}

#[cfg(test)]
mod tests;
