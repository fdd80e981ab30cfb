//! A server in its own process, and its resource usage as reported by the system.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Clock ticks per second in `/proc`. Linux has reported this value to all programs for decades.
const TICKS: f64 = 100.0;

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts a server, which prints `listening on` and an address on stdout.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).expect("the server's output is text");
        }
        let address = line.trim_end().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("{command:?} does not listen: {line}")).to_owned();
        Self { child, address }
    }

    /// Returns the processor time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // Skip the name, which may contain any character; utime and stime are fields 14 and 15 of proc(5).
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
        Duration::from_secs_f64(ticks / TICKS)
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn memory(&self) -> f64 {
        let status = self.proc("status");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        kib.expect("the memory").parse::<f64>().expect("a number") * 1024.0
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}; this needs Linux"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pins client and server to one core until dropped.
pub(crate) struct Pin {
    before: Vec<(u32, String)>,
}

impl Pin {
    /// Pins this thread, the threads that it starts, and all threads of a server. Returns `None` without `taskset`.
    pub(crate) fn to_one_core(server: &Server) -> Option<Self> {
        let mut before = Vec::new();
        for id in [std::process::id(), server.id()] {
            // pid 7's current affinity list: 0,1
            let said = taskset(&["-c", "-p", &id.to_string()])?;
            before.push((id, said.rsplit(": ").next()?.trim().to_owned()));
        }
        let core = before[0].1.split([',', '-']).next()?.to_owned();
        let pin = Self { before };
        for (id, _) in &pin.before {
            set(*id, &core)?;
        }
        Some(pin)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        for (id, cores) in &self.before {
            set(*id, cores);
        }
    }
}

/// Sets the cores on which the threads of a process may run.
fn set(id: u32, cores: &str) -> Option<String> {
    taskset(&["-a", "-c", "-p", cores, &id.to_string()])
}

fn taskset(arguments: &[&str]) -> Option<String> {
    let done = Command::new("taskset").args(arguments).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}
