//! Programs that stay and answer many calls: `[[process]]`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::table::{DAY, Field, HOUR, MIN_DURATION, Result, Table};
use super::{Config, Limits, ParamConfig, exec, param};

pub(super) const HEADING: &str = "[[process]]";

/// The default of [`ProcessConfig::stall`], unless a call may take longer.
const STALL: Duration = Duration::from_secs(30);

/// A program that is started once and answers many calls over its stdin and stdout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// The name by which functions refer to it; unique.
    pub name: String,
    /// The program, then its arguments. Never empty. No shell is involved.
    pub run: Vec<String>,
    /// The dialect of its stdin and stdout.
    pub speaks: Speech,
    /// Each connection that calls it has its own instance, which ends with the connection.
    pub is_per_connection: bool,
    /// The number of programs that run at once; for connections, the maximum.
    pub instances: usize,
    /// The maximum number of calls that one instance has at a time.
    pub in_flight: usize,
    /// The maximum number of further calls that wait.
    pub queue: usize,
    /// It is started by the first call, not with the node.
    pub is_on_demand: bool,
    /// It is ended after this long without a call; `None`: never.
    pub idle: Option<Duration>,
    /// The request that it must answer before it gets calls: its method, and its parameters as JSON.
    pub hello: Option<(String, Option<String>)>,
    /// The notification that follows the answer to `hello`.
    pub then: Option<String>,
    /// The maximum time from its start to the answer to `hello`.
    pub ready: Duration,
    /// A method whose answer, an error included, is a sign of life.
    pub ping: Option<String>,
    /// How long it may be silent while it has calls.
    pub stall: Duration,
    /// The notification that cancels a call; `None`: it is not told.
    pub cancel: Option<String>,
    /// How long it may run on after its stdin is closed.
    pub stop: Duration,
    /// Its working directory, as typed; the node's own by default.
    pub directory: Option<PathBuf>,
    /// Environment variables to set, in addition to the few that are inherited from the node.
    pub env: Vec<(String, String)>,
    /// The names of further variables to inherit from the node; a `*` at the end matches any text.
    pub inherit_env: Vec<String>,
    /// Requests carry the deadline and the hop count of the call.
    pub has_meta: bool,
}

impl ProcessConfig {
    /// Returns the settings of a program that is described by no more than its name and command line.
    pub(crate) fn new(name: &str, run: Vec<String>, limits: &Limits) -> Self {
        Self {
            name: name.to_owned(),
            run,
            speaks: Speech::Lines,
            is_per_connection: false,
            instances: 1,
            in_flight: 16,
            queue: 256,
            is_on_demand: false,
            idle: None,
            hello: None,
            then: None,
            ready: Duration::from_secs(10),
            ping: None,
            stall: limits.deadline.max(STALL),
            cancel: Some("$/cancelRequest".to_owned()),
            stop: Duration::from_secs(5),
            directory: None,
            env: Vec::new(),
            inherit_env: Vec::new(),
            has_meta: true,
        }
    }
}

/// The dialect of a program's stdin and stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// `"lines"`, the default: JSON-RPC, one text per line.
    Lines,
    /// `"headers"`: JSON-RPC, each text preceded by its `Content-Length`.
    Headers,
    /// `"msgpack"`: MessagePack-RPC.
    MessagePack,
}

/// A function that a process provides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFunctionConfig {
    /// The process's name.
    pub process: String,
    /// What the process is asked for, in which `{tail}` is the name without the family's prefix; the function's own
    /// name by default.
    pub method: Option<String>,
    /// The declared parameters, in the order of the file, which is also their position; `None`: it takes any.
    pub params: Option<Vec<ParamConfig>>,
    /// The JSON type of the result, for its description.
    pub result: Option<String>,
    /// The timeout of a call; by default the node's call deadline applies.
    pub timeout: Option<Duration>,
}

/// Parses a `[[process]]` table; `config` has the limits and the tables before it.
pub(super) fn parse(table: &Table<'_>, config: &Config) -> ProcessConfig {
    table.allow(&[
        "name",
        "run",
        "speaks",
        "per",
        "instances",
        "in_flight",
        "queue",
        "start",
        "idle",
        "hello",
        "then",
        "ready",
        "ping",
        "stall",
        "cancel",
        "stop",
        "directory",
        "env",
        "inherit_env",
        "meta",
    ]);
    let name = table.read_required("name", "\"tools\"", |field| {
        let name = field.visible_name("tools")?;
        if config.processes.iter().any(|other| other.name == name) {
            return Err(field.fail(&format!("there is another process {name:?}; each name may appear once")));
        }
        Ok(name)
    });
    let mut speaks = Speech::Lines;
    let speeches = [("lines", Speech::Lines), ("headers", Speech::Headers), ("msgpack", Speech::MessagePack)];
    table.choice("speaks", &speeches, &mut speaks);
    let mut is_per_connection = false;
    table.choice("per", &[("node", false), ("connection", true)], &mut is_per_connection);
    let mut is_on_demand = is_per_connection;
    table.choice("start", &[("node", false), ("call", true)], &mut is_on_demand);
    if let Some(field) = table.get("start")
        && is_per_connection
        && !is_on_demand
    {
        table.note(field.fail("a process for each connection starts with its first call"));
    }
    let run = table.read_required("run", "[\"python3\", \"-u\", \"tools.py\"]", run);
    let defaults = ProcessConfig::new(name.unwrap_or_default(), run.unwrap_or_default(), &config.limits);
    let mut process = ProcessConfig {
        speaks,
        is_per_connection,
        instances: if is_per_connection { 8 } else { 1 },
        is_on_demand,
        hello: table.read("hello", hello),
        then: table.read("then", method),
        ping: table.read("ping", method),
        cancel: defaults.cancel.filter(|_| speaks != Speech::MessagePack),
        directory: table.read("directory", Field::path),
        env: table.read("env", exec::env).unwrap_or_default(),
        inherit_env: table.read("inherit_env", exec::inherit_env).unwrap_or_default(),
        ..defaults
    };
    // Strict servers ignore a request with a member that they do not know.
    process.has_meta = speaks == Speech::Lines && process.hello.is_none();
    if let (Some(field), None) = (table.get("then"), table.get("hello")) {
        table.note(field.fail("follows the answer to hello, which is missing"));
    }
    if let Some(field) = table.get("idle")
        && !process.is_on_demand
        && table.get("start").is_none_or(|start| start.string().is_ok_and(|start| start == "node"))
    {
        table
            .note(field.fail("ends a process that the next call starts again, so it needs start = \"call\""));
    }
    if let Some(cancel) = table.read("cancel", method) {
        process.cancel = Some(cancel).filter(|method| method != "none");
    }
    if let Some(has_meta) = table.read("meta", Field::boolean) {
        process.has_meta = has_meta;
    }
    table.count("instances", 1..=1024, &mut process.instances);
    table.count("in_flight", 1..=1024, &mut process.in_flight);
    table.count("queue", 1..=65_536, &mut process.queue);
    table.duration("idle", MIN_DURATION..=DAY, &mut process.idle);
    table.duration("ready", MIN_DURATION..=HOUR, &mut process.ready);
    table.duration("stall", MIN_DURATION..=DAY, &mut process.stall);
    table.duration("stop", Duration::ZERO..=HOUR, &mut process.stop);
    let all = process.instances + config.processes.iter().map(|other| other.instances).sum::<usize>();
    if all > config.limits.processes {
        let limit = config.limits.processes;
        table.note(table.fail(&format!(
            "exceeds the limit: all instances together are {all}, and {limit} are allowed; raise processes in [limits]"
        )));
    }
    process
}

/// The keys of a function that a process provides.
pub(super) const KEYS: &[&str] = &[
    "name",
    "description",
    "process",
    "method",
    "params",
    "result",
    "timeout",
    "workers",
    "queue",
    "when_full",
];

/// Parses the keys of a function that a process provides; `config` has the processes, unless they have errors.
pub(super) fn parse_function(table: &Table<'_>, config: Option<&Config>) -> ProcessFunctionConfig {
    let found = table.read("process", |process| {
        let name = process.string()?;
        let Some(config) = config else { return Ok(None) };
        let found = config.processes.iter().find(|process| process.name == name);
        found.map(Some).ok_or_else(|| {
            let names: Vec<_> = config.processes.iter().map(|process| process.name.as_str()).collect();
            let there = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            process.expected(&format!("the name of a {HEADING} ({there})"))
        })
    });
    let found = found.flatten();
    let is_family = table.get("name").is_some_and(|name| name.string().is_ok_and(|it| it.ends_with('*')));
    let method = table.read("method", |field| {
        let method = method(field)?;
        if method.contains("{tail}") && !is_family {
            return Err(field.fail("{tail} is the rest of a name in a family, such as name = \"math.*\""));
        }
        Ok(method)
    });
    for key in ["params", "result"] {
        if let Some(field) = table.get(key).filter(|_| is_family) {
            table.note(
                field.fail("the functions of a family differ in this; give one a [[function]] of its own"),
            );
        }
    }
    let mut function = ProcessFunctionConfig {
        process: found.map(|process| process.name.clone()).unwrap_or_default(),
        method,
        params: table.read("params", param::parse_of_process),
        result: table.read("result", exec::result),
        timeout: None,
    };
    table.duration("timeout", MIN_DURATION..=DAY, &mut function.timeout);
    if let (Some(field), Some(found)) = (table.get("timeout"), found)
        && function.timeout > Some(found.stall)
    {
        table.note(field.fail(&format!(
            "the process {:?} is killed if it is silent for {:?} while it has calls; raise its stall",
            found.name, found.stall
        )));
    }
    function
}

fn run(field: Field<'_>) -> Result<Vec<String>> {
    let wanted = "a list of strings such as [\"python3\", \"-u\", \"tools.py\"]";
    let word = |field: Field<'_>| match field.value.get_ref().as_str() {
        Some(word) if !word.contains('\0') => Ok(word.to_owned()),
        _ => Err(field.expected(wanted)),
    };
    let run = field.list(wanted)?.map(word).collect::<Result<Vec<_>>>()?;
    if run[0].is_empty() { Err(field.expected(wanted)) } else { Ok(run) }
}

fn method(field: Field<'_>) -> Result<String> {
    field.visible_name("ping").map(str::to_owned)
}

fn hello(field: Field<'_>) -> Result<(String, Option<String>)> {
    let wanted = "a table such as { method = \"initialize\", params = {} }";
    let table = field.table("hello").ok_or_else(|| field.expected(wanted))?;
    table.allow(&["method", "params"]);
    let method = method(table.require("method", "\"initialize\"")?)?;
    let Some(params) = table.get("params") else { return Ok((method, None)) };
    if !matches!(params.value.get_ref(), DeValue::Table(_) | DeValue::Array(_)) {
        return Err(params.expected("a table or a list"));
    }
    let mut json = String::new();
    write_json(&mut json, params, params.value.get_ref())?;
    Ok((method, Some(json)))
}

/// Appends a value as JSON.
fn write_json(out: &mut String, field: Field<'_>, value: &DeValue<'_>) -> Result<()> {
    match value {
        DeValue::String(text) => out.push_str(&quoted(text)),
        DeValue::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => write!(out, "{number}").expect("a String takes every text"),
            Err(_) => return Err(field.expected("integers of 64 bits")),
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => {
                write!(out, "{number:?}").expect("a String takes every text");
            }
            _ => return Err(field.expected("numbers that JSON has")),
        },
        DeValue::Datetime(time) => out.push_str(&quoted(&time.to_string())),
        DeValue::Array(list) => {
            out.push('[');
            for (index, value) in list.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write_json(out, field, value.get_ref())?;
            }
            out.push(']');
        }
        DeValue::Table(table) => {
            out.push('{');
            for (index, (key, value)) in table.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(&quoted(key.get_ref()));
                out.push(':');
                write_json(out, field, value.get_ref())?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// Returns a text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
