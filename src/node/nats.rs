//! The servers of NATS of a configuration.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::secrets::{ProviderConfigError, connector, hash_of, read_secret};
use super::shared::Shared;
use crate::config::{
    Config, Limits, NATS_LISTENER, NatsConfig, NatsFunctionConfig, NatsServer, ProviderConfig,
};
use crate::metrics::Metrics;
use crate::provider::nats::{Naming, NatsService, NatsTopics, ServiceSettings};
use crate::remote::{NatsCredentials, NatsRole, NatsSettings, Remote, RemoteBuilder};
use crate::route::{Access, Grants, TopicHub};
use crate::transport::tls::Connector;

/// How long changes of the functions are collected before their endpoints change.
const REFRESH_DELAY: Duration = Duration::from_millis(20);

/// How to connect to the servers, for whatever role.
pub(super) struct NatsTarget {
    servers: Vec<NatsServer>,
    tls: Option<Connector>,
    credentials: NatsCredentials,
    name: String,
    prefix: String,
    inbox: String,
    max_hops: u32,
}

impl NatsTarget {
    /// # Errors
    /// [`ProviderConfigError`] if a file cannot be used.
    pub(super) fn new(config: &Config, nats: &NatsConfig) -> Result<Self, ProviderConfigError> {
        let tls = nats.tls.as_ref().map(|tls| connector("nats", tls)).transpose()?;
        let credentials = credentials(nats)?;
        let servers = nats.servers.clone();
        let (name, prefix, inbox) = (config.name.clone(), nats.prefix.clone(), nats.inbox.clone());
        Ok(Self { servers, tls, credentials, name, prefix, inbox, max_hops: config.limits.hops })
    }

    /// Returns the settings of a connection for a role, over which others make `in_flight` calls at a time.
    pub(super) fn settings(
        self,
        role: Arc<dyn NatsRole>,
        in_flight: usize,
        metrics: Arc<Metrics>,
    ) -> NatsSettings {
        let Self { servers, tls, credentials, name, prefix, inbox, max_hops } = self;
        NatsSettings {
            servers,
            tls,
            credentials,
            name,
            prefix,
            are_names: false,
            inbox,
            max_hops,
            in_flight,
            metrics,
            role,
        }
    }
}

/// Reads the file that shows who the node is, if there is one.
fn credentials(nats: &NatsConfig) -> Result<NatsCredentials, ProviderConfigError> {
    let NatsConfig { user_file, token_file, nkey_file, creds_file, .. } = nats;
    let read = |file: &Option<PathBuf>| file.as_deref().map(read_secret).transpose();
    if let Some(text) = read(user_file)? {
        return Ok(NatsCredentials::user(&text));
    }
    if let Some(text) = read(token_file)? {
        return Ok(NatsCredentials::token(&text));
    }
    let fail = |path: &Path, reason| {
        let source = io::Error::new(io::ErrorKind::InvalidData, reason);
        ProviderConfigError::TokenFile { path: path.to_owned(), source }
    };
    if let (Some(file), Some(text)) = (nkey_file, read(nkey_file)?) {
        return NatsCredentials::nkey(&text).map_err(|reason| fail(file, reason));
    }
    if let (Some(file), Some(text)) = (creds_file, read(creds_file)?) {
        return NatsCredentials::creds(&text).map_err(|reason| fail(file, reason));
    }
    Ok(NatsCredentials::default())
}

/// What is read from the files of a configuration whose functions or topics use servers of NATS.
pub(super) struct NatsFiles {
    hash: u64,
    /// `None` if an earlier connection is as good.
    target: Option<NatsTarget>,
}

impl NatsFiles {
    /// Reads the files, if a configuration has functions at servers of NATS, or that of the start topics. The `earlier`
    /// ones are the configuration of the start, and the connection so far.
    ///
    /// # Errors
    /// [`ProviderConfigError`] if a file cannot be used.
    pub(super) fn read(
        config: &Config,
        earlier: Option<(&Config, Option<&NatsCalls>)>,
    ) -> Result<Option<Self>, ProviderConfigError> {
        let started = earlier.map_or(config, |(started, _)| started);
        let is_used = config.functions.iter().any(|function| is_theirs(&function.provider))
            || started.topics.iter().any(|topic| topic.nats.is_some());
        let Some(nats) = config.nats.as_ref().filter(|_| is_used) else { return Ok(None) };
        let NatsConfig { user_file, token_file, nkey_file, creds_file, tls, .. } = nats;
        let identity = tls.as_ref().and_then(|tls| tls.identity.as_ref());
        let files = [
            user_file.as_ref(),
            token_file.as_ref(),
            nkey_file.as_ref(),
            creds_file.as_ref(),
            tls.as_ref().map(|tls| &tls.ca),
            identity.map(|(certificate, _)| certificate),
            identity.map(|(_, key)| key),
        ];
        let hash = hash_of(files.into_iter().flatten());
        let is_same = |calls: &NatsCalls| {
            calls.nats == *nats && calls.hash == hash && config.limits.is_same_for_remotes(&calls.limits)
        };
        let is_known = earlier.and_then(|(_, calls)| calls).is_some_and(is_same);
        let target = (!is_known).then(|| NatsTarget::new(config, nats)).transpose()?;
        Ok(Some(Self { hash, target }))
    }
}

/// The servers of NATS as functions and topics of a node use them.
pub(super) struct NatsCalls {
    nats: NatsConfig,
    limits: Limits,
    /// Of the files.
    hash: u64,
    remote: Remote,
    topics: Arc<NatsTopics>,
}

impl NatsCalls {
    /// Connects to the servers, or takes over an `earlier` connection that has not changed. Returns `None` if a
    /// configuration names no servers.
    pub(super) fn new(
        config: &Config,
        started: &Config,
        files: NatsFiles,
        executor: &Arc<Executor<'static>>,
        earlier: Option<&Self>,
    ) -> Option<Self> {
        let (nats, limits) = (config.nats.clone()?, config.limits.clone());
        let NatsFiles { hash, target } = files;
        let Some(target) = target else {
            let (remote, topics) = (earlier?.remote.clone(), earlier?.topics.clone());
            return Some(Self { nats, limits, hash, remote, topics });
        };
        let fixed =
            started.topics.iter().filter_map(|topic| Some((topic.name.clone(), topic.nats.clone()??)));
        let topics = NatsTopics::new(nats.prefix.clone(), fixed.collect());
        let settings = target.settings(topics.clone(), usize::MAX, Arc::default());
        let remote = RemoteBuilder::nats(&limits, settings).connect(executor);
        Some(Self { nats, limits, hash, remote, topics })
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Returns how a function is called.
    pub(super) fn naming(&self, function: &NatsFunctionConfig) -> Naming {
        let NatsFunctionConfig { subject, is_text, .. } = function.clone();
        Naming { prefix: self.nats.prefix.clone(), subject, is_text }
    }

    /// Has the events of topics come from the servers.
    pub(super) fn bring_topics(
        &self,
        config: &Config,
        topics: &Arc<TopicHub>,
        executor: &Arc<Executor<'static>>,
    ) {
        for topic in config.topics.iter().filter(|topic| topic.nats.is_some()) {
            topics.set_upstream(&topic.name, self.topics.upstream(topics, &self.remote, executor));
        }
    }

    /// Ends the connection when all calls are answered, unless a later configuration has it, or topics use it.
    pub(super) fn withdraw_for(&self, next: Option<&Self>) {
        if !next.is_some_and(|next| next.remote.is(&self.remote)) && !self.topics.is_used() {
            self.remote.withdraw();
        }
    }
}

fn is_theirs(provider: &ProviderConfig) -> bool {
    matches!(provider, ProviderConfig::Nats(_))
}

/// Functions that a node offers over NATS.
pub(crate) struct NatsOffer {
    target: NatsTarget,
    nats: NatsConfig,
    grants: Grants,
    excluded: Vec<String>,
}

impl NatsOffer {
    /// Returns what a node of a configuration offers, if anything.
    ///
    /// # Errors
    /// [`ProviderConfigError`] if a file cannot be used.
    pub(super) fn from_config(config: &Config) -> Result<Option<Self>, ProviderConfigError> {
        let Some(nats) = config.nats.as_ref().filter(|nats| !nats.offer.is_empty()) else { return Ok(None) };
        let grants = Arc::new(Access::new(config)).grants_for(NATS_LISTENER);
        let mut grants = grants.for_connection(None);
        grants.set_dialect("nats");
        let excluded = config.functions.iter().filter(|function| is_theirs(&function.provider));
        let excluded = excluded.map(|function| function.name.clone()).collect();
        let (target, nats) = (NatsTarget::new(config, nats)?, nats.clone());
        Ok(Some(Self { target, nats, grants, excluded }))
    }

    /// Connects, and answers calls until the node stops.
    pub(super) fn start(self, shared: &Shared) {
        let Self { target, nats, grants, excluded } = self;
        let (stop, force_stop) = (shared.shutdown.signal(), shared.shutdown.force_signal());
        let in_flight = nats.in_flight;
        let settings = ServiceSettings { nats, grants: Mutex::new(grants), excluded, stop, force_stop };
        let service = NatsService::new(&shared.registry, settings);
        let settings = target.settings(service.clone(), in_flight, shared.registry.metrics().clone());
        let serving = RemoteBuilder::nats(&shared.limits(), settings).serve(&shared.executor);
        let changes = shared.registry.table().changes();
        let following = async move {
            loop {
                let changed = changes.listen();
                service.refresh();
                changed.await;
                // Many come and go at once.
                Timer::after(REFRESH_DELAY).await;
            }
        };
        shared.offers().push(shared.executor.spawn(serving.or(following)));
    }
}
