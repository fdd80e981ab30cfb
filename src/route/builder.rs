//! Builds a registry: which functions exist, and how many of their calls run at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use smol::future::Boxed;

use super::admission::{Admission, Scope};
use super::call::{Call, unanswered};
use super::name::{MAX_NAME, RESERVED};
use super::registry::Registry;
use super::table::{Builtin, Duplicate, Table};
use super::{Description, Provider, ProviderKind};
use crate::chan::panic;
use crate::config::Workers;
use crate::message::{Fault, RawJson};

/// Collects the functions of a [`Registry`]. Created by [`Registry::builder`].
#[derive(Debug)]
#[must_use = "there is no registry before `build`"]
pub struct RegistryBuilder {
    registry: Registry,
    node: Option<Workers>,
    providers: BTreeMap<ProviderKind, Workers>,
    functions: BTreeMap<String, Workers>,
}

impl RegistryBuilder {
    /// Starts with the functions that every node has.
    pub(crate) fn new(name: Arc<str>, builtins: &'static [Builtin]) -> Self {
        let registry = Registry { table: Table::new(name, builtins), max_hops: 8 };
        Self { registry, node: None, providers: BTreeMap::new(), functions: BTreeMap::new() }
    }

    /// Sets how many nodes may forward a call; 8 by default.
    pub fn max_hops(mut self, hops: u32) -> Self {
        self.registry.max_hops = hops;
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
        self.insert(name, description, Caught(provider))
    }

    /// Registers a provider of this crate, which does not panic.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        description: Description,
        provider: impl Provider,
    ) -> Result<&mut Self, RegistryError> {
        if RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(RegistryError::Reserved(name.to_owned()));
        }
        let key = match name.strip_suffix('*') {
            Some(prefix) if prefix.len() > 1 && prefix.ends_with('.') => prefix,
            None if !name.ends_with('.') => name,
            _ => return Err(RegistryError::InvalidName(name.to_owned())),
        };
        let is_valid = |byte: u8| byte.is_ascii_graphic() && !b"\"\\*".contains(&byte);
        if key.is_empty() || key.len() > MAX_NAME || !key.bytes().all(is_valid) {
            return Err(RegistryError::InvalidName(name.to_owned()));
        }
        let inserted = self.registry.table.insert(key, description, Arc::new(provider));
        inserted.map_err(|Duplicate| RegistryError::Duplicate(name.to_owned()))?;
        Ok(self)
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
        if !self.registry.table.entries().any(|(entered, _)| entered == name) {
            return Err(RegistryError::Unknown(name.to_owned()));
        }
        self.functions.insert(name.to_owned(), workers);
        Ok(self)
    }

    /// Builds the registry.
    pub fn build(self) -> Arc<Registry> {
        let Self { mut registry, node, providers, mut functions } = self;
        let mut num_functions: BTreeMap<ProviderKind, usize> = BTreeMap::new();
        for (_, entry) in registry.table.entries() {
            *num_functions.entry(entry.description.provider).or_default() += 1;
        }
        let mut admission = Admission::default();
        let of_all = num_functions.values().sum();
        let node = node.map(|workers| admission.add_limit(Scope::Node, &with_share(workers, of_all)));
        let mut limits = BTreeMap::new();
        for (kind, workers) in providers {
            if let Some(count) = num_functions.get(&kind) {
                let workers = with_share(workers, *count);
                limits.insert(kind, admission.add_limit(Scope::Provider(kind), &workers));
            }
        }
        for (name, entry) in registry.table.entries_mut() {
            let kind = entry.description.provider;
            let own = functions.remove(&name).or_else(|| entry.description.workers.clone());
            let own = own.map(|workers| admission.add_limit(Scope::Function(name, kind), &workers));
            let path: Vec<_> = own.into_iter().chain(limits.get(&kind).copied()).chain(node).collect();
            if !path.is_empty() {
                entry.queue = Some(admission.add_queue(entry.provider.clone(), path));
            }
        }
        registry.table.admission = Arc::new(admission);
        Arc::new(registry)
    }
}

/// A provider of the user's. If it panics, the call is dropped, and so answered.
struct Caught<P>(P);

impl<P: Provider> Provider for Caught<P> {
    fn call(&self, call: Call<'_>) {
        let _ = panic::catch(|| self.0.call(call));
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        panic::catch(|| self.0.check(params)).unwrap_or_else(|_| Err(unanswered()))
    }

    fn stop(&self) -> Boxed<()> {
        self.0.stop()
    }
}

/// Sets the default share of workers that several functions use: a slow function must leave one to the others.
fn with_share(mut workers: Workers, functions: usize) -> Workers {
    if functions > 1 && workers.share.is_none() {
        workers.share = Some(workers.count.saturating_sub(1));
    }
    workers
}

/// Why a registry did not accept a function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// No provider is registered for that name.
    Unknown(String),
    /// A provider is already registered for that name.
    Duplicate(String),
    /// Names that begin with `rpc.` or `$/` are reserved by the protocol.
    Reserved(String),
    /// A name has 1 to 128 visible ASCII characters, no quotes or backslashes, no dot at its end, and `*` only in
    /// a final `.*`.
    InvalidName(String),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "function {name:?} is not registered; register it before setting its workers")
            }
            Self::Duplicate(name) => write!(f, "function {name:?} is already registered"),
            Self::Reserved(name) => {
                write!(f, "function {name:?}: names that begin with \"rpc.\" or \"$/\" are reserved")
            }
            Self::InvalidName(name) => write!(
                f,
                "function {name:?}: a name has 1 to 128 visible ASCII characters without quotes and backslashes; \
                 \"*\" may only end a family, as in \"math.*\""
            ),
        }
    }
}

impl std::error::Error for RegistryError {}
