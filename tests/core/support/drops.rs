//! Values that record when they are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts how many of its guards were dropped.
#[derive(Clone, Default)]
pub(crate) struct Drops(Arc<AtomicU32>);

impl Drops {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Increments the count when dropped.
    pub(crate) fn guard(&self) -> DropGuard {
        DropGuard(self.clone())
    }
}

pub(crate) struct DropGuard(Drops);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A value that panics in `drop`.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}
