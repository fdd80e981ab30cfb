//! One run of one program: arguments and stdin go in; exit code, stdout and the end of stderr come out.
//!
//! A program runs in a group of its own (a process group, on Windows a job), and the group never outlives the
//! run, whichever way that ends: exit, timeout, too much output, or a caller who gave up and dropped the
//! future. Only a process that leaves its group on purpose, as a daemon does, escapes.
//!
//! The caller's loop is never blocked. Starting a program, its pipes and the wait for a killed one use the
//! blocking pool; the kill itself does not, because only a kill frees the pool's threads when programs hold
//! them all.
mod group;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ChildStderr, ChildStdout, ExitStatus};
use std::time::Duration;

use smol::future::{or, try_zip};
use smol::io::AsyncReadExt;
use smol::{Timer, Unblock};

use group::Group;

/// How much of the end of stderr is kept.
const STDERR_TAIL: usize = 2 * 1024;
/// The buffer between a pipe and the loop; `Unblock` would allow 8 MiB.
const PIPE_BUFFER: usize = 16 * 1024;
/// How long what the program left in the background may go on writing once it has exited.
const GRACE: Duration = Duration::from_millis(100);

/// What to run, and the bounds of one run.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program, looked up in `PATH` unless it is a path, and its arguments; no shell sees them.
    pub(crate) argv: Vec<String>,
    /// The working directory; the node's own if absent.
    pub(crate) directory: Option<PathBuf>,
    /// What the program can read from its stdin, which ends after it.
    pub(crate) stdin: Vec<u8>,
    /// The longest that the run may take, its start included.
    pub(crate) timeout: Duration,
    /// The most bytes that the program may write to stdout.
    pub(crate) output_limit: usize,
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
    /// The program or its directory is missing or may not be used, or the system has no room for another
    /// process.
    NotStarted(io::Error),
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
    /// The system failed at reading from the program or at waiting for it; the group was killed.
    Io(io::Error),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(error) => write!(
                f,
                "the program could not be started ({error}): check its path, its permissions and its directory"
            ),
            Self::TimedOut { .. } => f.write_str(
                "the program was still running or its output still open at its timeout: \
                 raise the timeout, or see what it waits for and what it leaves running",
            ),
            Self::TooMuchOutput { limit } => write!(
                f,
                "the program wrote more than {limit} bytes to stdout and was ended: \
                 raise the limit, or make it write less"
            ),
            Self::Io(error) => write!(
                f,
                "the program was ended because the node lost touch with it ({error}): \
                 call again, and if that fails too look at the node's system limits"
            ),
        }
    }
}

impl Error for ProgramError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotStarted(error) | Self::Io(error) => Some(error),
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
    let started = smol::unblock(move || Group::start(program)).await;
    let (group, out, err) = started.map_err(ProgramError::NotStarted)?;
    let mut stdout = Vec::new();
    let output = async {
        try_zip(collect(out, &mut stdout, limit), keep_tail(err, stderr)).await?;
        Ok(())
    };
    let status = until_over(group, output).await?;
    Ok((status, stdout))
}

/// Drives `output`, which ends when both streams do, and waits until the main program has exited.
async fn until_over(
    mut group: Group,
    output: impl Future<Output = Result<(), ProgramError>>,
) -> Result<ExitStatus, ProgramError> {
    let mut output = pin!(output);
    let closed = async { output.as_mut().await.map(|()| None) };
    let exited = async { group.exit().await.map(Some) };
    let Some(status) = or(closed, exited).await? else {
        // As a rule the streams close because the program exits; but it may also close them and run on.
        return group.exit().await;
    };
    // As a rule the streams are about to close as well. If not, a background process holds them open.
    if let Some(closed) = within(GRACE, output.as_mut()).await {
        return closed.map(|()| status);
    }
    drop(group);
    // Whoever was writing is dead now; what they wrote is read to its end. No clock but the run's own ends
    // that, for an answer cut short because the machine is busy would look whole. So a process that escaped
    // with the streams open costs the timeout.
    output.await?;
    Ok(status)
}

/// Reads all of stdout, unless that is more than `limit`.
async fn collect(pipe: ChildStdout, stdout: &mut Vec<u8>, limit: usize) -> Result<(), ProgramError> {
    let pipe = Unblock::with_capacity(PIPE_BUFFER, pipe);
    // One byte more than allowed tells "too much" from "just enough".
    let mut pipe = pipe.take((limit as u64).saturating_add(1));
    pipe.read_to_end(stdout).await.map_err(ProgramError::Io)?;
    if stdout.len() > limit {
        return Err(ProgramError::TooMuchOutput { limit });
    }
    Ok(())
}

/// Reads all of stderr, but keeps only its end.
async fn keep_tail(pipe: ChildStderr, tail: &mut Vec<u8>) -> Result<(), ProgramError> {
    let mut pipe = Unblock::with_capacity(PIPE_BUFFER, pipe);
    let mut chunk = vec![0; STDERR_TAIL];
    loop {
        let read = pipe.read(&mut chunk).await.map_err(ProgramError::Io)?;
        if read == 0 {
            return Ok(());
        }
        tail.extend_from_slice(&chunk[..read]);
        tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
    }
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
