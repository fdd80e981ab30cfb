//! `chanrpc list`.

use std::fmt::{self, Write};
use std::path::PathBuf;

use argh::FromArgs;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::call::explain;
use super::{DEFAULT_ADDRESS, Exit, print, print_error, token, with_remote};
use crate::message::RawJson;
use crate::remote::Mode;

/// List a node's functions.
#[derive(FromArgs)]
#[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
pub(super) struct List {
    /// the node's address (127.0.0.1:7300)
    #[argh(option, default = "DEFAULT_ADDRESS.to_owned()")]
    to: String,
    /// seconds to wait for the answer (30)
    #[argh(option, default = "30.0")]
    timeout: f64,
    /// the token to present, visible to other users of this machine; CHANRPC_TOKEN sets one too
    #[argh(option)]
    token: Option<String>,
    /// a file with the token to present
    #[argh(option, arg_name = "FILE")]
    token_file: Option<PathBuf>,
    /// use TLS; trust the certificate authorities in this PEM file
    #[argh(option, arg_name = "FILE")]
    ca: Option<PathBuf>,
    /// also print parameters, number of results, provider and description
    #[argh(switch, short = 'v')]
    verbose: bool,
    /// the functions to list: a name in which * matches any text
    #[argh(positional, default = "String::from(\"*\")")]
    pattern: String,
}

impl List {
    pub(super) fn run(mut self) -> Exit {
        let token = token::from_options(self.token.take(), self.token_file.take());
        let ca = self.ca.as_deref();
        with_remote(&self.to, self.timeout, token, ca, async |remote, deadline| {
            let pattern = serde_json::to_string(&self.pattern).unwrap_or_default();
            let params = Some(RawJson::checked(format!("{{\"pattern\":{pattern},\"verbose\":true}}")));
            let listed = match remote.send("rpc.list".into(), params, deadline, 0, Mode::Call).await {
                Ok(listed) => listed,
                Err(error) => return explain(&error),
            };
            match functions(listed.get()) {
                Ok(functions) => {
                    self.show(&functions);
                    Exit::Success
                }
                Err(error) => {
                    print_error(format_args!("{} sent an invalid reply to rpc.list: {error}", self.to));
                    Exit::Failed
                }
            }
        })
    }

    fn show(&self, functions: &[Function]) {
        let width = functions.iter().map(|function| function.signature.len()).max().unwrap_or(0);
        for Function { name, signature, summary } in functions {
            if self.verbose {
                print(format!("{signature:width$}  {summary}").trim_end());
            } else {
                print(name);
            }
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
