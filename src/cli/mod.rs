//! The command line: one file a command.

mod arguments;
mod bench;
mod bind;
mod call;
mod demo;
mod exit;
mod init;
mod json;
mod list;
mod ready;
mod serve;
mod signals;
mod token;
mod why;

use std::ffi::OsString;
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use argh::FromArgs;
use smol::Executor;
use smol::future::FutureExt;

use crate::address::Address;
use crate::config::Limits;
use crate::remote::Remote;
use crate::transport::tls::Connector;
pub use exit::Exit;

/// Where a node listens, and is looked for, if nothing else is said.
const ADDRESS: &str = "127.0.0.1:7300";
/// How long the last words, to the log or to a node, may take when the program ends.
const FLUSH: Duration = Duration::from_millis(200);

/// Call functions over one small port, and serve them.
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

/// Runs the program on its arguments, without its own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let command = parse(arguments);
    let is_node = matches!(&command, Ok(Command::Serve(serve)) if serve.stays());
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
    crate::log::flush(FLUSH);
    // A node goes on when nobody hears from it; of other commands the result is what counts.
    let in_vain = exit == Exit::Answered && !is_node && UNWRITTEN.load(Ordering::Relaxed);
    if in_vain { Exit::Failed } else { exit }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Exit> {
    let arguments = arguments::normalize(arguments).map_err(|message| usage(&message))?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match Top::from_args(&["chanrpc"], &arguments) {
        Ok(Top { version: true, .. }) => {
            print(concat!("chanrpc ", env!("CARGO_PKG_VERSION")));
            Err(Exit::Answered)
        }
        Ok(Top { command: Some(command), .. }) => Ok(command),
        Ok(Top { command: None, .. }) => {
            Err(usage("a command is missing: serve, call, go, list, bench, token or why"))
        }
        Err(early) if early.status.is_ok() => {
            print(early.output.trim_end());
            Err(Exit::Answered)
        }
        Err(early) => Err(usage(early.output.trim_end())),
    }
}

fn usage(message: &str) -> Exit {
    complain(format_args!("{message}\n\nTry: chanrpc --help"));
    Exit::Usage
}

/// Bytes of a request, and of an answer, that a command takes at most.
const LARGEST: usize = 64 << 20;

/// Whether a result could not be printed.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// Prints a result. That nobody reads it is no failure of ours; that there is no room for it is one.
fn print(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        complain(format_args!("writing the result failed: {error}"));
        UNWRITTEN.store(true, Ordering::Relaxed);
    }
}

/// Tells a person what went wrong.
fn complain(message: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "chanrpc: {message}");
}

/// Runs one exchange with the node at `address`, until it is done or the user interrupts it. Without a `token` that of
/// the environment is presented, if there is one. With a file of authorities, `ca`, it speaks TLS.
fn with_remote(
    address: &str,
    timeout: f64,
    token: Result<Option<String>, String>,
    ca: Option<&Path>,
    exchange: impl AsyncFnOnce(&Remote, Instant) -> Exit,
) -> Exit {
    let token = match token {
        Ok(token) => token.or_else(token::of_the_environment),
        Err(message) => return usage(&message),
    };
    let tls = match ca.map(|ca| Connector::load(ca, None)).transpose() {
        Ok(tls) => tls,
        Err(error) => return usage(&format!("--ca: {error}")),
    };
    let Some(deadline) =
        Duration::try_from_secs_f64(timeout).ok().and_then(|timeout| Instant::now().checked_add(timeout))
    else {
        return usage(&format!("--timeout {timeout}: a number of seconds, such as 2.5"));
    };
    if let Err(exit) = check("--to", address) {
        return exit;
    }
    let interrupts = interrupts();
    let interrupted = async {
        let _ = interrupts.recv().await;
        Exit::Interrupted
    };
    let executor = Arc::new(Executor::new());
    // How much may be asked and answered is for the node to say.
    let limits = Limits { message: LARGEST, output: LARGEST, ..Limits::default() };
    let remote = Remote::over_tls(&executor, address, limits, token, tls);
    let mut exit = Exit::Interrupted;
    run_on(
        &executor,
        pin!(async {
            exit = exchange(&remote, deadline).or(interrupted).await;
            // So that the node learns of a call that is given up.
            remote.close(FLUSH).await;
        }),
    );
    exit
}

/// Looks at the form of an address that was given with an option.
fn check(option: &str, address: &str) -> Result<(), Exit> {
    match address.parse::<Address>() {
        Ok(_) => Ok(()),
        Err(error) => Err(usage(&format!("{option} {address}: an address is {error}"))),
    }
}

/// Gets a word when the user interrupts the program, or closes its terminal.
fn interrupts() -> async_channel::Receiver<()> {
    let (interrupt, interrupts) = async_channel::bounded(1);
    let hang_up = interrupt.clone();
    let _ = signals::watch(move || _ = interrupt.try_send(()), move || _ = hang_up.try_send(()));
    interrupts
}

/// Runs tasks until `future` is ready. Not generic, as the executor's loop would else be there once a command.
fn run_on(executor: &Executor<'static>, future: Pin<&mut dyn Future<Output = ()>>) {
    smol::block_on(executor.run(future));
}
