//! The locks and atomics of the core, which loom replaces to try every order of threads.

#[cfg(chanrpc_loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(chanrpc_loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(chanrpc_loom)]
use loom::sync as inner;
#[cfg(not(chanrpc_loom))]
use std::sync as inner;

use std::sync::PoisonError;

pub(super) type MutexGuard<'a, T> = inner::MutexGuard<'a, T>;

/// A mutex without poisoning: nothing of the user's runs under a lock of ours, so a panic leaves what it guards whole.
#[derive(Debug, Default)]
pub(super) struct Mutex<T>(inner::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(inner::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
