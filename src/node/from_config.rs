//! Creates the registry of a configuration.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use smol::Executor;

use crate::config::{Config, ForwardTarget, Limits, NodeWorkers, ProviderConfig};
use crate::encoding;
use crate::provider::{Exec, Forward, ForwardSettings, Process, ReportLimit, upstream};
use crate::remote::{Remote, RemoteBuilder};
use crate::route::{Description, Follow, ProviderKind, Registry, RegistryBuilder, RegistryError, TopicHub};
use crate::transport::tls::{Connector, TlsError};

/// Starts a registry with the functions of a configuration. Functions that are forwarded to the same node with the same
/// token and TLS share its connections.
///
/// # Errors
/// [`ProviderConfigError`] if a function's name, token file or TLS files cannot be used.
pub fn registry_from_config(
    config: &Config,
    executor: &Arc<Executor<'static>>,
) -> Result<RegistryBuilder, ProviderConfigError> {
    registry_with_topics(config, executor, &Arc::new(TopicHub::new(Arc::default())))
}

/// As [`registry_from_config`], with topics that exist already.
pub(crate) fn registry_with_topics(
    config: &Config,
    executor: &Arc<Executor<'static>>,
    topics: &Arc<TopicHub>,
) -> Result<RegistryBuilder, ProviderConfigError> {
    let name: Arc<str> = config.name.as_str().into();
    let hops = config.limits.hops;
    let mut builder =
        Registry::builder(name.clone()).max_hops(hops).limits(&config.limits).with_topics(topics);
    let NodeWorkers { node, exec, forward, process, native, peer } = &config.workers;
    if let Some(workers) = node {
        builder.node_workers(workers.clone());
    }
    builder.topics(&config.topics)?;
    let of_providers = [
        (ProviderKind::Exec, exec),
        (ProviderKind::Forward, forward),
        (ProviderKind::Process, process),
        (ProviderKind::Native, native),
        (ProviderKind::Peer, peer),
    ];
    for (kind, workers) in of_providers {
        if let Some(workers) = workers {
            builder.provider_workers(kind, workers.clone());
        }
    }
    let mut remotes: HashMap<&ForwardTarget, Remote> = HashMap::new();
    let mut connect = |target| -> Result<Remote, ProviderConfigError> {
        Ok(match remotes.entry(target) {
            Entry::Occupied(remote) => remote.get().clone(),
            Entry::Vacant(entry) => {
                let remote = remote(&config.limits, target)?.executor(executor).watched();
                entry.insert(remote.connect()).clone()
            }
        })
    };
    let reports = ReportLimit::new(&config.limits, builder.metrics());
    let mut processes: Vec<Process> = Vec::new();
    for process in &config.processes {
        let process = Process::new(executor, process.clone(), &config.limits);
        if let Some(problem) = process.preflight() {
            log::warn!("process {:?} cannot run: {problem}", process.name());
        }
        builder.process(process.metrics().clone());
        processes.push(process);
    }
    for function in &config.functions {
        let describe = |mut found: Description| {
            found.signature.description.clone_from(&function.description);
            found
        };
        match &function.provider {
            ProviderConfig::Exec(exec) => {
                let exec = Exec::new(executor.clone(), name.clone(), exec.clone());
                if let Some(problem) = exec.preflight() {
                    log::warn!("function {:?} cannot run: {problem}", function.name);
                }
                builder.insert(&function.name, describe(exec.describe()), Arc::new(exec))?;
            }
            ProviderConfig::Forward(forward) => {
                let mut targets = Vec::new();
                for target in &forward.to {
                    targets.push(connect(target)?);
                }
                let settings = ForwardSettings {
                    node: name.clone(),
                    max_hops: hops,
                    timeout: forward.timeout,
                    balance: forward.balance,
                    key: forward.key.clone(),
                    repeatable: forward.repeatable,
                    hedge: forward.hedge,
                    metrics: builder.metrics().clone(),
                };
                let forward = Forward::new(executor.clone(), targets, settings);
                let mut description = describe(forward.describe());
                description.nodes = Some(forward.other_nodes(&function.name, &reports));
                builder.insert(&function.name, description, Arc::new(forward))?;
            }
            ProviderConfig::Process(found) => {
                let process = processes.iter().find(|process| process.name() == found.process);
                // Always found: the configuration has been checked.
                let Some(process) = process else { continue };
                let provider = process.function(&function.name, found);
                builder.insert(&function.name, describe(provider.describe()), Arc::new(provider))?;
            }
        }
        if let Some(workers) = &function.workers {
            builder.function_workers(&function.name, workers.clone())?;
        }
    }
    // Topics of the same node share a connection for their events.
    let mut nodes: Vec<(&ForwardTarget, Arc<dyn Follow>)> = Vec::new();
    for (topic, target) in config.topics.iter().filter_map(|topic| Some((topic, topic.forward.as_ref()?))) {
        let remote = connect(target)?;
        let settings = ForwardSettings { node: name.clone(), max_hops: hops, ..ForwardSettings::default() };
        let publish = Arc::new(Forward::new(executor.clone(), [remote.clone()], settings));
        let known = nodes.iter().position(|(other, _)| *other == target);
        let (number, follow) = (known.unwrap_or(nodes.len()), known.map(|at| nodes[at].1.clone()));
        // The executor exists.
        let Ok(upstream) = upstream(topics, &remote, publish, number, follow) else { continue };
        if known.is_none() {
            nodes.push((target, upstream.follow.clone()));
        }
        topics.set_upstream(&topic.name, upstream);
    }
    Ok(builder)
}

/// Returns a builder of connections to another node.
pub(super) fn remote(limits: &Limits, target: &ForwardTarget) -> Result<RemoteBuilder, ProviderConfigError> {
    let mut remote = Remote::builder(&target.to).limits(limits.clone());
    if let Some(file) = &target.token_file {
        remote = remote.token(read_token(file)?);
    }
    if let Some(tls) = &target.tls {
        let identity = tls.identity.as_ref().map(|(certificate, key)| (&**certificate, &**key));
        let connector = Connector::load(&tls.ca, identity)
            .map_err(|source| ProviderConfigError::Tls { to: target.to.clone(), source })?;
        remote = remote.tls(connector);
    }
    Ok(remote)
}

fn read_token(path: &Path) -> Result<String, ProviderConfigError> {
    let fail = |source| ProviderConfigError::TokenFile { path: path.to_owned(), source };
    let text = encoding::read(path).map_err(fail)?;
    match text.trim() {
        "" => Err(fail(io::Error::new(io::ErrorKind::InvalidData, "the file contains no token"))),
        token => Ok(token.to_owned()),
    }
}

/// Why the registry of a configuration could not be created.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProviderConfigError {
    /// The registry did not accept a function.
    Registry(RegistryError),
    /// A function's `token_file` cannot be read.
    TokenFile {
        /// The path, as configured.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The files under a function's `tls` cannot be used.
    Tls {
        /// The other node, as configured.
        to: String,
        /// The cause.
        source: TlsError,
    },
}

impl From<RegistryError> for ProviderConfigError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl fmt::Display for ProviderConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(error) => error.fmt(f),
            Self::TokenFile { path, source } => {
                write!(f, "cannot read token_file {}: {source}", path.display())
            }
            Self::Tls { to, source } => write!(f, "tls of {to:?}: {source}"),
        }
    }
}

impl std::error::Error for ProviderConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Registry(error) => error.source(),
            Self::TokenFile { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
        }
    }
}
