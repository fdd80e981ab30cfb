//! Programs for nodes to run, the same on every system: each is the binary itself, which calls a function of the test
//! process. Programs that need a POSIX shell are in `folder.rs`.

#![allow(dead_code, reason = "no target uses all of it")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Folder, binary_words, eventually, listen};

/// The interval at which conditions are polled.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns the configuration of a function that calls a method of the test process with these arguments and returns the
/// result. `settings` declares the function's parameters, if any.
pub(crate) fn program(function: &str, method: &str, arguments: &[&str], settings: &str) -> String {
    static STAGE: OnceLock<SocketAddr> = OnceLock::new();
    let stage = STAGE.get_or_init(|| listen(play)).to_string();
    let mut argv = binary_words();
    // Longer than any test: the node ends the program.
    argv.extend(["call", "--timeout", "3000", "--to", &stage, method].map(str::to_owned));
    argv.extend(arguments.iter().map(ToString::to_string));
    let argv: Vec<_> = argv.iter().map(|word| format!("'{word}'")).collect();
    format!("[[function]]\nname = '{function}'\nexec = [{}]\noutput = 'json'\n{settings}\n", argv.join(", "))
}

/// Returns the same for a function whose parameter is the path of a file.
pub(crate) fn program_of(function: &str, method: &str, settings: &str) -> String {
    program(function, method, &["{file}"], &format!("params = {{ file = 'string' }}\n{settings}"))
}

/// A function that returns "opened" once the file named by its parameter exists. See [`await_gate`].
pub(crate) fn gate(settings: &str) -> String {
    program_of("gate", "gate", settings)
}

/// Waits until the function `gate` runs.
pub(crate) fn await_gate(folder: &Folder, file: &str) {
    folder.await_words(&format!("{file}.begun"));
}

/// A function that never returns. See [`await_begin`] and [`assert_ends`] for the file named by its parameter.
pub(crate) fn endless(settings: &str) -> String {
    program_of("endless", "endless", settings)
}

/// Waits until the function `endless` runs.
pub(crate) fn await_begin(folder: &Folder, file: &str) {
    folder.await_words(file);
}

/// Asserts that the function `endless` has run, and its process ends.
#[track_caller]
pub(crate) fn assert_ends(folder: &Folder, file: &str) {
    await_begin(folder, file);
    eventually("the program has ended", || folder.read(file).is_some_and(|text| text == "begun\nended\n"));
}

/// Acts as one program: handles its only call. The program may be killed at any time.
fn play(stream: TcpStream) {
    let mut program = Client::new(stream);
    let Some(line) = program.full_line() else { return };
    let request: Value = serde_json::from_str(&line).unwrap();
    let params = &request["params"];
    let file = PathBuf::from(params[0].as_str().unwrap_or_default());
    let outcome = match request["method"].as_str().unwrap() {
        "echo" => Ok(params.clone()),
        "fail" => Err(json!({ "code": -32000, "message": params[0] })),
        "text" => Ok("x".repeat(params[0].as_u64().unwrap().try_into().unwrap()).into()),
        "note" => fs::write(&file, "noted\n").map(|()| Value::Null).map_err(|error| json!(error.to_string())),
        "gate" => {
            log(&file.with_extension("begun"), "begun");
            await_file(&file);
            Ok("opened".into())
        }
        "turn" => {
            let name = file.file_name().unwrap().display().to_string();
            log(&file.with_file_name("order"), &format!("begin {name}"));
            await_file(&file);
            log(&file.with_file_name("order"), &format!("end {name}"));
            Ok(Value::Null)
        }
        "outlast" => {
            await_file(&file);
            if is_there(program.stream()) {
                log(&file.with_extension("done"), "done");
            }
            Ok(Value::Null)
        }
        "endless" => {
            log(&file, "begun");
            while is_there(program.stream()) {
                if is_folder_gone(&file) {
                    return;
                }
            }
            log(&file, "ended");
            return;
        }
        method => panic!("no program is called {method}"),
    };
    let (member, value) = match outcome {
        Ok(result) => ("result", result),
        Err(error) => ("error", error),
    };
    let _ =
        program.try_send(json!({ "jsonrpc": "2.0", "id": request["id"], member: value }).to_string() + "\n");
}

/// Waits until a file exists or, after a failed test, its folder does not.
fn await_file(file: &Path) {
    while !file.exists() && !is_folder_gone(file) {
        thread::sleep(PAUSE);
    }
}

fn is_folder_gone(file: &Path) -> bool {
    !file.parent().is_some_and(Path::exists)
}

/// Appends a line to a file.
fn log(file: &Path, line: &str) {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    // After a failed test the folder is gone.
    let _ = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
}

/// Returns `true` if, after a pause, the process still has its end of a connection open.
fn is_there(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PAUSE)).unwrap();
    match stream.peek(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}
