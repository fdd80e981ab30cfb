//! Builds a registry: which functions exist, and how many of their calls run at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::Admission;
use super::caught::Caught;
use super::entry::Entry;
use super::offers::Offers;
use super::registry::Registry;
use super::table::{Builtin, Table};
use super::topics::TopicHub;
use super::{Description, Provider, ProviderKind, RegistryError};
use crate::config::{Limits, TopicConfig, Workers};
use crate::metrics::{Metrics, ProcessMetrics};

/// Collects the functions of a [`Registry`]. Created by [`Registry::builder`].
#[derive(Debug)]
#[must_use = "there is no registry before `build`"]
pub struct RegistryBuilder {
    registry: Registry,
    node: Option<Workers>,
    providers: BTreeMap<ProviderKind, Workers>,
}

impl RegistryBuilder {
    /// Starts with the functions that every node has.
    pub(crate) fn new(name: Arc<str>, builtins: &'static [Builtin]) -> Self {
        let registry = Registry { table: Table::new(name, builtins) };
        Self { registry, node: None, providers: BTreeMap::new() }
    }

    /// Sets how many nodes may forward a call; 8 by default.
    pub fn max_hops(mut self, hops: u32) -> Self {
        self.registry.table.max_hops = hops;
        self
    }

    /// Sets the limits of what connections offer.
    pub(crate) fn limits(mut self, limits: &Limits) -> Self {
        self.registry.table.offers = Arc::new(Offers::new(limits));
        self
    }

    /// Registers `provider` for the function `name`, or for a family of functions if `name` ends in `.*`.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken, reserved (`rpc.`, `$/`) or invalid.
    pub fn provide(
        &mut self,
        name: &str,
        description: Description,
        provider: impl Provider,
    ) -> Result<&mut Self, RegistryError> {
        self.insert(name, description, Arc::new(Caught::new(provider)))
    }

    /// Registers a provider that does not panic.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        description: Description,
        provider: Arc<dyn Provider>,
    ) -> Result<&mut Self, RegistryError> {
        let entry = Entry::new(name, description, provider);
        self.registry.table.fixed.insert(name, Arc::new(entry))?;
        Ok(self)
    }

    /// Returns the node's counters.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.registry.table.metrics
    }

    /// Reports the counters of a process.
    pub(crate) fn process(&mut self, metrics: Arc<ProcessMetrics>) {
        self.registry.table.processes.push(metrics);
    }

    /// Configures topics.
    ///
    /// # Errors
    /// [`RegistryError`] if the name of one is taken, reserved or invalid.
    pub(crate) fn topics(&self, configs: &[TopicConfig]) -> Result<(), RegistryError> {
        self.registry.table.topics.configure(configs)
    }

    /// Uses topics that exist already, and their node's counters.
    pub(crate) fn with_topics(mut self, topics: &Arc<TopicHub>) -> Self {
        self.registry.table.metrics = topics.metrics().clone();
        self.registry.table.topics = topics.clone();
        self
    }

    /// Has all other names answered by a provider that does not panic.
    pub(crate) fn fallback(mut self, provider: Arc<dyn Provider>) -> Self {
        self.registry.table.fallback = Some(Arc::new(Entry::new("*", Description::default(), provider)));
        self
    }

    /// Limits the concurrent calls of all functions together. Built-in functions (`rpc.*`) are exempt.
    pub fn node_workers(&mut self, workers: Workers) -> &mut Self {
        self.node = Some(workers);
        self
    }

    /// Limits the concurrent calls of all functions with one [kind of provider](super::Description::provider).
    pub fn provider_workers(&mut self, kind: ProviderKind, workers: Workers) -> &mut Self {
        self.providers.insert(kind, workers);
        self
    }

    /// Limits the concurrent calls of the function or family `name`. Overrides the limit of its
    /// [description](super::Description::workers).
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] if no provider has been registered for it.
    pub fn function_workers(&mut self, name: &str, workers: Workers) -> Result<&mut Self, RegistryError> {
        let entry = self.entries().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| RegistryError::Unknown(name.to_owned()))?;
        entry.description.workers = Some(workers);
        Ok(self)
    }

    /// Builds the registry.
    pub fn build(mut self) -> Arc<Registry> {
        let admission = Arc::new(Admission::new(self.node.take(), std::mem::take(&mut self.providers)));
        self.entries().for_each(|entry| entry.join(&admission));
        self.registry.table.admission = admission;
        Arc::new(self.registry)
    }

    /// Returns the functions so far, of which the builder has the only references.
    fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.registry.table.fixed.values_mut().filter_map(Arc::get_mut)
    }
}
