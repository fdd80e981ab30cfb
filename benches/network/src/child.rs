//! A server in its own process, and its resource usage as reported by the system.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(10);

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts a server on a core. It prints `listening on` and an address on stdout.
    pub(crate) fn start(program: &Path, arguments: &[&str], core: u32) -> Self {
        let mut child = spawn(program, arguments, core, Stdio::piped());
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).expect("the server's output is text");
        }
        let address = line.trim_end().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("{program:?} does not listen: {line}")).to_owned();
        Self { child, address }
    }

    /// Starts a server on a core. Its arguments name the port.
    pub(crate) fn start_at_port(program: &Path, arguments: fn(u16) -> Vec<String>, core: u32) -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let child = spawn(program, &arguments(port), core, Stdio::null());
        let server = Self { child, address: format!("127.0.0.1:{port}") };
        let began = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            assert!(began.elapsed() < START, "{program:?} does not listen at {}", server.address);
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// Returns the processor time that the server's threads have used so far. The scheduler counts it in nanoseconds;
    /// `/proc/PID/stat` has ticks of 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        let folder = format!("/proc/{}/task", self.child.id());
        let tasks =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}; this needs Linux"));
        let of_task = |task: fs::DirEntry| {
            // A thread may end meanwhile.
            let times = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            times.split_whitespace().next().map_or(0, |ran| ran.parse().expect("nanoseconds"))
        };
        Duration::from_nanos(tasks.flatten().map(of_task).sum())
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn memory(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}; this needs Linux"));
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        kib.expect("the memory").parse::<f64>().expect("a number") * 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, arguments: &[impl AsRef<OsStr>], core: u32, stdout: Stdio) -> Child {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program).args(arguments);
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// The cores of the servers and of the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) server: u32,
    /// Another one, if this process may use several.
    pub(crate) other: Option<u32>,
}

impl Cores {
    /// Chooses among the cores that this process may use.
    ///
    /// # Errors
    /// Without `taskset`.
    pub(crate) fn choose() -> Result<Self, String> {
        // pid 7's current affinity list: 0-2,5
        let said = taskset(&["-c", "-p", &std::process::id().to_string()])?;
        let list = said.rsplit(": ").next().unwrap_or_default().trim();
        let mut ends = list.split([',', '-']).filter_map(|core| core.parse().ok());
        let server = ends.next().ok_or_else(|| format!("taskset prints no cores: {said}"))?;
        Ok(Self { server, other: ends.next_back() })
    }
}

/// Moves the main thread, and the threads that it starts later, to one core.
pub(crate) fn pin_client(core: u32) {
    let id = std::process::id().to_string();
    taskset(&["-c", "-p", &core.to_string(), &id]).unwrap_or_else(|error| panic!("{error}"));
}

fn taskset(arguments: &[&str]) -> Result<String, String> {
    let missing = |error| format!("taskset: {error}; processes are pinned with it (util-linux)");
    let done = Command::new("taskset").args(arguments).output().map_err(missing)?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!("taskset: {}", String::from_utf8_lossy(&done.stderr)))
    }
}
