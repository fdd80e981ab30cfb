//! Normalizes the command line for argh.
//!
//! argh supports neither `--option=value` nor arguments that begin with `-`, such as negative numbers. This module
//! splits the former in two and moves all positional arguments behind a `--`.

use std::ffi::OsString;

/// The options of all commands that take a value.
const WITH_VALUE: [&str; 18] = [
    "--ca",
    "--config",
    "--connections",
    "--dialect",
    "--duration",
    "--in-flight",
    "--listen",
    "--log",
    "--name",
    "--params",
    "--rate",
    "--ready-file",
    "--threads",
    "--timeout",
    "--to",
    "--token",
    "--token-file",
    "--warmup",
];

/// Moves the options before the positional arguments, after the command's name.
pub(super) fn normalize(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, String> {
    let mut arguments = arguments.into_iter().map(|argument| {
        argument.into_string().map_err(|argument| format!("argument {argument:?} is not UTF-8"))
    });
    let mut options = Vec::new();
    let mut positional = Vec::new();
    let mut command = None;
    while let Some(argument) = arguments.next().transpose()? {
        if argument == "--" {
            for argument in arguments.by_ref() {
                positional.push(argument?);
            }
        } else if is_option(&argument) {
            match argument.split_once('=') {
                Some((option, value)) => options.extend([option.to_owned(), value.to_owned()]),
                None if WITH_VALUE.contains(&&*argument) => {
                    let value = arguments.next().transpose()?;
                    let value = value.ok_or_else(|| format!("{argument} needs a value"))?;
                    options.extend([argument, value]);
                }
                None => options.push(argument),
            }
        } else if command.is_none() {
            command = Some(argument);
        } else {
            positional.push(argument);
        }
    }
    let mut normalized: Vec<_> = command.into_iter().chain(options).collect();
    if !positional.is_empty() {
        normalized.push("--".to_owned());
        normalized.append(&mut positional);
    }
    Ok(normalized)
}

fn is_option(argument: &str) -> bool {
    let is_number = || argument[1..].starts_with(|c: char| c.is_ascii_digit());
    argument.len() > 1 && argument.starts_with('-') && !is_number()
}

#[cfg(test)]
mod tests {
    use super::normalize;

    fn check(given: &str, expected: &str) {
        let normalized = normalize(given.split_whitespace().map(Into::into)).unwrap();
        assert_eq!(normalized.join(" "), expected, "{given}");
    }

    #[test]
    fn moves_options_before_positional_arguments() {
        check("", "");
        check("--version", "--version");
        check("call --to=h:1 f 1 2", "call --to h:1 -- f 1 2");
        check("call f -5 --to h:1 3", "call --to h:1 -- f -5 3");
        check("call f --pretty -- --to x", "call --pretty -- f --to x");
        check("call --params - f", "call --params - -- f");
        check("call --params={\"a\":\"b=c\"} f", "call --params {\"a\":\"b=c\"} -- f");
        check("call help", "call -- help");
        check("--to h:1 call f", "call --to h:1 -- f");
        check("call -h", "call -h");
        check("list -v", "list -v");
        assert!(normalize(["call", "f", "--to"].map(Into::into)).is_err());
    }
}
