//! `chanrpc describe`.

use std::fmt::Write;

use super::arguments::{Arguments, Command, Opt};
use super::connection::{CONNECTION, Connected, Connection};
use super::functions::{Function, Target, example, fetch, quoted};
use super::params::FUNCTION;
#[cfg(feature = "grpc")]
use super::proto::proto;
use super::result::explain;
use super::suggest::suggest;
use super::{DEFAULT_ADDRESS, Exit, json, print, print_error};
use crate::chan::Kind;
use crate::message::{Param, RawJson, Schema};

const JSON: Opt = Opt::switch("--json", "print its OpenRPC document");
#[cfg(feature = "grpc")]
const PROTO: Opt = Opt::switch("--proto", "print a .proto of the functions that match, such as 'disk.*'");

pub(super) const DESCRIBE: Command = Command {
    name: "describe",
    about: "Show what a function takes and returns, and lines that call it.",
    operands: &[FUNCTION],
    options: &[
        &[
            JSON,
            #[cfg(feature = "grpc")]
            PROTO,
        ],
        CONNECTION,
    ],
    notes: "Exit codes: 0 shown, 1 the node sent an invalid answer, 2 usage, 3 node or function not found, 4 deadline,\n\
            5 denied, 130 interrupted.",
    run,
};

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let as_json = arguments.has(&JSON);
    #[cfg(feature = "grpc")]
    let as_proto = arguments.has(&PROTO);
    let connection = Connection::take(&mut arguments)?;
    let name = arguments.operands.pop().unwrap_or_default();
    connection.with_remote(async |connected| {
        #[cfg(feature = "grpc")]
        if as_proto {
            return match fetch(connected, &name).await {
                Ok((functions, _)) if functions.is_empty() => {
                    print_error(format_args!("no function matches {name:?}, or none may be called"));
                    Exit::Unavailable
                }
                Ok((functions, _)) => {
                    print(proto(&functions).trim_end());
                    Exit::Success
                }
                Err(exit) => exit,
            };
        }
        let function = match find(connected, &name).await {
            Ok(function) => function,
            Err(exit) => return exit,
        };
        if as_json {
            let pattern = RawJson::checked(format!("[{}]", quoted(&name)));
            match connected.call("rpc.discover", Some(pattern)).await {
                Ok(document) => print(&json::compact(document.get())),
                Err(error) => return explain(&error),
            }
        } else {
            print(&text(&function, &connected.address));
        }
        Exit::Success
    })
}

/// Asks for the description of a function. Prints what is wrong if there is none.
pub(super) async fn find(connected: &Connected, name: &str) -> Result<Function, Exit> {
    let (functions, _) = fetch(connected, name).await?;
    if let Some(function) = functions.into_iter().find(|function| function.name == name) {
        return Ok(function);
    }
    print_error(format_args!("no function is named {name:?}, or it may not be called"));
    suggest(connected, name).await;
    Err(Exit::Unavailable)
}

fn text(function: &Function, address: &str) -> String {
    let mut text = function.signature();
    let signature = &function.signature;
    if let Some(description) = &signature.description {
        let _ = write!(text, "\n{description}");
    }
    let params = function.params();
    if !params.is_empty() {
        text.push_str("\n\nparameters:");
    }
    let width = params.iter().map(|param| param.name.chars().count()).max().unwrap_or(0);
    for Param { name, schema, required, default, description } in params {
        let _ = write!(text, "\n  {name:width$}  {}", schema.name());
        match default {
            Some(default) => _ = write!(text, ", default {}", default.get()),
            None if !required => text.push_str(", optional"),
            None => {}
        }
        let choices = schema.choices();
        if !choices.is_empty() {
            let _ = write!(text, ", one of {}", choices.join(", "));
        }
        if let Some(description) = description {
            let _ = write!(text, ": {description}");
        }
    }
    let result = match (&signature.result, signature.kind) {
        (Some(schema), _) => Schema::name(schema),
        (None, Some(Kind::Zero)) => "0",
        (None, Some(Kind::One)) => "any",
        (None, Some(Kind::Many)) => "n",
        (None, None) => "unknown",
    };
    let _ = write!(text, "\n\nresult:   {result}");
    for (code, message) in &signature.errors {
        let _ = write!(text, "\nerror:    {code} {message}");
    }
    let stale = if function.is_stale { " (stale: what it told before the connection was lost)" } else { "" };
    let _ = write!(text, "\nprovider: {}{stale}", function.provider);
    for Target { to, state, details } in &function.targets {
        let _ = write!(text, "\n  {to}  {state} {details}");
    }
    if function.name.ends_with('*') {
        return text;
    }
    let examples: Vec<_> = params.iter().filter(|param| param.required).map(example).collect();
    let to = if address == DEFAULT_ADDRESS { String::new() } else { format!(" --to {}", shell(address)) };
    let _ = write!(text, "\n\nchanrpc call{to} {}", shell(&function.name));
    for example in &examples {
        // A text needs no quotes of JSON.
        let plain = serde_json::from_str::<String>(example).unwrap_or_else(|_| example.clone());
        let _ = write!(text, " {}", shell(&plain));
    }
    if address.starts_with("nats://") || address.starts_with("tls://") {
        return text;
    }
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    let request = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":{},\"params\":[{}],\"id\":1}}",
        quoted(&function.name),
        examples.join(",")
    );
    let _ = write!(text, "\ncurl http://{host}/ -d {}", shell(&request));
    text
}

/// Quotes a word for a POSIX shell if it needs quotes.
fn shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
