//! Functions that a program provides: `exec`.

use std::path::PathBuf;
use std::time::Duration;

use super::Limits;
use super::param::{self, ParamConfig};
use super::table::{DAY, Field, GIB, MIN_DURATION, Result, Table};
use super::template::{self, ArgTemplate, Piece};
use super::workers::{self, WhenFull};

/// A program that provides a function. No shell is involved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecConfig {
    /// The program, then its arguments. Never empty; the program itself contains no placeholder.
    pub argv: Vec<ArgTemplate>,
    /// The declared parameters, in the order of the file, which is also their position.
    pub params: Vec<ParamConfig>,
    /// How the program's standard output becomes the result.
    pub output: OutputFormat,
    /// The JSON type of the result, for its description.
    pub result: Option<String>,
    /// The timeout of one run; by default the node's call deadline applies.
    pub timeout: Option<Duration>,
    /// The maximum number of concurrent runs; 4 by default.
    pub concurrency: usize,
    /// The maximum number of calls queued beyond that; 16 by default, and 0 refuses every call that cannot run
    /// immediately.
    pub queue: usize,
    /// What happens to calls when the queue is full.
    pub when_full: WhenFull,
    /// The maximum size of the program's standard output in bytes; [`Limits::message`] by default.
    pub output_limit: usize,
    /// The program's working directory, as typed; the node's own by default.
    pub directory: Option<PathBuf>,
    /// Environment variables to set, in addition to the few that are inherited from the node.
    pub env: Vec<(String, String)>,
    /// The names of further variables to inherit from the node; a `*` at the end matches any text.
    pub inherit_env: Vec<String>,
}

/// The types of results.
const RESULTS: [&str; 7] = ["string", "integer", "number", "boolean", "object", "array", "null"];

/// How a program's standard output becomes the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// `"text"`, the default: the output becomes one JSON string.
    #[default]
    Text,
    /// `"json"`: the output is the JSON value.
    Json,
    /// `"base64"`: the output, which may be any bytes, becomes one JSON string in base64.
    Base64,
}

/// What a function of another kind may have, and why that of a program does not.
const OF_OTHERS: [(&str, &str); 10] = [
    ("token_file", "only a function with forward presents a token"),
    ("tls", "only a function with forward uses TLS"),
    ("balance", ONE_NODE),
    ("key", ONE_NODE),
    ("hedge", ONE_NODE),
    ("repeatable", ONE_NODE),
    ("service", "only a function with forward has a service"),
    ("subject", "only a function with forward has a subject"),
    ("method", "only a function with process has a method"),
    ("workers", "the workers of a program are set by concurrency"),
];
const ONE_NODE: &str = "only a function with forward can choose between nodes";

/// Parses the keys of a function that a program provides.
pub(super) fn parse(table: &Table<'_>, argv: Field<'_>, limits: &Limits) -> ExecConfig {
    for (key, reason) in OF_OTHERS {
        table.read(key, |field| Err::<(), _>(field.fail(reason)));
    }
    let params = match table.get("params") {
        Some(field) => table.source.note(param::parse(field)),
        None => Some(Vec::new()),
    };
    let mut exec = ExecConfig {
        argv: table.source.note(self::argv(argv, params.as_deref())).unwrap_or_default(),
        params: params.unwrap_or_default(),
        output: OutputFormat::default(),
        result: None,
        timeout: None,
        concurrency: 4,
        queue: workers::FUNCTION_QUEUE,
        when_full: WhenFull::default(),
        output_limit: limits.message,
        directory: None,
        env: Vec::new(),
        inherit_env: Vec::new(),
    };
    let outputs =
        [("text", OutputFormat::Text), ("json", OutputFormat::Json), ("base64", OutputFormat::Base64)];
    table.choice("output", &outputs, &mut exec.output);
    exec.result = table.read("result", |field| {
        let name = result(field)?;
        // A wrong output is told already.
        let is_text = table.get("output").is_none_or(|output| output.string().is_ok_and(|it| it == "text"));
        if (is_text || exec.output == OutputFormat::Base64) && name != "string" {
            return Err(field.fail("a program whose output is not \"json\" returns a string"));
        }
        Ok(name)
    });
    exec.directory = table.read("directory", Field::path);
    exec.env = table.read("env", env).unwrap_or_default();
    exec.inherit_env = table.read("inherit_env", inherit_env).unwrap_or_default();
    table.duration("timeout", MIN_DURATION..=DAY, &mut exec.timeout);
    table.count("concurrency", 1..=1024, &mut exec.concurrency);
    table.count("queue", 0..=65_536, &mut exec.queue);
    workers::when_full(table, &mut exec.when_full);
    table.size("output_limit", 1..=GIB, &mut exec.output_limit);
    exec
}

/// Parses the type of a result.
pub(super) fn result(field: Field<'_>) -> Result<String> {
    let name = field.string()?;
    if !RESULTS.contains(&name) {
        return Err(field.expected(&format!("one of {}", RESULTS.join(", "))));
    }
    Ok(name.to_owned())
}

/// Parses a program and its arguments; `params` is `None` if its parameters have errors.
fn argv(field: Field<'_>, params: Option<&[ParamConfig]>) -> Result<Vec<ArgTemplate>> {
    let wanted = "a list of strings such as [\"df\", \"-k\", \"{path}\"]";
    let mut argv = Vec::new();
    for (index, field) in field.list(wanted)?.enumerate() {
        let Some(text) = field.value.get_ref().as_str() else {
            return Err(field.expected(wanted));
        };
        if text.contains('\0') {
            return Err(field.fail("an argument cannot contain a NUL character"));
        }
        let template = match params {
            Some(params) => template::parse(text, params).map_err(|message| field.fail(&message))?,
            None => continue,
        };
        // Callers choose a program's arguments, never the program.
        if index == 0 && !matches!(template.0.as_slice(), [Piece::Literal(_)]) {
            return Err(field.fail("the first element is the program: a fixed name or path such as \"df\""));
        }
        argv.push(template);
    }
    Ok(argv)
}

pub(super) fn env(field: Field<'_>) -> Result<Vec<(String, String)>> {
    let Some(table) = field.table("env") else {
        return Err(field.expected("a table such as { BOARD = \"a\" }"));
    };
    let mut env = Vec::new();
    for (key, value) in table.entries {
        let name = key.get_ref().as_ref();
        let field = Field { heading: table.heading, key: name, value, ..field };
        if !is_variable_name(name) {
            return Err(table.source.fail(key.span().start, format!("{name:?} cannot name a variable")));
        }
        let value = field.string()?;
        if value.contains('\0') {
            return Err(field.fail("a variable cannot contain a NUL character"));
        }
        env.push((name.to_owned(), value.to_owned()));
    }
    Ok(env)
}

pub(super) fn inherit_env(field: Field<'_>) -> Result<Vec<String>> {
    let wanted = "a list of names such as [\"BOARD\", \"AWS_*\"], or [\"*\"] for all";
    let list = field.value.get_ref().as_array().ok_or_else(|| field.expected(wanted))?;
    let name = |value| {
        let field = Field { value, ..field };
        let name = value.get_ref().as_str().ok_or_else(|| field.expected(wanted))?;
        let start = name.strip_suffix('*').unwrap_or(name);
        if name != "*" && (start.contains('*') || !is_variable_name(start)) {
            return Err(field.fail(&format!("{name:?} cannot name a variable; a * may only be at the end")));
        }
        Ok(name.to_owned())
    };
    list.iter().map(name).collect()
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}
