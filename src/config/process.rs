//! Programs that stay and answer many calls: `[[process]]`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::table::{DAY, Field, HOUR, MIN_DURATION, Result, Table};
use super::{Config, Limits, exec};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFunctionConfig {
    /// The process's name.
    pub process: String,
    /// What the process is asked for, in which `{tail}` is the name without the family's prefix; the function's own
    /// name by default.
    pub method: Option<String>,
    /// The timeout of a call; by default the node's call deadline applies.
    pub timeout: Option<Duration>,
}

/// Parses a `[[process]]` table; `config` has the limits and the tables before it.
pub(super) fn parse(table: &Table<'_>, config: &Config) -> Result<ProcessConfig> {
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
    let name_field = table.require("name", "\"tools\"")?;
    let name = name_field.visible_name("tools")?;
    if config.processes.iter().any(|other| other.name == name) {
        return Err(name_field.fail(&format!("there is another process {name:?}; each name may appear once")));
    }
    let speaks = match table.get("speaks").map(|field| (field, field.string())) {
        None => Speech::Lines,
        Some((_, Ok("lines"))) => Speech::Lines,
        Some((_, Ok("headers"))) => Speech::Headers,
        Some((_, Ok("msgpack"))) => Speech::MessagePack,
        Some((field, _)) => return Err(field.expected("\"lines\", \"headers\" or \"msgpack\"")),
    };
    let is_per_connection = match table.get("per").map(|field| (field, field.string())) {
        None => false,
        Some((_, Ok("node"))) => false,
        Some((_, Ok("connection"))) => true,
        Some((field, _)) => return Err(field.expected("\"node\" or \"connection\"")),
    };
    let is_on_demand = match table.get("start").map(|field| (field, field.string())) {
        None => is_per_connection,
        Some((field, Ok("node"))) if is_per_connection => {
            return Err(field.fail("a process for each connection starts with its first call"));
        }
        Some((_, Ok("node"))) => false,
        Some((_, Ok("call"))) => true,
        Some((field, _)) => return Err(field.expected("\"node\" or \"call\"")),
    };
    let run = run(table.require("run", "[\"python3\", \"-u\", \"tools.py\"]")?)?;
    let defaults = ProcessConfig::new(name, run, &config.limits);
    let mut process = ProcessConfig {
        speaks,
        is_per_connection,
        instances: if is_per_connection { 8 } else { 1 },
        is_on_demand,
        hello: table.get("hello").map(hello).transpose()?,
        then: table.get("then").map(method).transpose()?,
        ping: table.get("ping").map(method).transpose()?,
        cancel: defaults.cancel.filter(|_| speaks != Speech::MessagePack),
        directory: table.get("directory").map(Field::path).transpose()?,
        env: table.get("env").map(exec::env).transpose()?.unwrap_or_default(),
        inherit_env: table.get("inherit_env").map(exec::inherit_env).transpose()?.unwrap_or_default(),
        ..defaults
    };
    // Strict servers ignore a request with a member that they do not know.
    process.has_meta = speaks == Speech::Lines && process.hello.is_none();
    if let (Some(field), None) = (table.get("then"), &process.hello) {
        return Err(field.fail("follows the answer to hello, which is missing"));
    }
    if let Some(field) = table.get("idle")
        && !process.is_on_demand
    {
        return Err(
            field.fail("ends a process that the next call starts again, so it needs start = \"call\"")
        );
    }
    if let Some(field) = table.get("cancel") {
        process.cancel = Some(method(field)?).filter(|method| method != "none");
    }
    if let Some(field) = table.get("meta") {
        process.has_meta = field.boolean()?;
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
        return Err(table.fail(&format!(
            "exceeds the limit: all instances together are {all}, and {limit} are allowed; raise processes in [limits]"
        )));
    }
    Ok(process)
}

/// Parses the keys of a function that a process provides; `config` has the processes.
pub(super) fn parse_function(
    table: &Table<'_>,
    process: Field<'_>,
    config: &Config,
) -> Result<ProcessFunctionConfig> {
    table.allow_of(
        "a function of a process",
        &["name", "description", "process", "method", "timeout", "workers", "queue", "when_full"],
    )?;
    let name = process.string()?;
    let Some(found) = config.processes.iter().find(|process| process.name == name) else {
        let names: Vec<_> = config.processes.iter().map(|process| process.name.as_str()).collect();
        let there = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        return Err(process.expected(&format!("the name of a {HEADING} ({there})")));
    };
    let is_family = |field: Field<'_>| field.string().is_ok_and(|name| name.ends_with('*'));
    let method = match table.get("method") {
        None => None,
        Some(field) => {
            let method = method(field)?;
            if method.contains("{tail}") && !table.get("name").is_some_and(is_family) {
                return Err(field.fail("{tail} is the rest of a name in a family, such as name = \"math.*\""));
            }
            Some(method)
        }
    };
    let mut function = ProcessFunctionConfig { process: name.to_owned(), method, timeout: None };
    table.duration("timeout", MIN_DURATION..=DAY, &mut function.timeout);
    if let Some(field) = table.get("timeout")
        && function.timeout > Some(found.stall)
    {
        return Err(field.fail(&format!(
            "the process {name:?} is killed if it is silent for {:?} while it has calls; raise its stall",
            found.stall
        )));
    }
    Ok(function)
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
