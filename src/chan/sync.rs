//! The locks, atomics and thread-locals of `chan` and `sched`, which loom replaces to try every order of threads.

#[cfg(chanrpc_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(chanrpc_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(chanrpc_loom)]
use loom::sync as inner;
#[cfg(not(chanrpc_loom))]
use std::sync as inner;

use std::sync::PoisonError;

/// Declares a thread-local `Cell`.
macro_rules! thread_cell {
    ($name:ident: $type:ty = $value:expr) => {
        #[cfg(not(chanrpc_loom))]
        thread_local! { static $name: std::cell::Cell<$type> = const { std::cell::Cell::new($value) }; }
        #[cfg(chanrpc_loom)]
        loom::thread_local! { static $name: std::cell::Cell<$type> = std::cell::Cell::new($value); }
    };
}
pub(super) use thread_cell;

pub(crate) type MutexGuard<'a, T> = inner::MutexGuard<'a, T>;

/// A mutex without poisoning: no code of the user's runs under a lock, so a panic leaves the data consistent.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(inner::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(inner::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Methods that std's thread-local cells have and loom's lack. (Loom runs all threads on one of std's.)
#[cfg(chanrpc_loom)]
pub(super) trait LocalCell<T> {
    fn get(&'static self) -> T
    where
        T: Copy;
    fn replace(&'static self, value: T) -> T;
    fn set(&'static self, value: T);
}

#[cfg(chanrpc_loom)]
impl<T: 'static> LocalCell<T> for loom::thread::LocalKey<std::cell::Cell<T>> {
    fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(std::cell::Cell::get)
    }

    fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }

    fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }
}
