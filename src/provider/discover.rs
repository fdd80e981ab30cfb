//! `rpc.discover`: the functions of a node as an OpenRPC document (<https://spec.open-rpc.org>).

use std::borrow::Cow;

use super::builtin_support::describe;
use crate::chan::Kind;
use crate::message::{Fault, Param, Schema, Signature};
use crate::route::{BuiltinCall, Description, matches};

/// The maximum length of a pattern for `rpc.list` and `rpc.discover`, in bytes.
const MAX_PATTERN: usize = 256;
/// The version of OpenRPC that today's tools read.
const VERSION: &str = "1.2.6";

pub(super) fn describe_discover() -> Description {
    let signature = Signature::default()
        .param(Param::new("pattern", Schema::string()).default(&"*").description("* matches any text"))
        .result(Schema::object())
        .description("describes the functions that the caller may call, as an OpenRPC document");
    describe(signature)
}

pub(super) fn discover(BuiltinCall { table, grants, params, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    let visibility = grants.visibility();
    let signature = describe_discover().signature;
    let wanted = pattern(signature.bind(params)?[0])?;
    let name = json(&table.name);
    let info = format!("{{\"title\":{name},\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"));
    let mut text = format!("{{\"openrpc\":\"{VERSION}\",\"info\":{info},\"methods\":[");
    let start = text.len();
    table.each_described(&mut |name, description| {
        // A family is no function.
        if name.ends_with('*') || !matches(&wanted, name) || !visibility.includes(name) {
            return;
        }
        if text.len() > start {
            text.push(',');
        }
        append_method(&mut text, name, description);
    });
    text.push_str("]}");
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Parses a pattern of names.
pub(super) fn pattern(json: Option<&str>) -> Result<String, Fault> {
    let pattern: String = serde_json::from_str(json.unwrap_or_default())
        .map_err(|error| Fault::invalid_params(format!("the pattern: {error}")))?;
    if pattern.len() > MAX_PATTERN {
        let message = format!("the pattern has {} bytes; the limit is {MAX_PATTERN}", pattern.len());
        return Err(Fault::invalid_params(message));
    }
    Ok(pattern)
}

/// Appends a function as a method of OpenRPC.
fn append_method(text: &mut String, name: &str, description: &Description) {
    let Description { provider, signature, told, .. } = description;
    let Signature { kind, params, result, description, errors } = signature;
    let mut add = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
    add(&["{\"name\":", &json(name)]);
    if let Some(description) = description {
        add(&[",\"summary\":", &json(description)]);
    }
    add(&[",\"paramStructure\":\"either\",\"params\":["]);
    for (index, Param { name, schema, required, default, description }) in params.iter().flatten().enumerate()
    {
        add(&[if index > 0 { "," } else { "" }, "{\"name\":", &json(name)]);
        if let Some(description) = description {
            add(&[",\"summary\":", &json(description)]);
        }
        let schema = match default {
            Some(default) => with_default(schema.json(), default.get()),
            None => schema.json().into(),
        };
        add(&[",\"required\":", if *required { "true" } else { "false" }, ",\"schema\":", &schema, "}"]);
    }
    let any = match kind {
        Some(Kind::Zero) => "{\"type\":\"null\"}",
        Some(Kind::Many) => "{\"type\":\"array\"}",
        Some(Kind::One) | None => "{}",
    };
    let result = result.as_ref().map_or(any, Schema::json);
    add(&["],\"result\":{\"name\":\"result\",\"schema\":", result, "}"]);
    for (index, (code, message)) in errors.iter().enumerate() {
        let start = if index > 0 { "," } else { ",\"errors\":[" };
        add(&[start, "{\"code\":", &code.to_string(), ",\"message\":", &json(message), "}"]);
    }
    let end = if errors.is_empty() { "" } else { "]" };
    let stale = if told.is_some_and(|told| told.is_stale) { ",\"stale\":true" } else { "" };
    let unknown = if params.is_none() { ",\"params\":\"unknown\"" } else { "" };
    add(&[end, ",\"x-chanrpc\":{\"provider\":", &json(provider.as_str()), unknown, stale, "}}"]);
}

/// Returns a schema with a default value.
fn with_default<'a>(schema: &'a str, default: &str) -> Cow<'a, str> {
    match schema.strip_suffix('}').map(str::trim_end) {
        Some("{") => format!("{{\"default\":{default}}}").into(),
        Some(members) => format!("{members},\"default\":{default}}}").into(),
        // `true`.
        None => schema.into(),
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
