//! Starting threads. Functions are boxed, so that the binary has the code around a thread once.

use std::io;
use std::thread::{self, Builder, JoinHandle};

/// Starts a named thread.
pub(crate) fn spawn(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(run)
}

/// Runs each function on a thread of its own, until all have ended.
///
/// # Panics
/// If a thread cannot be started, or a function panics.
pub(crate) fn run_all(functions: Vec<Box<dyn FnOnce() + Send + '_>>) {
    thread::scope(|scope| {
        for function in functions {
            scope.spawn(function);
        }
    });
}
