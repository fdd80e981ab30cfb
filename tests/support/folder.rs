//! Temporary folders for tests, and configurations of functions that run scripts in them.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::waits::await_some;

/// A shell script that ignores SIGTERM, as does its child, writes both process ids to the file named by its argument,
/// and ends only when the folder of that file is removed.
const STUBBORN: &str = "trap '' TERM
(while [ -d \"${1%/*}\" ]; do sleep 0.05; done) & echo $$ $! > \"$1\"
wait";

/// A temporary folder for one test, removed with its contents.
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

    /// Returns the path of a file as text.
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

    /// Waits until a file exists and has a complete line, and returns its words.
    pub(crate) fn await_words(&self, name: &str) -> Vec<String> {
        let text = await_some(name, || self.read(name).filter(|text| text.ends_with('\n')));
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Returns the configuration of a function that runs a shell script without arguments.
    pub(crate) fn script(&self, function: &str, text: &str, settings: &str) -> String {
        let path = self.write(&format!("{function}.sh"), text);
        format!("[[function]]\nname = \"{function}\"\nexec = [\"sh\", '{}']\n{settings}\n", path.display())
    }

    /// Returns the same for a script with one text argument.
    pub(crate) fn script_of(&self, function: &str, text: &str, settings: &str) -> String {
        let path = self.write(&format!("{function}.sh"), text);
        format!(
            "[[function]]\nname = \"{function}\"\nexec = [\"sh\", '{}', \"{{file}}\"]\n\
             params = {{ file = \"string\" }}\n{settings}\n",
            path.display()
        )
    }

    /// Returns the configuration of a function that only ends when killed, and writes its two process ids to the file
    /// named by its parameter.
    pub(crate) fn stubborn(&self, settings: &str) -> String {
        self.script_of("stubborn", STUBBORN, settings)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
