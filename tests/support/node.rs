//! A node, as the binary runs it.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::process::{ChildStderr, Command, Stdio};

use super::client::Client;
use super::folder::Folder;
use super::process::{Captured, Ended, Process, binary, binary_in_shell};
use super::waits::await_some;

/// Where a node's log goes.
pub(crate) enum Stderr {
    /// It is read, as it should be.
    Read,
    /// The node has none.
    Closed,
    /// As this line of shell has it, in which `"$0" "$@"` stand for the node.
    Shell(&'static str),
    /// To a pipe whose reader has gone.
    Broken,
    /// To a pipe that nobody reads.
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
    /// Starts a node with the functions to try.
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
        // The command held the writer's end of a broken pipe as well; it is dropped by now.
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

    /// Ends it by force and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        self.process.wait();
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end and gives its exit code; none if a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.process.wait()
    }

    /// Waits for its end. Its folder stays for as long as the caller keeps it.
    pub(crate) fn finish(self) -> (Ended, Folder) {
        (self.process.finish(), self.folder)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.stderr.text()
    }

    /// Ends it by force and gives what was in the pipe that nobody read.
    pub(crate) fn unread(mut self) -> Vec<u8> {
        self.kill();
        let mut bytes = Vec::new();
        self.stuck.take().unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Reads a number off `/metrics`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        // Asked again if a test's short limits, or its many connections, have cost this one.
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

    /// How many threads and descriptors it has, where the system tells.
    pub(crate) fn holdings(&self) -> Option<(usize, usize)> {
        let count = |what| Some(fs::read_dir(format!("/proc/{}/{what}", self.process.id())).ok()?.count());
        Some((count("task")?, count("fd")?))
    }

    /// What its descriptors are, where the system tells.
    pub(crate) fn open_files(&self) -> Vec<String> {
        let Ok(listed) = fs::read_dir(format!("/proc/{}/fd", self.id())) else { return Vec::new() };
        let files =
            listed.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()));
        files.collect()
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The most memory that it has held, in KiB, where the system tells.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
    }

    /// Tells the node's peak of memory grown during `deed`, if the system tells, is below so many MiB.
    #[track_caller]
    pub(crate) fn assert_growth_below(&self, mib: u64, deed: impl FnOnce()) {
        let before = self.peak_kib();
        deed();
        if let (Some(before), Some(after)) = (before, self.peak_kib()) {
            assert!(after.saturating_sub(before) < mib * 1024, "the node grew from {before} to {after} KiB");
        }
    }
}
