//! Converts a caller's parameters into a program's arguments and standard input. Their texts are never changed, except
//! that integers in another notation are written out.

use std::borrow::Cow;

use crate::chan::Kind;
use crate::config::{
    ArgTemplate, ExecConfig, OutputFormat, ParamConfig, ParamKind, Piece, ProcessFunctionConfig,
};
use crate::message::{Fault, Param, RawJson, Schema, Signature, shortened};

/// The maximum number of digits of an integer that is written with an exponent.
const MAX_DIGITS: usize = 64;

/// Returns the signature of a function that runs a program. Without declared parameters, a program accepts any.
pub(super) fn signature(config: &ExecConfig) -> Signature {
    let mut signature = signature_of(&config.params).kind(Kind::One);
    signature.result = match (&config.result, config.output) {
        (Some(name), _) => Some(Schema::of_type(name)),
        (None, OutputFormat::Base64) => Some(Schema::base64()),
        (None, OutputFormat::Text) => Some(Schema::string()),
        (None, OutputFormat::Json) => None,
    };
    signature
}

/// Returns the signature of a function of a process; `params` is `None` if it takes any.
pub(super) fn signature_of_process(config: &ProcessFunctionConfig) -> Signature {
    let params = config.params.as_deref();
    let mut signature = signature_of(params.unwrap_or_default());
    if params.is_some() {
        signature.params.get_or_insert_default();
    }
    signature.result = config.result.as_deref().map(Schema::of_type);
    signature
}

/// Returns a signature with parameters.
fn signature_of(params: &[ParamConfig]) -> Signature {
    let schema = |kind: ParamKind| match kind {
        ParamKind::String => Schema::string(),
        ParamKind::Integer => Schema::integer(),
        ParamKind::Number => Schema::number(),
        ParamKind::Boolean => Schema::boolean(),
    };
    let mut signature = Signature::default();
    for declared in params {
        let mut schema = schema(declared.kind);
        if !declared.choices.is_empty() {
            schema = schema.with_choices(&declared.choices);
        }
        let mut param = Param::new(&declared.name, schema);
        param.required = declared.default.is_none();
        param.default = declared.default.clone().map(RawJson::checked);
        param.description.clone_from(&declared.description);
        signature = signature.param(param);
    }
    signature
}

/// Returns the values of declared parameters, checked, with the defaults of those that the caller does not give: by
/// position or by name, as the caller gives them.
///
/// # Errors
/// The fault that the caller receives.
pub(super) fn complete(
    declared: &[ParamConfig],
    signature: &Signature,
    params: Option<&RawJson<'_>>,
) -> Result<RawJson<'static>, Fault> {
    let values = values(declared, signature, params)?;
    let json = if params.is_some_and(|params| params.get().trim_ascii_start().starts_with('{')) {
        to_object(&values)
    } else {
        let values: Vec<&str> = values.iter().map(|value| &*value.json).collect();
        format!("[{}]", values.join(","))
    };
    Ok(RawJson::checked(json))
}

fn values<'a>(
    declared: &'a [ParamConfig],
    signature: &'a Signature,
    params: Option<&'a RawJson<'_>>,
) -> Result<Vec<Value<'a>>, Fault> {
    let bound = signature.bind(params)?;
    declared.iter().zip(bound).map(|(param, json)| Value::new(param, json.unwrap_or("null"))).collect()
}

/// Returns a program's arguments and its standard input.
///
/// # Errors
/// The fault that the caller receives.
pub(super) fn prepare(
    config: &ExecConfig,
    signature: &Signature,
    params: Option<&RawJson<'_>>,
) -> Result<(Vec<String>, Vec<u8>), Fault> {
    if config.params.is_empty() {
        // Undeclared parameters reach the program's input only, not its arguments.
        let input = params.map_or("null", RawJson::get).as_bytes().to_vec();
        return Ok((arguments(&config.argv, &[])?, input));
    }
    let values = values(&config.params, signature, params)?;
    let input = to_object(&values).into_bytes();
    Ok((arguments(&config.argv, &values)?, input))
}

/// A declared parameter and the caller's value for it.
struct Value<'a> {
    param: &'a ParamConfig,
    /// The value as JSON.
    json: Cow<'a, str>,
    /// The value as an argument, if that differs from the JSON.
    text: Option<String>,
}

impl<'a> Value<'a> {
    /// Converts a value of the parameter's type.
    fn new(param: &'a ParamConfig, json: &'a str) -> Result<Self, Fault> {
        let fail = |what: &str| Fault::invalid_params(format!("parameter {:?} {what}", param.name));
        let value = match param.kind {
            ParamKind::String => {
                let text: String = serde_json::from_str(json)
                    .map_err(|error| fail(&format!("is not a valid string: {error}")))?;
                if text.contains('\0') {
                    return Err(fail("contains a NUL character"));
                }
                Self { param, json: json.into(), text: Some(text) }
            }
            ParamKind::Integer => {
                let not_whole = || {
                    fail(&format!(
                        "must be an integer of at most {MAX_DIGITS} digits, not {}",
                        shortened(json)
                    ))
                };
                let json = integer(json).ok_or_else(not_whole)?;
                Self { param, json, text: None }
            }
            ParamKind::Number | ParamKind::Boolean => Self { param, json: json.into(), text: None },
        };
        if !param.choices.is_empty() && !param.choices.iter().any(|choice| value.is(choice)) {
            let choices = param.choices.join(", ");
            return Err(fail(&format!("must be one of {choices}, not {}", shortened(&value.json))));
        }
        Ok(value)
    }

    /// Returns `true` if a value in JSON is the same in any notation.
    fn is(&self, json: &str) -> bool {
        match (&self.text, self.json.parse::<f64>()) {
            (Some(text), _) => serde_json::from_str::<String>(json).is_ok_and(|json| json == *text),
            (None, Ok(number)) => *self.json == *json || json.parse() == Ok(number),
            (None, Err(_)) => *self.json == *json,
        }
    }

    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or(&self.json)
    }

    /// Returns `true` if the configuration has this value too.
    fn is_default(&self) -> bool {
        self.param.default.as_deref() == Some(&*self.json)
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
fn to_object(values: &[Value<'_>]) -> String {
    // The configuration restricts parameter names to characters that JSON does not escape.
    let member = |value: &Value<'_>| format!("\"{}\":{}", value.param.name, value.json);
    let members: Vec<_> = values.iter().map(member).collect();
    format!("{{{}}}", members.join(","))
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

/// Returns one argument. A value that begins an argument must not begin with a dash unless its parameter allows it or
/// it is the default, so that a caller cannot pass options. A preceding `--` makes no difference: wrappers (`env`, `sudo`, `sh -c`) consume it,
/// and some programs (`find`, `kill`) ignore it.
fn argument(template: &ArgTemplate, values: &[Value<'_>]) -> Result<String, Fault> {
    let mut argument = String::new();
    for piece in &template.0 {
        match piece {
            Piece::Literal(text) => argument.push_str(text),
            Piece::Param(index) => {
                let value = &values[*index];
                let text = value.text();
                let is_allowed = value.param.leading_dash || value.is_default();
                if argument.is_empty() && text.starts_with('-') && !is_allowed {
                    return Err(leading_dash(value.param));
                }
                argument.push_str(text);
            }
        }
    }
    Ok(argument)
}

fn leading_dash(param: &ParamConfig) -> Fault {
    let ParamConfig { name, .. } = param;
    Fault::invalid_params(format!(
        "parameter {name:?} must not begin with \"-\", which the program could interpret as an option (to allow it, add \
         leading_dash = true to {name} in the function's params)"
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
