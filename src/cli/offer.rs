//! `chanrpc offer`.

use std::pin::pin;
use std::sync::Arc;

use smol::Executor;
use smol::future::FutureExt;

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connection};
use super::{Exit, MAX_MESSAGE, interrupts, print_error, run_on};
use crate::config::{
    ArgTemplate, ExecConfig, Limits, OutputFormat, Piece, ProcessConfig, ProcessFunctionConfig, WhenFull,
};
use crate::message::{Fault, code};
use crate::node::{Listener, Node, RemoteOffer};
use crate::provider::{Exec, Process};
use crate::remote::{OfferEvent, Remote, RemoteError};
use crate::route::{Provider, Registry};

const SHARE: Opt = Opt::with_value(
    "--share",
    "HOW",
    "any: other connections may offer it too, and each call goes to one of them (one)",
);
const CONCURRENCY: Opt = Opt::with_value("--concurrency", "N", "how many calls run at a time (1)");
const DESCRIPTION: Opt = Opt::with_value("--description", "TEXT", "a sentence that describes the function");
const TEXT: Opt = Opt::switch("--text", "the program prints text rather than JSON");
const PROCESS: Opt = Opt::switch(
    "--process",
    "start the program once: it reads JSON-RPC requests on its standard input, line by line",
);
const ONCE: Opt = Opt::switch("--once", "end when the connection is lost");

pub(super) const OFFER: Command = Command {
    name: "offer",
    about: "Offer a function at a node, which a program answers.",
    operands: &[
        Operand { name: "NAME", about: "the function's name", count: Count::One },
        Operand { name: "PROGRAM", about: "the program, after \"--\"", count: Count::One },
        Operand { name: "ARG", about: "its arguments", count: Count::Any },
    ],
    options: &[&[SHARE, CONCURRENCY, DESCRIPTION, TEXT, PROCESS, ONCE], CONNECTION],
    notes: "The program runs once for each call. It gets the parameters as JSON on its standard input, and prints the\n\
            result as JSON. With --process it runs once for all calls, and answers each under its id; see\n\
            docs/processes.md. The command connects again when the connection is lost.\n\n\
            Exit codes: 1 another connection offers the function or has taken it over, 2 usage, 3 no connection (with\n\
            --once), 5 denied, 130 interrupted.",
    run,
};

/// The number of further calls that wait for the program.
const QUEUE: usize = 16;

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let connection = Connection::take(&mut arguments)?;
    let is_shared = match arguments.take(&SHARE).as_deref() {
        None | Some("one") => false,
        Some("any") => true,
        Some(other) => return Err(format!("--share {other}: one or any")),
    };
    let concurrency = arguments.parsed(&CONCURRENCY)?.unwrap_or(1);
    if concurrency == 0 {
        return Err("--concurrency 0: at least 1".to_owned());
    }
    let once = arguments.has(&ONCE);
    crate::provider::set_inherited_cloexec();
    let executor = Arc::new(Executor::new());
    let limits = Limits { message: MAX_MESSAGE, output: MAX_MESSAGE, ..Limits::default() };
    let registry = registry(&mut arguments, &executor, &limits, concurrency)?;
    let name = std::mem::take(&mut arguments.operands[0]);
    let Connection { address, timeout, token, tls, .. } = connection;
    let mut remote = Remote::builder(&*address).limits(limits.clone().connect_timeout(timeout));
    if let Some(token) = token {
        remote = remote.token(token);
    }
    if let Some(tls) = tls {
        remote = remote.tls(tls);
    }
    let node = Node::new(executor.clone(), registry, limits);
    let (ended, exits) = async_channel::bounded(1);
    let (taken, taken_name) = (ended.clone(), name.clone());
    let withdrawn = Box::new(move |_: &str| {
        print_error(format_args!("another connection of the same owner has taken over {taken_name}"));
        let _ = taken.try_send(Exit::Failed);
    });
    let functions = vec![name.clone()];
    let notify = Box::new(move |event: OfferEvent<'_>| {
        let exit = match event {
            OfferEvent::Accepted => {
                print_error(format_args!("offering {name} at {address}"));
                None
            }
            OfferEvent::Refused(_, fault) => {
                print_error(format_args!("{address} refuses the offer of {name}: {fault}"));
                refused(fault)
            }
            OfferEvent::Disconnected(reason) => {
                print_error(format_args!("no connection to {address}: {reason}"));
                once.then_some(Exit::Unavailable)
            }
        };
        let _ = exit.map(|exit| ended.try_send(exit));
    });
    let (prefix, in_flight) = (String::new(), Some(concurrency));
    let offer = RemoteOffer { remote, functions, prefix, is_shared, in_flight };
    let interrupts = interrupts();
    let mut exit = Exit::Interrupted;
    let serving = async {
        node.start_offer(offer, withdrawn, notify);
        let stop = async {
            let interrupted = async {
                let _ = interrupts.recv().await;
                Exit::Interrupted
            };
            let ended = async { exits.recv().await.unwrap_or(Exit::Failed) };
            exit = interrupted.or(ended).await;
        };
        node.serve(Vec::<Listener>::new(), stop).await;
    };
    run_on(&executor, pin!(serving));
    Ok(exit)
}

/// Returns a registry with the function.
fn registry(
    arguments: &mut Arguments,
    executor: &Arc<Executor<'static>>,
    limits: &Limits,
    concurrency: usize,
) -> Result<Arc<Registry>, String> {
    let program = arguments.operands.split_off(1);
    let name = arguments.operands[0].clone();
    let first = program[0].clone();
    let (problem, mut description, provider): (_, _, Arc<dyn Provider>) = if arguments.has(&PROCESS) {
        if arguments.has(&TEXT) {
            return Err("--text: a program that stays answers in JSON-RPC".to_owned());
        }
        let config = ProcessConfig {
            in_flight: concurrency,
            // It is the user's own program, in the user's own environment.
            inherit_env: vec!["*".to_owned()],
            ..ProcessConfig::new(&first, program, limits)
        };
        let process = Process::new(executor, config, limits);
        let function =
            process.function(&name, &ProcessFunctionConfig { process: first.clone(), ..Default::default() });
        (process.preflight(), function.describe(), Arc::new(function))
    } else {
        let exec =
            Exec::new(executor.clone(), "".into(), exec(&program, arguments.has(&TEXT), limits, concurrency));
        (exec.preflight(), exec.describe(), Arc::new(exec))
    };
    if let Some(problem) = problem {
        return Err(format!("{first}: {problem}"));
    }
    description.signature.description = arguments.take(&DESCRIPTION);
    let mut builder = Registry::builder("");
    builder.insert(&name, description, provider).map_err(|error| error.to_string())?;
    Ok(builder.build())
}

/// Returns the settings of a program that runs once for each call.
fn exec(program: &[String], is_text: bool, limits: &Limits, concurrency: usize) -> ExecConfig {
    let word = |word: &String| ArgTemplate(vec![Piece::Literal(word.clone())]);
    ExecConfig {
        argv: program.iter().map(word).collect(),
        params: Vec::new(),
        output: if is_text { OutputFormat::Text } else { OutputFormat::Json },
        result: None,
        timeout: None,
        concurrency,
        queue: QUEUE,
        when_full: WhenFull::Refuse,
        output_limit: limits.message,
        directory: None,
        env: Vec::new(),
        // It is the user's own program, in the user's own environment.
        inherit_env: vec!["*".to_owned()],
    }
}

/// Returns how the command ends if the node refuses the function; `None` if it may accept it later.
fn refused(fault: &Fault) -> Option<Exit> {
    if fault.code == code::DENIED {
        print_error(format_args!("present a token with --token-file FILE or the variable CHANRPC_TOKEN"));
    }
    (fault.code != code::BUSY).then(|| Exit::from(&RemoteError::Fault(fault.clone())))
}
