//! The `chanrpc` binary: parses arguments, runs a command and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chanrpc::cli::run(std::env::args_os().skip(1)).into()
}
