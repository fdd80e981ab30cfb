//! One run of one program: arguments and stdin go in; exit code, stdout and the end of stderr come out.
//!
//! A program runs in a group of its own (a process group, on Windows a job), and the group never outlives the
//! run, whichever way that ends: exit, timeout, too much output, or a caller who gave up and dropped the
//! future. Only a process that leaves its group on purpose, as a daemon does, escapes.
//!
//! The caller's loop is never blocked. Starting a program, its pipes and the wait for a killed one use the
//! blocking pool; the kill itself does not, because only a kill frees the pool's threads when programs hold
//! them all.
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use command_group::{CommandGroup, GroupChild};
use smol::future::{or, try_zip};
use smol::io::AsyncReadExt;
use smol::{Timer, Unblock};

/// How much of the end of stderr is kept.
const STDERR_TAIL: usize = 2 * 1024;
/// The buffer between a pipe and the loop; `Unblock` would allow 8 MiB.
const PIPE_BUFFER: usize = 16 * 1024;
/// The first and the longest pause between two looks at whether the program has exited.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How long what the program left in the background may go on writing once it has exited.
const GRACE: Duration = Duration::from_millis(100);
/// How long killed processes get to become reapable.
const SETTLE: Duration = Duration::from_millis(10);

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

/// A started program with all that it starts in turn. Dropping it kills them all, and reaps them without
/// blocking.
///
/// None of `GroupChild`'s own waits is used for the main program. On Unix they lose its exit status if this
/// process is PID 1 and inherits a member of the group that lives on; on Windows they can wait for a message
/// that an earlier look has taken. The plain `Child` inside has neither flaw, and it answers for the main
/// program alone: the very question.
struct Group {
    /// Present until the drop.
    child: Option<GroupChild>,
}

impl Group {
    /// Starts a program; its stdin is written in the background.
    fn start(program: Program) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let (name, arguments) = program
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program is named"))?;
        let mut command = Command::new(name);
        command.args(arguments);
        if let Some(directory) = program.directory {
            command.current_dir(directory);
        }
        let silent = program.stdin.is_empty();
        command
            .stdin(if silent { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.group_spawn()?;
        let pipes = child.inner();
        let (stdin, stdout, stderr) = (pipes.stdin.take(), pipes.stdout.take(), pipes.stderr.take());
        // From here on whatever happens, a caller who has gone meanwhile included, ends in the drop.
        let group = Self { child: Some(child) };
        if let Some(mut pipe) = stdin {
            // A program need not read its stdin, so a failed write is no error: what it missed shows in its
            // answer.
            let write = move || drop(pipe.write_all(&program.stdin));
            smol::unblock(write).detach();
        }
        let missing = || io::Error::other("the program has no output");
        Ok((group, stdout.ok_or_else(missing)?, stderr.ok_or_else(missing)?))
    }

    /// Waits for the main program to exit, and reaps it.
    ///
    /// The exit is polled for: a blocking wait would hold the handle that a kill needs.
    async fn exit(&mut self) -> Result<ExitStatus, ProgramError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let child = self.child.as_mut().expect("held until the drop");
            if let Some(status) = child.inner().try_wait().map_err(ProgramError::Io)? {
                return Ok(status);
            }
            Timer::after(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // The group bears the main program's number, which stays taken until that is reaped and the group is
        // empty. If so, it has been free for `GRACE` at most: systems hand numbers out in turn, so nobody
        // else bears it yet and the kill finds no one. Not to kill would let a silent background process
        // outlive every bound.
        let found = child.kill().is_ok();
        let reaped = matches!(child.inner().try_wait(), Ok(Some(_)));
        if found || !reaped {
            smol::unblock(move || reap(child)).detach();
        }
    }
}

/// Reaps a killed group; blocks.
fn reap(mut child: GroupChild) {
    // The exit status is of no interest any more, and a failure means that there is nothing left to reap.
    let _ = child.inner().wait();
    // The rest of the group is the business of the system's PID 1. In a container that may be this process;
    // then `GroupChild` reaps them, but looks only once.
    thread::sleep(SETTLE);
    let _ = child.try_wait();
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::path::Path;
    use std::process;
    use std::time::Instant;

    use smol::block_on;

    use super::*;

    /// Far beyond what any run here takes, unless it hangs.
    const LONG: Duration = Duration::from_secs(30);

    fn program(argv: &[&str]) -> Program {
        Program {
            argv: argv.iter().map(ToString::to_string).collect(),
            directory: None,
            stdin: Vec::new(),
            timeout: LONG,
            output_limit: 1 << 20,
        }
    }

    fn sh(script: &str) -> Program {
        program(&["sh", "-c", script])
    }

    fn finish(program: Program) -> Finished {
        block_on(run(program)).expect("the program ends by itself")
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("UTF-8").trim()
    }

    /// The state letter of a process, absent once it has been reaped.
    fn state(pid: &str) -> Option<char> {
        let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn reaped(pid: &str) -> bool {
        state(pid).is_none()
    }

    /// Whether it runs no more. An orphan may stay a zombie: to reap it is the business of the system's PID 1.
    fn dead(pid: &str) -> bool {
        matches!(state(pid), None | Some('Z' | 'X'))
    }

    fn eventually(condition: impl Fn() -> bool, what: &str) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < LONG, "not in time: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// A directory of one test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = env::temp_dir().join(format!("chanrpc-program-{}-{test}", process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        /// The words of a file, once its line is complete.
        fn words(&self, file: &str) -> Option<Vec<String>> {
            let line = fs::read_to_string(self.0.join(file)).ok()?;
            let line = line.strip_suffix('\n')?;
            Some(line.split(' ').map(str::to_string).collect())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn stdin_reaches_the_program_and_stdout_comes_back() {
        let finished = finish(Program { stdin: b"hello".to_vec(), ..program(&["cat"]) });
        assert_eq!((finished.exit, finished.signal), (Some(0), None));
        assert_eq!(finished.stdout, b"hello");
        assert_eq!(finished.stderr, b"");
    }

    #[test]
    fn empty_stdin_ends_at_once() {
        let finished = finish(program(&["cat"]));
        assert_eq!((finished.exit, finished.stdout), (Some(0), Vec::new()));
    }

    #[test]
    fn arguments_meet_no_shell() {
        let finished = finish(program(&["printf", "%s|", "$HOME; echo no", "*", ""]));
        assert_eq!(text(&finished.stdout), "$HOME; echo no|*||");
    }

    #[test]
    fn the_directory_is_the_one_asked_for() {
        let directory = Directory::new("directory");
        let finished =
            finish(Program { directory: Some(directory.0.clone()), ..sh("echo here > file; pwd -P") });
        assert_eq!(directory.words("file"), Some(vec!["here".to_string()]));
        let asked = directory.0.canonicalize().expect("it exists");
        assert_eq!(Path::new(text(&finished.stdout)), asked);
    }

    #[test]
    fn exit_code_and_stderr_are_told() {
        let finished = finish(sh("echo out; echo why >&2; exit 3"));
        assert_eq!((finished.exit, finished.signal), (Some(3), None));
        assert_eq!((text(&finished.stdout), text(&finished.stderr)), ("out", "why"));
    }

    #[test]
    fn a_signal_is_told() {
        let finished = finish(sh("kill -9 $$"));
        assert_eq!((finished.exit, finished.signal), (None, Some(9)));
    }

    #[test]
    fn only_the_end_of_stderr_is_kept() {
        let finished = finish(sh("yes 0123456 | head -c 3000000 >&2; echo last >&2"));
        assert_eq!(finished.stderr.len(), STDERR_TAIL);
        assert!(finished.stderr.ends_with(b"\n0123456\nlast\n"));
    }

    #[test]
    fn a_missing_program_or_directory_or_name_is_not_started() {
        let missing = "/no/such/thing";
        for program in [
            program(&[missing]),
            program(&[]),
            Program { directory: Some(missing.into()), ..program(&["cat"]) },
        ] {
            let error = block_on(run(program)).expect_err("it cannot start");
            assert!(matches!(error, ProgramError::NotStarted(_)), "{error:?}");
            assert!(error.to_string().starts_with("the program could not be started ("), "{error}");
            assert!(error.source().is_some());
        }
    }

    #[test]
    fn a_timeout_kills_a_stubborn_program_and_its_children() {
        let stubborn = "trap '' TERM; sleep 1000 & echo $$ $! >&2; while :; do wait; done";
        let start = Instant::now();
        let result = block_on(run(Program { timeout: Duration::from_secs(2), ..sh(stubborn) }));
        assert!(start.elapsed() < LONG / 2);
        let Err(ProgramError::TimedOut { stderr }) = result else {
            panic!("{result:?}");
        };
        let (main, child) = text(&stderr).split_once(' ').expect("two numbers");
        eventually(|| reaped(main), "the main program is reaped");
        eventually(|| dead(child), "its child is dead");
    }

    #[test]
    fn the_timeout_holds_for_a_program_that_has_closed_its_streams() {
        let result =
            block_on(run(Program { timeout: Duration::from_millis(300), ..sh("exec >&- 2>&-; sleep 1000") }));
        assert!(matches!(result, Err(ProgramError::TimedOut { .. })), "{result:?}");
    }

    #[test]
    fn closed_streams_are_not_the_end() {
        let finished = finish(sh("echo early; exec >&- 2>&-; sleep 0.2; exit 4"));
        assert_eq!((finished.exit, text(&finished.stdout)), (Some(4), "early"));
    }

    #[test]
    fn endless_output_ends_at_the_limit() {
        let start = Instant::now();
        let error = block_on(run(program(&["yes"]))).expect_err("it is too much");
        assert!(matches!(error, ProgramError::TooMuchOutput { limit: 1_048_576 }), "{error:?}");
        assert!(start.elapsed() < LONG / 2);
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        let hundred = |limit| Program { output_limit: limit, ..sh("yes | head -c 100") };
        assert_eq!(finish(hundred(100)).stdout.len(), 100);
        assert!(matches!(block_on(run(hundred(99))), Err(ProgramError::TooMuchOutput { limit: 99 })));
        assert!(matches!(block_on(run(hundred(0))), Err(ProgramError::TooMuchOutput { limit: 0 })));
        assert_eq!(finish(hundred(usize::MAX)).stdout.len(), 100);
    }

    #[test]
    fn endless_stderr_holds_up_neither_the_timeout_nor_the_loop() {
        let turns = block_on(async {
            let mut turns = 0;
            let others = async {
                loop {
                    Timer::after(Duration::from_millis(1)).await;
                    turns += 1;
                }
            };
            let program = Program { timeout: Duration::from_millis(500), ..sh("yes >&2") };
            let error = or(run(program), others).await.expect_err("it is endless");
            assert!(
                matches!(error, ProgramError::TimedOut { ref stderr } if stderr.len() == STDERR_TAIL),
                "{error:?}"
            );
            turns
        });
        assert!(turns >= 10, "the loop had {turns} turns in half a second");
    }

    #[test]
    fn a_program_may_ignore_a_big_stdin() {
        let stdin = vec![b'x'; 5_000_000];
        let finished = finish(Program { stdin: stdin.clone(), ..sh("echo done") });
        assert_eq!((finished.exit, text(&finished.stdout)), (Some(0), "done"));
        let result =
            block_on(run(Program { stdin, timeout: Duration::from_millis(300), ..sh("sleep 1000") }));
        assert!(matches!(result, Err(ProgramError::TimedOut { .. })), "{result:?}");
    }

    #[test]
    fn big_stdin_and_big_stdout_flow_side_by_side() {
        let stdin: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
        let finished = finish(Program { stdin: stdin.clone(), output_limit: 3_000_000, ..program(&["cat"]) });
        assert_eq!(finished.exit, Some(0));
        assert!(finished.stdout == stdin, "what comes back differs");
    }

    #[test]
    fn a_background_process_holds_up_no_answer() {
        let start = Instant::now();
        let finished = finish(sh("sleep 1000 & echo $!; exit 5"));
        assert!(start.elapsed() < LONG / 2);
        assert_eq!(finished.exit, Some(5));
        let child = text(&finished.stdout);
        eventually(|| dead(child), "the background process is dead");
    }

    #[test]
    fn a_silent_background_process_ends_with_the_run() {
        let finished = finish(sh("sleep 1000 > /dev/null 2>&1 & echo $!"));
        let child = text(&finished.stdout);
        eventually(|| dead(child), "the background process is dead");
    }

    #[test]
    fn what_was_written_before_a_background_process_is_cut_off_is_all_there() {
        let finished = finish(sh("yes | head -c 500000; yes >&2 & exit 6"));
        assert_eq!((finished.exit, finished.stdout.len()), (Some(6), 500_000));
    }

    #[test]
    fn a_busy_loop_loses_no_output() {
        let others = async {
            loop {
                thread::sleep(GRACE);
                smol::future::yield_now().await;
            }
        };
        let finished =
            block_on(or(run(sh("yes | head -c 100000; sleep 1000 & exit 7")), others)).expect("it ends");
        assert_eq!((finished.exit, finished.stdout.len()), (Some(7), 100_000));
    }

    #[test]
    fn a_finished_program_is_no_zombie() {
        let finished = finish(sh("echo $$"));
        assert!(reaped(text(&finished.stdout)));
    }

    #[test]
    fn a_program_cut_off_at_its_limit_is_no_zombie() {
        let directory = Directory::new("limit");
        let endless = Program { directory: Some(directory.0.clone()), ..sh("echo $$ > pid; exec yes") };
        assert!(block_on(run(endless)).is_err());
        let pids = directory.words("pid").expect("written before all output");
        eventually(|| reaped(&pids[0]), "the program is reaped");
    }

    #[test]
    fn a_dropped_future_ends_the_whole_group() {
        let directory = Directory::new("dropped");
        let endless = Program {
            directory: Some(directory.0.clone()),
            ..sh("trap '' TERM; sleep 1000 & echo $$ $! > pids; while :; do wait; done")
        };
        let started = async {
            loop {
                if let Some(pids) = directory.words("pids") {
                    return pids;
                }
                Timer::after(Duration::from_millis(2)).await;
            }
        };
        let pids = block_on(or(async { panic!("it ended: {:?}", run(endless).await) }, started));
        eventually(|| reaped(&pids[0]), "the main program is reaped");
        eventually(|| dead(&pids[1]), "its child is dead");
    }

    #[test]
    fn fifty_runs_go_side_by_side() {
        let executor = smol::LocalExecutor::new();
        let runs: Vec<_> = (0..50)
            .map(|n: usize| {
                let stdin = n.to_string().repeat(50_000).into_bytes();
                executor.spawn(run(Program { stdin, ..sh(&format!("cat; echo {n} >&2; exit {n}")) }))
            })
            .collect();
        block_on(executor.run(async {
            for (n, run) in runs.into_iter().enumerate() {
                let finished = run.await.expect("it ends by itself");
                assert_eq!(finished.exit, i32::try_from(n).ok());
                assert!(
                    finished.stdout == n.to_string().repeat(50_000).into_bytes(),
                    "run {n} differs: {} of {}",
                    finished.stdout.len(),
                    n.to_string().len() * 50_000
                );
                assert_eq!(text(&finished.stderr), n.to_string());
            }
        }));
    }
}
