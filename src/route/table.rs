//! What answers which name, and how often it did.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::access::Sight;
use super::admission::Admission;
use super::{Description, Provider};
use crate::metrics::{self, FunctionMetrics, FunctionStats, Metrics, WorkerStats};

/// Providers by name, without those that every node has.
pub(super) struct Table {
    pub(super) name: Arc<str>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admission: Arc<Admission>,
    exact: BTreeMap<String, Entry>,
    /// `family.` → what answers `family.*`.
    families: BTreeMap<String, Entry>,
    /// What `rpc.list` says, in pieces, since it is asked often and does not change.
    pub(super) listed: OnceLock<Vec<Listed>>,
}

/// One function in `rpc.list`, as JSON.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) brief: String,
    /// All that is told of it.
    pub(super) verbose: String,
    /// The same without what is only for those who may call everything.
    pub(super) discreet: String,
}

/// What answers one name or family.
pub(super) struct Entry {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) metrics: Arc<FunctionMetrics>,
    /// Its number in the admission, if its calls pass any gate.
    pub(super) lane: Option<usize>,
    description: Option<String>,
}

/// A name, or a family, is in the table already.
pub(super) struct Taken;

impl Table {
    pub(super) fn new(name: Arc<str>) -> Self {
        let (exact, families) = (BTreeMap::new(), BTreeMap::new());
        let listed = OnceLock::new();
        Self { name, metrics: Arc::default(), admission: Arc::default(), exact, families, listed }
    }

    /// Enters what answers a name, or with a `name` that ends in a dot a family.
    pub(super) fn insert(
        &mut self,
        name: &str,
        description: Option<String>,
        provider: Arc<dyn Provider>,
    ) -> Result<(), Taken> {
        let table = if name.ends_with('.') { &mut self.families } else { &mut self.exact };
        if table.contains_key(name) {
            return Err(Taken);
        }
        table.insert(name.to_owned(), Entry { provider, metrics: Arc::default(), lane: None, description });
        Ok(())
    }

    /// Returns all names, with what is told of them.
    pub(super) fn list(&self) -> impl Iterator<Item = (String, Description)> {
        self.entries().map(|(name, entry)| {
            let mut description = entry.provider.describe();
            description.description = entry.description.clone().or(description.description);
            (name, description)
        })
    }

    /// Returns the numbers of all functions that are seen: name, provider, numbers.
    pub(super) fn stats(
        &self,
        sight: &Sight<'_>,
    ) -> impl Iterator<Item = (String, &'static str, FunctionStats)> {
        let seen = self.entries().filter(|(name, _)| sight.shows(name));
        seen.map(|(name, entry)| (name, entry.provider.describe().provider, entry.metrics.stats()))
    }

    /// Returns the numbers of all gates, the node's first, but not those of functions that are not seen.
    pub(super) fn workers(&self, sight: &Sight<'_>) -> Vec<WorkerStats> {
        let mut workers = self.admission.stats();
        workers.retain(|workers| workers.function.as_ref().is_none_or(|name| sight.shows(name)));
        workers
    }

    /// Returns how many calls are not answered yet, notifications included.
    pub(super) fn in_flight(&self) -> u64 {
        self.entries().map(|(_, entry)| entry.metrics.in_flight()).sum()
    }

    /// Returns everything that is counted, in Prometheus's text format.
    pub(super) fn prometheus(&self, sight: &Sight<'_>) -> String {
        let mut out = String::new();
        self.metrics.write_prometheus(&mut out);
        let stats: Vec<_> = self.stats(sight).collect();
        let stats = stats.iter().map(|(name, provider, stats)| (name.as_str(), *provider, stats.clone()));
        metrics::write_functions(&mut out, &stats);
        metrics::write_workers(&mut out, &self.workers(sight));
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

    /// The exact name if it is there, else its longest family.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.exact.get(name).or_else(|| {
            let dots = name.rmatch_indices('.').map(|(at, _)| &name[..=at]);
            dots.into_iter().find_map(|prefix| self.families.get(prefix))
        })
    }
}
