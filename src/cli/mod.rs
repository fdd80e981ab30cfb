//! The command line, with one file per command.

mod activation;
mod arguments;
mod bench;
mod bind;
mod call;
mod check;
mod complete;
mod connection;
mod demo;
mod describe;
mod each;
mod exit;
mod functions;
mod init;
mod json;
mod list;
mod notify;
mod offer;
mod params;
mod progress;
#[cfg(feature = "grpc")]
mod proto;
mod publish;
mod ready_file;
mod reload;
mod reloader;
mod result;
mod serve;
mod setup;
mod signals;
mod suggest;
mod token;
mod watch;
mod why;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{ErrorKind, IsTerminal, Write};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smol::Executor;

use crate::address::{Address, AddressError};
use arguments::{Command, Stop, Wrong};
pub use exit::Exit;

/// The default address, both to listen on and to connect to.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7300";
/// How long the program waits at exit for the log to be written and for the connection to close.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// The commands, in the order of the help.
const COMMANDS: &[&Command] = &[
    &serve::SERVE,
    &call::CALL,
    &call::GO,
    &list::LIST,
    &describe::DESCRIBE,
    &reload::RELOAD,
    &watch::WATCH,
    &publish::PUBLISH,
    &offer::OFFER,
    &bench::BENCH,
    &token::TOKEN,
    &why::WHY,
    &complete::COMPLETE,
];

/// Runs the program. `arguments` do not include the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let mut is_node = false;
    let ended = match arguments::parse(arguments) {
        Ok(arguments) => {
            is_node = serve::runs_node(&arguments);
            let command = arguments.command;
            let wrong = |message| Wrong { message, command: Some(command.name) };
            (command.run)(arguments).map_err(wrong)
        }
        Err(Stop::Shown(text)) => {
            print(&text);
            Ok(Exit::Success)
        }
        Err(Stop::Wrong(wrong)) => Err(wrong),
    };
    let exit = ended.unwrap_or_else(|Wrong { message, command }| {
        let (space, command) = command.map_or(("", ""), |command| (" ", command));
        print_error(format_args!("{message}\n\nTry: chanrpc{space}{command} --help"));
        Exit::Usage
    });
    crate::log::flush(FLUSH_TIMEOUT);
    // A node keeps running without stdout; any other command exists for its output.
    let lost_output = exit == Exit::Success && !is_node && OUTPUT_FAILED.load(Ordering::Relaxed);
    if lost_output { Exit::Failed } else { exit }
}

/// The maximum length of a request or a reply, in bytes.
const MAX_MESSAGE: usize = 64 << 20;

/// Set if a result could not be printed.
static OUTPUT_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line of results, safe for a terminal.
fn print(line: &str) {
    if std::io::stdout().is_terminal() { print_exact(&visible(line)) } else { print_exact(line) }
}

/// Prints a line of results. Ignores a closed pipe; any other error, such as a full disk, makes the command fail.
fn print_exact(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        print_error(format_args!("writing the result failed: {error}"));
        OUTPUT_FAILED.store(true, Ordering::Relaxed);
    }
}

/// Prints an error to stderr.
fn print_error(message: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "chanrpc: {}", visible(&message.to_string()));
}

/// Replaces the control characters of a text by visible ones, so that another node cannot control the terminal.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => _ = write!(shown, "{}", c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Checks the syntax of an address given with an option.
fn check_address<T: FromStr<Err = AddressError>>(option: &str, address: &str) -> Result<(), String> {
    let Err(error) = address.parse::<T>() else { return Ok(()) };
    let mut message = format!("{option} {address}: an address is {error}");
    // A URL of a browser or of curl, which is reached at the same port.
    if let Some((_, rest)) = address.split_once("://")
        && let Some(host) = rest.split('/').next()
        && host.parse::<Address>().is_ok()
    {
        let _ = write!(message, "; here {host}, where one port serves every protocol");
    }
    Err(message)
}

/// Returns a channel that receives a message when the user interrupts the program or closes its terminal.
fn interrupts() -> async_channel::Receiver<()> {
    let (interrupt, interrupts) = async_channel::bounded(1);
    let hang_up = interrupt.clone();
    let _ = signals::watch(
        Arc::new(move || _ = interrupt.try_send(())),
        Arc::new(move || _ = hang_up.try_send(())),
    );
    interrupts
}

/// Runs the executor until `future` is ready. Not generic, so that the executor's loop is compiled once and not for
/// each command.
fn run_on(executor: &Executor<'static>, future: Pin<&mut dyn Future<Output = ()>>) {
    smol::block_on(executor.run(future));
}
