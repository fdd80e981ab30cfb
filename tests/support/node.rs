//! Nodes that run in the binary.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::process::{ChildStderr, Command, Stdio};

use super::client::Client;
use super::folder::Folder;
use super::process::{Captured, Ended, Process, binary, binary_in_shell};
use super::waits::{await_some, eventually};

/// The destination of a node's log.
pub(crate) enum Stderr {
    /// A pipe that the test reads.
    Read,
    /// stderr is closed.
    Closed,
    /// Set up by this line of shell, in which `"$0" "$@"` are the node.
    Shell(&'static str),
    /// A pipe whose reader is closed.
    Broken,
    /// A pipe that nobody reads.
    Stuck,
}

/// A running node; killed when dropped.
pub(crate) struct Node {
    process: Process,
    addresses: Vec<SocketAddr>,
    pub(crate) folder: Folder,
    /// A pipe that nobody reads.
    stuck: Option<ChildStderr>,
}

impl Node {
    /// Starts a node with the demo functions.
    pub(crate) fn demo() -> Self {
        Self::launch(Folder::new(), None, &[], &Stderr::Read)
    }

    /// Starts a node with a configuration.
    pub(crate) fn with(folder: Folder, config: &str) -> Self {
        Self::launch(folder, Some(config), &[], &Stderr::Read)
    }

    /// Starts a node and waits until it listens.
    pub(crate) fn launch(folder: Folder, config: Option<&str>, arguments: &[&str], stderr: &Stderr) -> Self {
        let mut command = match stderr {
            Stderr::Closed => binary_in_shell("exec \"$0\" \"$@\" 2>&-"),
            Stderr::Shell(line) => binary_in_shell(line),
            _ => binary(),
        };
        command.arg("serve").arg("--ready-file").arg(folder.path("ready"));
        if let Some(text) = config {
            command.arg("--config").arg(folder.write("config.toml", text));
        }
        if !arguments.contains(&"--listen") && !config.is_some_and(|text| text.contains("[[listen]]")) {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(arguments).stdout(Stdio::piped()).stdin(Stdio::null());
        match stderr {
            Stderr::Broken => {
                let (reader, writer) = io::pipe().unwrap();
                drop(reader);
                command.stderr(writer);
            }
            _ => {
                command.stderr(Stdio::piped());
            }
        }
        let mut stuck = None;
        let mut process = if let Stderr::Stuck = stderr {
            let mut child = command.spawn().unwrap();
            stuck = child.stderr.take();
            let (stdout, reader) = Captured::of(child.stdout.take().unwrap());
            Process { child, readers: vec![reader], stdout, stderr: Captured::default() }
        } else {
            Process::start_with(command)
        };
        // The command also held the write end of a broken pipe; it is dropped by now.
        let ready = await_some("the node listens", || {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("the node ended with {status}: {}", process.stderr.text());
            }
            folder.read("ready")
        });
        let addresses = ready.lines().map(|line| line.parse().unwrap()).collect();
        Self { process, addresses, folder, stuck }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Runs one of the binary's commands against this node: the command, then its other arguments.
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Ended {
        Process::start(self.command(command, arguments)).finish()
    }

    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut binary = binary();
        binary.args([command, "--to", &self.address().to_string()]).args(arguments);
        binary
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        self.process.wait();
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end and returns its exit code; `None` if a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.process.wait()
    }

    /// Waits for its end. The folder exists until the caller drops it.
    pub(crate) fn finish(self) -> (Ended, Folder) {
        (self.process.finish(), self.folder)
    }

    /// Returns its log so far.
    pub(crate) fn log(&self) -> String {
        self.process.stderr.text()
    }

    /// Waits until its log contains a text.
    #[track_caller]
    pub(crate) fn await_log(&self, text: &str) {
        eventually(&format!("the log contains {text:?}"), || self.log().contains(text));
    }

    /// Kills it and returns the contents of the pipe that nobody read.
    pub(crate) fn unread(mut self) -> Vec<u8> {
        self.kill();
        let mut bytes = Vec::new();
        self.stuck.take().unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Reads a value from `/metrics`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        // Retried if the test's short timeouts or many connections made the request fail.
        let page = await_some("/metrics answers", || {
            let mut client = self.connect();
            client.try_send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
            client.try_http()
        });
        assert_eq!(page.status, 200);
        let number =
            page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        number.unwrap_or_else(|| panic!("{name} is not in {}", page.body))
    }

    /// Returns the number of threads and descriptors, if the system reports them.
    pub(crate) fn holdings(&self) -> Option<(usize, usize)> {
        let count = |what| Some(fs::read_dir(format!("/proc/{}/{what}", self.process.id())).ok()?.count());
        Some((count("task")?, count("fd")?))
    }

    /// Returns the targets of its descriptors, if the system reports them.
    pub(crate) fn open_files(&self) -> Vec<String> {
        let Ok(listed) = fs::read_dir(format!("/proc/{}/fd", self.id())) else { return Vec::new() };
        let files =
            listed.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()));
        files.collect()
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns its peak memory in KiB, if the system reports it.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
    }

    /// Asserts that the node's peak memory grew by less than `mib` MiB during `deed`, if the system reports it.
    #[track_caller]
    pub(crate) fn assert_growth_below(&self, mib: u64, deed: impl FnOnce()) {
        let before = self.peak_kib();
        deed();
        if let (Some(before), Some(after)) = (before, self.peak_kib()) {
            assert!(after.saturating_sub(before) < mib * 1024, "the node grew from {before} to {after} KiB");
        }
    }
}
