//! The functions that programs, processes and other nodes provide: `[[function]]`.

use rustc_hash::FxHashSet;

use super::table::{Field, Result, Table};
use super::{
    Config, ExecConfig, ForwardConfig, ProcessFunctionConfig, Workers, exec, forward, process, workers,
};

/// A function that a program, a process or another node provides: a `[[function]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionConfig {
    /// The function's name: 1 to 128 bytes of visible ASCII. The name of a function that a process or another
    /// node provides may end in `.*`, for a whole family.
    pub name: String,
    /// A description for people.
    pub description: Option<String>,
    /// The limit on concurrent calls; that of a program is [`ExecConfig::concurrency`].
    pub workers: Option<Workers>,
    /// What answers the function's calls.
    pub provider: ProviderConfig,
}

/// What answers the calls of a configured function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderConfig {
    /// A program, started for each call.
    Exec(ExecConfig),
    /// Another node.
    Forward(ForwardConfig),
    /// A program that stays.
    Process(ProcessFunctionConfig),
    /// Others, over NATS.
    #[cfg(feature = "nats")]
    Nats(super::NatsFunctionConfig),
}

/// The keys of a `[[function]]` table, whatever provides the function.
const KEYS: &[&str] = &[
    "name",
    "description",
    "exec",
    "params",
    "output",
    "result",
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
    "balance",
    "key",
    "repeatable",
    "hedge",
    #[cfg(feature = "grpc")]
    "descriptors",
    #[cfg(feature = "grpc")]
    "service",
    "workers",
    "process",
    "method",
    #[cfg(feature = "nats")]
    "subject",
];

/// Parses a `[[function]]` table; `config` has the tables before it, and `names` the names of their functions. Processes
/// with errors are not known.
pub(super) fn parse(
    table: &Table<'_>,
    config: &Config,
    are_processes_known: bool,
    names: &mut FxHashSet<String>,
) -> Option<FunctionConfig> {
    table.allow(KEYS);
    let name = table.read_required("name", "\"disk.free\"", |field| {
        let name = function_name(field, table.get("exec").is_none())?;
        if !names.insert(name.to_owned()) {
            return Err(field.fail(&format!("there is another function {name:?}; each name may appear once")));
        }
        Ok(name.to_owned())
    });
    let description = table.read("description", |field| field.string().map(str::to_owned));
    let provider = match (table.get("exec"), table.get("forward"), table.get("process")) {
        (Some(argv), None, None) => ProviderConfig::Exec(exec::parse(table, argv, &config.limits)),
        #[cfg(feature = "nats")]
        (None, Some(to), None) if super::nats::is_target(to, config) => {
            table.allow_of("a function over NATS", super::nats::KEYS, KEYS);
            ProviderConfig::Nats(super::nats::parse_function(table))
        }
        (None, Some(to), None) => {
            table.allow_of("a forwarded function", forward::KEYS, KEYS);
            ProviderConfig::Forward(forward::parse(table, to))
        }
        (None, None, Some(_)) => {
            table.allow_of("a function of a process", process::KEYS, KEYS);
            let config = are_processes_known.then_some(config);
            ProviderConfig::Process(process::parse_function(table, config))
        }
        _ => {
            let wanted = "exactly one of exec = [\"program\", \"argument\"], forward = \"host:port\" and process = \"name\"";
            table.note(table.fail(&format!("needs {wanted}")));
            return None;
        }
    };
    let is_exec = matches!(provider, ProviderConfig::Exec(_));
    let workers = if is_exec { None } else { workers::parse_function(table) };
    Some(FunctionConfig { name: name?, description, workers, provider })
}

fn function_name(field: Field<'_>, may_be_family: bool) -> Result<&str> {
    let name = field.visible_name("disk.free")?;
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
        Some(_) if may_be_family => Ok(name),
        Some(_) => {
            Err(field
                .fail(&format!("{name:?} is a whole family, which only forward and process can provide")))
        }
        None => {
            Err(field.fail(&format!("{name:?} contains a *, which may only end a family, as in \"math.*\"")))
        }
    }
}
