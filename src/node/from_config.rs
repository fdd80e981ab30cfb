//! Creates the registry of a configuration.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smol::Executor;

#[cfg(feature = "nats")]
use super::nats::{NatsCalls, NatsFiles};
pub(crate) use super::secrets::ProviderConfigError;
use super::secrets::{connector, hash_of, read_token};
use crate::config::{
    Config, ForwardTarget, FunctionConfig, Limits, NodeWorkers, ProcessConfig, ProviderConfig,
};
#[cfg(feature = "grpc")]
use crate::encoding;
#[cfg(feature = "grpc")]
use crate::provider::MethodName;
use crate::provider::{Exec, Forward, ForwardSettings, Process, ReportLimit, upstream};
use crate::remote::{Remote, RemoteBuilder};
use crate::route::{
    Description, Follow, FunctionSet, Provider, ProviderKind, Registry, RegistryBuilder, TopicHub,
};

/// What the registry of a configuration was made of, so that that of a later one takes over what has not changed.
pub(crate) struct Parts {
    config: Arc<Config>,
    /// The first configuration. Its topics stay, with their nodes.
    started: Arc<Config>,
    /// The other nodes, each with a hash of the files that connections to it need.
    remotes: Vec<(ForwardTarget, u64, Remote)>,
    /// Those that topics hold, which stay those of the first configuration.
    of_topics: Vec<Remote>,
    processes: Vec<Process>,
    reports: Arc<ReportLimit>,
    #[cfg(feature = "nats")]
    nats: Option<NatsCalls>,
}

/// Starts a registry with the functions of a configuration. Functions that are forwarded to the same node with the same
/// token and TLS share its connections.
///
/// # Errors
/// [`ProviderConfigError`] if a function's name, token file or TLS files cannot be used.
pub(crate) fn registry_from_config(
    config: &Arc<Config>,
    executor: &Arc<Executor<'static>>,
    topics: &Arc<TopicHub>,
) -> Result<(RegistryBuilder, Parts), ProviderConfigError> {
    let name: Arc<str> = config.name.as_str().into();
    let hops = config.limits.hops;
    let mut builder =
        Registry::builder(name.clone()).max_hops(hops).limits(&config.limits).with_topics(topics);
    builder.topics(&config.topics)?;
    let reports = ReportLimit::new(&config.limits, builder.metrics());
    let nodes = OtherNodes::read(config, None)?;
    let mut parts = functions(&mut builder.functions, config, &name, executor, &reports, nodes, None)?;
    let upstreams = config.topics.iter().filter_map(|topic| topic.forward.as_ref());
    parts.of_topics = upstreams.filter_map(|target| parts.remote(target)).cloned().collect();
    // Topics of the same node share a connection for their events.
    let mut nodes: Vec<(&ForwardTarget, Arc<dyn Follow>)> = Vec::new();
    for (topic, target) in config.topics.iter().filter_map(|topic| Some((topic, topic.forward.as_ref()?))) {
        let Some(remote) = parts.remote(target) else { continue };
        let settings = ForwardSettings { node: name.clone(), max_hops: hops, ..ForwardSettings::default() };
        let publish = Arc::new(Forward::new(executor.clone(), [remote.clone()], settings));
        let known = nodes.iter().position(|(other, _)| *other == target);
        let (number, follow) = (known.unwrap_or(nodes.len()), known.map(|at| nodes[at].1.clone()));
        // The executor exists.
        let Ok(upstream) = upstream(topics, remote, publish, number, follow) else { continue };
        if known.is_none() {
            nodes.push((target, upstream.follow.clone()));
        }
        topics.set_upstream(&topic.name, upstream);
    }
    #[cfg(feature = "nats")]
    if let Some(nats) = &parts.nats {
        nats.bring_topics(config, topics, executor);
    }
    Ok((builder, parts))
}

impl Parts {
    /// Reads the files of the other nodes of a later configuration, which may take time.
    ///
    /// # Errors
    /// As [`registry_from_config`].
    pub(crate) fn read_nodes(&self, config: &Config) -> Result<OtherNodes, ProviderConfigError> {
        OtherNodes::read(config, Some(self))
    }

    /// Creates the functions of a later configuration for the same registry. The topics stay those of the first one.
    ///
    /// # Errors
    /// As [`registry_from_config`].
    pub(crate) fn succeed(
        &self,
        config: &Arc<Config>,
        nodes: OtherNodes,
        executor: &Arc<Executor<'static>>,
        registry: &Registry,
    ) -> Result<(FunctionSet, Self), ProviderConfigError> {
        let mut set = FunctionSet::default();
        let of_config = self.config.functions.iter().map(|function| (&*function.name, function));
        let earlier = Earlier { parts: self, registry, functions: of_config.collect() };
        for name in registry.names() {
            // Those of this program are in no configuration.
            if !earlier.functions.contains_key(&*name) {
                set.keep(registry, &name)?;
            }
        }
        let (name, reports) = (registry.name(), &self.reports);
        let parts = functions(&mut set, config, name, executor, reports, nodes, Some(&earlier))?;
        Ok((set, parts))
    }

    /// Ends the programs, and the connections to other nodes, that a later configuration does not have, when their calls
    /// have ended.
    pub(crate) fn withdraw_all_but(&self, next: &Self) {
        for process in &self.processes {
            if !next.processes.iter().any(|other| other.is(process)) {
                process.withdraw();
            }
        }
        for (.., remote) in &self.remotes {
            if !next.remotes.iter().any(|(.., other)| other.is(remote))
                && !self.of_topics.iter().any(|other| other.is(remote))
            {
                remote.withdraw();
            }
        }
        #[cfg(feature = "nats")]
        if let Some(nats) = &self.nats {
            nats.withdraw_for(next.nats.as_ref());
        }
    }

    /// Returns the configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the first configuration.
    pub(crate) fn started(&self) -> &Config {
        &self.started
    }

    fn remote(&self, target: &ForwardTarget) -> Option<&Remote> {
        self.remotes.iter().find(|(other, ..)| other == target).map(|(.., remote)| remote)
    }
}

/// What a node has of an earlier configuration.
struct Earlier<'a> {
    parts: &'a Parts,
    registry: &'a Registry,
    functions: FxHashMap<&'a str, &'a FunctionConfig>,
}

/// Adds the functions of a configuration, and takes over those that have not changed since an `earlier` one.
fn functions(
    set: &mut FunctionSet,
    config: &Arc<Config>,
    name: &Arc<str>,
    executor: &Arc<Executor<'static>>,
    reports: &Arc<ReportLimit>,
    nodes: OtherNodes,
    earlier: Option<&Earlier<'_>>,
) -> Result<Parts, ProviderConfigError> {
    let before = earlier.map(|earlier| earlier.parts);
    limit_workers(set, &config.workers);
    let started = before.map_or(config, |before| &before.started).clone();
    #[cfg(feature = "nats")]
    let nats = nodes.nats.and_then(|files| {
        NatsCalls::new(config, &started, files, executor, before.and_then(|before| before.nats.as_ref()))
    });
    let parts = Parts {
        config: config.clone(),
        started,
        remotes: connect(nodes.nodes, executor),
        of_topics: before.map_or_else(Vec::new, |before| before.of_topics.clone()),
        processes: processes(set, config, executor, before),
        reports: reports.clone(),
        #[cfg(feature = "nats")]
        nats,
    };
    for function in &config.functions {
        if let Some(earlier) = earlier
            && earlier.functions.get(&*function.name) == Some(&function)
            && parts.has_provider_of(earlier.parts, function)
            && set.keep(earlier.registry, &function.name)?
        {
            continue;
        }
        // Always provided: the configuration has been checked.
        let Some((mut description, provider)) = parts.provider(function, name, executor) else { continue };
        description.signature.description.clone_from(&function.description);
        set.insert(&function.name, description, provider)?;
        if let Some(workers) = &function.workers {
            set.function_workers(&function.name, workers.clone())?;
        }
    }
    Ok(parts)
}

/// Limits the concurrent calls of all functions together, and of those with one kind of provider.
fn limit_workers(set: &mut FunctionSet, workers: &NodeWorkers) {
    let NodeWorkers { node, exec, forward, process, native, peer } = workers;
    if let Some(workers) = node {
        set.node_workers(workers.clone());
    }
    let of_providers = [
        (ProviderKind::Exec, exec),
        (ProviderKind::Forward, forward),
        (ProviderKind::Process, process),
        (ProviderKind::Native, native),
        (ProviderKind::Peer, peer),
    ];
    for (kind, workers) in of_providers {
        if let Some(workers) = workers {
            set.provider_workers(kind, workers.clone());
        }
    }
}

/// Returns the programs that stay: those of an earlier configuration that are the same, and new ones.
fn processes(
    set: &mut FunctionSet,
    config: &Config,
    executor: &Arc<Executor<'static>>,
    before: Option<&Parts>,
) -> Vec<Process> {
    let process = |process: &ProcessConfig| {
        let same_name = before.and_then(|it| it.processes.iter().find(|other| other.name() == process.name));
        let process = match same_name {
            Some(same) if same.is_same(process, &config.limits) => same.clone(),
            Some(other) => {
                Process::with_metrics(executor, process.clone(), &config.limits, other.metrics().clone())
            }
            None => Process::new(executor, process.clone(), &config.limits),
        };
        if let Some(problem) = process.preflight() {
            log::warn!("process {:?} cannot run: {problem}", process.name());
        }
        let provided = config.functions.iter().filter(|function| {
            matches!(&function.provider, ProviderConfig::Process(found) if found.process == process.name())
        });
        process.set_functions(provided.map(|function| function.name.clone()).collect());
        set.process(process.metrics().clone());
        process
    };
    config.processes.iter().map(process).collect()
}

impl Parts {
    /// Creates what provides a function. Returns `None` if the configuration lacks what it names.
    fn provider(
        &self,
        function: &FunctionConfig,
        name: &Arc<str>,
        executor: &Arc<Executor<'static>>,
    ) -> Option<(Description, Arc<dyn Provider>)> {
        let settings =
            ForwardSettings { node: name.clone(), max_hops: self.config.limits.hops, ..Default::default() };
        let described = |forward: Forward| -> (Description, Arc<dyn Provider>) {
            let mut description = forward.describe();
            description.nodes = Some(forward.other_nodes(&function.name, &self.reports));
            (description, Arc::new(forward))
        };
        Some(match &function.provider {
            ProviderConfig::Exec(exec) => {
                let exec = Exec::new(executor.clone(), name.clone(), exec.clone());
                if let Some(problem) = exec.preflight() {
                    log::warn!("function {:?} cannot run: {problem}", function.name);
                }
                (exec.describe(), Arc::new(exec))
            }
            ProviderConfig::Forward(forward) => {
                let settings = ForwardSettings {
                    timeout: forward.timeout,
                    balance: forward.balance,
                    key: forward.key.clone(),
                    repeatable: forward.repeatable,
                    hedge: forward.hedge,
                    metrics: self.reports.metrics().clone(),
                    #[cfg(feature = "grpc")]
                    method: forward.method.clone().map(|method| match function.name.strip_suffix('*') {
                        Some(prefix) => MethodName::Family { service: method, prefix: prefix.to_owned() },
                        None => MethodName::One(method),
                    }),
                    ..settings
                };
                let targets = forward.to.iter().filter_map(|target| self.remote(target)).cloned();
                described(Forward::new(executor.clone(), targets, settings))
            }
            #[cfg(feature = "nats")]
            ProviderConfig::Nats(found) => {
                let nats = self.nats.as_ref()?;
                let nats_naming = Some(nats.naming(found));
                let settings = ForwardSettings { timeout: found.timeout, nats: nats_naming, ..settings };
                described(Forward::new(executor.clone(), [nats.remote().clone()], settings))
            }
            ProviderConfig::Process(found) => {
                let process = self.processes.iter().find(|process| process.name() == found.process)?;
                let provider = process.function(&function.name, found);
                (provider.describe(), Arc::new(provider))
            }
        })
    }

    /// Returns `true` if what provides a function is the same as before.
    fn has_provider_of(&self, before: &Self, function: &FunctionConfig) -> bool {
        match &function.provider {
            ProviderConfig::Exec(_) => true,
            ProviderConfig::Forward(forward) => {
                let is_same = |target| match (self.remote(target), before.remote(target)) {
                    (Some(remote), Some(other)) => remote.is(other),
                    _ => false,
                };
                self.config.limits.hops == before.config.limits.hops && forward.to.iter().all(is_same)
            }
            ProviderConfig::Process(found) => {
                let of = |parts: &Self| {
                    parts.processes.iter().find(|process| process.name() == found.process).cloned()
                };
                matches!((of(self), of(before)), (Some(process), Some(other)) if process.is(&other))
            }
            #[cfg(feature = "nats")]
            ProviderConfig::Nats(_) => match (&self.nats, &before.nats) {
                (Some(nats), Some(other)) => {
                    self.config.limits.hops == before.config.limits.hops && nats.remote().is(other.remote())
                }
                _ => false,
            },
        }
    }
}

/// The other nodes of a configuration, with what is read from their files.
pub(crate) struct OtherNodes {
    nodes: Vec<OtherNode>,
    #[cfg(feature = "nats")]
    nats: Option<NatsFiles>,
}

/// Another node, a hash of its files, and the connection to it or how to make one.
type OtherNode = (ForwardTarget, u64, Result<Remote, RemoteBuilder>);

impl OtherNodes {
    /// Reads the files of all other nodes of functions, and at the start of topics.
    fn read(config: &Config, earlier: Option<&Parts>) -> Result<Self, ProviderConfigError> {
        let of_functions = config.functions.iter().filter_map(|function| match &function.provider {
            ProviderConfig::Forward(forward) => Some(&forward.to),
            _ => None,
        });
        let topics = if earlier.is_none() { &config.topics[..] } else { &[] };
        let of_topics = topics.iter().filter_map(|topic| topic.forward.as_ref());
        let same = earlier.filter(|earlier| config.limits.is_same_for_remotes(&earlier.config.limits));
        let mut nodes: Vec<OtherNode> = Vec::new();
        for target in of_functions.flatten().chain(of_topics) {
            if nodes.iter().any(|(other, ..)| other == target) {
                continue;
            }
            let files = hash_of_files(target);
            let is_same =
                |(other, hash, _): &&(ForwardTarget, u64, Remote)| other == target && *hash == files;
            let node = match same.and_then(|earlier| earlier.remotes.iter().find(is_same)) {
                Some((.., remote)) => Ok(remote.clone()),
                None => Err(remote(&config.limits, target)?),
            };
            nodes.push((target.clone(), files, node));
        }
        Ok(Self {
            nodes,
            #[cfg(feature = "nats")]
            nats: NatsFiles::read(config, earlier.map(|earlier| (&*earlier.started, earlier.nats.as_ref())))?,
        })
    }
}

/// Connects to the nodes that there is no connection to.
fn connect(nodes: Vec<OtherNode>, executor: &Arc<Executor<'static>>) -> Vec<(ForwardTarget, u64, Remote)> {
    let connect = |(target, files, node): OtherNode| {
        (target, files, node.unwrap_or_else(|remote| remote.executor(executor).watched().connect()))
    };
    nodes.into_iter().map(connect).collect()
}

/// Returns a hash of the files for connections to a node.
fn hash_of_files(target: &ForwardTarget) -> u64 {
    let tls = target.tls.as_ref();
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    let files = [
        target.token_file.as_ref(),
        tls.map(|tls| &tls.ca),
        identity.map(|(certificate, _)| certificate),
        identity.map(|(_, key)| key),
        #[cfg(feature = "grpc")]
        target.descriptors.as_ref(),
    ];
    hash_of(files.into_iter().flatten())
}

/// Returns the error of the files for connections to a node, if there is one.
#[cfg(feature = "cli")]
pub(crate) fn unusable_file(limits: &Limits, target: &ForwardTarget) -> Option<ProviderConfigError> {
    remote(limits, target).err()
}

/// Returns a builder of connections to another node.
pub(super) fn remote(limits: &Limits, target: &ForwardTarget) -> Result<RemoteBuilder, ProviderConfigError> {
    let mut remote = Remote::builder(&target.to).limits(limits.clone());
    if let Some(file) = &target.token_file {
        remote = remote.token(read_token(file)?);
    }
    #[cfg(feature = "grpc")]
    if let Some(path) = &target.descriptors {
        let fail = |source| ProviderConfigError::Descriptors { path: path.clone(), source };
        let set = encoding::read_bytes(path).map_err(|error| fail(error.into()))?;
        remote = remote.descriptors(&set).map_err(fail)?;
    }
    if let Some(tls) = &target.tls {
        remote = remote.tls(connector(&target.to, tls)?);
    }
    Ok(remote)
}
