//! What is likely wrong with a configuration that is valid.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashSet;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::bind::missing_rule;
use crate::address::{Address, NodeAddress};
use crate::config::{Config, ForwardTarget, FunctionConfig, Piece, Places, ProviderConfig, Which};
use crate::nearest::nearest;
#[cfg(feature = "grpc")]
use crate::node::Services;
use crate::node::{Listener, unusable_file};
use crate::provider::{Exec, Process, builtin_names, mode};
use crate::route::{Access, matches};

/// How long to wait for the addresses of a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where something is configured, which only a warning asks for.
type Place<'a> = &'a dyn Fn() -> String;

/// Returns what does not depend on the network.
pub(super) fn warnings(config: &Config, places: &Places<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for listen in &config.listen {
        if let Some(tls) = &listen.tls {
            secret(&mut warnings, &|| listener(places, &listen.address, "tls"), &tls.key);
        }
    }
    for (list, which, target) in targets(config) {
        if let Some(file) = &target.token_file {
            secret(&mut warnings, &|| places.of(list, which, "token_file"), file);
        }
        if let Some((_, key)) = target.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            secret(&mut warnings, &|| places.of(list, which, "tls"), key);
        }
    }
    // The functions of peers are known by the patterns of what they may offer.
    let offered: Vec<&str> = config.access.iter().flat_map(|rule| &rule.offer).map(String::as_str).collect();
    let names: Vec<&str> = config.functions.iter().map(|function| &*function.name).collect();
    for rule in &config.access {
        if rule.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            warnings.push(format!("{}: the rule has expired", rule.location));
        }
        for pattern in &rule.functions {
            if !offered.iter().any(|offered| may_meet(pattern, offered)) {
                warnings.extend(unmatched(&|| rule.location.clone(), pattern, &names));
            }
        }
    }
    for (index, offer) in config.offers.iter().enumerate() {
        let place = || places.of("offer", Which::Nth(index), "functions");
        for pattern in &offer.functions {
            if !offered.iter().any(|offered| may_meet(pattern, offered)) {
                warnings.extend(unmatched(&place, pattern, &names));
            }
        }
    }
    for function in &config.functions {
        if let ProviderConfig::Exec(exec) = &function.provider {
            let argv: Vec<_> = exec.argv.iter().map(|template| template.0.as_slice()).collect();
            let literals = argv.iter().filter_map(|pieces| match pieces {
                [Piece::Literal(text)] => Some(text.as_str()),
                _ => None,
            });
            let place = || places.of("function", Which::With("name", &function.name), "exec");
            arguments(&mut warnings, &place, &literals.collect::<Vec<_>>(), exec.directory.as_deref());
        }
    }
    for process in &config.processes {
        let which = Which::With("name", &process.name);
        let run: Vec<_> = process.run.iter().map(String::as_str).collect();
        let place = || places.of("process", which, "run");
        arguments(&mut warnings, &place, &run, process.directory.as_deref());
        let is_used = |function: &FunctionConfig| matches!(&function.provider, ProviderConfig::Process(found) if found.process == process.name);
        if !config.functions.iter().any(is_used) {
            warnings.push(format!(
                "{}: no function uses it, such as one with process = {:?}",
                places.of("process", which, "name"),
                process.name
            ));
        }
    }
    if let Some(per_host) = config.limits.per_host
        && per_host > config.limits.connections
    {
        warnings.push(format!(
            "per_host in [limits] is {per_host}, but connections is {}, which all hosts together may have",
            config.limits.connections
        ));
    }
    // A file may be used several times.
    let mut seen = FxHashSet::default();
    warnings.retain(|warning| seen.insert(warning.clone()));
    warnings
}

/// Returns the place of a key of a listener; those of the command line have none in the file.
fn listener(places: &Places<'_>, address: &str, key: &str) -> String {
    let which = Which::With("address", address);
    match places.line("listen", which, key) {
        Some(_) => places.of("listen", which, key),
        None => format!("--listen {address}"),
    }
}

/// Returns the warning of a pattern that matches none of the functions, and no builtin.
fn unmatched(place: Place<'_>, pattern: &str, names: &[&str]) -> Option<String> {
    // A pattern of everything is right before there are functions.
    if pattern.chars().all(|c| c == '*') {
        return None;
    }
    if pattern.starts_with("rpc.") {
        let mut builtins = builtin_names();
        if builtins.iter().any(|name| matches(pattern, name)) {
            return None;
        }
        let near = nearest(pattern, &mut builtins.drain(..));
        let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        return Some(format!("{}: no built-in function matches {pattern:?}{near}", place()));
    }
    if names.iter().any(|name| may_meet(pattern, name)) {
        return None;
    }
    // Names, and what their families would be called.
    let families = names.iter().filter_map(|name| Some(format!("{}.*", name.rsplit_once('.')?.0)));
    let known: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(families).collect();
    let near = nearest(pattern, &mut known.iter().map(String::as_str));
    let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
    Some(format!("{}: no function matches {pattern:?}{near}", place()))
}

/// Returns `true` unless the fixed starts of two patterns exclude each other.
fn may_meet(one: &str, other: &str) -> bool {
    match (one.split_once('*'), other.split_once('*')) {
        (None, _) => matches(other, one),
        (_, None) => matches(one, other),
        (Some((one, _)), Some((other, _))) => one.starts_with(other) || other.starts_with(one),
    }
}

/// Warns of arguments that only a shell understands, and of scripts that do not exist.
fn arguments(warnings: &mut Vec<String>, place: Place<'_>, argv: &[&str], directory: Option<&Path>) {
    // Programs that read a language of their own from an argument know what $1 and | mean.
    if argv.iter().any(|word| matches!(*word, "-c" | "-e" | "/c" | "/C")) {
        return;
    }
    for (index, word) in argv.iter().enumerate().skip(1) {
        let is_operator = matches!(*word, "|" | "||" | "&&" | "&" | ";" | ">" | ">>" | "<" | "2>&1");
        let variable = word.strip_prefix('$').map(|rest| rest.trim_start_matches('{'));
        let is_variable = variable.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()));
        let is_glob = index == argv.len() - 1
            && word.starts_with("*.")
            && Path::new(argv[0]).file_stem().is_some_and(|it| it != "find");
        if is_operator || is_variable || is_glob || word.starts_with("~/") {
            warnings.push(format!(
                "{}: the program gets {word:?} as it is: no shell runs, and each element is one argument; for a shell \
                 write [\"sh\", \"-c\", \"… \\\"$1\\\" …\", \"sh\", \"{{path}}\"], with placeholders in later elements only",
                place()
            ));
            return;
        }
    }
    // The file that an interpreter is to run is its first argument without a dash.
    let script = argv.iter().skip(1).find(|word| !word.starts_with('-'));
    let is_interpreter =
        argv.first().and_then(|program| Path::new(program).file_stem()?.to_str()).is_some_and(|name| {
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            matches!(
                name,
                "sh" | "bash" | "dash" | "ash" | "python" | "node" | "perl" | "ruby" | "php" | "lua"
            )
        });
    if let Some(script) = script.filter(|_| is_interpreter)
        && (script.contains('/') || Path::new(script).extension().is_some())
        && !directory.unwrap_or(Path::new("")).join(script).exists()
        && !argv.contains(&"-m")
    {
        let place = place();
        warnings.push(format!("{place}: the file {script} does not exist; check its path, or set directory"));
    }
}

/// Returns what prevents the use of the files that a configuration names, and addresses that nobody may reach.
pub(super) fn mistakes(config: &Config, places: &Places<'_>, file: Option<&Path>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let access = Access::new(config);
    for listen in &config.listen {
        #[cfg(feature = "grpc")]
        if let Err(error) = Listener::check(listen) {
            mistakes.push(format!("{}: {error}", listener(places, &listen.address, "leaf")));
        }
        if let Err(error) = Listener::tls(listen) {
            let place = listener(places, &listen.address, "tls");
            mistakes.push(format!("{place}: tls of {}: {error}", listen.address));
        }
        if !listen.is_local() && !access.has_rule_for(&listen.address) {
            let missing = missing_rule(&listen.address, file);
            mistakes.push(format!("{}: {missing}", listener(places, &listen.address, "address")));
        }
    }
    for (list, which, target) in targets(config) {
        if let Some(error) = unusable_file(&config.limits, target) {
            mistakes.push(format!("{}: {error}", places.of(list, which, error.key())));
        }
    }
    mistakes
}

/// Returns the methods of gRPC services that nothing answers.
#[cfg(feature = "grpc")]
pub(super) fn grpc_warnings(config: &Config, services: &Services) -> Vec<String> {
    let unanswered = services.unanswered().map(|(method, reason)| format!("[grpc] {method}: {reason}"));
    let mut warnings: Vec<_> = unanswered.collect();
    // The functions of peers are not known.
    if config.access.iter().any(|rule| !rule.offer.is_empty()) {
        return warnings;
    }
    let names = || config.functions.iter().map(|function| &*function.name);
    for (method, function) in services.functions() {
        if !function.starts_with("rpc.") && !names().any(|name| matches(name, function)) {
            let near = nearest(function, &mut names());
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let hint = "[grpc.methods] may name another, or false";
            warnings.push(format!("[grpc] {method}: there is no function {function:?}{near}; {hint}"));
        }
    }
    warnings
}

/// Returns the other nodes of functions, topics and offers, and where they are configured.
fn targets(config: &Config) -> Vec<(&'static str, Which<'_>, &ForwardTarget)> {
    let mut targets = Vec::new();
    for function in &config.functions {
        if let ProviderConfig::Forward(forward) = &function.provider {
            let which = Which::With("name", &function.name);
            targets.extend(forward.to.iter().map(|target| ("function", which, target)));
        }
    }
    for topic in &config.topics {
        targets.extend(topic.forward.iter().map(|to| ("topic", Which::With("name", &topic.name), to)));
    }
    let offers = config.offers.iter().enumerate();
    targets.extend(offers.map(|(index, offer)| ("offer", Which::Nth(index), &offer.to)));
    targets
}

/// Warns of a secret that other users can read.
fn secret(warnings: &mut Vec<String>, place: Place<'_>, file: &Path) {
    // One that cannot be read is an error.
    let readable =
        fs::metadata(file).ok().and_then(|metadata| mode(&metadata)).is_some_and(|mode| mode & 0o004 != 0);
    if readable {
        let (place, file) = (place(), file.display());
        warnings
            .push(format!("{place}: {file} can be read by every user of this machine (chmod o-r {file})"));
    }
}

/// Returns the programs that cannot run.
pub(super) fn missing_programs(
    config: &Config,
    places: &Places<'_>,
    executor: &Arc<Executor<'static>>,
) -> Vec<String> {
    let mut missing = Vec::new();
    for function in &config.functions {
        if let ProviderConfig::Exec(exec) = &function.provider
            && let Some(problem) =
                Exec::new(executor.clone(), config.name.as_str().into(), exec.clone()).preflight()
        {
            let place = places.of("function", Which::With("name", &function.name), "exec");
            missing.push(format!("{place}: {:?} cannot run: {problem}", function.name));
        }
    }
    for process in &config.processes {
        if let Some(problem) = Process::new(executor, process.clone(), &config.limits).preflight() {
            let place = places.of("process", Which::With("name", &process.name), "run");
            missing.push(format!("{place}: {:?} cannot run: {problem}", process.name));
        }
    }
    missing
}

/// Returns `true` if a program that runs for each call is missing.
pub(super) fn lacks_exec(config: &Config, executor: &Arc<Executor<'static>>) -> bool {
    let lacks_program = |function: &FunctionConfig| match &function.provider {
        ProviderConfig::Exec(exec) => {
            Exec::new(executor.clone(), config.name.as_str().into(), exec.clone()).preflight().is_some()
        }
        _ => false,
    };
    config.functions.iter().any(lacks_program)
}

/// Returns what is wrong with the names and addresses of a configuration, as seen from this machine now.
pub(super) fn network_warnings(config: &Config, places: &Places<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut listened: Vec<(SocketAddr, &str)> = Vec::new();
    for listen in &config.listen {
        let Ok(address) = listen.address.parse::<Address>() else { continue };
        let place = listener(places, &listen.address, "address");
        let found = match resolve(&address) {
            Ok(found) => found,
            Err(error) => {
                warnings.push(format!("{place}: {:?}: {error}", listen.address));
                continue;
            }
        };
        let foreign = found.iter().find(|found| UdpSocket::bind((found.ip(), 0)).is_err());
        if let Some(foreign) = foreign.filter(|_| found.len() == 1) {
            warnings.push(format!("{place}: {} is no address of this machine", foreign.ip()));
        }
        let is_same =
            |(other, _): &&(SocketAddr, &str)| found.iter().any(|found| share_a_port(*found, *other));
        if let Some((_, other)) = listened.iter().find(is_same) {
            warnings.push(format!(
                "{place}: {} has the port of {other:?}, which includes it: the node could not listen on both; remove one",
                listen.address
            ));
        }
        listened.extend(found.into_iter().map(|found| (found, listen.address.as_str())));
    }
    let mut seen = Vec::new();
    for (list, which, target) in targets(config) {
        let Ok(NodeAddress { address, .. }) = target.to.parse() else { continue };
        if seen.contains(&address) {
            continue;
        }
        let place = || places.of(list, which, if list == "offer" { "to" } else { "forward" });
        match resolve(&address) {
            Err(error) => warnings.push(format!("{}: {:?}: {error}", place(), target.to)),
            Ok(found) => {
                let is_own = |(own, _): &(SocketAddr, &str)| {
                    found.iter().any(|found| {
                        share_a_port(*found, *own) && (own.ip() == found.ip() || found.ip().is_loopback())
                    })
                };
                if listened.iter().any(is_own) {
                    let (place, to) = (place(), &target.to);
                    warnings.push(format!("{place}: {to:?} is this node itself; name another node"));
                }
            }
        }
        seen.push(address);
    }
    warnings
}

/// Returns `true` if only one of two sockets can listen: the port is the same, and one address includes the other.
fn share_a_port(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let includes = a == b
        || a.is_unspecified() && (a.is_ipv4() == b.is_ipv4())
        || b.is_unspecified() && (a.is_ipv4() == b.is_ipv4());
    one.port() != 0 && one.port() == other.port() && includes
}

fn resolve(address: &Address) -> Result<Vec<SocketAddr>, String> {
    let resolved = async { address.resolve().await.map_err(|error| error.to_string()) };
    let late = async {
        Timer::after(RESOLVE_TIMEOUT).await;
        Err("the name service does not answer".to_owned())
    };
    smol::block_on(resolved.or(late))
}
