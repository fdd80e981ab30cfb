//! One function or family.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::admission::{Admission, QueueSlot};
use super::listing::Listed;
use super::{Description, Provider};
use crate::metrics::FunctionMetrics;

/// One function or family, and its counters.
pub(super) struct Entry {
    /// Its name; that of a family ends in `.*`.
    pub(super) name: String,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) metrics: Arc<FunctionMetrics>,
    /// Its queue in the admission, if any limit applies to its calls.
    pub(super) queue: Option<QueueSlot>,
    pub(super) description: Description,
    listed: OnceLock<Listed>,
}

impl Entry {
    pub(super) fn new(name: &str, description: Description, provider: Arc<dyn Provider>) -> Self {
        let (name, metrics, listed) = (name.to_owned(), Arc::default(), OnceLock::new());
        Self { name, provider, metrics, queue: None, description, listed }
    }

    /// Applies the limits of an admission. Takes over the counters of an earlier function of the same name and, if the same
    /// kinds of limits apply, its queue.
    pub(super) fn join(&mut self, admission: &Arc<Admission>, earlier: Option<&Self>) {
        let Description { provider, workers, .. } = &self.description;
        if let Some(earlier) = earlier {
            self.metrics = earlier.metrics.clone();
        }
        let is_same = |earlier: &&Self| {
            let Description { provider: kind, workers: own, .. } = &earlier.description;
            (kind, own.is_some()) == (provider, workers.is_some()) && self.is_limited_by(admission)
        };
        let queue = earlier.filter(is_same).and_then(|earlier| earlier.queue.clone());
        if let (Some(queue), Some(workers)) = (&queue, workers) {
            queue.set_limit(workers);
        }
        self.queue = queue.or_else(|| admission.add(&self.name, *provider, workers.as_ref()));
    }

    /// Returns the same function with the same provider, without counters and limits.
    pub(super) fn duplicate(&self) -> Self {
        Self::new(&self.name, self.description.clone(), self.provider.clone())
    }

    /// Returns its name, or the prefix of a family.
    pub(super) fn key(&self) -> &str {
        self.name.strip_suffix('*').unwrap_or(&self.name)
    }

    /// Returns `true` if a limit applies to its calls.
    pub(super) fn is_limited(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns `true` if a limit of an admission is to apply to its calls.
    pub(super) fn is_limited_by(&self, admission: &Admission) -> bool {
        self.description.workers.is_some() || admission.limits_all(self.description.provider)
    }

    /// Returns what `rpc.list` reports of it.
    pub(super) fn listed(&self) -> &Listed {
        self.listed.get_or_init(|| Listed::new(&self.name, &self.description))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}
