//! What the black-box tests of the binary share: processes, nodes, and peers that speak plain TCP.
//!
//! Nothing here sleeps to give something time to happen. Where a test has to wait, it looks for a condition
//! again and again; [`LIMIT`] only says when that has failed.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{self, Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chanrpc::chan;
use chanrpc::sched::{Handle, Scheduler, Settings};
use serde_json::{Value, json};
use smol::Executor;

/// How long anything may take before a test has failed. Nothing takes a tenth of it, and it is below the
/// deadline that a node gives a call by default.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);
/// A shell script that ignores SIGTERM, has a child that does too, writes both their process ids to the file
/// that its argument names, and ends only when the folder of that file is gone.
const STUBBORN: &str = "trap '' TERM
(while [ -d \"${1%/*}\" ]; do sleep 0.05; done) & echo $$ $! > \"$1\"
wait";

/// The size of a heavy test: `size`, or that part of it which `CHANRPC_TEST_SCALE` says, where every call takes
/// many times as long as usual (100: a hundredth).
pub(crate) fn scale(size: u32) -> u32 {
    let divisor = std::env::var("CHANRPC_TEST_SCALE").map_or(NonZeroU32::MIN, |text| {
        text.parse().unwrap_or_else(|error| panic!("CHANRPC_TEST_SCALE={text}: {error}"))
    });
    (size / divisor).max(1)
}

/// Waits until `condition` gives something.
pub(crate) fn await_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// A folder for one test, removed with all that is in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("chanrpc-it-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The path of a file, as text.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// Waits until a file is there and has a whole line, and gives its words.
    pub(crate) fn await_words(&self, name: &str) -> Vec<String> {
        let text = await_some(name, || self.read(name).filter(|text| text.ends_with('\n')));
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// The configuration of a function that runs a shell script with no arguments.
    pub(crate) fn script(&self, function: &str, text: &str, settings: &str) -> String {
        let path = self.write(&format!("{function}.sh"), text);
        format!("[[function]]\nname = \"{function}\"\nexec = [\"sh\", '{}']\n{settings}\n", path.display())
    }

    /// The same for a script that takes one text.
    pub(crate) fn script_of(&self, function: &str, text: &str, settings: &str) -> String {
        let path = self.write(&format!("{function}.sh"), text);
        format!(
            "[[function]]\nname = \"{function}\"\nexec = [\"sh\", '{}', \"{{file}}\"]\n\
             params = {{ file = \"string\" }}\n{settings}\n",
            path.display()
        )
    }

    /// The configuration of a function that ends by force only, and leaves its two process ids in the file
    /// that its parameter names.
    pub(crate) fn stubborn(&self, settings: &str) -> String {
        self.script_of("stubborn", STUBBORN, settings)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What starts the binary: its path, after the name of what runs it if the system alone cannot
/// (`CHANRPC_TEST_RUNNER`, such as `qemu-aarch64-static`).
pub(crate) fn binary_words() -> Vec<String> {
    let runner = std::env::var("CHANRPC_TEST_RUNNER").ok();
    runner.into_iter().chain([env!("CARGO_BIN_EXE_chanrpc").to_owned()]).collect()
}

/// The binary.
pub(crate) fn binary() -> Command {
    let words = binary_words();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// The binary, started by a line of shell, in which `"$0" "$@"` stand for it and its arguments.
pub(crate) fn binary_in_shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).args(binary_words());
    command
}

/// Runs the binary to its end.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    let mut command = binary();
    command.args(arguments);
    Process::start(command).finish()
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Absent if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts that it ended well, and gives what it printed, without the last line's end.
    #[track_caller]
    pub(crate) fn result(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"))
    }

    /// Asserts that it failed with that exit code, said so on stderr, and printed nothing as a result.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "only results belong on stdout");
        assert!(!self.stderr.is_empty(), "an error without a word");
        assert!(!self.stderr.contains("panicked at"), "{self:?}");
        &self.stderr
    }
}

/// What has come out of a pipe so far.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn of(mut pipe: impl Read + Send + 'static) -> (Self, JoinHandle<()>) {
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

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    stdout: Captured,
    stderr: Captured,
}

impl Process {
    /// Starts a process and reads its stdout and stderr, unless they go elsewhere already; its stdin is
    /// empty.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start_with(command)
    }

    /// Starts a process with stdout and stderr as the command says, and reads those that are pipes.
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

    /// Runs a command to its end, with that text on its stdin.
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

    /// What it has printed so far.
    pub(crate) fn printed(&self) -> String {
        self.stdout.text()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.text()
    }

    /// Ends it by force.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Sends a signal by name, such as `TERM`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        assert!(signal(&self.id().to_string(), name), "no process takes SIG{name}");
    }

    /// Waits for its end and gives its exit code; none if a signal ended it.
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

/// Sends a signal by name; tells whether there was a process to take it.
pub(crate) fn signal(id: &str, name: &str) -> bool {
    // Every shell has `kill`; as a program it may be missing.
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$0\" \"$1\"", name, id]);
    Process::start(command).finish().code == Some(0)
}

/// Tells whether a process has ended. That nobody has asked for its exit code yet makes no difference.
pub(crate) fn is_gone(id: &str) -> bool {
    let is_zombie = || {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    is_zombie() || !signal(id, "0")
}

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

/// An error as a peer sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Value,
}

/// Takes a reply apart, and asserts that it is one.
#[track_caller]
pub(crate) fn outcome(reply: &Value) -> Result<Value, Fault> {
    assert_eq!(reply["jsonrpc"], "2.0", "{reply}");
    let members = reply.as_object().unwrap();
    assert!(members.contains_key("id"), "{reply}");
    match (members.get("result"), members.get("error")) {
        (Some(result), None) => Ok(result.clone()),
        (None, Some(error)) => Err(Fault {
            code: error["code"].as_i64().unwrap(),
            message: error["message"].as_str().unwrap().to_owned(),
            data: error["data"].clone(),
        }),
        _ => panic!("neither a result nor an error: {reply}"),
    }
}

/// The error in a reply.
#[track_caller]
pub(crate) fn fault(reply: &Value) -> Fault {
    outcome(reply).expect_err("an error was expected")
}

/// Asserts that a reply is an error of that code, and to that id.
#[track_caller]
pub(crate) fn assert_fault(reply: &Value, id: &Value, code: i64) {
    assert_eq!((fault(reply).code, &reply["id"]), (code, id), "{reply}");
}

/// The text of a request, without a line's end.
pub(crate) fn request(id: impl Into<Value>, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params }).to_string()
}

/// An HTTP request that carries a JSON text.
pub(crate) fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What came back over HTTP.
#[derive(Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpReply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A peer that speaks plain TCP and knows nothing of the library.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    next_id: u64,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = await_some("a connection", || TcpStream::connect(address).ok());
        stream.set_nodelay(true).unwrap();
        let client = Self::new(stream);
        client.set_limit(LIMIT);
        client
    }

    /// Uses a connection without a limit of time.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { reader: BufReader::new(stream), next_id: 0 }
    }

    /// Sets how long anything may take.
    pub(crate) fn set_limit(&self, limit: Duration) {
        self.stream().set_read_timeout(Some(limit)).unwrap();
        self.stream().set_write_timeout(Some(limit)).unwrap();
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the node takes what is sent");
    }

    /// Sends bytes, all of them within the limit: each write that gets something through would have one of its own.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut stream = self.stream();
        let until = stream.write_timeout()?.map(|limit| Instant::now() + limit);
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !rest.is_empty() && until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub(crate) fn end(&self) {
        // The node may be gone already.
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// The next line, or nothing if the connection has ended.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line),
            Err(error) if is_end(&error) => None,
            Err(error) => panic!("no line came: {error}"),
        }
    }

    /// The next line that is not empty.
    #[track_caller]
    pub(crate) fn full_line(&mut self) -> Option<String> {
        loop {
            let line = self.line()?;
            if !line.trim().is_empty() {
                return Some(line);
            }
        }
    }

    /// The next line as JSON.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Value {
        let line = self.line().expect("the connection ended instead of a reply");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a line and reads one.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: impl AsRef<[u8]>) -> Value {
        self.send([line.as_ref(), b"\n"].concat());
        self.reply()
    }

    /// Sends a request and does not wait for its reply.
    #[track_caller]
    pub(crate) fn begin(&mut self, id: impl Into<Value>, method: &str, params: &Value) {
        self.send(request(id, method, params) + "\n");
    }

    /// Calls a function, when no other reply is expected.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value, Fault> {
        self.next_id += 1;
        let id = Value::from(self.next_id);
        self.begin(id.clone(), method, params);
        let reply = self.reply();
        assert_eq!(reply["id"], id, "{reply}");
        outcome(&reply)
    }

    /// Asserts that the node sends nothing more and ends the connection.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(self.line(), None);
    }

    /// Reads until the node ends the connection.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.reader.read_to_end(&mut bytes) {
            Err(error) if !is_end(&error) => panic!("the connection does not end: {error}"),
            _ => bytes,
        }
    }

    /// Reads so many bytes.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("the node sends so many bytes");
        bytes
    }

    /// The next HTTP response.
    #[track_caller]
    pub(crate) fn http(&mut self) -> HttpReply {
        self.try_http().expect("the connection ended instead of a response")
    }

    pub(crate) fn try_http(&mut self) -> Option<HttpReply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line()?;
        }
        let status = head.split(' ').nth(1)?.parse().unwrap();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.reader.read_exact(&mut body).ok()?;
        Some(HttpReply { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Goes away so that the node meets a reset and not an orderly end: what is unread when a socket is
    /// closed makes the system send one.
    pub(crate) fn reset(mut self) {
        self.send(request("unread", "rpc.ping", &json!([])) + "\n");
        let mut byte = [0];
        assert_eq!(self.stream().peek(&mut byte).unwrap(), 1);
        assert!(self.reader.buffer().is_empty(), "a reply was read that the test does not know of");
    }
}

/// Tells that a connection has ended, from a read that failed because of something else.
pub(crate) fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}

/// A node that is none: answers each line with what a function makes of it.
pub(crate) fn fake_node(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> SocketAddr {
    let answer = Arc::new(answer);
    listen(move |stream| {
        let mut client = Client::new(stream);
        while let Some(line) = client.full_line() {
            let reply = answer(&serde_json::from_str(&line).unwrap());
            if client.try_send(format!("{reply}\n")).is_err() {
                return;
            }
        }
    })
}

/// A port that treats every connection, on a thread of its own, as it is told. It lives as long as the tests
/// do.
pub(crate) fn listen(treat: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let treat = treat.clone();
            // On Windows every process that is started inherits what `accept` gives, and so keeps the connection
            // open; a copy is not inherited.
            let stream = stream.try_clone().unwrap();
            thread::spawn(move || treat(stream));
        }
    });
    address
}

/// A port that passes connections on to a node, which may change, or be missing; then it ends them.
#[derive(Clone, Default)]
pub(crate) struct Relay(Arc<Mutex<Option<SocketAddr>>>);

impl Relay {
    pub(crate) fn new() -> (Self, SocketAddr) {
        let relay = Self::default();
        let target = relay.clone();
        let address = listen(move |near| {
            let far = target.0.lock().unwrap().and_then(|address| TcpStream::connect(address).ok());
            let Some(far) = far else { return };
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::scope(|scope| {
                scope.spawn(|| pass_on(&near, &far));
                pass_on(&back.0, &back.1);
            });
        });
        (relay, address)
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        *self.0.lock().unwrap() = Some(address);
    }
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// What comes over a channel, sooner or later.
pub(crate) fn got<T>(channel: &mpsc::Receiver<T>) -> T {
    channel.recv_timeout(LIMIT).expect("waited in vain")
}

/// What a thread ends with, sooner or later.
pub(crate) fn ended<T>(thread: JoinHandle<T>) -> T {
    eventually("the thread ends", || thread.is_finished());
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Counts how many of its copies were dropped.
#[derive(Clone, Default)]
pub(crate) struct Drops(Arc<AtomicU32>);

impl Drops {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Counts when this is dropped.
    pub(crate) fn guard(&self) -> DropGuard {
        DropGuard(self.clone())
    }
}

pub(crate) struct DropGuard(Drops);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker that tells whether it was woken since it was last asked.
#[derive(Default)]
pub(crate) struct Woken(AtomicBool);

impl Woken {
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    /// Polls a future, which is to wait.
    pub(crate) fn sleep(self: &Arc<Self>, future: &mut (impl Future + Unpin)) {
        let waker = self.clone().into();
        let polled = std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A value whose end is a panic.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// A scheduler whose loop, and whose executor, run on one thread: whatever blocks that stops everything.
pub(crate) struct Service<S: 'static> {
    pub(crate) me: Handle<S>,
    pub(crate) client: chan::Client,
    thread: JoinHandle<S>,
}

impl<S: Send + 'static> Service<S> {
    pub(crate) fn start(
        settings: Settings,
        functions: chan::Functions<S>,
        state: impl FnOnce(&Handle<S>) -> S,
    ) -> Self {
        let executor = Arc::new(Executor::new());
        let scheduler = Scheduler::with_settings(&executor, functions, settings, state);
        let (me, client) = (scheduler.handle(), scheduler.client());
        let thread = thread::spawn(move || smol::block_on(executor.run(scheduler.run())));
        Self { me, client, thread }
    }

    /// Lets the loop do something and waits for it.
    pub(crate) fn ask<R: Send + 'static>(&self, f: impl FnOnce(&mut S) -> R + Send + 'static) -> R {
        self.me.post(f).unwrap().timeout(LIMIT).wait().unwrap()
    }

    /// Blocks the loop until the sender is dropped.
    pub(crate) fn block(&self) -> mpsc::Sender<()> {
        let (release, gate) = mpsc::channel::<()>();
        let (begins, begun) = mpsc::channel();
        let _posted = self.me.post(move |_| {
            begins.send(()).unwrap();
            let _ = gate.recv_timeout(LIMIT);
        });
        got(&begun);
        release
    }

    pub(crate) fn close(self) -> S {
        self.me.close();
        ended(self.thread)
    }

    pub(crate) fn drain(self) -> S {
        assert!(smol::block_on(self.me.drain(LIMIT)), "not everything was run");
        ended(self.thread)
    }

    /// Waits until the loop ends by itself.
    pub(crate) fn end(self) -> S {
        ended(self.thread)
    }
}
