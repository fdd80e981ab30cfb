//! Why a program could not be started: what passes, what its caller can change, and what only an operator can.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Program;

/// Numbers of errors that pass and have no kind: descriptors ran out (`EMFILE` and `ENFILE`, the same on every Unix), and
/// Windows' lack of resources, memory and quota, which no Unix has.
const PASSING: [i32; 5] = [24, 23, 1450, 1455, 1816];
/// Windows' number for a command line that is too long; no Unix has it.
const LONG_ON_WINDOWS: i32 = 206;

/// Unix's (`ENOEXEC`) and Windows' numbers for a file that is no program of this machine.
const FOREIGN: [i32; 2] = [8, 193];

/// A program that could not be started. Nothing of it has run.
#[derive(Debug)]
pub(crate) struct StartError {
    /// What sort of reason it is.
    pub(crate) cause: Cause,
    what: String,
    error: io::Error,
}

/// What sort of reason keeps a program from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The system lacks something that it may have again soon, such as memory, processes or descriptors.
    Busy,
    /// The arguments are longer than the system takes.
    TooLong,
    /// The program or its directory is not there, or is nothing that this machine can run. All else that is not known to
    /// pass counts as this.
    Absent,
}

impl StartError {
    pub(super) fn new(error: io::Error, program: &Program) -> Self {
        let cause = cause(&error);
        let what = match cause {
            Cause::Busy => "the system has no room for another process at the moment".to_owned(),
            Cause::TooLong => {
                let longest = program.argv.iter().map(String::len).max().unwrap_or_default();
                format!(
                    "its arguments are longer than the system takes, the longest of them {longest} bytes (Linux: \
                     131071 bytes for one, a quarter of the stack's limit for all; Windows: 32766 characters for all)"
                )
            }
            Cause::Absent => fault(program).unwrap_or_else(|| {
                let what = match error.raw_os_error() {
                    Some(number) if FOREIGN.contains(&number) => {
                        "it is nothing that this machine can run: a script needs a first line such as #!/bin/sh, a \
                         binary has to be one of this system"
                    }
                    _ if error.kind() == ErrorKind::NotFound => {
                        "what it needs to run, such as the interpreter in its first line, is not there"
                    }
                    _ => "the system refuses to",
                };
                what.to_owned()
            }),
        };
        Self { cause, what, error }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the program could not be started: {} ({})", self.what, self.error)
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

fn cause(error: &io::Error) -> Cause {
    let number = error.raw_os_error();
    match error.kind() {
        ErrorKind::WouldBlock
        | ErrorKind::OutOfMemory
        | ErrorKind::ExecutableFileBusy
        | ErrorKind::ResourceBusy
        | ErrorKind::Interrupted
        | ErrorKind::TimedOut => Cause::Busy,
        ErrorKind::ArgumentListTooLong => Cause::TooLong,
        _ if number == Some(LONG_ON_WINDOWS) => Cause::TooLong,
        _ if number.is_some_and(|number| PASSING.contains(&number)) => Cause::Busy,
        _ => Cause::Absent,
    }
}

/// Says what can be seen to be wrong with a program or its directory.
fn fault(program: &Program) -> Option<String> {
    let name = program.argv.first()?;
    let path = program.surroundings.path();
    missing(name, program.directory.as_deref(), path.as_deref())
}

/// Says why a program cannot run, as far as it shows without running it: looks at its file, which is found in the folders
/// of `path` unless it is named with one, and at the directory where it is to run.
pub(super) fn missing(name: &str, directory: Option<&Path>, path: Option<&OsStr>) -> Option<String> {
    if let Some(directory) = directory
        && !directory.is_dir()
    {
        return Some(format!("there is no directory {}", directory.display()));
    }
    let named = Path::new(name);
    let file = if named.components().count() > 1 {
        // Where it is looked for is up to the system if it is named from a directory that the program runs in.
        let file = directory.filter(|_| named.is_relative()).map_or(named.to_owned(), |at| at.join(named));
        if !file.exists() && !named.exists() && !with_suffix(&file).exists() {
            return Some(format!("there is no file {name}"));
        }
        file
    } else {
        let Some(file) = find(name, path) else {
            return Some(format!("no folder in PATH has a file {name}"));
        };
        file
    };
    unfit(&file)
}

/// Looks a program up as the system does.
fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let Some(path) = path else {
        // The system has folders that it looks into without a PATH.
        return Some(PathBuf::from(name));
    };
    let files = env::split_paths(path).chain(of_windows()).map(|folder| folder.join(name));
    let mut found = None;
    for file in files.flat_map(|file| [with_suffix(&file), file]) {
        if file.is_file() {
            if unfit(&file).is_none() {
                return Some(file);
            }
            found.get_or_insert(file);
        }
    }
    found
}

/// Where Windows looks besides: beside the node, and in its own folders.
fn of_windows() -> Vec<PathBuf> {
    let Some(root) = env::var_os("SystemRoot").map(PathBuf::from) else { return Vec::new() };
    let node = env::current_exe().ok().and_then(|file| Some(file.parent()?.to_owned()));
    node.into_iter().chain([root.join("System32"), root]).collect()
}

/// The name that a program has on Windows.
fn with_suffix(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(env::consts::EXE_SUFFIX);
    name.into()
}

/// Says why a file that is there is no program.
fn unfit(file: &Path) -> Option<String> {
    let about = fs::metadata(file).ok()?;
    let shown = file.display();
    if about.is_dir() {
        return Some(format!("{shown} is a directory"));
    }
    if !executable(&about) {
        return Some(format!("{shown} may not be executed (chmod +x)"));
    }
    if about.is_file() && about.len() == 0 {
        return Some(format!("{shown} is empty"));
    }
    None
}

/// Whether anybody may execute a file.
///
/// The standard library tells it through a trait of one family of systems, and these sources name none. What it prints,
/// `mode: 0o100755`, says the same, and nothing of the sort where files have no such mode.
fn executable(about: &fs::Metadata) -> bool {
    let printed = format!("{:?}", about.permissions());
    let Some((_, mode)) = printed.split_once("mode: 0o") else { return true };
    let digits = mode.split(|c: char| !c.is_digit(8)).next().unwrap_or_default();
    u32::from_str_radix(digits, 8).map_or(true, |mode| mode & 0o111 != 0)
}
