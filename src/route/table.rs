//! The functions of a node by name, with their providers and counters.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::access::Visibility;
use super::admission::Admission;
use super::listing::Listed;
use super::{Description, Provider, ProviderKind};
use crate::message::{Fault, RawJson};
use crate::metrics::{self, FunctionMetrics, FunctionStats, Metrics, WorkerStats};

/// Providers by function name, and the functions that every node has.
pub(crate) struct Table {
    pub(crate) name: Arc<str>,
    pub(crate) metrics: Arc<Metrics>,
    pub(super) admission: Arc<Admission>,
    exact: BTreeMap<String, Entry>,
    /// The prefix `family.` → the entry of `family.*`.
    families: BTreeMap<String, Entry>,
    builtins: &'static [Builtin],
    /// The elements of the reply to `rpc.list`, which is requested often and does not change.
    listed: OnceLock<Vec<Listed>>,
}

/// A function that every node has. It answers from the table itself, without workers and counters.
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) describe: fn() -> Description,
    /// Appends the result to the buffer.
    pub(crate) answer: Answer,
}

type Answer = fn(&Table, &Visibility<'_>, Option<&RawJson<'_>>, &mut Vec<u8>) -> Result<(), Fault>;

/// One function or family.
pub(super) struct Entry {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) metrics: Arc<FunctionMetrics>,
    /// The index of its queue in the admission, if any limit applies to its calls.
    pub(super) queue: Option<usize>,
    pub(super) description: Description,
}

/// The function or family is already in the table.
pub(super) struct Duplicate;

impl Table {
    pub(super) fn new(name: Arc<str>, builtins: &'static [Builtin]) -> Self {
        let (exact, families) = (BTreeMap::new(), BTreeMap::new());
        let listed = OnceLock::new();
        Self { name, metrics: Arc::default(), admission: Arc::default(), exact, families, builtins, listed }
    }

    /// Adds the provider of a function, or of a family if `name` ends in a dot.
    pub(super) fn insert(
        &mut self,
        name: &str,
        description: Description,
        provider: Arc<dyn Provider>,
    ) -> Result<(), Duplicate> {
        let table = if name.ends_with('.') { &mut self.families } else { &mut self.exact };
        if table.contains_key(name) {
            return Err(Duplicate);
        }
        table.insert(name.to_owned(), Entry { provider, metrics: Arc::default(), queue: None, description });
        Ok(())
    }

    /// Returns all functions, the built-in ones last.
    pub(crate) fn listed(&self) -> &[Listed] {
        self.listed.get_or_init(|| {
            let entries = self.entries().map(|(name, entry)| Listed::new(name, &entry.description));
            let builtin = |builtin: &Builtin| Listed::new(builtin.name.to_owned(), &(builtin.describe)());
            entries.chain(self.builtins.iter().map(builtin)).collect()
        })
    }

    /// Returns the counters of all visible functions.
    pub(crate) fn stats(
        &self,
        visibility: &Visibility<'_>,
    ) -> impl Iterator<Item = (String, ProviderKind, FunctionStats)> {
        let visible = self.entries().filter(|(name, _)| visibility.includes(name));
        visible.map(|(name, entry)| (name, entry.description.provider, entry.metrics.stats()))
    }

    /// Returns the counters of all admission limits, the node's first, except those of invisible functions.
    pub(crate) fn workers(&self, visibility: &Visibility<'_>) -> Vec<WorkerStats> {
        let mut workers = self.admission.stats();
        workers.retain(|workers| workers.function.as_ref().is_none_or(|name| visibility.includes(name)));
        workers
    }

    /// Returns the number of unanswered calls, notifications included.
    pub(super) fn in_flight(&self) -> u64 {
        self.entries().map(|(_, entry)| entry.metrics.in_flight()).sum()
    }

    /// Returns all counters in the Prometheus text format.
    pub(super) fn prometheus(&self, visibility: &Visibility<'_>) -> String {
        let mut out = String::new();
        self.metrics.write_prometheus(&mut out);
        let stats: Vec<_> = self.stats(visibility).collect();
        let stats = stats.iter().map(|(name, kind, stats)| (name.as_str(), kind.as_str(), stats.clone()));
        metrics::write_functions(&mut out, &stats);
        metrics::write_workers(&mut out, &self.workers(visibility));
        out
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (String, &Entry)> {
        let families = self.families.iter().map(|(prefix, entry)| (format!("{prefix}*"), entry));
        self.exact.iter().map(|(name, entry)| (name.clone(), entry)).chain(families)
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = (String, &mut Entry)> {
        let families = self.families.iter_mut().map(|(prefix, entry)| (format!("{prefix}*"), entry));
        self.exact.iter_mut().map(|(name, entry)| (name.clone(), entry)).chain(families)
    }

    /// Returns the built-in function of that name.
    pub(super) fn find_builtin(&self, name: &str) -> Option<&'static Builtin> {
        self.builtins.iter().find(|builtin| builtin.name == name)
    }

    /// Returns the function of that name, or else the family with the longest matching prefix.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.exact.get(name).or_else(|| {
            let prefixes = name.rmatch_indices('.').map(|(at, _)| &name[..=at]);
            prefixes.into_iter().find_map(|prefix| self.families.get(prefix))
        })
    }
}
