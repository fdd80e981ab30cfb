//! `chanrpc list`.

use std::fmt::Write;
use std::path::PathBuf;

use argh::FromArgs;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

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

#[derive(Deserialize)]
struct Function {
    name: String,
    provider: String,
    kind: Option<String>,
    params: Option<Vec<Param>>,
    result: Option<Schema>,
    target: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Param {
    name: String,
    schema: Schema,
    required: bool,
}

/// The part of a JSON Schema that is shown.
#[derive(Deserialize)]
struct Schema {
    /// A name, or a list of names.
    r#type: Option<Box<RawValue>>,
}

impl Schema {
    fn name(&self) -> &str {
        let name = self.r#type.as_ref().and_then(|name| serde_json::from_str(name.get()).ok());
        name.unwrap_or("any")
    }
}

impl List {
    pub(super) fn run(mut self) -> Exit {
        let token = token::from_options(self.token.take(), self.token_file.take());
        let ca = self.ca.as_deref();
        with_remote(&self.to, self.timeout, token, ca, async |remote, deadline| {
            let params = to_raw_value(&json!({"pattern": self.pattern, "verbose": true})).unwrap_or_default();
            let params = Some(RawJson::from(params));
            let listed = match remote.send("rpc.list".into(), params, deadline, 0, Mode::Call).await {
                Ok(listed) => listed,
                Err(error) => return explain(&error),
            };
            match serde_json::from_str::<Vec<Function>>(listed.get()) {
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
        let signatures: Vec<_> = functions.iter().map(Function::signature).collect();
        let width = signatures.iter().map(String::len).max().unwrap_or(0);
        for (function, signature) in functions.iter().zip(&signatures) {
            if self.verbose {
                print(format!("{signature:width$}  {}", function.summary()).trim_end());
            } else {
                print(&function.name);
            }
        }
    }
}

impl Function {
    fn signature(&self) -> String {
        let param = |Param { name, schema, required }: &Param| {
            format!("{name}{}: {}", if *required { "" } else { "?" }, schema.name())
        };
        let params = match &self.params {
            None => "…".to_owned(),
            Some(params) => params.iter().map(param).collect::<Vec<_>>().join(", "),
        };
        let mut signature = format!("{}({params})", self.name);
        let kind = self.kind.as_deref().map(|kind| if kind == "1" { "any" } else { kind });
        if let Some(result) = self.result.as_ref().map(Schema::name).or(kind) {
            let _ = write!(signature, " -> {result}");
        }
        signature
    }

    fn summary(&self) -> String {
        let mut summary = self.provider.clone();
        if let Some(target) = &self.target {
            let _ = write!(summary, " {target}");
        }
        if let Some(description) = &self.description {
            let _ = write!(summary, ": {description}");
        }
        summary
    }
}
