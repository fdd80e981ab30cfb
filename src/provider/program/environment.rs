//! A program's environment variables: those configured, and those inherited from the node by name.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

/// Variables that every program inherits: paths, user, language and time zone, and those without which Windows cannot
/// start a program. None of them holds a secret.
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

/// The variables that tell a program of its call. Never inherited, since the node may itself be a program of another.
const OF_A_CALL: [&str; 7] = [
    "CHANRPC_FUNCTION",
    "CHANRPC_NODE",
    "CHANRPC_CONNECTION",
    "CHANRPC_ADDRESS",
    "CHANRPC_DIALECT",
    "CHANRPC_RULES",
    "CHANRPC_DEADLINE_MS",
];

/// The environment variables of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// Variables to set, with their values.
    pub(crate) set: Vec<(String, String)>,
    /// The names of further variables to inherit from the node; a `*` at the end matches any text.
    pub(crate) inherit: Vec<String>,
}

impl Environment {
    /// Applies the environment to a command, with the variables that tell of the call. Removes variables one by one instead of clearing them all: as long as `PATH`
    /// is neither set nor cleared, the standard library can use the fast way to start a program (`posix_spawn`).
    pub(super) fn apply(&self, command: &mut Command, of_call: &[String]) {
        for (name, _) in env::vars_os() {
            if !self.inherits(&name) {
                command.env_remove(name);
            }
        }
        command.envs(OF_A_CALL.iter().zip(of_call));
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
    }

    /// Returns the `PATH` in which a program is looked up.
    pub(super) fn path(&self) -> Option<OsString> {
        let set = self.set.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("PATH"));
        set.map(|(_, value)| value.into()).or_else(|| env::var_os("PATH"))
    }

    fn inherits(&self, name: &OsStr) -> bool {
        // The configuration cannot express a name that is not Unicode. Case is ignored, as on Windows.
        let Some(name) = name.to_str() else { return self.inherit.iter().any(|pattern| pattern == "*") };
        !OF_A_CALL.iter().any(|own| matches(own, name))
            && ALWAYS
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
        let some = Environment { inherit: vec!["BOARD_*".into(), "Token".into()], ..Environment::default() };
        for inherited in ["PATH", "Path", "LC_ALL", "LC_", "BOARD_ID", "TOKEN", "SystemRoot"] {
            assert!(some.inherits(OsStr::new(inherited)), "{inherited}");
        }
        for hidden in ["SECRET", "PATHS", "MY_PATH", "BOARD", "LC", "é"] {
            assert!(!some.inherits(OsStr::new(hidden)), "{hidden}");
        }
        let all = Environment { inherit: vec!["*".into()], ..Environment::default() };
        assert!(all.inherits(OsStr::new("SECRET")));
    }
}
