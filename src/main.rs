//! The `chanrpc` binary: arguments → run → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chanrpc::cli::run(std::env::args_os().skip(1)).into()
}
