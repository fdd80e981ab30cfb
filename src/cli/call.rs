//! `chanrpc call` and `chanrpc go`.

use std::io::{IsTerminal, Read};
use std::pin::pin;

use serde_json::value::{RawValue, to_raw_value};

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connected, Connection};
use super::each::call_each;
use super::progress::with_progress;
use super::suggest::suggest;
use super::{Exit, MAX_MESSAGE, json, print, print_error, print_exact};
use crate::encoding;
use crate::message::{Fault, RawJson, code};
use crate::remote::{Mode, RemoteError};

/// Gives all parameters at once.
pub(super) const PARAMS: Opt = Opt::with_value(
    "--params",
    "JSON",
    "all parameters as one array or object; - reads it from standard input",
);
const EACH: Opt =
    Opt::switch("--each", "call once for each line of standard input: its parameters, or its only one");
const EACH_IN_FLIGHT: Opt = Opt::with_value("--in-flight", "N", "with --each, calls in flight (16)");
const RAW: Opt = Opt::switch("--raw", "print a text as it is, not as JSON; the default at a terminal");
/// Prints JSON.
pub(super) const JSON: Opt = Opt::switch("--json", "print JSON on one line, also at a terminal");
const PRETTY: Opt = Opt::switch("--pretty", "print JSON on several lines");

/// The function to call.
pub(super) const FUNCTION: Operand =
    Operand { name: "FUNCTION", about: "the function's name", count: Count::One };
/// Its parameters.
const ARG: Operand = Operand {
    name: "ARG",
    about: "a parameter: JSON if it parses as JSON, else a string",
    count: Count::Any,
};

/// The largest number of calls in flight of `--each`.
const MAX_IN_FLIGHT: usize = 1024;

pub(super) const CALL: Command = Command {
    name: "call",
    about: "Call a function and print its result.",
    operands: &[FUNCTION, ARG],
    options: &[&[PARAMS, EACH, EACH_IN_FLIGHT, RAW, JSON, PRETTY], CONNECTION],
    notes: "With --each, one line is printed for each line read, in the same order: the result, or {\"error\":…}.\n\n\
            Exit codes: 0 answered, 1 the function answered with an error, 2 usage, 3 node or function not found,\n\
            4 deadline, 5 denied, 130 interrupted.",
    run: run_call,
};

pub(super) const GO: Command = Command {
    name: "go",
    about: "Call a function without waiting for it to run; its result is dropped.",
    operands: &[FUNCTION, ARG],
    options: &[&[PARAMS], CONNECTION],
    notes: "Exit codes: 0 accepted, 2 usage, 3 node not found, 4 deadline, 5 denied, 130 interrupted.",
    run: run_go,
};

/// How results are printed.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Texts as they are.
    text: bool,
    /// Also control characters.
    exact: bool,
    pretty: bool,
}

impl Layout {
    fn of(arguments: &Arguments) -> Self {
        let (exact, pretty) = (arguments.has(&RAW), arguments.has(&PRETTY));
        let text = exact || !pretty && !arguments.has(&JSON) && std::io::stdout().is_terminal();
        Self { text, exact, pretty }
    }

    pub(super) fn print(self, result: &str) {
        if self.text
            && result.starts_with('"')
            && let Ok(text) = serde_json::from_str::<String>(result)
        {
            let line = text.strip_suffix('\n').unwrap_or(&text);
            return if self.exact { print_exact(line) } else { print(line) };
        }
        print(&if self.pretty { json::pretty(result) } else { json::compact(result) });
    }
}

fn run_call(mut arguments: Arguments) -> Result<Exit, String> {
    let layout = Layout::of(&arguments);
    let connection = Connection::take(&mut arguments)?;
    let in_flight = arguments.parsed(&EACH_IN_FLIGHT)?.unwrap_or(16);
    let each = arguments.has(&EACH);
    let (function, params) = function_and_params(&mut arguments)?;
    if each && params.is_some() {
        return Err("--each reads the parameters from standard input; no others are accepted".to_owned());
    }
    if !(1..=MAX_IN_FLIGHT).contains(&in_flight) {
        return Err(format!("--in-flight {in_flight}: a number from 1 to {MAX_IN_FLIGHT}"));
    }
    connection.with_remote(async |connected| {
        if each {
            return call_each(connected, &function, in_flight, layout).await;
        }
        let call = pin!(connected.call(&function, params));
        match with_progress(&function, connected.timeout, call).await {
            Ok(result) => {
                layout.print(result.get());
                Exit::Success
            }
            Err(error) => explain_call(connected, &function, &error).await,
        }
    })
}

fn run_go(mut arguments: Arguments) -> Result<Exit, String> {
    let connection = Connection::take(&mut arguments)?;
    let (function, params) = function_and_params(&mut arguments)?;
    connection.with_remote(async |connected| {
        let accepted = async {
            let Connected { remote, deadline, .. } = connected;
            remote.send(function.into(), params, *deadline, 0, Mode::Go).await?;
            // A connection keeps its order, so a reply to the ping shows that the node has read the call.
            let pong = connected.call("rpc.ping", None).await;
            // The call was written before the ping, so it may have been sent even if the ping was not.
            pong.map_err(|error| match error {
                RemoteError::Unreachable { address, reason } => RemoteError::Lost { address, reason },
                error => error,
            })
        };
        match accepted.await {
            Ok(_) => Exit::Success,
            Err(error) => explain(&error),
        }
    })
}

/// Takes the name of the function and its parameters.
fn function_and_params(arguments: &mut Arguments) -> Result<(String, Option<RawJson<'static>>), String> {
    let whole = arguments.take(&PARAMS);
    let mut operands = std::mem::take(&mut arguments.operands).into_iter();
    let function = operands.next().unwrap_or_default();
    Ok((function, params(whole, operands.collect())?.map(RawJson::from)))
}

/// Explains the error of a call, and which function was meant if there is none of this name.
pub(super) async fn explain_call(connected: &Connected, function: &str, error: &RemoteError) -> Exit {
    let exit = explain(error);
    if let RemoteError::Fault(Fault { code: code::UNKNOWN_FUNCTION, .. }) = error {
        suggest(connected, function).await;
    }
    exit
}

/// Prints what went wrong and returns the exit code.
pub(super) fn explain(error: &RemoteError) -> Exit {
    print_error(format_args!("{error}"));
    match error {
        RemoteError::Fault(fault) => {
            if let Some(data) = &fault.data {
                print_error(format_args!("data: {}", json::compact(data.get())));
            }
            if fault.code == code::DENIED {
                print_error(format_args!(
                    "present a token with --token-file FILE or the variable CHANRPC_TOKEN"
                ));
            }
        }
        RemoteError::Unreachable { .. } => {
            print_error(format_args!(
                "is a node running there? `chanrpc serve` starts one; --to ADDR selects another"
            ));
        }
        _ => {}
    }
    match error {
        RemoteError::Unreachable { .. } | RemoteError::Fault(Fault { code: code::NO_PROVIDER, .. }) => {
            print_error(format_args!("the call was not sent: it is safe to repeat"));
        }
        RemoteError::Lost { .. } | RemoteError::Fault(Fault { code: code::LOST, .. }) => {
            print_error(format_args!("the call may have run: repeat it only if it may run twice"));
        }
        _ => {}
    }
    error.into()
}

/// Returns the parameters, from `--params` or from the positional arguments.
pub(super) fn params(whole: Option<String>, arguments: Vec<String>) -> Result<Option<Box<RawValue>>, String> {
    let Some(whole) = whole else {
        return Ok((!arguments.is_empty()).then(|| positional(arguments)));
    };
    if !arguments.is_empty() {
        return Err("--params gives all parameters; no further arguments are accepted".to_owned());
    }
    let text = if whole == "-" { read_params()? } else { whole };
    // Some shells and editors write a byte order mark first.
    let text = text.trim_start_matches('\u{feff}').trim();
    if !text.starts_with(['[', '{']) {
        return Err(
            "--params takes a JSON array or object, such as '[1, 2]' or '{\"path\": \"/\"}'".to_owned()
        );
    }
    params_from_json(text.to_owned()).map(Some).map_err(|error| format!("--params: {error}"))
}

pub(super) fn params_from_json(text: String) -> Result<Box<RawValue>, String> {
    RawValue::from_string(text).map_err(|error| format!("not JSON: {error}"))
}

fn read_params() -> Result<String, String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("--params -: reading standard input failed: {error}"))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(format!("--params -: more than {MAX_MESSAGE} bytes"));
    }
    let text = encoding::decode(&bytes).map_err(|error| format!("--params -: standard input: {error}"))?;
    Ok(text.into_owned())
}

/// Returns arguments as parameters: each is JSON if it parses as JSON, else a string.
pub(super) fn positional(arguments: Vec<String>) -> Box<RawValue> {
    let values: Vec<Box<RawValue>> = arguments
        .into_iter()
        .map(|argument| {
            let as_string = to_raw_value(&argument);
            RawValue::from_string(argument).or(as_string).unwrap_or_default()
        })
        .collect();
    to_raw_value(&values).unwrap_or_default()
}
