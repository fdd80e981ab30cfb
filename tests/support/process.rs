//! Runs the binary and other processes.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::waits::{await_some, eventually};

/// Returns the command line of the binary: its path, preceded by the program that runs it if the system cannot
/// (`CHANRPC_TEST_RUNNER`, such as `qemu-aarch64-static`).
pub(crate) fn binary_words() -> Vec<String> {
    let runner = std::env::var("CHANRPC_TEST_RUNNER").ok();
    runner.into_iter().chain([env!("CARGO_BIN_EXE_chanrpc").to_owned()]).collect()
}

/// Returns a command that runs the binary.
pub(crate) fn binary() -> Command {
    let words = binary_words();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Returns a command that runs the binary from a line of shell, in which `"$0" "$@"` are the binary and its arguments.
pub(crate) fn binary_in_shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).args(binary_words());
    command
}

/// Runs the binary to completion.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    let mut command = binary();
    command.args(arguments);
    Process::start(command).finish()
}

/// The exit code and the output of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts that it succeeded, and returns its output without the last line end.
    #[track_caller]
    pub(crate) fn result(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"))
    }

    /// Asserts that it failed with the given exit code, with a message on stderr and nothing on stdout. Returns the
    /// message.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "only results belong on stdout");
        assert!(!self.stderr.is_empty(), "an error without a word");
        assert!(!self.stderr.contains("panicked at"), "{self:?}");
        &self.stderr
    }
}

/// Collects the output of a pipe.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(super) fn of(mut pipe: impl Read + Send + 'static) -> (Self, JoinHandle<()>) {
        let captured = Self::default();
        let into = captured.clone();
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                into.0.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        (captured, reader)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    pub(super) child: Child,
    pub(super) readers: Vec<JoinHandle<()>>,
    pub(super) stdout: Captured,
    pub(super) stderr: Captured,
}

impl Process {
    /// Starts a process and reads its stdout and stderr unless they are redirected; its stdin is empty.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start_with(command)
    }

    /// Starts a process with stdout and stderr as the command sets them, and reads those that are pipes.
    pub(crate) fn start_with(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut readers = Vec::new();
        let mut read = |pipe: Option<Box<dyn Read + Send>>| {
            let Some(pipe) = pipe else { return Captured::default() };
            let (captured, reader) = Captured::of(pipe);
            readers.push(reader);
            captured
        };
        let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        Self { child, readers, stdout, stderr }
    }

    /// Runs a command to completion with the given text on its stdin.
    pub(crate) fn run_with_input(mut command: Command, input: &str) -> Ended {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The texts of these tests fit into a pipe.
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let (stdout, one) = Captured::of(child.stdout.take().unwrap());
        let (stderr, other) = Captured::of(child.stderr.take().unwrap());
        Self { child, readers: vec![one, other], stdout, stderr }.finish()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its output so far.
    pub(crate) fn printed(&self) -> String {
        self.stdout.text()
    }

    /// Returns its log so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.text()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Sends a signal by name, such as `TERM`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        assert!(signal(&self.id().to_string(), name), "no process takes SIG{name}");
    }

    /// Waits for its end and returns its exit code; `None` if a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        await_some("the process ends", || self.child.try_wait().unwrap()).code()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ended {
        let code = self.wait();
        for reader in &self.readers {
            eventually("its output ends", || reader.is_finished());
        }
        Ended { code, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by name. Returns `true` if the process existed.
pub(crate) fn signal(id: &str, name: &str) -> bool {
    // Every shell has `kill` built in; it may be missing as a program.
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$0\" \"$1\"", name, id]);
    Process::start(command).finish().code == Some(0)
}

/// Returns `true` if a process has ended, whether or not its exit code has been collected.
pub(crate) fn is_gone(id: &str) -> bool {
    let is_zombie = || {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    is_zombie() || !signal(id, "0")
}
