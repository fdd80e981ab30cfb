//! Functions that a program provides: `exec`.

use std::path::PathBuf;
use std::time::Duration;

use super::Limits;
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

/// One declared parameter of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamConfig {
    /// The parameter's name: a letter or `_`, then letters, digits, `_` and `-`.
    pub name: String,
    /// The type of its JSON value.
    pub kind: ParamKind,
    /// Whether its value may begin an argument with a dash, as options do; `false` by default.
    pub leading_dash: bool,
    /// The value, as JSON, if the caller gives none; without it, the caller must give one.
    pub default: Option<String>,
    /// A sentence for people.
    pub description: Option<String>,
}

impl ParamConfig {
    /// Creates a required parameter.
    pub fn new(name: impl Into<String>, kind: ParamKind) -> Self {
        Self { name: name.into(), kind, leading_dash: false, default: None, description: None }
    }
}

/// The type of a parameter's JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// `"string"`: a string.
    String,
    /// `"integer"`: an integer in any notation, such as `5.0` or `1e3`.
    Integer,
    /// `"number"`: any number.
    Number,
    /// `"boolean"`: true or false.
    Boolean,
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

/// Parses the keys of a function that a program provides.
pub(super) fn parse(table: &Table<'_>, argv: Field<'_>, limits: &Limits) -> Result<ExecConfig> {
    if let Some(field) = table.get("token_file") {
        return Err(field.fail("only a function with forward presents a token"));
    }
    if let Some(field) = table.get("tls") {
        return Err(field.fail("only a function with forward uses TLS"));
    }
    if let Some(field) = table.get("workers") {
        return Err(field.fail("the workers of a program are set by concurrency"));
    }
    let params = table.get("params").map(params).transpose()?.unwrap_or_default();
    let mut exec = ExecConfig {
        argv: self::argv(argv, &params)?,
        params,
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
    if let Some(field) = table.get("output") {
        exec.output = match field.string()? {
            "text" => OutputFormat::Text,
            "json" => OutputFormat::Json,
            "base64" => OutputFormat::Base64,
            _ => return Err(field.expected("\"text\", \"json\" or \"base64\"")),
        };
    }
    if let Some(field) = table.get("result") {
        let name = field.string()?;
        if !RESULTS.contains(&name) {
            return Err(field.expected(&format!("one of {}", RESULTS.join(", "))));
        }
        if exec.output != OutputFormat::Json && name != "string" {
            return Err(field.fail("a program whose output is not \"json\" returns a string"));
        }
        exec.result = Some(name.to_owned());
    }
    exec.directory = table.get("directory").map(Field::path).transpose()?;
    if let Some(field) = table.get("env") {
        exec.env = env(field)?;
    }
    if let Some(field) = table.get("inherit_env") {
        exec.inherit_env = inherit_env(field)?;
    }
    table.duration("timeout", MIN_DURATION..=DAY, &mut exec.timeout)?;
    table.count("concurrency", 1..=1024, &mut exec.concurrency)?;
    table.count("queue", 0..=65_536, &mut exec.queue)?;
    workers::when_full(table, &mut exec.when_full)?;
    table.size("output_limit", 1..=GIB, &mut exec.output_limit)?;
    Ok(exec)
}

fn argv(field: Field<'_>, params: &[ParamConfig]) -> Result<Vec<ArgTemplate>> {
    let wanted = "a list of strings such as [\"df\", \"-k\", \"{path}\"]";
    let mut argv = Vec::new();
    for (index, field) in field.list(wanted)?.enumerate() {
        let Some(text) = field.value.get_ref().as_str() else {
            return Err(field.expected(wanted));
        };
        if text.contains('\0') {
            return Err(field.fail("an argument cannot contain a NUL character"));
        }
        let template = template::parse(text, params).map_err(|message| field.fail(&message))?;
        // Callers choose a program's arguments, never the program.
        if index == 0 && !matches!(template.0.as_slice(), [Piece::Literal(_)]) {
            return Err(field.fail("the first element is the program: a fixed name or path such as \"df\""));
        }
        argv.push(template);
    }
    Ok(argv)
}

fn params(field: Field<'_>) -> Result<Vec<ParamConfig>> {
    let Some(table) = field.table("params") else {
        return Err(field.expected("a table such as { path = \"string\" }"));
    };
    let mut params = Vec::new();
    for (key, value) in table.entries {
        let name = key.get_ref().as_ref();
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            let rule = "a name starts with a letter or _, followed by letters, digits, _ and -";
            return Err(table
                .source
                .fail(key.span().start, format!("{name:?} cannot name a parameter: {rule}")));
        }
        let field = Field { heading: table.heading, key: name, value, ..field };
        params.push(param(field)?);
    }
    Ok(params)
}

/// Parses a parameter: its type, or a table with its type and options.
fn param(field: Field<'_>) -> Result<ParamConfig> {
    let mut param = ParamConfig::new(field.key, ParamKind::String);
    let (mut kind, mut default) = (field, None);
    if let Some(table) = field.table(field.heading) {
        table.allow(&["type", "leading_dash", "default", "description"])?;
        kind = table.get("type").ok_or_else(|| field.fail("needs a type, such as { type = \"string\" }"))?;
        if let Some(field) = table.get("leading_dash") {
            param.leading_dash = field.boolean()?;
        }
        if let Some(field) = table.get("description") {
            param.description = Some(field.string()?.to_owned());
        }
        default = table.get("default");
    }
    param.kind = match kind.value.get_ref().as_str() {
        Some("string") => ParamKind::String,
        Some("integer") => ParamKind::Integer,
        Some("number") => ParamKind::Number,
        Some("boolean") => ParamKind::Boolean,
        _ => return Err(kind.expected("a type: \"string\", \"integer\", \"number\" or \"boolean\"")),
    };
    param.default = default.map(|field| default_value(field, param.kind)).transpose()?;
    Ok(param)
}

/// Parses the default of a parameter as JSON.
fn default_value(field: Field<'_>, kind: ParamKind) -> Result<String> {
    let value = field.value.get_ref();
    let integer = || {
        let integer = value.as_integer()?;
        i64::from_str_radix(integer.as_str(), integer.radix()).ok()
    };
    let number = || value.as_float()?.as_str().parse::<f64>().ok().filter(|number| number.is_finite());
    let json = match kind {
        ParamKind::String => value
            .as_str()
            .filter(|text| !text.contains('\0'))
            .and_then(|text| serde_json::to_string(text).ok()),
        ParamKind::Integer => integer().map(|integer| integer.to_string()),
        ParamKind::Number => integer()
            .map(|integer| integer.to_string())
            .or_else(|| number().and_then(|number| serde_json::to_string(&number).ok())),
        ParamKind::Boolean => value.as_bool().map(|boolean| boolean.to_string()),
    };
    let expected = match kind {
        ParamKind::String => "a string without NUL characters",
        ParamKind::Integer => "an integer",
        ParamKind::Number => "a number",
        ParamKind::Boolean => "true or false",
    };
    json.ok_or_else(|| field.expected(expected))
}

fn env(field: Field<'_>) -> Result<Vec<(String, String)>> {
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

fn inherit_env(field: Field<'_>) -> Result<Vec<String>> {
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
