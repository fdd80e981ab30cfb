//! The parameters of a call on the command line.

use std::io::Read;

use serde_json::value::{RawValue, to_raw_value};

use super::MAX_MESSAGE;
use super::arguments::{Count, Operand, Opt};
use crate::encoding;

/// Gives all parameters at once.
pub(super) const PARAMS: Opt = Opt::with_value(
    "--params",
    "JSON",
    "all parameters as one array or object; - reads it from standard input",
);
/// The function to call.
pub(super) const FUNCTION: Operand =
    Operand { name: "FUNCTION", about: "the function's name", count: Count::One };
/// Its parameters.
pub(super) const ARG: Operand = Operand {
    name: "ARG",
    about: "a parameter: JSON if it parses as JSON, else a string",
    count: Count::Any,
};

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
