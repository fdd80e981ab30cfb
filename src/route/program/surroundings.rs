//! What a program gets of the node's surroundings: named variables of its environment, and nothing else.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

/// Variables that every program gets if the node has them: where programs and files are, who runs them, language and time
/// zone, and what Windows cannot start a program without. None of them holds a secret.
const ALWAYS: [&str; 31] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "ALLUSERSPROFILE",
    "APPDATA",
    "COMMONPROGRAMFILES",
    "COMMONPROGRAMFILES(X86)",
    "COMSPEC",
    "LOCALAPPDATA",
    "NUMBER_OF_PROCESSORS",
    "OS",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "PROGRAMFILES(X86)",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "USERNAME",
    "USERPROFILE",
    "WINDIR",
];

/// The environment of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// Variables and their values.
    pub(crate) set: Vec<(String, String)>,
    /// Names of further variables that are passed on from the node's environment; a `*` at the end stands for any text.
    pub(crate) inherit: Vec<String>,
}

impl Surroundings {
    /// Takes away all that a program is not to get, instead of putting together what it gets: without a `PATH` of its own
    /// the system's quick way to start a program remains open.
    pub(super) fn apply(&self, command: &mut Command) {
        for (name, _) in env::vars_os() {
            if !self.inherits(&name) {
                command.env_remove(name);
            }
        }
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
    }

    /// The `PATH` that a program is looked up in.
    pub(super) fn path(&self) -> Option<OsString> {
        let set = self.set.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("PATH"));
        set.map(|(_, value)| value.into()).or_else(|| env::var_os("PATH"))
    }

    fn inherits(&self, name: &OsStr) -> bool {
        // What is no text has a name that cannot be written here. On Windows names are the same in either case.
        let Some(name) = name.to_str() else { return self.inherit.iter().any(|pattern| pattern == "*") };
        ALWAYS
            .into_iter()
            .chain(self.inherit.iter().map(String::as_str))
            .any(|pattern| matches(pattern, name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)),
        None => name.eq_ignore_ascii_case(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_variables_are_inherited() {
        let some =
            Surroundings { inherit: vec!["BOARD_*".into(), "Token".into()], ..Surroundings::default() };
        for inherited in ["PATH", "Path", "LC_ALL", "LC_", "BOARD_ID", "TOKEN", "SystemRoot"] {
            assert!(some.inherits(OsStr::new(inherited)), "{inherited}");
        }
        for hidden in ["SECRET", "PATHS", "MY_PATH", "BOARD", "LC", "é"] {
            assert!(!some.inherits(OsStr::new(hidden)), "{hidden}");
        }
        let all = Surroundings { inherit: vec!["*".into()], ..Surroundings::default() };
        assert!(all.inherits(OsStr::new("SECRET")));
    }
}
