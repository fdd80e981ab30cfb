//! A started program and all that it starts in turn, which end together.

use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use command_group::{CommandGroup, GroupChild};
use smol::Timer;
use smol::future::yield_now;

use super::pipes::{Input, Output};
use super::{Program, ProgramError};

/// The first and the longest pause between two looks at whether the program has exited.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How many looks come without a pause at a program that is about to exit.
const LOOKS: usize = 4;
/// Between two looks at whether killed processes can be reaped.
const SETTLE: Duration = Duration::from_millis(10);

/// A started program with all that it starts in turn. Dropping it kills them all, and reaps them without
/// blocking.
///
/// None of `GroupChild`'s own waits is used for the main program. On Unix they lose its exit status if this
/// process is PID 1 and inherits a member of the group that lives on; on Windows they can wait for a message
/// that an earlier look has taken. The plain `Child` inside has neither flaw, and it answers for the main
/// program alone: the very question.
pub(super) struct Group {
    /// Present until the drop.
    child: Option<GroupChild>,
}

/// The node's ends of a program's pipes.
pub(super) struct Pipes {
    /// Absent if there is nothing left to write.
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
}

impl Group {
    /// Starts a program. Everything else that can fail comes before the start, so that after an error nothing has run.
    pub(super) fn start(program: &mut Program) -> io::Result<(Self, Pipes)> {
        let (name, arguments) = program
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program is named"))?;
        let mut command = Command::new(name);
        command.args(arguments);
        program.surroundings.apply(&mut command);
        if let Some(directory) = &program.directory {
            command.current_dir(directory);
        }
        let bytes = std::mem::take(&mut program.stdin);
        let (end, stdin) = if bytes.is_empty() {
            (Stdio::null(), None)
        } else {
            let (end, stdin) = Input::new(bytes)?;
            (end.into(), stdin)
        };
        command.stdin(end);
        let (stdout, end) = Output::new()?;
        command.stdout(end);
        let (stderr, end) = Output::new()?;
        command.stderr(end);
        let child = command.group_spawn()?;
        // The program's ends of the pipes go with the command: from here on only the program holds them.
        drop(command);
        Ok((Self { child: Some(child) }, Pipes { stdin, stdout, stderr }))
    }

    /// Waits for the main program to exit, and reaps it.
    ///
    /// The exit is polled for: a blocking wait would hold the handle that a kill needs.
    pub(super) async fn exit(&mut self) -> Result<ExitStatus, ProgramError> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            Timer::after(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The same for a program that has closed its streams, which as a rule is about to exit.
    pub(super) async fn imminent_exit(&mut self) -> Result<ExitStatus, ProgramError> {
        for _ in 0..LOOKS {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            yield_now().await;
        }
        self.exit().await
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, ProgramError> {
        let child = self.child.as_mut().expect("held until the drop");
        child.inner().try_wait().map_err(ProgramError::Lost)
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
            Reaper::take(child);
        }
    }
}

/// Killed groups that are not reaped yet, and whether a thread looks after them. One thread does for all, while there are
/// any.
struct Reaper {
    killed: Vec<GroupChild>,
    at_work: bool,
}

static REAPER: Mutex<Reaper> = Mutex::new(Reaper { killed: Vec::new(), at_work: false });

impl Reaper {
    fn take(child: GroupChild) {
        let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
        reaper.killed.push(child);
        if !reaper.at_work {
            // Without a thread they stay until the next one is killed.
            reaper.at_work = thread::Builder::new().name("reaper".to_owned()).spawn(Self::work).is_ok();
        }
    }

    fn work() {
        loop {
            thread::sleep(SETTLE);
            let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
            reaper.killed.retain_mut(|child| {
                let reaped = !matches!(child.inner().try_wait(), Ok(None));
                // The rest of the group is the business of the system's PID 1. That may be this process.
                let _ = child.try_wait();
                !reaped
            });
            if reaper.killed.is_empty() {
                reaper.killed.shrink_to_fit();
                reaper.at_work = false;
                return;
            }
        }
    }
}
