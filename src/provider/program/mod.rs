//! Runs programs: one run takes arguments and stdin, and returns exit code, stdout and the end of stderr; a program that
//! stays is a stream of its stdin and stdout.
//!
//! A program runs in its own group (a process group, or a job on Windows), and the group never outlives the run, however
//! it ends: exit, timeout, output limit, or a dropped future. Only a process that deliberately leaves its group, as a
//! daemon does, escapes.
//!
//! A run never blocks the caller's loop: the program is started on the blocking pool, its pipes are read as they become
//! ready, and neither killing nor reaping takes a thread of the pool. A finished run leaves nothing behind: no thread, no
//! descriptor and no buffer, even if an escaped process still holds the other end of a pipe.

mod environment;
mod group;
mod inherited;
mod pipes;
mod resident;
mod start_error;
mod stderr;

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

pub(crate) use environment::Environment;
use group::{Pipes, ProcessGroup};
#[cfg(feature = "cli")]
pub(crate) use inherited::set_inherited_cloexec;
use pipes::{InputPipe, OutputPipe, Stdin};
pub(crate) use resident::{Activity, Resident, Stdio};
#[cfg(feature = "cli")]
pub(crate) use start_error::mode;
pub(crate) use start_error::{StartError, StartErrorKind};
pub(crate) use stderr::LogLines;

/// How long background processes may continue writing after the program has exited.
const GRACE: Duration = Duration::from_millis(100);
/// The maximum number of concurrent starts. A start can hang, for example on a network file system whose server is gone,
/// and then occupies a thread of the blocking pool, which also resolves host names.
const MAX_STARTS: usize = 32;

/// How a program is started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The program, which is looked up in `PATH` unless it is a path, and its arguments. No shell is involved.
    pub(crate) argv: Vec<String>,
    /// The working directory; the node's own if `None`.
    pub(crate) directory: Option<PathBuf>,
    /// The program's environment variables.
    pub(crate) environment: Arc<Environment>,
    /// The values of the variables that tell of the call, in their order; without them, the program gets none.
    pub(crate) of_call: Vec<String>,
}

/// A program to run, and the limits of the run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) launch: Launch,
    /// The contents of the program's stdin.
    pub(crate) stdin: Vec<u8>,
    /// The maximum duration of the run, including the start.
    pub(crate) timeout: Duration,
    /// The maximum number of bytes that the program may write to stdout.
    pub(crate) output_limit: usize,
}

/// Returns why a program cannot run in `directory`, as far as that can be determined without running it.
pub(crate) fn preflight(name: &str, directory: Option<&Path>, environment: &Environment) -> Option<String> {
    start_error::preflight(name, directory, environment.path().as_deref())
}

/// The status and output of a program that has exited.
#[derive(Debug)]
pub(crate) struct ProgramOutput {
    /// The exit code; `None` if a signal killed the program.
    pub(crate) exit: Option<i32>,
    /// The signal that killed the program, on systems with signals.
    pub(crate) signal: Option<i32>,
    /// Everything written to stdout.
    pub(crate) stdout: Vec<u8>,
    /// The end of stderr, at most 2 KiB.
    pub(crate) stderr: Vec<u8>,
}

/// Why a program did not run to its end.
#[derive(Debug)]
pub(crate) enum ProgramError {
    /// The program was not started.
    NotStarted(StartError),
    /// The timeout passed; the group was killed.
    TimedOut {
        /// The end of stderr so far, at most 2 KiB.
        stderr: Vec<u8>,
    },
    /// stdout exceeded its limit; the group was killed.
    OutputLimit {
        /// The limit in bytes.
        limit: usize,
    },
    /// A system call to read from the program or to wait for it failed, so that its outcome is unknown; the group was
    /// killed.
    Lost(io::Error),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(error) => error.fmt(f),
            Self::TimedOut { .. } => f.write_str(
                "the program exceeded its timeout: raise the timeout, or check what the program waits for",
            ),
            Self::OutputLimit { limit } => write!(
                f,
                "the program wrote more than {limit} bytes to stdout and was killed: \
                 raise the limit, or make it write less"
            ),
            Self::Lost(error) => write!(
                f,
                "the program ran, but its outcome is unknown, because the node lost contact with it ({error}): \
                 check the node's system limits"
            ),
        }
    }
}

impl Error for ProgramError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotStarted(error) => Some(error),
            Self::Lost(error) => Some(error),
            Self::TimedOut { .. } | Self::OutputLimit { .. } => None,
        }
    }
}

/// Runs a program until it exits or reaches a limit.
///
/// Dropping the future kills the program and its group.
///
/// # Errors
/// See [`ProgramError`]. A nonzero exit code is not an error here.
pub(crate) async fn run(program: Program) -> Result<ProgramOutput, ProgramError> {
    let timeout = program.timeout;
    let mut stderr = Vec::new();
    match within(timeout, supervise(program, &mut stderr)).await {
        Some(Ok((status, stdout))) => {
            Ok(ProgramOutput { exit: status.code(), signal: signal(status), stdout, stderr })
        }
        Some(Err(error)) => Err(error),
        None => Err(ProgramError::TimedOut { stderr }),
    }
}

/// Runs a program without a timeout. The end of stderr goes to the caller's buffer, which outlives a run that times
/// out.
async fn supervise(program: Program, stderr: &mut Vec<u8>) -> Result<(ExitStatus, Vec<u8>), ProgramError> {
    let Program { launch, stdin, output_limit: limit, .. } = program;
    let started = start(launch, move || InputPipe::with(stdin)).await.map_err(ProgramError::NotStarted)?;
    let (group, Pipes { stdin, stdout, stderr: errors }) = started;
    let mut stdout = Stdout { pipe: stdout, bytes: Vec::new(), limit };
    let mut stderr = Stderr { pipe: errors, tail: stderr };
    let input = async {
        if let Some(stdin) = stdin {
            stdin.write().await;
        }
        pending().await
    };
    let status = or(read_to_exit(group, &mut stdout, &mut stderr), input).await?;
    Ok((status, stdout.bytes))
}

/// Starts a program. `stdin` creates its stdin and this end of it.
async fn start<T: Send + 'static>(
    launch: Launch,
    stdin: impl FnOnce() -> io::Result<(Stdin, T)> + Send + 'static,
) -> Result<(ProcessGroup, Pipes<T>), StartError> {
    static STARTS: Semaphore = Semaphore::new(MAX_STARTS);
    let permit = STARTS.acquire().await;
    // If the caller drops this future meanwhile, the group is dropped, and thus killed, on the pool's thread.
    smol::unblock(move || {
        let _permit = permit;
        ProcessGroup::start(&launch, stdin).map_err(|error| StartError::new(error, &launch))
    })
    .await
}

/// Reads everything that the program writes, and waits until it has exited.
async fn read_to_exit(
    mut group: ProcessGroup,
    stdout: &mut Stdout,
    stderr: &mut Stderr<'_>,
) -> Result<ExitStatus, ProgramError> {
    let status = {
        let mut output = pin!(async { try_zip(stdout.read(), stderr.read()).await.map(|_| ()) });
        let closed = async { output.as_mut().await.map(|()| None) };
        let exited = async { group.exit().await.map(Some) };
        let Some(status) = or(closed, exited).await? else {
            // Usually the streams close because the program exits, but a program may also close them and keep running.
            return group.imminent_exit().await;
        };
        // Usually the streams close now as well. If not, a background process holds them open.
        if let Some(closed) = within(GRACE, output).await {
            return closed.map(|()| status);
        }
        status
    };
    drop(group);
    // The whole group is dead now, but its last output has not been read yet. No timeout applies to that: output that is
    // truncated because the machine is busy would look complete.
    try_zip(stdout.drain(), stderr.drain()).await?;
    Ok(status)
}

/// Collects stdout, up to `limit` bytes.
struct Stdout {
    pipe: OutputPipe,
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

    async fn drain(&mut self) -> Result<(), ProgramError> {
        let Self { pipe, bytes, limit } = self;
        let mut take = |chunk: &[u8]| {
            if bytes.len() <= *limit {
                bytes.extend_from_slice(chunk);
            }
        };
        pipe.drain(&mut take).await.map_err(ProgramError::Lost)?;
        self.check()
    }

    fn check(&self) -> Result<(), ProgramError> {
        let limit = self.limit;
        if self.bytes.len() > limit { Err(ProgramError::OutputLimit { limit }) } else { Ok(()) }
    }
}

/// Reads stderr, of which only the end is kept.
struct Stderr<'a> {
    pipe: OutputPipe,
    tail: &'a mut Vec<u8>,
}

impl Stderr<'_> {
    async fn read(&mut self) -> Result<(), ProgramError> {
        let Self { pipe, tail } = self;
        while pipe.next(|chunk| stderr::append_tail(tail, chunk)).await.map_err(ProgramError::Lost)? {}
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), ProgramError> {
        let Self { pipe, tail } = self;
        pipe.drain(|chunk| stderr::append_tail(tail, chunk)).await.map_err(ProgramError::Lost)
    }
}

/// Returns the result of a future, or `None` if it takes longer than `limit`.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let timer = async {
        Timer::after(limit).await;
        None
    };
    or(async { Some(future.await) }, timer).await
}

/// Returns the number of the signal that killed a program.
///
/// The standard library exposes it only through a platform extension trait, which these sources do not use. Its `Display`
/// contains the same information, `signal: 9 (SIGKILL)`, on systems with signals, and no signal on others.
pub(crate) fn signal(status: ExitStatus) -> Option<i32> {
    let printed = status.to_string();
    let number = printed.strip_prefix("signal: ")?.split(' ').next()?;
    number.parse().ok()
}

#[cfg(test)]
mod tests;
