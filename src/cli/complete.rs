//! `chanrpc complete`: completion of commands, options, functions and choices in shells.

use std::time::Duration;

use super::arguments::{Arguments, Command, Count, Operand, Opt, Words};
use super::connection::Connection;
use super::functions::{Function, fetch};
use super::params::FUNCTION;
use super::{Exit, print};

/// How long a shell waits for a node.
const TIMEOUT: Duration = Duration::from_millis(300);

const WORDS: Opt = Opt::switch("--words", "print what the last of these words may be completed to");

pub(super) const COMPLETE: Command = Command {
    name: "complete",
    about: "Print a script that completes commands, options and functions in a shell.",
    operands: &[Operand {
        name: "SHELL",
        about: "bash, zsh or fish; with --words, words",
        count: Count::Any,
    }],
    options: &[&[WORDS]],
    notes: "For this shell:      source <(chanrpc complete bash)\n\
            For each new one:    chanrpc complete bash >~/.local/share/bash-completion/completions/chanrpc\n\n\
            Functions are those of the node that --to or CHANRPC_TO selects.",
    run,
};

const BASH: &str = include_str!("../../scripts/completion/chanrpc.bash");
const ZSH: &str = include_str!("../../scripts/completion/_chanrpc");
const FISH: &str = include_str!("../../scripts/completion/chanrpc.fish");

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let mut operands = std::mem::take(&mut arguments.operands);
    if arguments.has(&WORDS) {
        let last = operands.pop().unwrap_or_default();
        let mut candidates = candidates(operands, &last);
        candidates.retain(|candidate| candidate.starts_with(&last));
        if !candidates.is_empty() {
            print(&candidates.join("\n"));
        }
        return Ok(Exit::Success);
    }
    let script = match operands.first().map(String::as_str) {
        Some("bash") => BASH,
        Some("zsh") => ZSH,
        Some("fish") => FISH,
        _ => return Err("SHELL must be bash, zsh or fish".to_owned()),
    };
    print(script.trim_end());
    Ok(Exit::Success)
}

/// Returns the words that may be at the place of `last`.
fn candidates(before: Vec<String>, last: &str) -> Vec<String> {
    let Words { command, options, operand, is_value } = Words::of(&before);
    if is_value {
        return Vec::new();
    }
    if last.starts_with('-') || command.is_none() {
        return options;
    }
    let takes_function = |command: &&Command| {
        let is_pattern = |operand: &Operand| operand.name == FUNCTION.name || operand.name == "PATTERN";
        command.operands.first().is_some_and(is_pattern)
    };
    let Some(command) = command.filter(takes_function) else { return Vec::new() };
    // The command line so far, with what it may lack.
    let line = before.into_iter().chain((operand == 0).then(|| "*".to_owned()));
    let Ok(mut arguments) = super::arguments::parse(line.map(Into::into)) else { return Vec::new() };
    let Ok(mut connection) = Connection::take(&mut arguments) else { return Vec::new() };
    connection.timeout = TIMEOUT;
    let pattern = arguments.operands.first().cloned().unwrap_or_default();
    let mut found = Vec::new();
    let _ = connection.with_remote(async |connected| {
        let Ok((functions, _)) = fetch(connected, &pattern).await else { return Exit::Unavailable };
        found = match operand {
            0 => functions.into_iter().map(|function| function.name).collect(),
            at if command.operands.len() > 1 => choices(&functions, at - 1),
            _ => Vec::new(),
        };
        Exit::Success
    });
    found
}

/// Returns the values of a parameter that has few.
fn choices(functions: &[Function], at: usize) -> Vec<String> {
    match functions.first().and_then(|function| function.params().get(at)) {
        Some(param) if param.schema.name() == "boolean" => ["true", "false"].map(str::to_owned).to_vec(),
        Some(param) => {
            let plain = |json: &String| serde_json::from_str(json).unwrap_or_else(|_| json.clone());
            param.schema.choices().iter().map(plain).collect()
        }
        None => Vec::new(),
    }
}
