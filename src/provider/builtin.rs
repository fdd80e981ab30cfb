//! The functions that every node has: `rpc.*`.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::builtin_support::{describe, write_json};
use super::{discover, peer, topics};
use crate::features::FEATURES;
use crate::message::{Fault, Param, RawJson, Schema, Signature, code};
use crate::metrics::{ProcessStats, TargetStats};
use crate::route::{
    Builtin, BuiltinCall, Description, ProviderKind, RELOAD, Registry, RegistryBuilder, matches,
};

static BUILTINS: [Builtin; 12] = [
    Builtin { name: "rpc.discover", describe: discover::describe_discover, answer: discover::discover },
    Builtin { name: "rpc.echo", describe: describe_echo, answer: echo },
    Builtin { name: "rpc.info", describe: describe_info, answer: info },
    Builtin { name: "rpc.list", describe: describe_list, answer: list },
    Builtin { name: "rpc.offer", describe: peer::describe_offer, answer: peer::offer },
    Builtin { name: "rpc.ping", describe: describe_ping, answer: ping },
    topics::PUBLISH,
    Builtin { name: RELOAD, describe: describe_reload, answer: reload },
    Builtin { name: "rpc.stats", describe: describe_stats, answer: stats },
    topics::SUBSCRIBE,
    topics::UNSUBSCRIBE,
    Builtin { name: "rpc.withdraw", describe: peer::describe_withdraw, answer: peer::withdraw },
];

/// Returns the names of the built-in functions.
#[cfg(feature = "cli")]
pub(crate) fn names() -> Vec<&'static str> {
    BUILTINS.iter().map(|builtin| builtin.name).collect()
}

impl Registry {
    /// Starts building a registry for the node `name`.
    pub fn builder(name: impl Into<Arc<str>>) -> RegistryBuilder {
        RegistryBuilder::new(name.into(), &BUILTINS)
    }
}

fn describe_echo() -> Description {
    describe(Signature::default().description("returns its parameters"))
}

fn describe_info() -> Description {
    let description = "returns the node's name, version, number of functions and uptime";
    describe(Signature::default().names([]).result(Schema::object()).description(description))
}

fn describe_list() -> Description {
    let signature = Signature::default()
        .param(Param::new("pattern", Schema::string()).default(&"*"))
        .param(Param::new("verbose", Schema::boolean()).default(&false))
        .result(Schema::array())
        .description("lists the functions; * in the pattern matches any text");
    describe(signature)
}

fn describe_ping() -> Description {
    describe(Signature::default().names([]).result(Schema::string()).description("returns \"pong\""))
}

fn describe_reload() -> Description {
    let signature = Signature::default().names([]).result(Schema::object());
    describe(signature.description("loads the configuration again, and returns what has changed"))
}

fn describe_stats() -> Description {
    let signature = Signature::default().names([]).result(Schema::object());
    describe(signature.description("returns the node's counters"))
}

fn echo(BuiltinCall { params, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    out.extend_from_slice(params.unwrap_or(&RawJson::NULL).get().as_bytes());
    Ok(())
}

fn ping(BuiltinCall { out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    write_json(out, &"pong")
}

fn info(BuiltinCall { table, grants, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Info<'a> {
        name: &'a str,
        version: &'static str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        features: &'static [&'static str],
        functions: usize,
        uptime_seconds: f64,
    }
    let visibility = grants.visibility();
    let count = std::cell::Cell::new(0);
    table.each_listed(
        &|name| {
            count.set(count.get() + usize::from(visibility.includes(name)));
            false
        },
        &mut |_| {},
    );
    let info = Info {
        name: &table.name,
        version: env!("CARGO_PKG_VERSION"),
        features: FEATURES,
        functions: count.get(),
        uptime_seconds: table.metrics.uptime().as_secs_f64(),
    };
    write_json(out, &info)
}

fn list(BuiltinCall { table, grants, params, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    let visibility = grants.visibility();
    let signature = describe_list().signature;
    let given = signature.bind(params)?;
    let [pattern, verbose] = given[..] else { unreachable!("rpc.list has two parameters") };
    let pattern = discover::pattern(pattern)?;
    let verbose = verbose == Some("true");
    let sees_all = visibility.includes_all();
    out.push(b'[');
    let start = out.len();
    let is_wanted = |name: &str| matches(&pattern, name) && visibility.includes(name);
    table.each_listed(&is_wanted, &mut |listed| {
        if out.len() > start {
            out.push(b',');
        }
        let text = match (verbose, sees_all) {
            (false, _) => &listed.brief,
            (true, true) => &listed.verbose,
            (true, false) => &listed.redacted,
        };
        out.extend_from_slice(text.as_bytes());
    });
    out.push(b']');
    Ok(())
}

fn reload(call: BuiltinCall<'_>) -> Result<(), Fault> {
    if !call.grants.allow_reload() {
        let message = "rpc.reload needs a rule that allows it by its name: functions = [\"rpc.reload\"]";
        return Err(Fault::new(code::DENIED, message));
    }
    match call.table.reloader.get() {
        Some(reloader) => call.pass_to(&**reloader),
        None => Err(Fault::new(code::UNKNOWN_FUNCTION, "this node has no configuration file to load again")),
    }
}

fn stats(BuiltinCall { table, grants, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Stats<'a> {
        name: &'a str,
        version: &'static str,
        uptime_seconds: f64,
        node: Counters<'a>,
        functions: Vec<Function>,
        workers: Vec<crate::metrics::WorkerStats>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        processes: Vec<ProcessStats<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        forwards: Vec<Forwarded>,
    }
    #[derive(Serialize)]
    struct Forwarded {
        function: String,
        targets: Vec<TargetStats>,
    }
    #[derive(Serialize)]
    struct Function {
        name: String,
        provider: ProviderKind,
        #[serde(flatten)]
        stats: crate::metrics::FunctionStats,
    }
    struct Counters<'a>(&'a crate::metrics::Metrics);
    impl Serialize for Counters<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.values())
        }
    }
    let visibility = grants.visibility();
    let processes = table.processes(&visibility);
    let stats = Stats {
        name: &table.name,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: table.metrics.uptime().as_secs_f64(),
        node: Counters(&table.metrics),
        functions: table
            .stats(&visibility)
            .into_iter()
            .map(|(name, provider, stats)| Function { name, provider, stats })
            .collect(),
        workers: table.workers(&visibility),
        processes: processes.iter().map(|process| process.stats()).collect(),
        forwards: table
            .forwards(&visibility)
            .into_iter()
            .map(|(function, targets)| Forwarded { function, targets })
            .collect(),
    };
    write_json(out, &stats)
}
