//! How results and errors of calls are printed.

use std::io::IsTerminal;

use super::arguments::{Arguments, Opt};
use super::{Exit, json, print, print_error, print_exact};
use crate::message::{Fault, code};
use crate::remote::RemoteError;

pub(super) const RAW: Opt =
    Opt::switch("--raw", "print a text as it is, not as JSON; the default at a terminal");
pub(super) const JSON: Opt = Opt::switch("--json", "print JSON on one line, also at a terminal");
pub(super) const PRETTY: Opt = Opt::switch("--pretty", "print JSON on several lines");

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
    pub(super) fn of(arguments: &Arguments) -> Self {
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
