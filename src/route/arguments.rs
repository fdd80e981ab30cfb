//! Converts a caller's parameters into a program's arguments and standard input. Their texts are never changed, except
//! that integers in another notation are written out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::config::{ArgTemplate, ExecConfig, Param, ParamKind, Piece};
use crate::message::{Fault, RawJson};

/// The maximum number of digits of an integer that is written with an exponent.
const MAX_DIGITS: usize = 64;

/// Returns a program's arguments and its standard input.
///
/// # Errors
/// The fault that the caller receives.
pub(super) fn prepare(
    config: &ExecConfig,
    params: Option<&RawJson<'_>>,
) -> Result<(Vec<String>, Vec<u8>), Fault> {
    if config.params.is_empty() {
        // Undeclared parameters reach the program's input only, not its arguments.
        let input = params.map_or("null", RawJson::get).as_bytes().to_vec();
        return Ok((arguments(&config.argv, &[])?, input));
    }
    let values = values(&config.params, params)?;
    let input = to_object(&values);
    Ok((arguments(&config.argv, &values)?, input))
}

/// A declared parameter and the caller's value for it.
struct Value<'a> {
    param: &'a Param,
    /// The value as JSON.
    json: Cow<'a, str>,
    /// The value as an argument, if that differs from the JSON.
    text: Option<String>,
}

impl<'a> Value<'a> {
    fn new(param: &'a Param, json: &'a str) -> Result<Self, Fault> {
        let number = json.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let valid = |json: Cow<'a, str>, text| Self { param, json, text };
        let value = match param.kind {
            ParamKind::String if json.starts_with('"') => {
                let text: String = serde_json::from_str(json).map_err(|error| {
                    Fault::invalid_params(format!(
                        "parameter {:?} is not a valid string: {error}",
                        param.name
                    ))
                })?;
                if text.contains('\0') {
                    return Err(Fault::invalid_params(format!(
                        "parameter {:?} contains a NUL character",
                        param.name
                    )));
                }
                Some(valid(json.into(), Some(text)))
            }
            ParamKind::Integer if number => integer(json).map(|integer| valid(integer, None)),
            ParamKind::Number if number => Some(valid(json.into(), None)),
            ParamKind::Boolean if matches!(json, "true" | "false") => Some(valid(json.into(), None)),
            _ => None,
        };
        value.ok_or_else(|| {
            let kind = type_name(param.kind);
            Fault::invalid_params(format!("parameter {:?} must be of type {kind}", param.name))
        })
    }

    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or(&self.json)
    }
}

/// Returns the values of the declared parameters, in the order of declaration.
fn values<'a>(declared: &'a [Param], params: Option<&'a RawJson<'_>>) -> Result<Vec<Value<'a>>, Fault> {
    let json = params.map_or("[]", RawJson::get).trim_ascii_start();
    let fail = |error: serde_json::Error| Fault::invalid_params(error.to_string());
    let given: Vec<&RawValue> = if json.starts_with('{') {
        let mut named: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(fail)?;
        let mut given = Vec::with_capacity(declared.len());
        for param in declared {
            let missing = || Fault::invalid_params(format!("parameter {:?} is missing", param.name));
            given.push(named.remove(&param.name).ok_or_else(missing)?);
        }
        if let Some(name) = named.keys().next() {
            let message = format!("parameter {name:?} is unknown; {}", expected(declared));
            return Err(Fault::invalid_params(message));
        }
        given
    } else if json.starts_with('[') {
        serde_json::from_str(json).map_err(fail)?
    } else {
        return Err(Fault::invalid_params(expected(declared)));
    };
    if given.len() != declared.len() {
        let message = format!("got {} parameters; {}", given.len(), expected(declared));
        return Err(Fault::invalid_params(message));
    }
    declared.iter().zip(given).map(|(param, value)| Value::new(param, value.get())).collect()
}

fn expected(declared: &[Param]) -> String {
    let params: Vec<_> =
        declared.iter().map(|param| format!("{}: {}", param.name, type_name(param.kind))).collect();
    format!("the function takes ({})", params.join(", "))
}

pub(super) fn type_name(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::String => "string",
        ParamKind::Integer => "integer",
        ParamKind::Number => "number",
        ParamKind::Boolean => "boolean",
    }
}

/// Writes a JSON number without decimal point and exponent, if it is an integer: `5` for `5.0`, `1000` for `1e3`.
fn integer(json: &str) -> Option<Cow<'_, str>> {
    let (mantissa, exponent) = match json.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None if !json.contains('.') => return Some(json.into()),
        None => (json, 0),
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (units, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{units}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(format!("{sign}0").into());
    }
    // The number of digits before the decimal point.
    let before = usize::try_from(i64::try_from(units.len()).ok()? + i64::from(exponent)).ok()?;
    if significant.len() > before || before > MAX_DIGITS {
        return None;
    }
    let number = format!("{significant:0<before$}");
    Some(format!("{sign}{}", number.trim_start_matches('0')).into())
}

/// Writes the values as a JSON object.
fn to_object(values: &[Value<'_>]) -> Vec<u8> {
    let mut json = Vec::new();
    for value in values {
        // The configuration restricts parameter names to characters that JSON does not escape.
        json.extend_from_slice(if json.is_empty() { b"{\"" } else { b",\"" });
        json.extend_from_slice(value.param.name.as_bytes());
        json.extend_from_slice(b"\":");
        json.extend_from_slice(value.json.as_bytes());
    }
    json.push(b'}');
    json
}

/// Returns the text of a template without placeholders, such as the program's name.
pub(super) fn literal(template: &ArgTemplate) -> String {
    let literals = template.0.iter().filter_map(|piece| match piece {
        Piece::Literal(text) => Some(&**text),
        Piece::Param(_) => None,
    });
    literals.collect()
}

fn arguments(argv: &[ArgTemplate], values: &[Value<'_>]) -> Result<Vec<String>, Fault> {
    argv.iter().map(|template| argument(template, values)).collect()
}

/// Returns one argument. A value that begins an argument must not begin with a dash unless its parameter allows it, so
/// that a caller cannot pass options. A preceding `--` makes no difference: wrappers (`env`, `sudo`, `sh -c`) consume it,
/// and some programs (`find`, `kill`) ignore it.
fn argument(template: &ArgTemplate, values: &[Value<'_>]) -> Result<String, Fault> {
    let mut argument = String::new();
    for piece in &template.0 {
        match piece {
            Piece::Literal(text) => argument.push_str(text),
            Piece::Param(index) => {
                let value = &values[*index];
                let text = value.text();
                if argument.is_empty() && text.starts_with('-') && !value.param.leading_dash {
                    return Err(leading_dash(value.param));
                }
                argument.push_str(text);
            }
        }
    }
    Ok(argument)
}

fn leading_dash(param: &Param) -> Fault {
    let Param { name, kind, .. } = param;
    let kind = type_name(*kind);
    Fault::invalid_params(format!(
        "parameter {name:?} must not begin with \"-\", which the program could interpret as an option (to allow it, set \
         in the function's params: {name} = {{ type = \"{kind}\", leading_dash = true }})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_in_any_notation() {
        for (json, expected) in [
            ("5", "5"),
            ("-5", "-5"),
            ("-0", "-0"),
            ("100000000000000000000", "100000000000000000000"),
            ("5.0", "5"),
            ("-5.00", "-5"),
            ("0.0", "0"),
            ("0e9", "0"),
            ("1e3", "1000"),
            ("1E+3", "1000"),
            ("1.25e2", "125"),
            ("0.05e2", "5"),
            ("1200e-2", "12"),
            ("1e63", &format!("1{}", "0".repeat(63))),
        ] {
            assert_eq!(integer(json).as_deref(), Some(expected), "{json}");
        }
        for json in ["5.5", "1e-1", "1.25e1", "0.1", "1e64", "1e400", "1e99999999999", "1e-99999999999"] {
            assert_eq!(integer(json), None, "{json}");
        }
    }
}
