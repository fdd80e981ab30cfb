//! The right to run a call, which its responder holds.

use std::sync::{Arc, Weak};

/// Takes back the workers of calls.
pub(super) trait Release: Send + Sync {
    /// Releases the workers of a call of a queue.
    fn release_permit(self: Arc<Self>, queue: usize);
}

/// The workers of a running call. The reference is weak: a provider that never answers would keep the admission alive,
/// which in turn keeps the provider alive.
pub(super) struct Permit {
    admission: Weak<dyn Release>,
    queue: usize,
}

impl Permit {
    pub(super) fn new(admission: Weak<dyn Release>, queue: usize) -> Self {
        Self { admission, queue }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.upgrade() {
            admission.release_permit(self.queue);
        }
    }
}
