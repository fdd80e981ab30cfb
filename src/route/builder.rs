//! Builds a registry: which functions exist, and how many of their calls run at once.

use std::sync::Arc;

use super::caught::Caught;
use super::entry::Entry;
use super::functions::FunctionSet;
use super::registry::Registry;
use super::table::{Builtin, Table};
use super::topics::TopicHub;
use super::{Description, Provider, ProviderKind, RegistryError};
use crate::config::{Limits, TopicConfig, Workers};
use crate::metrics::Metrics;

/// Collects the functions of a [`Registry`]. Created by [`Registry::builder`].
#[derive(Debug)]
#[must_use = "there is no registry before `build`"]
pub struct RegistryBuilder {
    registry: Registry,
    pub(crate) functions: FunctionSet,
}

impl RegistryBuilder {
    /// Starts with the functions that every node has.
    pub(crate) fn new(name: Arc<str>, builtins: &'static [Builtin]) -> Self {
        let registry = Registry { table: Table::new(name, builtins) };
        Self { registry, functions: FunctionSet::default() }
    }

    /// Sets how many nodes may forward a call; 8 by default.
    pub fn max_hops(self, hops: u32) -> Self {
        self.registry.table.set_max_hops(hops);
        self
    }

    /// Sets the limits of what connections offer.
    pub(crate) fn limits(self, limits: &Limits) -> Self {
        self.registry.table.offers.set_limits(limits);
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
        self.functions.insert(name, description, provider)?;
        Ok(self)
    }

    /// Returns the node's counters.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.registry.table.metrics
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

    /// Counts in the counters of another registry.
    #[cfg(feature = "nats")]
    pub(crate) fn counted_in(mut self, metrics: &Arc<Metrics>) -> Self {
        self.registry.table.metrics = metrics.clone();
        self
    }

    /// Has all other names answered by a provider that does not panic.
    pub(crate) fn fallback(mut self, provider: Arc<dyn Provider>) -> Self {
        self.registry.table.fallback = Some(Arc::new(Entry::new("*", Description::default(), provider)));
        self
    }

    /// Limits the concurrent calls of all functions together. Built-in functions (`rpc.*`) are exempt.
    pub fn node_workers(&mut self, workers: Workers) -> &mut Self {
        self.functions.node_workers(workers);
        self
    }

    /// Limits the concurrent calls of all functions with one [kind of provider](super::Description::provider).
    pub fn provider_workers(&mut self, kind: ProviderKind, workers: Workers) -> &mut Self {
        self.functions.provider_workers(kind, workers);
        self
    }

    /// Limits the concurrent calls of the function or family `name`. Overrides the limit of its
    /// [description](super::Description::workers).
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] if no provider has been registered for it.
    pub fn function_workers(&mut self, name: &str, workers: Workers) -> Result<&mut Self, RegistryError> {
        self.functions.function_workers(name, workers)?;
        Ok(self)
    }

    /// Builds the registry.
    pub fn build(self) -> Arc<Registry> {
        self.registry.install(self.functions);
        Arc::new(self.registry)
    }
}
