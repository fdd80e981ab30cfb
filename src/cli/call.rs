//! `chanrpc call` and `chanrpc go`.

use std::pin::pin;

use super::Exit;
use super::arguments::{Arguments, Command, Opt};
use super::connection::{CONNECTION, Connected, Connection};
use super::describe::find;
use super::each::call_each;
use super::params::{ARG, FUNCTION, PARAMS, params};
use super::progress::with_progress;
use super::result::{JSON, Layout, PRETTY, RAW, explain};
use super::suggest::suggest;
use crate::message::{Fault, RawJson, code};
use crate::remote::{Mode, RemoteError};

const EACH: Opt =
    Opt::switch("--each", "call once for each line of standard input: its parameters, or its only one");
const TEMPLATE: Opt =
    Opt::switch("--template", "print parameters to start from, for --params, and call nothing");
const EACH_IN_FLIGHT: Opt = Opt::with_value("--in-flight", "N", "with --each, calls in flight (16)");
/// The largest number of calls in flight of `--each`.
const MAX_IN_FLIGHT: usize = 1024;

pub(super) const CALL: Command = Command {
    name: "call",
    about: "Call a function and print its result.",
    operands: &[FUNCTION, ARG],
    options: &[&[PARAMS, TEMPLATE, EACH, EACH_IN_FLIGHT, RAW, JSON, PRETTY], CONNECTION],
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
    let template = arguments.has(&TEMPLATE);
    connection.with_remote(async |connected| {
        if template {
            return match find(connected, &function).await {
                Ok(found) => {
                    layout.print(&found.template());
                    Exit::Success
                }
                Err(exit) => exit,
            };
        }
        if each {
            return call_each(connected, &function, None, in_flight, layout).await;
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
