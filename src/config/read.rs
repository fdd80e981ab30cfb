//! What a configuration file may say: its tables, keys and rules.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::table::{Field, Result, Source, Table};
use super::{
    Config, Exec, Forward, Function, Limits, Listen, Output, Param, ParamKind, Piece, Provider, Template,
    WhenFull, access, leaf, template, tls, workers,
};
use crate::address::{Address, AddressError};

const GIB: usize = 1 << 30;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// The shortest duration that can be meant: less is a slip of the unit.
const TICK: Duration = Duration::from_millis(1);

/// Reads a whole file.
pub(super) fn config(text: &str, file: &str) -> Result<Config> {
    let source = Source { text, file };
    let root = DeTable::parse(text).map_err(|error| source.broken(&error))?;
    let root = Table { source, heading: "", at: 0, entries: root.get_ref() };
    root.allow(&["name", "listen", "function", "access", "limits", "workers", "log"])?;

    let mut config = Config::default();
    if let Some(field) = root.get("name") {
        config.name = visible_name(field, "board-a")?.to_owned();
    }
    if let Some(field) = root.get("limits") {
        let table = field.table("[limits]").ok_or_else(|| field.expected("a table: [limits]"))?;
        limits(&table, &mut config.limits)?;
    }
    if let Some(field) = root.get("workers") {
        let table = field.table("[workers]").ok_or_else(|| field.expected("a table: [workers]"))?;
        config.workers = workers::tables(&table)?;
    }
    if let Some(field) = root.get("log") {
        let table = field.table("[log]").ok_or_else(|| field.expected("a table: [log]"))?;
        table.allow(&["access"])?;
        if let Some(field) = table.get("access") {
            let access = field.value.get_ref().as_bool();
            config.access_log = access.ok_or_else(|| field.expected("true or false"))?;
        }
    }
    for table in root.tables("listen", "[[listen]]")? {
        let listen = listen(&table, &config)?;
        config.listen.push(listen);
    }
    for table in root.tables("function", "[[function]]")? {
        let function = function(&table, &config)?;
        config.functions.push(function);
    }
    for table in root.tables("access", access::HEADING)? {
        let rule = access::rule(&table, &config.listen)?;
        config.access.push(rule);
    }
    Ok(config)
}

fn limits(table: &Table<'_>, limits: &mut Limits) -> Result<()> {
    table.allow(&[
        "message",
        "depth",
        "batch",
        "connections",
        "per_host",
        "in_flight",
        "output",
        "head_timeout",
        "auth_timeout",
        "stall_timeout",
        "deadline",
        "hops",
        "drain",
        "queue",
        "connect_timeout",
        "keepalive",
        "token_delay",
    ])?;
    table.size("message", 64..=GIB, &mut limits.message)?;
    table.count("depth", 1..=1024, &mut limits.depth)?;
    table.count("batch", 1..=65_536, &mut limits.batch)?;
    table.count("connections", 1..=1_000_000, &mut limits.connections)?;
    if table.get("per_host").is_some() {
        table.count("per_host", 1..=1_000_000, limits.per_host.insert(1))?;
    }
    table.count("in_flight", 1..=65_536, &mut limits.in_flight)?;
    table.size("output", 64..=GIB, &mut limits.output)?;
    table.duration("head_timeout", TICK..=HOUR, &mut limits.head_timeout)?;
    table.duration("auth_timeout", TICK..=HOUR, &mut limits.auth_timeout)?;
    table.duration("stall_timeout", TICK..=HOUR, &mut limits.stall_timeout)?;
    table.duration("deadline", TICK..=DAY, &mut limits.deadline)?;
    table.count("hops", 1..=255, &mut limits.hops)?;
    table.duration("drain", Duration::ZERO..=HOUR, &mut limits.drain)?;
    table.count("queue", 1..=1_000_000, &mut limits.queue)?;
    table.duration("connect_timeout", TICK..=HOUR, &mut limits.connect_timeout)?;
    table.duration("keepalive", Duration::ZERO..=HOUR, &mut limits.keepalive)?;
    table.duration("token_delay", Duration::ZERO..=HOUR, &mut limits.token_delay)
}

fn listen(table: &Table<'_>, config: &Config) -> Result<Listen> {
    table.allow(&["address", "hosts", "origins", "dialect", "leaf", "tls"])?;
    let field = table.require("address", "\"127.0.0.1:7300\"")?;
    let (address, parsed) = address(field)?;
    // Port 0 asks for a fresh port each time, so it clashes with nothing.
    if parsed.port() != 0 && config.listen.iter().any(|other| other.is_at(&parsed)) {
        return Err(field.fail(&format!("{address} is listened on twice; each address may appear once")));
    }
    let (mut hosts, mut origins) = (Vec::new(), Vec::new());
    if let Some(field) = table.get("hosts") {
        hosts = access::hosts(field)?;
    }
    if let Some(field) = table.get("origins") {
        origins = access::origins(field)?;
    }
    let leaf = leaf::leaf(table, config.limits.message)?;
    let tls = table.get("tls").map(tls::listen).transpose()?;
    Ok(Listen { address: address.to_owned(), hosts, origins, leaf, tls })
}

fn function(table: &Table<'_>, config: &Config) -> Result<Function> {
    table.allow(&[
        "name",
        "description",
        "exec",
        "params",
        "output",
        "timeout",
        "concurrency",
        "queue",
        "when_full",
        "output_limit",
        "directory",
        "env",
        "inherit_env",
        "forward",
        "token_file",
        "tls",
        "workers",
    ])?;
    let name = table.require("name", "\"disk.free\"")?;
    let (provider, workers) = match (table.get("exec"), table.get("forward")) {
        (Some(argv), None) => (Provider::Exec(exec(table, argv, &config.limits)?), None),
        (None, Some(to)) => (Provider::Forward(forward(table, to)?), workers::of_function(table)?),
        _ => {
            let wanted = "exactly one of exec = [\"program\", \"argument\"] and forward = \"host:port\"";
            return Err(table.fail(&format!("needs {wanted}")));
        }
    };
    let forwarded = matches!(provider, Provider::Forward(_));
    let name_text = function_name(name, forwarded)?;
    if config.functions.iter().any(|other| other.name == name_text) {
        return Err(name.fail(&format!("there is another function {name_text:?}; each name may appear once")));
    }
    let description = table.get("description").map(Field::string).transpose()?.map(str::to_owned);
    Ok(Function { name: name_text.to_owned(), description, workers, provider })
}

fn forward(table: &Table<'_>, to: Field<'_>) -> Result<Forward> {
    const KNOWN: [&str; 9] =
        ["name", "description", "forward", "timeout", "token_file", "tls", "workers", "queue", "when_full"];
    if let Some((key, _)) = table.entries.iter().find(|(key, _)| !KNOWN.contains(&key.get_ref().as_ref())) {
        let message =
            format!("a forwarded function takes no {}; it takes {}", key.get_ref(), KNOWN.join(", "));
        return Err(table.source.fail(key.span().start, message));
    }
    let (address, parsed) = address(to)?;
    if parsed.port() == 0 {
        return Err(
            to.fail(&format!("{address:?} has port 0, where nobody can listen; name the other node's port"))
        );
    }
    let token_file = table.get("token_file").map(path).transpose()?;
    let tls = table.get("tls").map(tls::forward).transpose()?;
    let mut forward = Forward { to: address.to_owned(), timeout: None, token_file, tls };
    table.duration("timeout", TICK..=DAY, &mut forward.timeout)?;
    Ok(forward)
}

fn exec(table: &Table<'_>, argv: Field<'_>, limits: &Limits) -> Result<Exec> {
    if let Some(field) = table.get("token_file") {
        return Err(field.fail("only a function with forward presents a token"));
    }
    if let Some(field) = table.get("tls") {
        return Err(field.fail("only a function with forward speaks TLS"));
    }
    if let Some(field) = table.get("workers") {
        return Err(field.fail("a program's workers are called concurrency"));
    }
    let params = match table.get("params") {
        Some(field) => params(field)?,
        None => Vec::new(),
    };
    let mut exec = Exec {
        argv: self::argv(argv, &params)?,
        params,
        output: Output::default(),
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
            "text" => Output::Text,
            "json" => Output::Json,
            "base64" => Output::Base64,
            _ => return Err(field.expected("\"text\", \"json\" or \"base64\"")),
        };
    }
    if let Some(field) = table.get("directory") {
        exec.directory = Some(path(field)?);
    }
    if let Some(field) = table.get("env") {
        exec.env = env(field)?;
    }
    if let Some(field) = table.get("inherit_env") {
        exec.inherit_env = inherit_env(field)?;
    }
    table.duration("timeout", TICK..=DAY, &mut exec.timeout)?;
    table.count("concurrency", 1..=1024, &mut exec.concurrency)?;
    table.count("queue", 0..=65_536, &mut exec.queue)?;
    workers::when_full(table, &mut exec.when_full)?;
    table.size("output_limit", 1..=GIB, &mut exec.output_limit)?;
    Ok(exec)
}

pub(super) fn path(field: Field<'_>) -> Result<PathBuf> {
    let path = field.string()?;
    if path.is_empty() || path.contains('\0') {
        return Err(field.expected("a path such as \"/var/lib/board\""));
    }
    Ok(PathBuf::from(path))
}

fn params(field: Field<'_>) -> Result<Vec<Param>> {
    let Some(table) = field.table("params") else {
        return Err(field.expected("a table such as { path = \"string\" }"));
    };
    let mut params = Vec::new();
    for (key, value) in table.entries {
        let name = key.get_ref().as_ref();
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            let rule = "a letter or _ comes first, then those, digits and -";
            return Err(table
                .source
                .fail(key.span().start, format!("{name:?} cannot name a parameter: {rule}")));
        }
        let field = Field { heading: table.heading, key: name, value, ..field };
        params.push(param(field)?);
    }
    Ok(params)
}

/// A type, or a table with more about the parameter.
fn param(field: Field<'_>) -> Result<Param> {
    let mut param = Param { name: field.key.to_owned(), kind: ParamKind::String, leading_dash: false };
    let mut kind = field;
    if let Some(table) = field.table(field.heading) {
        table.allow(&["type", "leading_dash"])?;
        kind = table.get("type").ok_or_else(|| field.fail("needs a type, such as { type = \"string\" }"))?;
        if let Some(field) = table.get("leading_dash") {
            param.leading_dash =
                field.value.get_ref().as_bool().ok_or_else(|| field.expected("true or false"))?;
        }
    }
    param.kind = match kind.value.get_ref().as_str() {
        Some("string") => ParamKind::String,
        Some("integer") => ParamKind::Integer,
        Some("number") => ParamKind::Number,
        Some("boolean") => ParamKind::Boolean,
        _ => return Err(kind.expected("a type: \"string\", \"integer\", \"number\" or \"boolean\"")),
    };
    Ok(param)
}

fn env(field: Field<'_>) -> Result<Vec<(String, String)>> {
    let Some(table) = field.table("env") else {
        return Err(field.expected("a table such as { BOARD = \"a\" }"));
    };
    let mut env = Vec::new();
    for (key, value) in table.entries {
        let name = key.get_ref().as_ref();
        let field = Field { heading: table.heading, key: name, value, ..field };
        if !names_variable(name) {
            return Err(table.source.fail(key.span().start, format!("{name:?} cannot name a variable")));
        }
        let value = field.string()?;
        if value.contains('\0') {
            return Err(field.fail("no variable can hold a NUL character"));
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
        if name != "*" && (start.contains('*') || !names_variable(start)) {
            return Err(
                field.fail(&format!("{name:?} cannot name a variable; a * may stand at the end only"))
            );
        }
        Ok(name.to_owned())
    };
    list.iter().map(name).collect()
}

fn names_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn argv(field: Field<'_>, params: &[Param]) -> Result<Vec<Template>> {
    let wanted = "a list of strings such as [\"df\", \"-k\", \"{path}\"]";
    let Some(list) = field.value.get_ref().as_array().filter(|list| !list.is_empty()) else {
        return Err(field.expected(wanted));
    };
    let mut argv = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        // An error names the line of the element, which may be far below that of the key.
        let field = Field { value, ..field };
        let Some(text) = value.get_ref().as_str() else {
            return Err(field.expected(wanted));
        };
        if text.contains('\0') {
            return Err(field.fail("no argument can hold a NUL character"));
        }
        let template = template::parse(text, params).map_err(|message| field.fail(&message))?;
        // Callers choose what a program works on, never which program runs.
        if index == 0 && !matches!(template.0.as_slice(), [Piece::Literal(_)]) {
            return Err(field.fail("the first element is the program: a fixed name or path such as \"df\""));
        }
        argv.push(template);
    }
    Ok(argv)
}

fn function_name(field: Field<'_>, forwarded: bool) -> Result<&str> {
    let name = visible_name(field, "disk.free")?;
    for reserved in ["rpc.", "$/"] {
        if name.starts_with(reserved) {
            return Err(field.fail(&format!(
                "names that begin with {reserved} are reserved; choose another, not {name:?}"
            )));
        }
    }
    if !name.contains('*') {
        return Ok(name);
    }
    let family = name.strip_suffix(".*").filter(|family| !family.is_empty() && !family.contains('*'));
    match family {
        Some(_) if forwarded => Ok(name),
        Some(_) => Err(field.fail(&format!("{name:?} is a whole family, which only forward can answer"))),
        None => {
            Err(field
                .fail(&format!("{name:?} holds a *, which only ends a forwarded family, as in \"math.*\"")))
        }
    }
}

/// Reads a name that can travel in messages, logs and shells without quotes.
pub(super) fn visible_name<'a>(field: Field<'a>, example: &str) -> Result<&'a str> {
    let name = field.string()?;
    if (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(name);
    }
    Err(field.expected(&format!("1 to 128 visible ASCII characters without spaces, such as {example:?}")))
}

/// Reads an address, and gives it as it is typed too.
fn address(field: Field<'_>) -> Result<(&str, Address)> {
    let text = field.string()?;
    text.parse()
        .map(|address| (text, address))
        .map_err(|error: AddressError| field.expected(&error.to_string()))
}
