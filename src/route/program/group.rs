//! A started program and all that it starts in turn, which end together.

use std::io::{self, Write};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use command_group::{CommandGroup, GroupChild};
use smol::Timer;

use super::{Program, ProgramError};

/// The first and the longest pause between two looks at whether the program has exited.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How long killed processes get to become reapable.
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

impl Group {
    /// Starts a program; its stdin is written in the background.
    pub(super) fn start(program: Program) -> io::Result<(Self, ChildStdout, ChildStderr)> {
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
    pub(super) async fn exit(&mut self) -> Result<ExitStatus, ProgramError> {
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
