//! `rpc.*`: what every node answers of itself.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::Description;
use super::call::Call;
use super::registry::Registry;
use crate::message::{Fault, Outcome, code};

/// What all names of this module begin with.
pub(super) const PREFIX: &str = "rpc.";

#[derive(Clone, Copy)]
pub(super) enum Builtin {
    Echo,
    Info,
    List,
    Ping,
    Stats,
}

impl Builtin {
    pub(super) const ALL: [Self; 5] = [Self::Echo, Self::Info, Self::List, Self::Ping, Self::Stats];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Echo => "rpc.echo",
            Self::Info => "rpc.info",
            Self::List => "rpc.list",
            Self::Ping => "rpc.ping",
            Self::Stats => "rpc.stats",
        }
    }

    pub(super) fn describe(self) -> Description {
        let (description, params) = match self {
            Self::Echo => ("gives its parameters back", vec![]),
            Self::Info => ("tells the node's name, version and limits on hops", vec![]),
            Self::List => (
                "lists the functions; * in the pattern stands for any text",
                vec![("pattern".to_owned(), "string"), ("verbose".to_owned(), "boolean")],
            ),
            Self::Ping => ("answers \"pong\"", vec![]),
            Self::Stats => ("tells what the node has counted", vec![]),
        };
        Description {
            provider: "builtin",
            kind: Some("1"),
            params,
            target: None,
            description: Some(description.to_owned()),
        }
    }

    pub(super) fn call(self, registry: &Registry, call: Call<'_>) {
        let outcome = match self {
            Self::Echo => Ok(call.params.map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned)),
            Self::Info => info(registry),
            Self::List => list(registry, call.params),
            Self::Ping => to_json(&"pong"),
            Self::Stats => stats(registry),
        };
        call.reply.send(outcome);
    }
}

fn to_json(value: &impl Serialize) -> Outcome {
    to_raw_value(value).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
}

fn info(registry: &Registry) -> Outcome {
    #[derive(Serialize)]
    struct Info<'a> {
        name: &'a str,
        version: &'static str,
        functions: usize,
        uptime_seconds: f64,
    }
    to_json(&Info {
        name: registry.name(),
        version: env!("CARGO_PKG_VERSION"),
        functions: registry.list("*").count(),
        uptime_seconds: registry.metrics().uptime().as_secs_f64(),
    })
}

fn list(registry: &Registry, params: Option<&RawValue>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        #[serde(default = "everything")]
        pattern: String,
        #[serde(default)]
        verbose: bool,
    }
    #[derive(Serialize)]
    struct Function {
        name: String,
        #[serde(flatten)]
        description: Description,
    }
    fn everything() -> String {
        "*".to_owned()
    }

    let params: Params = serde_json::from_str(params.map_or("{}", RawValue::get)).map_err(|error| {
        Fault::invalid_params(format!("rpc.list takes a pattern and verbose, both optional: {error}"))
    })?;
    let functions = registry.list(&params.pattern);
    if params.verbose {
        to_json(&functions.map(|(name, description)| Function { name, description }).collect::<Vec<_>>())
    } else {
        to_json(&functions.map(|(name, _)| name).collect::<Vec<_>>())
    }
}

fn stats(registry: &Registry) -> Outcome {
    #[derive(Serialize)]
    struct Stats<'a> {
        name: &'a str,
        version: &'static str,
        uptime_seconds: f64,
        node: serde_json::Map<String, serde_json::Value>,
        functions: Vec<Function>,
    }
    #[derive(Serialize)]
    struct Function {
        name: String,
        provider: &'static str,
        #[serde(flatten)]
        stats: crate::metrics::FunctionStats,
    }
    to_json(&Stats {
        name: registry.name(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: registry.metrics().uptime().as_secs_f64(),
        node: registry.metrics().values().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        functions: registry
            .stats()
            .map(|(name, provider, stats)| Function { name, provider, stats })
            .collect(),
    })
}
