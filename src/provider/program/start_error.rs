//! Why a program could not be started: transient conditions, those that its caller can fix, and those that need an
//! operator.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Launch;

/// Error codes of transient conditions that have no `ErrorKind`: out of descriptors (`EMFILE` and `ENFILE`, the same on
/// every Unix), and out of resources, memory or quota on Windows (codes that no Unix uses).
const TRANSIENT: [i32; 5] = [24, 23, 1450, 1455, 1816];
/// The Windows error code for a command line that is too long; no Unix uses it.
const WINDOWS_TOO_LONG: i32 = 206;

/// The error codes of Unix (`ENOEXEC`) and Windows for a file that is not an executable of this machine.
const NOT_EXECUTABLE: [i32; 2] = [8, 193];

/// Why a program could not be started. Nothing of it has run.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(crate) kind: StartErrorKind,
    reason: String,
    source: io::Error,
}

/// The kind of a [`StartError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartErrorKind {
    /// The system is temporarily out of a resource, such as memory, processes or descriptors.
    Busy,
    /// The arguments are longer than the system allows.
    TooLong,
    /// The program or its directory does not exist, or this machine cannot run it. Includes every error that is not known
    /// to be transient.
    Absent,
}

impl StartError {
    pub(super) fn new(error: io::Error, launch: &Launch) -> Self {
        let kind = kind(&error);
        let reason = match kind {
            StartErrorKind::Busy => "the system has no resources for another process at the moment".to_owned(),
            StartErrorKind::TooLong => {
                let longest = launch.argv.iter().map(String::len).max().unwrap_or_default();
                format!(
                    "its arguments are longer than the system allows, the longest of them {longest} bytes (Linux: \
                     131071 bytes for one, a quarter of the stack limit for all; Windows: 32766 characters for all)"
                )
            }
            StartErrorKind::Absent => problem(launch).unwrap_or_else(|| {
                let reason = match error.raw_os_error() {
                    Some(number) if NOT_EXECUTABLE.contains(&number) => {
                        "this machine cannot run it: a script needs a first line such as #!/bin/sh, a binary must be \
                         built for this system"
                    }
                    _ if error.kind() == ErrorKind::NotFound => {
                        "something that it needs, such as the interpreter in its first line, does not exist"
                    }
                    _ => "the system refused to start it",
                };
                reason.to_owned()
            }),
        };
        Self { kind, reason, source: error }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the program could not be started: {}", self.reason)?;
        // The reason says that a file is missing.
        match self.source.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => write!(f, " ({})", self.source),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

fn kind(error: &io::Error) -> StartErrorKind {
    let number = error.raw_os_error();
    match error.kind() {
        ErrorKind::WouldBlock
        | ErrorKind::OutOfMemory
        | ErrorKind::ExecutableFileBusy
        | ErrorKind::ResourceBusy
        | ErrorKind::Interrupted
        | ErrorKind::TimedOut => StartErrorKind::Busy,
        ErrorKind::ArgumentListTooLong => StartErrorKind::TooLong,
        _ if number == Some(WINDOWS_TOO_LONG) => StartErrorKind::TooLong,
        _ if number.is_some_and(|number| TRANSIENT.contains(&number)) => StartErrorKind::Busy,
        _ => StartErrorKind::Absent,
    }
}

/// Returns what is visibly wrong with a program or its directory.
fn problem(launch: &Launch) -> Option<String> {
    let name = launch.argv.first()?;
    let path = launch.environment.path();
    preflight(name, launch.directory.as_deref(), path.as_deref())
}

/// Returns why a program cannot run, as far as that can be determined without running it: checks the directory where it is
/// to run, and its file, which is looked up in `path` unless `name` contains a folder.
pub(super) fn preflight(name: &str, directory: Option<&Path>, path: Option<&OsStr>) -> Option<String> {
    if let Some(directory) = directory
        && !directory.is_dir()
    {
        return Some(format!("the directory {} does not exist", directory.display()));
    }
    let named = Path::new(name);
    let file = if named.components().count() > 1 {
        // Systems differ in whether a relative path is resolved before or after changing to the directory.
        let file = directory.filter(|_| named.is_relative()).map_or(named.to_owned(), |at| at.join(named));
        if !file.exists() && !named.exists() && !with_suffix(&file).exists() {
            return Some(format!("the file {name} does not exist"));
        }
        file
    } else {
        let Some(file) = find(name, path) else {
            let is_line = name.contains([' ', '|']);
            let hint =
                if is_line { "; exec and run have one argument per element: [\"df\", \"-k\"]" } else { "" };
            return Some(format!("no folder in PATH contains {name}{hint}"));
        };
        file
    };
    file_problem(&file)
}

/// Looks up a program as the system does.
fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let Some(path) = path else {
        // Without a PATH the system searches default folders.
        return Some(PathBuf::from(name));
    };
    let files = env::split_paths(path).chain(windows_folders()).map(|folder| folder.join(name));
    let mut found = None;
    for file in files.flat_map(|file| [with_suffix(&file), file]) {
        if file.is_file() {
            if file_problem(&file).is_none() {
                return Some(file);
            }
            found.get_or_insert(file);
        }
    }
    found
}

/// Returns the folders that Windows searches in addition: the node's own, and those of the system. Empty elsewhere.
fn windows_folders() -> Vec<PathBuf> {
    let Some(root) = env::var_os("SystemRoot").map(PathBuf::from) else { return Vec::new() };
    let node = env::current_exe().ok().and_then(|file| Some(file.parent()?.to_owned()));
    node.into_iter().chain([root.join("System32"), root]).collect()
}

/// Appends the extension of executables, which is `.exe` on Windows and empty elsewhere.
fn with_suffix(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(env::consts::EXE_SUFFIX);
    name.into()
}

/// Returns why an existing file cannot be run.
fn file_problem(file: &Path) -> Option<String> {
    let metadata = fs::metadata(file).ok()?;
    let shown = file.display();
    if metadata.is_dir() {
        return Some(format!("{shown} is a directory"));
    }
    // Nobody may execute it.
    if mode(&metadata).is_some_and(|mode| mode & 0o111 == 0) {
        return Some(format!("{shown} is not executable (chmod +x)"));
    }
    if metadata.is_file() && metadata.len() == 0 {
        return Some(format!("{shown} is empty"));
    }
    None
}

/// Returns the mode of a file, unless files have none on this system.
///
/// The standard library exposes the mode only through a platform extension trait, which these sources do not use. Its
/// `Debug` output contains the same information, `mode: 0o100755`.
pub(crate) fn mode(metadata: &fs::Metadata) -> Option<u32> {
    let printed = format!("{:?}", metadata.permissions());
    let (_, mode) = printed.split_once("mode: 0o")?;
    let digits = mode.split(|c: char| !c.is_digit(8)).next().unwrap_or_default();
    u32::from_str_radix(digits, 8).ok()
}
