//! A value that is replaced as a whole, and rarely: reading it takes no lock.

use std::ops::Deref;
use std::sync::Arc;
// Not loom's: no order depends on it.
use std::sync::atomic::AtomicU64 as Numbers;

use crate::chan::sync::{AtomicU64, Mutex, Ordering};

/// The last version of any value.
static LAST_VERSION: Numbers = Numbers::new(0);

/// A value, or none, that writers replace. Each reader caches what it has read, and learns from one number whether that
/// has been replaced.
pub(crate) struct Swap<T> {
    /// The version of `current`, or 0 if there is no value.
    version: AtomicU64,
    current: Mutex<Cached<T>>,
}

/// What a reader has read.
pub(crate) type Cached<T> = Option<Arc<Version<T>>>;

/// A value and its version, which no other value in this process has: a cache may serve any number of `Swap`s.
pub(crate) struct Version<T> {
    version: u64,
    value: T,
}

impl<T> Deref for Version<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Swap<T> {
    /// Returns the value, if any, under a lock.
    pub(crate) fn get(&self) -> Cached<T> {
        self.current.lock().clone()
    }

    /// Returns the value, if any. It is at least as new as that of each update which has returned.
    pub(crate) fn read<'a>(&self, cached: &'a mut Cached<T>) -> Option<&'a T> {
        let version = self.version.load(Ordering::Acquire);
        if version == 0 {
            // What is cached may be of another one.
            return None;
        }
        if cached.as_ref().is_none_or(|cached| cached.version != version) {
            // What it replaces is dropped after the lock is released.
            let current = self.get();
            *cached = current;
        }
        cached.as_ref().map(|cached| &cached.value)
    }

    /// Replaces the value by the one that `change` makes of it. Updates wait for each other.
    ///
    /// # Errors
    /// That of `change`; the value then remains.
    pub(crate) fn update<E>(&self, change: impl FnOnce(Option<&T>) -> Result<Option<T>, E>) -> Result<(), E> {
        let mut current = self.current.lock();
        let value = change(current.as_ref().map(|current| &current.value))?;
        let version = LAST_VERSION.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        self.version.store(if value.is_some() { version } else { 0 }, Ordering::Release);
        let value = value.map(|value| Arc::new(Version { version, value }));
        let replaced = std::mem::replace(&mut *current, value);
        drop(current);
        drop(replaced);
        Ok(())
    }
}

impl<T> Default for Swap<T> {
    fn default() -> Self {
        Self { version: AtomicU64::new(0), current: Mutex::new(None) }
    }
}

#[cfg(all(test, chanrpc_loom))]
mod loom_models {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::thread::spawn;

    use super::Swap;
    use crate::chan::loom_models::model;

    fn set(swap: &Swap<u64>, value: Option<u64>) {
        swap.update(|_| Ok::<_, Infallible>(value)).unwrap();
    }

    #[test]
    fn a_reader_sees_each_update_that_has_returned_and_none_twice() {
        model(|| {
            let (swap, returned) = (Arc::new(Swap::default()), Arc::new(AtomicU64::new(0)));
            let writer = spawn({
                let (swap, returned) = (swap.clone(), returned.clone());
                move || {
                    for value in 1..=2 {
                        set(&swap, Some(value));
                        returned.store(value, Ordering::Release);
                    }
                }
            });
            let (mut cached, mut last) = (None, 0);
            for _ in 0..3 {
                let least = returned.load(Ordering::Acquire).max(last);
                last = swap.read(&mut cached).copied().unwrap_or_default();
                assert!(last >= least, "{last} after {least}");
            }
            writer.join().unwrap();
            assert_eq!(swap.read(&mut cached), Some(&2));
        });
    }

    #[test]
    fn a_removed_value_is_read_by_nobody_after_its_removal() {
        model(|| {
            let (swap, removed) = (Arc::new(Swap::default()), Arc::new(AtomicU64::new(0)));
            set(&swap, Some(1));
            let remover = spawn({
                let (swap, removed) = (swap.clone(), removed.clone());
                move || {
                    set(&swap, None);
                    removed.store(1, Ordering::Release);
                }
            });
            let mut cached = None;
            for _ in 0..2 {
                let is_removed = removed.load(Ordering::Acquire) == 1;
                assert!(!(swap.read(&mut cached).is_some() && is_removed));
            }
            remover.join().unwrap();
            assert_eq!(swap.read(&mut cached), None);
        });
    }

    #[test]
    fn concurrent_updates_lose_nothing() {
        model(|| {
            let swap = Arc::new(Swap::default());
            let add = |swap: &Swap<u64>| {
                swap.update(|value| Ok::<_, Infallible>(Some(value.copied().unwrap_or_default() + 1)))
                    .unwrap();
            };
            let other = spawn({
                let swap = swap.clone();
                move || add(&swap)
            });
            add(&swap);
            other.join().unwrap();
            assert_eq!(swap.read(&mut None), Some(&2));
        });
    }
}
