//! What is likely wrong with a configuration that is valid.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::address::{Address, NodeAddress};
use crate::config::{Config, ForwardTarget, FunctionConfig, ProcessConfig, ProviderConfig};
use crate::nearest::nearest;
#[cfg(feature = "grpc")]
use crate::node::Services;
use crate::provider::{Exec, Process, mode};
use crate::route::matches;

/// How long to wait for the addresses of a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns what does not depend on the network.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for listen in &config.listen {
        if let Some(tls) = &listen.tls {
            secret(&mut warnings, "the key", &tls.key);
        }
    }
    for target in forward_targets(config) {
        if let Some(file) = &target.token_file {
            secret(&mut warnings, "the token_file", file);
        }
        if let Some((_, key)) = target.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            secret(&mut warnings, "the key", key);
        }
    }
    // The functions of peers are not known.
    let has_offers = config.access.iter().any(|rule| !rule.offer.is_empty());
    for rule in &config.access {
        if rule.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            warnings.push(format!("{}: the rule has expired", rule.location));
        }
        for pattern in rule.functions.iter().filter(|_| !has_offers) {
            let names = || config.functions.iter().map(|function| &*function.name);
            if pattern.starts_with("rpc.") || names().any(|name| overlap(pattern, name)) {
                continue;
            }
            // A pattern of everything is right before there are functions.
            if pattern.chars().all(|c| c == '*') {
                continue;
            }
            // Names, and what their families would be called.
            let families = names().filter_map(|name| Some(format!("{}.*", name.rsplit_once('.')?.0)));
            let known: Vec<String> = names().map(str::to_owned).chain(families).collect();
            let near = nearest(pattern, &mut known.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            warnings.push(format!("{}: no function matches {pattern:?}{near}", rule.location));
        }
    }
    // A file may be used several times.
    let mut seen = Vec::new();
    warnings.retain(|warning| {
        let is_new = !seen.contains(warning);
        seen.push(warning.clone());
        is_new
    });
    warnings
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

/// Returns the nodes of functions and topics.
fn forward_targets(config: &Config) -> impl Iterator<Item = &ForwardTarget> {
    let of_functions = config.functions.iter().filter_map(|function| match &function.provider {
        ProviderConfig::Forward(forward) => Some(&forward.to),
        _ => None,
    });
    of_functions.flatten().chain(config.topics.iter().filter_map(|topic| topic.forward.as_ref()))
}

/// Warns of a secret that other users can read.
fn secret(warnings: &mut Vec<String>, what: &str, file: &Path) {
    // One that cannot be read is an error.
    let readable =
        fs::metadata(file).ok().and_then(|metadata| mode(&metadata)).is_some_and(|mode| mode & 0o004 != 0);
    if readable {
        let file = file.display();
        warnings.push(format!("{what} {file} can be read by every user of this machine (chmod o-r {file})"));
    }
}

/// Returns `true` if a pattern matches a name, or a name of a family.
fn overlap(pattern: &str, name: &str) -> bool {
    let Some(family) = name.strip_suffix('*') else { return matches(pattern, name) };
    let start = pattern.split('*').next().unwrap_or_default();
    start.starts_with(family) || pattern.contains('*') && family.starts_with(start)
}

/// Returns `true` if a program is missing, which the log tells.
pub(super) fn lacks_programs(config: &Config, executor: &Arc<Executor<'static>>) -> bool {
    let cannot_run = |process: &ProcessConfig| {
        Process::new(executor, process.clone(), &config.limits).preflight().is_some()
    };
    lacks_exec(config, executor) || config.processes.iter().any(cannot_run)
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
pub(super) fn network_warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for listen in &config.listen {
        let Ok(address) = listen.address.parse::<Address>() else { continue };
        match resolve(&address) {
            Err(error) => warnings.push(format!("listen = {:?}: {error}", listen.address)),
            Ok(found) => {
                let foreign = found.iter().find(|found| UdpSocket::bind((found.ip(), 0)).is_err());
                if let Some(foreign) = foreign.filter(|_| found.len() == 1) {
                    let ip = foreign.ip();
                    warnings
                        .push(format!("listen = {:?}: {ip} is no address of this machine", listen.address));
                }
            }
        }
    }
    let mut seen = Vec::new();
    for target in forward_targets(config) {
        let Ok(NodeAddress { address, .. }) = target.to.parse() else { continue };
        if seen.contains(&address) {
            continue;
        }
        if let Err(error) = resolve(&address) {
            warnings.push(format!("forward = {:?}: {error}", target.to));
        }
        seen.push(address);
    }
    warnings
}

fn resolve(address: &Address) -> Result<Vec<std::net::SocketAddr>, String> {
    let resolved = async { address.resolve().await.map_err(|error| error.to_string()) };
    let late = async {
        Timer::after(RESOLVE_TIMEOUT).await;
        Err("the name service does not answer".to_owned())
    };
    smol::block_on(resolved.or(late))
}
