//! A folder for one test, and what it takes to have a node run scripts in it.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::waits::await_some;

/// A shell script that ignores SIGTERM, has a child that does too, writes both their process ids to the file
/// that its argument names, and ends only when the folder of that file is gone.
const STUBBORN: &str = "trap '' TERM
(while [ -d \"${1%/*}\" ]; do sleep 0.05; done) & echo $$ $! > \"$1\"
wait";

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
