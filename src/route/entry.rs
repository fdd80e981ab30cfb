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

    /// Applies the limits of an admission.
    pub(super) fn join(&mut self, admission: &Arc<Admission>) {
        let Description { provider, workers, .. } = &self.description;
        self.queue = admission.add(&self.name, *provider, workers.as_ref());
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
