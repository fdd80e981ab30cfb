//! The functions that every node has: `rpc.*`.

use serde::Serialize;

use super::access::Visibility;
use super::name::matches;
use super::table::{Listed, Table};
use super::{Description, ProviderKind};
use crate::chan::Kind;
use crate::message::{Fault, Param, RawJson, Schema, Signature, code};

/// The maximum length of a pattern for `rpc.list` in bytes.
const MAX_PATTERN: usize = 256;
/// The prefix of all built-in functions.
pub(super) const PREFIX: &str = "rpc.";

/// A built-in function.
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
        let signature = match self {
            Self::Echo => Signature::default().description("returns its parameters"),
            Self::Info => Signature::default()
                .names([])
                .result(Schema::object())
                .description("returns the node's name, version, number of functions and uptime"),
            Self::List => Signature::default()
                .param(Param::new("pattern", Schema::string()).default(&"*"))
                .param(Param::new("verbose", Schema::boolean()).default(&false))
                .result(Schema::array())
                .description("lists the functions; * in the pattern matches any text"),
            Self::Ping => {
                Signature::default().names([]).result(Schema::string()).description("returns \"pong\"")
            }
            Self::Stats => Signature::default()
                .names([])
                .result(Schema::object())
                .description("returns the node's counters"),
        };
        Description::default().provider(ProviderKind::Builtin).signature(signature.kind(Kind::One))
    }

    /// Answers a call by appending the result to `out`.
    pub(super) fn answer(
        self,
        table: &Table,
        visibility: &Visibility<'_>,
        params: Option<&RawJson<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match self {
            Self::Echo => {
                out.extend_from_slice(params.unwrap_or(&RawJson::NULL).get().as_bytes());
                Ok(())
            }
            Self::Info => info(table, visibility, out),
            Self::List => list(table, visibility, params, out),
            Self::Ping => write_json(out, &"pong"),
            Self::Stats => stats(table, visibility, out),
        }
    }
}

/// Returns all functions: the table's, then the built-in ones.
fn listed(table: &Table) -> &[Listed] {
    let builtin = |builtin: Builtin| (builtin.name().to_owned(), builtin.describe());
    let functions = || table.list().chain(Builtin::ALL.into_iter().map(builtin));
    table.listed.get_or_init(|| functions().map(|(name, description)| to_json(name, &description)).collect())
}

fn to_json(name: String, description: &Description) -> Listed {
    #[derive(Serialize)]
    struct Function<'a> {
        name: &'a str,
        provider: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        kind: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a [Param]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a Schema>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'a str>,
    }
    let Description { provider, signature, target, .. } = description;
    let text = |target: Option<&str>| {
        let function = Function {
            name: &name,
            provider: provider.as_str(),
            kind: signature.kind.map(Signature::kind_name),
            params: signature.params.as_deref(),
            result: signature.result.as_ref(),
            target,
            description: signature.description.as_deref(),
        };
        serde_json::to_string(&function).unwrap_or_default()
    };
    let (verbose, redacted) = (text(target.as_deref()), text(None));
    let brief = serde_json::to_string(&name).unwrap_or_default();
    Listed { brief, verbose, redacted, name }
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Fault> {
    serde_json::to_writer(out, value).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
}

fn info(table: &Table, visibility: &Visibility<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Info<'a> {
        name: &'a str,
        version: &'static str,
        functions: usize,
        uptime_seconds: f64,
    }
    let info = Info {
        name: &table.name,
        version: env!("CARGO_PKG_VERSION"),
        functions: listed(table).iter().filter(|listed| visibility.includes(&listed.name)).count(),
        uptime_seconds: table.metrics.uptime().as_secs_f64(),
    };
    write_json(out, &info)
}

fn list(
    table: &Table,
    visibility: &Visibility<'_>,
    params: Option<&RawJson<'_>>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let signature = Builtin::List.describe().signature;
    let given = signature.bind(params)?;
    let [pattern, verbose] = given[..] else { unreachable!("rpc.list has two parameters") };
    let pattern: String = serde_json::from_str(pattern.unwrap_or_default())
        .map_err(|error| Fault::invalid_params(format!("the pattern: {error}")))?;
    let verbose = verbose == Some("true");
    if pattern.len() > MAX_PATTERN {
        let message = format!("the pattern has {} bytes; the limit is {MAX_PATTERN}", pattern.len());
        return Err(Fault::invalid_params(message));
    }
    let sees_all = visibility.includes_all();
    out.push(b'[');
    let start = out.len();
    for listed in listed(table)
        .iter()
        .filter(|Listed { name, .. }| matches(&pattern, name) && visibility.includes(name))
    {
        if out.len() > start {
            out.push(b',');
        }
        let text = match (verbose, sees_all) {
            (false, _) => &listed.brief,
            (true, true) => &listed.verbose,
            (true, false) => &listed.redacted,
        };
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b']');
    Ok(())
}

fn stats(table: &Table, visibility: &Visibility<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Stats<'a> {
        name: &'a str,
        version: &'static str,
        uptime_seconds: f64,
        node: serde_json::Map<String, serde_json::Value>,
        functions: Vec<Function>,
        workers: Vec<crate::metrics::WorkerStats>,
    }
    #[derive(Serialize)]
    struct Function {
        name: String,
        provider: ProviderKind,
        #[serde(flatten)]
        stats: crate::metrics::FunctionStats,
    }
    let stats = Stats {
        name: &table.name,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: table.metrics.uptime().as_secs_f64(),
        node: table.metrics.values().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        functions: table
            .stats(visibility)
            .map(|(name, provider, stats)| Function { name, provider, stats })
            .collect(),
        workers: table.workers(visibility),
    };
    write_json(out, &stats)
}
