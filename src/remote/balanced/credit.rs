//! How many calls may be made in addition to those of callers, so that a fleet in trouble is not asked twice as much.

use std::sync::atomic::{AtomicU32, Ordering};

/// First calls for which one may be made in addition.
const CALLS_PER_RETRY: u32 = 5;
/// Calls that may be made in addition at once.
const MAX_RETRIES: u32 = 10;

/// First calls since additional ones, up to a limit.
#[derive(Debug)]
pub(super) struct Credit(AtomicU32);

impl Credit {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(CALLS_PER_RETRY * MAX_RETRIES))
    }

    /// Notes a first call.
    pub(super) fn earn(&self) {
        let earn = |credit: u32| Some((credit + 1).min(CALLS_PER_RETRY * MAX_RETRIES));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }

    /// Returns `true` if one more call may be made.
    pub(super) fn spend(&self) -> bool {
        let spend = |credit: u32| credit.checked_sub(CALLS_PER_RETRY);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}
