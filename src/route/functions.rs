//! The functions that a registry is to have.

use std::fmt;
use std::sync::Arc;

use super::entry::Entry;
use super::generation::Generation;
use super::names::Names;
use super::registry::Registry;
use super::{Description, Provider, ProviderKind, RegistryError};
use crate::config::Workers;
use crate::metrics::ProcessMetrics;

/// The functions that a registry is to have, and how many of their calls may run at once.
#[derive(Default)]
pub(crate) struct FunctionSet {
    functions: Names<Arc<Entry>>,
    processes: Vec<Arc<ProcessMetrics>>,
    pub(super) node: Option<Workers>,
    pub(super) providers: Vec<(ProviderKind, Workers)>,
}

impl FunctionSet {
    /// Adds a provider that does not panic.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken, reserved or invalid.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        description: Description,
        provider: Arc<dyn Provider>,
    ) -> Result<(), RegistryError> {
        self.functions.insert(name, Arc::new(Entry::new(name, description, provider)))
    }

    /// Adds a function of a registry as it is. Returns `false` if it does not exist.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken.
    pub(crate) fn keep(&mut self, registry: &Registry, name: &str) -> Result<bool, RegistryError> {
        let Some(entry) = registry.table.current.find_exact(name) else { return Ok(false) };
        self.functions.insert(name, entry).map(|()| true)
    }

    /// Reports the counters of a process.
    pub(crate) fn process(&mut self, metrics: Arc<ProcessMetrics>) {
        self.processes.push(metrics);
    }

    /// Limits the concurrent calls of all functions together.
    pub(crate) fn node_workers(&mut self, workers: Workers) {
        self.node = Some(workers);
    }

    /// Limits the concurrent calls of all functions with one kind of provider.
    pub(crate) fn provider_workers(&mut self, kind: ProviderKind, workers: Workers) {
        self.providers.retain(|(limited, _)| *limited != kind);
        self.providers.push((kind, workers));
    }

    /// Limits the concurrent calls of a function or family.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] if there is none.
    pub(crate) fn function_workers(&mut self, name: &str, workers: Workers) -> Result<(), RegistryError> {
        let entry = self.functions.find_exact_mut(name).and_then(Arc::get_mut);
        let entry = entry.ok_or_else(|| RegistryError::Unknown(name.to_owned()))?;
        entry.description.workers = Some(workers);
        Ok(())
    }
}

impl Registry {
    /// Replaces the functions, except those that connections offer. A function that is changed keeps its counters, and its
    /// calls that wait for a worker are for the new provider. Those of a function that is withdrawn fail.
    pub(crate) fn install(&self, set: FunctionSet) {
        let FunctionSet { mut functions, processes, node, providers } = set;
        let super::Table { admission, current, registered, .. } = &self.table;
        admission.set_shared(node, providers);
        let mut replaced = Vec::new();
        for entry in functions.values_mut() {
            let earlier = current.find_exact(&entry.name);
            let is_kept = earlier.as_ref().is_some_and(|earlier| Arc::ptr_eq(earlier, entry));
            if is_kept && entry.is_limited() == entry.is_limited_by(admission) {
                continue;
            }
            if is_kept {
                *entry = Arc::new(entry.duplicate());
            }
            // Nobody else has it yet.
            let Some(next) = Arc::get_mut(entry) else { continue };
            next.join(admission, earlier.as_deref());
            replaced.extend(earlier.map(|earlier| (earlier, entry.clone())));
        }
        let withdrawn = current.replace(Generation { functions, processes, withdrawn: Vec::new() });
        for (earlier, entry) in replaced {
            if let Some(queue) = &earlier.queue {
                queue.set_provider(&entry.provider);
                if !entry.queue.as_ref().is_some_and(|other| other.is(queue)) {
                    queue.retire();
                }
            }
            if !Arc::ptr_eq(&earlier.provider, &entry.provider) {
                self.table.retired().push(earlier.provider.clone());
            }
        }
        for entry in withdrawn {
            registered.note_removed(&entry.metrics);
            if let Some(queue) = &entry.queue {
                queue.retire();
                queue.fail_waiting();
            }
            self.table.retired().push(entry.provider.clone());
        }
        admission.start_waiting();
    }

    /// Drops the providers that the registry no longer has and that have ended. Returns `false` if there are others.
    pub(crate) fn drop_retired(&self) -> bool {
        let all = self.table.retired().clone();
        let ended: Vec<_> = all.into_iter().filter(|provider| provider.retire()).collect();
        let mut retired = self.table.retired();
        retired.retain(|provider| !ended.iter().any(|other| Arc::ptr_eq(other, provider)));
        retired.is_empty()
    }

    /// Returns the names of the functions that no connection offers.
    pub(crate) fn names(&self) -> Vec<String> {
        self.table.current.entries().iter().map(|entry| entry.name.clone()).collect()
    }
}

impl fmt::Debug for FunctionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.functions.values().map(|entry| &entry.name).collect();
        f.debug_tuple("FunctionSet").field(&names).finish()
    }
}
