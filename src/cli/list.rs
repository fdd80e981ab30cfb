//! `chanrpc list`.

use std::fmt::{self, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connection};
use super::result::explain;
use super::suggest::suggest;
use super::{Exit, json, print, print_error};
use crate::message::RawJson;

const VERBOSE: Opt =
    Opt::switch("--verbose", "also print parameters, result, provider and description").short("-v");
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
        let quoted = serde_json::to_string(&pattern).unwrap_or_default();
        let params = Some(RawJson::checked(format!("{{\"pattern\":{quoted},\"verbose\":true}}")));
        let listed = match connected.call("rpc.list", params).await {
            Ok(listed) => listed,
            Err(error) => return explain(&error),
        };
        let functions = match functions(listed.get()) {
            Ok(functions) => functions,
            Err(error) => {
                let node = &connected.address;
                print_error(format_args!("{node} sent an invalid reply to rpc.list: {error}"));
                return Exit::Failed;
            }
        };
        if as_json {
            print(&json::compact(listed.get()));
        } else {
            show(&functions, verbose);
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

fn show(functions: &[Function], verbose: bool) {
    let width = functions.iter().map(|function| function.signature.len()).max().unwrap_or(0);
    for Function { name, signature, summary } in functions {
        if verbose {
            print(format!("{signature:width$}  {summary}").trim_end());
        } else {
            print(name);
        }
    }
}

/// What is printed of a function.
struct Function {
    name: String,
    signature: String,
    summary: String,
}

fn functions(json: &str) -> Result<Vec<Function>, serde_json::Error> {
    serde_json::from_str::<Vec<Object<'_>>>(json)?.iter().map(function).collect()
}

fn function(described: &Object<'_>) -> Result<Function, serde_json::Error> {
    let name = described.text("name")?.ok_or_else(|| missing("name"))?;
    let mut signature = format!("{name}(");
    match described.get("params") {
        None => signature.push('…'),
        Some(params) => {
            for (index, param) in serde_json::from_str::<Vec<Object<'_>>>(params)?.iter().enumerate() {
                let comma = if index > 0 { ", " } else { "" };
                let name = param.text("name")?.ok_or_else(|| missing("name"))?;
                let optional = if param.get("required") == Some("false") { "?" } else { "" };
                let schema = type_name(param.get("schema").ok_or_else(|| missing("schema"))?)?;
                let _ = write!(signature, "{comma}{name}{optional}: {schema}");
            }
        }
    }
    signature.push(')');
    let result = match described.get("result") {
        Some(schema) => Some(type_name(schema)?),
        None => described.text("kind")?.map(|kind| if kind == "1" { "any".to_owned() } else { kind }),
    };
    if let Some(result) = result {
        let _ = write!(signature, " -> {result}");
    }
    let mut summary = described.text("provider")?.ok_or_else(|| missing("provider"))?;
    for (separator, name) in [(" ", "target"), (": ", "description")] {
        if let Some(text) = described.text(name)? {
            let _ = write!(summary, "{separator}{text}");
        }
    }
    Ok(Function { name, signature, summary })
}

/// Returns the type that a JSON Schema names, or `any`.
fn type_name(schema: &str) -> Result<String, serde_json::Error> {
    // A schema may also be `true`, and have a list of types.
    let schema: Object<'_> =
        if schema.starts_with('{') { serde_json::from_str(schema)? } else { Object(Vec::new()) };
    Ok(schema.text("type").ok().flatten().unwrap_or_else(|| "any".to_owned()))
}

fn missing(member: &str) -> serde_json::Error {
    serde::de::Error::custom(format_args!("missing field `{member}`"))
}

/// The members of an object, in the form of JSON. One type for all objects of a reply, so that the binary has the code
/// that reads them once.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl Object<'_> {
    /// Returns a member, unless it is `null`.
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(member, _)| member == name)?;
        Some(value.get()).filter(|json| *json != "null")
    }

    fn text(&self, name: &str) -> Result<Option<String>, serde_json::Error> {
        self.get(name).map(serde_json::from_str).transpose()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
