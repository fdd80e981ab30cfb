//! A running program and its descendants, which end together.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use command_group::{CommandGroup, GroupChild};
use smol::Timer;
use smol::future::yield_now;

use super::pipes::{OutputPipe, Stdin};
use super::{Launch, ProgramError};

/// The first and the longest interval between two polls for the program's exit.
const MIN_POLL_INTERVAL: Duration = Duration::from_micros(200);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The number of polls without a pause when the program is about to exit.
const IMMEDIATE_POLLS: usize = 4;
/// The interval between two attempts to reap killed processes.
const REAP_INTERVAL: Duration = Duration::from_millis(10);

/// A running program and its descendants. Dropping it kills them all, and reaps them without blocking.
///
/// The wait methods of `GroupChild` are not used for the main program. On Unix they lose its exit status if this process
/// is PID 1 and inherits a surviving member of the group; on Windows they can wait for a message that an earlier poll has
/// consumed. The plain `Child` inside has neither flaw, and reports on the main program alone, as required here.
pub(super) struct ProcessGroup {
    /// `Some` until dropped.
    child: Option<GroupChild>,
}

/// The node's ends of a program's pipes.
pub(super) struct Pipes<T> {
    pub(super) stdin: T,
    pub(super) stdout: OutputPipe,
    pub(super) stderr: OutputPipe,
}

impl ProcessGroup {
    /// Starts a program. Everything else that can fail happens before the start, so that after an error nothing has run.
    pub(super) fn start<T>(
        launch: &Launch,
        stdin: impl FnOnce() -> io::Result<(Stdin, T)>,
    ) -> io::Result<(Self, Pipes<T>)> {
        let (name, arguments) = launch
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "argv is empty"))?;
        let mut command = Command::new(name);
        command.args(arguments);
        launch.environment.apply(&mut command, &launch.of_call);
        if let Some(directory) = &launch.directory {
            command.current_dir(directory);
        }
        let (end, stdin) = stdin()?;
        command.stdin(end);
        let (stdout, end) = OutputPipe::new()?;
        command.stdout(end);
        let (stderr, end) = OutputPipe::new()?;
        command.stderr(end);
        let child = command.group_spawn()?;
        // Closes this process's copies of the program's pipe ends.
        drop(command);
        Ok((Self { child: Some(child) }, Pipes { stdin, stdout, stderr }))
    }

    /// Returns the process ID of the main program.
    pub(super) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, GroupChild::id)
    }

    /// Kills all processes of the group. The main program remains to be reaped.
    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails if there is none left.
            let _ = child.kill();
        }
    }

    /// Waits for the main program to exit, and reaps it.
    ///
    /// Polls for the exit: a blocking wait would hold the handle that a kill needs.
    pub(super) async fn exit(&mut self) -> Result<ExitStatus, ProgramError> {
        let mut interval = MIN_POLL_INTERVAL;
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            Timer::after(interval).await;
            interval = (interval * 2).min(MAX_POLL_INTERVAL);
        }
    }

    /// Like [`exit`](Self::exit), for a program that has closed its streams and usually exits now.
    pub(super) async fn imminent_exit(&mut self) -> Result<ExitStatus, ProgramError> {
        for _ in 0..IMMEDIATE_POLLS {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            yield_now().await;
        }
        self.exit().await
    }

    /// Returns the status of the main program if it has exited.
    pub(super) fn status(&mut self) -> Result<Option<ExitStatus>, ProgramError> {
        let child = self.child.as_mut().expect("present until dropped");
        child.inner().try_wait().map_err(ProgramError::Lost)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // The group has the main program's PID, which stays in use until the program is reaped and the group is empty.
        // After that it has been free for at most `GRACE`. Systems assign PIDs in sequence, so that no other process has
        // it yet, and the kill finds none. Without the kill, a background process that writes nothing would outlive
        // every limit.
        let found = child.kill().is_ok();
        let reaped = matches!(child.inner().try_wait(), Ok(Some(_)));
        if found || !reaped {
            Reaper::add(child);
        }
    }
}

/// Killed groups that are not reaped yet, and whether the reaper thread is running. It runs while there are any.
struct Reaper {
    killed: Vec<GroupChild>,
    is_running: bool,
}

static REAPER: Mutex<Reaper> = Mutex::new(Reaper { killed: Vec::new(), is_running: false });

impl Reaper {
    fn add(child: GroupChild) {
        let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
        reaper.killed.push(child);
        if !reaper.is_running {
            // If the thread cannot be started, they are reaped with the next killed group.
            reaper.is_running = thread::Builder::new().name("reaper".to_owned()).spawn(Self::run).is_ok();
        }
    }

    fn run() {
        loop {
            thread::sleep(REAP_INTERVAL);
            let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
            reaper.killed.retain_mut(|child| {
                let reaped = !matches!(child.inner().try_wait(), Ok(None));
                // The system's PID 1 reaps the rest of the group. That may be this process.
                let _ = child.try_wait();
                !reaped
            });
            if reaper.killed.is_empty() {
                reaper.killed.shrink_to_fit();
                reaper.is_running = false;
                return;
            }
        }
    }
}
