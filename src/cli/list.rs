//! `chanrpc list`.

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connection};
use super::functions::{Function, fetch};
use super::suggest::suggest;
use super::{Exit, json, print, print_error};

const VERBOSE: Opt =
    Opt::switch("--verbose", "also print parameters, result, description and provider").short("-v");
const JSON: Opt = Opt::switch("--json", "print all that the node tells, as one line of JSON");

pub(super) const LIST: Command = Command {
    name: "list",
    about: "List a node's functions.",
    operands: &[Operand {
        name: "PATTERN",
        about: "a pattern of names in which * matches any text (*)",
        count: Count::Optional,
    }],
    options: &[&[VERBOSE, JSON], CONNECTION],
    notes: "",
    run,
};

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let (verbose, as_json) = (arguments.has(&VERBOSE), arguments.has(&JSON));
    let connection = Connection::take(&mut arguments)?;
    let pattern = arguments.operands.pop().unwrap_or_else(|| "*".to_owned());
    connection.with_remote(async |connected| {
        let (functions, text) = match fetch(connected, &pattern).await {
            Ok(fetched) => fetched,
            Err(exit) => return exit,
        };
        if as_json {
            print(&json::compact(&text));
        } else if verbose {
            show(&functions);
        } else {
            functions.iter().for_each(|function| print(&function.name));
        }
        if functions.is_empty() && !pattern.contains('*') {
            print_error(format_args!(
                "no function is named {pattern:?}; * matches any text, as in \"{pattern}*\""
            ));
            suggest(connected, &pattern).await;
        }
        Exit::Success
    })
}

fn show(functions: &[Function]) {
    let signatures: Vec<_> = functions.iter().map(Function::signature).collect();
    let width = signatures.iter().map(|signature| signature.chars().count()).max().unwrap_or(0);
    for (signature, function) in signatures.iter().zip(functions) {
        let description = function.signature.description.as_deref().unwrap_or_default();
        let space = if description.is_empty() { "" } else { " " };
        print(&format!("{signature:width$}   {description}{space}({})", function.provided_by()));
    }
}
