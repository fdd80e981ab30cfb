//! The functions that a node has until its configuration is loaded again.

use std::fmt;
use std::sync::Arc;

use super::entry::Entry;
use super::names::Names;
use crate::metrics::ProcessMetrics;
use crate::swap::{Cached, Swap};

/// The maximum number of withdrawn functions that are remembered.
const MAX_WITHDRAWN: usize = 1024;

/// The functions of a node that no connection offers.
#[derive(Default)]
pub(super) struct Generation {
    pub(super) functions: Names<Arc<Entry>>,
    /// The counters of processes.
    pub(super) processes: Vec<Arc<ProcessMetrics>>,
    /// The names of functions that earlier ones had.
    pub(super) withdrawn: Vec<String>,
}

/// The current generation of a registry.
#[derive(Default)]
pub(super) struct Current(Swap<Generation>);

/// The generation that a connection has read last, so that it reads the next one without a lock unless that differs. Until
/// then it keeps what has changed since.
#[derive(Default)]
pub(crate) struct FunctionCache(Cached<Generation>);

impl fmt::Debug for FunctionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FunctionCache").finish_non_exhaustive()
    }
}

impl Current {
    /// Returns the generation, unless there are no functions.
    #[inline]
    pub(super) fn read<'a>(&self, cache: &'a mut FunctionCache) -> Option<&'a Generation> {
        self.0.read(&mut cache.0)
    }

    /// Returns the counters of processes.
    pub(super) fn processes(&self) -> Vec<Arc<ProcessMetrics>> {
        self.0.get().map(|generation| generation.processes.clone()).unwrap_or_default()
    }

    /// Returns the function of that name, or else the family with the longest matching prefix.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Entry>> {
        self.0.get()?.functions.find(name).cloned()
    }

    /// Returns the function or family of exactly that name.
    pub(super) fn find_exact(&self, name: &str) -> Option<Arc<Entry>> {
        self.find(name).filter(|entry| entry.name == name)
    }

    /// Returns all functions.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        self.0.get().map(|generation| generation.functions.values().cloned().collect()).unwrap_or_default()
    }

    /// Replaces the generation. Remembers which functions the next one lacks, and returns them.
    pub(super) fn replace(&self, mut next: Generation) -> Vec<Arc<Entry>> {
        let has = |next: &Generation, name: &str| next.functions.find(name).is_some_and(|it| it.name == name);
        let withdrawn: Vec<_> = self.entries().into_iter().filter(|entry| !has(&next, &entry.name)).collect();
        let earlier = self.0.get();
        let names = withdrawn.iter().map(|entry| &entry.name);
        let names = names.chain(earlier.iter().flat_map(|earlier| &earlier.withdrawn));
        next.withdrawn = names.filter(|name| !has(&next, name)).take(MAX_WITHDRAWN).cloned().collect();
        let is_empty = next.functions.values().next().is_none() && next.withdrawn.is_empty();
        let next = (!is_empty || !next.processes.is_empty()).then_some(next);
        let Ok(()) = self.0.update(|_| Ok::<_, std::convert::Infallible>(next));
        withdrawn
    }
}
