//! `rpc.*`: what every node answers of itself.

use serde::{Deserialize, Serialize};

use super::Description;
use super::access::Sight;
use super::table::{Listed, Table};
use crate::message::{Fault, RawJson, code};

/// Bytes of the longest pattern of names that `rpc.list` takes.
const LONGEST_PATTERN: usize = 256;
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
            Self::Info => ("tells the node's name, version, number of functions and uptime", vec![]),
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

    /// Appends the answer.
    pub(super) fn answer(
        self,
        table: &Table,
        sight: &Sight<'_>,
        params: Option<&RawJson<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match self {
            Self::Echo => {
                out.extend_from_slice(params.unwrap_or(&RawJson::NULL).get().as_bytes());
                Ok(())
            }
            Self::Info => info(table, sight, out),
            Self::List => list(table, sight, params, out),
            Self::Ping => put(out, &"pong"),
            Self::Stats => stats(table, sight, out),
        }
    }
}

/// All functions: the table's, and those of every node.
fn listed(table: &Table) -> &[Listed] {
    let builtin = |builtin: Builtin| (builtin.name().to_owned(), builtin.describe());
    let functions = || table.list().chain(Builtin::ALL.into_iter().map(builtin));
    table.listed.get_or_init(|| functions().map(|(name, description)| in_json(name, description)).collect())
}

fn in_json(name: String, description: Description) -> Listed {
    #[derive(Serialize)]
    struct Function<'a> {
        name: &'a str,
        #[serde(flatten)]
        description: &'a Description,
    }
    let text = |description: &Description| {
        serde_json::to_string(&Function { name: &name, description }).unwrap_or_default()
    };
    let verbose = text(&description);
    let discreet = text(&Description { target: None, ..description });
    let brief = serde_json::to_string(&name).unwrap_or_default();
    Listed { brief, verbose, discreet, name }
}

fn put(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Fault> {
    serde_json::to_writer(out, value).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
}

fn info(table: &Table, sight: &Sight<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
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
        functions: listed(table).iter().filter(|listed| sight.shows(&listed.name)).count(),
        uptime_seconds: table.metrics.uptime().as_secs_f64(),
    };
    put(out, &info)
}

fn list(
    table: &Table,
    sight: &Sight<'_>,
    params: Option<&RawJson<'_>>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        #[serde(default = "everything")]
        pattern: String,
        #[serde(default)]
        verbose: bool,
    }
    fn everything() -> String {
        "*".to_owned()
    }

    let Params { pattern, verbose } =
        serde_json::from_str(params.map_or("{}", RawJson::get)).map_err(|error| {
            // What is wrong may be quoted in it, however long.
            let error: String = error.to_string().chars().take(LONGEST_PATTERN).collect();
            Fault::invalid_params(format!("rpc.list takes a pattern and verbose, both optional: {error}"))
        })?;
    if pattern.len() > LONGEST_PATTERN {
        let message = format!("a pattern of {} bytes; the limit is {LONGEST_PATTERN}", pattern.len());
        return Err(Fault::invalid_params(message));
    }
    let all = sight.shows_all();
    out.push(b'[');
    let start = out.len();
    for listed in
        listed(table).iter().filter(|Listed { name, .. }| matches(&pattern, name) && sight.shows(name))
    {
        if out.len() > start {
            out.push(b',');
        }
        let text = match (verbose, all) {
            (false, _) => &listed.brief,
            (true, true) => &listed.verbose,
            (true, false) => &listed.discreet,
        };
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b']');
    Ok(())
}

fn stats(table: &Table, sight: &Sight<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
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
        provider: &'static str,
        #[serde(flatten)]
        stats: crate::metrics::FunctionStats,
    }
    let stats = Stats {
        name: &table.name,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: table.metrics.uptime().as_secs_f64(),
        node: table.metrics.values().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        functions: table
            .stats(sight)
            .map(|(name, provider, stats)| Function { name, provider, stats })
            .collect(),
        workers: table.workers(sight),
    };
    put(out, &stats)
}

/// Tells whether `name` is covered by `pattern`, in which `*` stands for any text, in a time that grows as both together.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "disk.free", true),
            ("disk.free", "disk.free", true),
            ("disk", "disk.free", false),
            ("disk.*", "disk.free", true),
            ("*.free", "disk.free", true),
            ("d*k*e", "disk.free", true),
            ("d*z*e", "disk.free", false),
            ("disk.free*free", "disk.free", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
