//! The command line, with one file per command.

mod arguments;
mod bench;
mod bind;
mod call;
mod demo;
mod exit;
mod init;
mod json;
mod list;
mod ready_file;
mod serve;
mod signals;
mod token;
mod why;

use std::ffi::OsString;
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use argh::FromArgs;
use smol::Executor;
use smol::future::FutureExt;

use crate::address::{AddressError, NodeAddress};
use crate::config::Limits;
use crate::remote::Remote;
use crate::transport::tls::Connector;
pub use exit::Exit;

/// The default address, both to listen on and to connect to.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7300";
/// How long the program waits at exit for the log to be written and for the connection to close.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Serve functions over one port, and call them.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
struct Top {
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Serve(serve::Serve),
    Call(call::Call),
    Go(call::Go),
    List(list::List),
    Token(token::Token),
    Why(why::Why),
    Bench(bench::Bench),
}

/// Runs the program. `arguments` do not include the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let command = parse(arguments);
    let is_node = matches!(&command, Ok(Command::Serve(serve)) if serve.runs_node());
    let exit = match command {
        Ok(command) => match command {
            Command::Serve(serve) => serve.run(),
            Command::Call(call) => call.run(),
            Command::Go(go) => go.run(),
            Command::List(list) => list.run(),
            Command::Token(token) => token.run(),
            Command::Why(why) => why.run(),
            Command::Bench(bench) => bench.run(),
        },
        Err(exit) => exit,
    };
    crate::log::flush(FLUSH_TIMEOUT);
    // A node keeps running without stdout; any other command exists for its output.
    let lost_output = exit == Exit::Success && !is_node && OUTPUT_FAILED.load(Ordering::Relaxed);
    if lost_output { Exit::Failed } else { exit }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Exit> {
    let arguments = arguments::normalize(arguments).map_err(|message| usage(&message))?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match Top::from_args(&["chanrpc"], &arguments) {
        Ok(Top { version: true, .. }) => {
            print(concat!("chanrpc ", env!("CARGO_PKG_VERSION")));
            Err(Exit::Success)
        }
        Ok(Top { command: Some(command), .. }) => Ok(command),
        Ok(Top { command: None, .. }) => {
            Err(usage("a command is missing: serve, call, go, list, bench, token or why"))
        }
        Err(early) if early.status.is_ok() => {
            print(early.output.trim_end());
            Err(Exit::Success)
        }
        Err(early) => Err(usage(early.output.trim_end())),
    }
}

fn usage(message: &str) -> Exit {
    print_error(format_args!("{message}\n\nTry: chanrpc --help"));
    Exit::Usage
}

/// The maximum length of a request or a reply, in bytes.
const MAX_MESSAGE: usize = 64 << 20;

/// Set if a result could not be printed.
static OUTPUT_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line of results. Ignores a closed pipe; any other error, such as a full disk, makes the command fail.
fn print(line: &str) {
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
    let _ = writeln!(std::io::stderr(), "chanrpc: {message}");
}

/// Connects to the node at `address` and runs `exchange` until it ends or the user interrupts it. `token` defaults to
/// that of the environment. Uses TLS if `ca`, a file of certificate authorities, is given.
fn with_remote(
    address: &str,
    timeout: f64,
    token: Result<Option<String>, String>,
    ca: Option<&Path>,
    exchange: impl AsyncFnOnce(&Remote, Instant) -> Exit,
) -> Exit {
    match Connected::new(address, timeout, token, ca) {
        Ok(connected) => connected.run(Box::pin(exchange(&connected.remote, connected.deadline))),
        Err(exit) => exit,
    }
}

/// The part of [`with_remote`] that is the same for each command.
struct Connected {
    remote: Remote,
    executor: Arc<Executor<'static>>,
    interrupts: async_channel::Receiver<()>,
    deadline: Instant,
}

impl Connected {
    fn new(
        address: &str,
        timeout: f64,
        token: Result<Option<String>, String>,
        ca: Option<&Path>,
    ) -> Result<Self, Exit> {
        let token = token.map_err(|message| usage(&message))?.or_else(token::from_env);
        let tls = ca.map(|ca| Connector::load(ca, None)).transpose();
        let tls = tls.map_err(|error| usage(&format!("--ca: {error}")))?;
        let deadline = Duration::try_from_secs_f64(timeout)
            .ok()
            .and_then(|timeout| Instant::now().checked_add(timeout))
            .ok_or_else(|| usage(&format!("--timeout {timeout}: a number of seconds, such as 2.5")))?;
        check_address::<NodeAddress>("--to", address)?;
        let interrupts = interrupts();
        let executor = Arc::new(Executor::new());
        // The node decides how large requests and replies may be.
        let limits = Limits { message: MAX_MESSAGE, output: MAX_MESSAGE, ..Limits::default() };
        let mut remote = Remote::builder(address).limits(limits).executor(&executor);
        if let Some(token) = token {
            remote = remote.token(token);
        }
        if let Some(tls) = tls {
            remote = remote.tls(tls);
        }
        Ok(Self { remote: remote.connect(), executor, interrupts, deadline })
    }

    fn run(&self, exchange: Pin<Box<dyn Future<Output = Exit> + '_>>) -> Exit {
        let interrupted = async {
            let _ = self.interrupts.recv().await;
            Exit::Interrupted
        };
        let mut exit = Exit::Interrupted;
        run_on(
            &self.executor,
            pin!(async {
                exit = exchange.or(interrupted).await;
                // Let the node know that a pending call is cancelled, since its future is dropped.
                self.remote.close(FLUSH_TIMEOUT).await;
            }),
        );
        exit
    }
}

/// Checks the syntax of an address given with an option.
fn check_address<T: FromStr<Err = AddressError>>(option: &str, address: &str) -> Result<(), Exit> {
    match address.parse::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(usage(&format!("{option} {address}: an address is {error}"))),
    }
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
