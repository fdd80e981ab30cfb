//! `chanrpc call` and `chanrpc go`.

use std::io::Read;
use std::path::PathBuf;

use argh::FromArgs;
use serde_json::value::{RawValue, to_raw_value};

use super::{DEFAULT_ADDRESS, Exit, MAX_MESSAGE, json, print, print_error, token, usage, with_remote};
use crate::encoding;
use crate::message::{Fault, RawJson, code};
use crate::remote::{Mode, RemoteError};

/// Call a function and print its result as JSON.
///
/// Exit codes: 0 answered, 1 the function answered with an error, 2 usage, 3 node or function not found, 4 deadline, 5
/// denied, 130 interrupted.
#[derive(FromArgs)]
#[argh(subcommand, name = "call", help_triggers("-h", "--help"))]
pub(super) struct Call {
    /// the node's address (127.0.0.1:7300)
    #[argh(option, default = "DEFAULT_ADDRESS.to_owned()")]
    to: String,
    /// seconds to wait for the answer (30)
    #[argh(option, default = "30.0")]
    timeout: f64,
    /// the token to present, visible to other users of this machine; CHANRPC_TOKEN sets one too
    #[argh(option)]
    token: Option<String>,
    /// a file with the token to present
    #[argh(option, arg_name = "FILE")]
    token_file: Option<PathBuf>,
    /// use TLS; trust the certificate authorities in this PEM file
    #[argh(option, arg_name = "FILE")]
    ca: Option<PathBuf>,
    /// all parameters as one JSON array or object; - reads it from standard input
    #[argh(option)]
    params: Option<String>,
    /// pretty-print the result
    #[argh(switch)]
    pretty: bool,
    /// the function's name
    #[argh(positional)]
    function: String,
    /// its parameters: each is JSON if it parses as JSON, else a string
    #[argh(positional, arg_name = "ARG")]
    arguments: Vec<String>,
}

/// Call a function without waiting for it to run; its result is dropped.
///
/// Exit codes: 0 accepted, 2 usage, 3 node not found, 4 deadline, 5 denied, 130 interrupted.
#[derive(FromArgs)]
#[argh(subcommand, name = "go", help_triggers("-h", "--help"))]
pub(super) struct Go {
    /// the node's address (127.0.0.1:7300)
    #[argh(option, default = "DEFAULT_ADDRESS.to_owned()")]
    to: String,
    /// seconds to wait until the node has accepted the call (30)
    #[argh(option, default = "30.0")]
    timeout: f64,
    /// the token to present, visible to other users of this machine; CHANRPC_TOKEN sets one too
    #[argh(option)]
    token: Option<String>,
    /// a file with the token to present
    #[argh(option, arg_name = "FILE")]
    token_file: Option<PathBuf>,
    /// use TLS; trust the certificate authorities in this PEM file
    #[argh(option, arg_name = "FILE")]
    ca: Option<PathBuf>,
    /// all parameters as one JSON array or object; - reads it from standard input
    #[argh(option)]
    params: Option<String>,
    /// the function's name
    #[argh(positional)]
    function: String,
    /// its parameters: each is JSON if it parses as JSON, else a string
    #[argh(positional, arg_name = "ARG")]
    arguments: Vec<String>,
}

impl Call {
    pub(super) fn run(self) -> Exit {
        let params = match params(self.params, self.arguments) {
            Ok(params) => params,
            Err(message) => return usage(&message),
        };
        let token = token::from_options(self.token, self.token_file);
        let ca = self.ca.as_deref();
        with_remote(&self.to, self.timeout, token, ca, async |remote, deadline| {
            let params = params.map(RawJson::from);
            match remote.send(self.function.into(), params, deadline, 0, Mode::Call).await {
                Ok(result) => {
                    let layout = if self.pretty { json::pretty } else { json::compact };
                    print(&layout(result.get()));
                    Exit::Success
                }
                Err(error) => explain(&error),
            }
        })
    }
}

impl Go {
    pub(super) fn run(self) -> Exit {
        let params = match params(self.params, self.arguments) {
            Ok(params) => params,
            Err(message) => return usage(&message),
        };
        let token = token::from_options(self.token, self.token_file);
        let ca = self.ca.as_deref();
        with_remote(&self.to, self.timeout, token, ca, async |remote, deadline| {
            let accepted = async {
                let params = params.map(RawJson::from);
                remote.send(self.function.into(), params, deadline, 0, Mode::Go).await?;
                // A connection keeps its order, so a reply to the ping shows that the node has read the call.
                let pong = remote.send("rpc.ping".into(), None, deadline, 0, Mode::Call).await;
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
    RawValue::from_string(text.to_owned()).map(Some).map_err(|error| format!("--params: not JSON: {error}"))
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

fn positional(arguments: Vec<String>) -> Box<RawValue> {
    let values: Vec<Box<RawValue>> = arguments
        .into_iter()
        .map(|argument| {
            let as_string = to_raw_value(&argument);
            RawValue::from_string(argument).or(as_string).unwrap_or_default()
        })
        .collect();
    to_raw_value(&values).unwrap_or_default()
}
