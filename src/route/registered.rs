//! Functions that come and go while the node runs.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::RegistryError;
use super::admission::QueueSlot;
use super::entry::Entry;
use super::names::Names;
use crate::metrics::FunctionMetrics;
use crate::swap::{Cached, Swap};

thread_local! {
    /// What this thread has read last, of any registry.
    static CACHED: RefCell<Cached<Found>> = const { RefCell::new(None) };
}

/// Weak, so that a name which some thread still has in its cache keeps no provider alive.
type Found = Names<Weak<Entry>>;

/// The functions that were registered while the node runs, and are still.
#[derive(Default)]
pub(super) struct Registered {
    names: Swap<Found>,
    /// Removed functions of which calls may be in flight.
    removed: Mutex<Vec<Weak<FunctionMetrics>>>,
    /// Notified when a function has come or gone.
    #[cfg(feature = "nats")]
    pub(super) changed: Arc<event_listener::Event>,
}

impl Registered {
    /// Adds a function, in place of `replaced` if that has the same name and is still registered.
    ///
    /// # Errors
    /// [`RegistryError`] if its name is taken or invalid.
    pub(super) fn insert(
        self: &Arc<Self>,
        entry: Entry,
        replaced: Option<&Registration>,
    ) -> Result<Registration, RegistryError> {
        let entry = Arc::new(entry);
        self.names.update(|names| {
            let mut names = names.cloned().unwrap_or_default();
            if let Some(replaced) = replaced {
                names.remove(&entry.name, |found| replaced.is(found));
            }
            names.insert(&entry.name, Arc::downgrade(&entry))?;
            Ok(Some(names))
        })?;
        #[cfg(feature = "nats")]
        self.changed.notify(usize::MAX);
        Ok(Registration { registered: Arc::downgrade(self), entry })
    }

    /// Returns the function of that name, or else the family with the longest matching prefix.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Entry>> {
        self.read(|names| names.find(name)?.upgrade())?
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        self.read(|names| names.values().filter_map(Weak::upgrade).collect()).unwrap_or_default()
    }

    fn read<R>(&self, read: impl Fn(&Found) -> R) -> Option<R> {
        // `Err` while the thread exits.
        let cached = CACHED.try_with(|cached| self.names.read(&mut cached.borrow_mut()).map(&read));
        cached.unwrap_or_else(|_| self.names.read(&mut None).map(read))
    }

    /// Returns the number of unanswered calls of removed functions.
    pub(super) fn removed_in_flight(&self) -> u64 {
        let removed = self.removed();
        removed.iter().filter_map(Weak::upgrade).map(|metrics| metrics.in_flight()).sum()
    }

    /// Notes that a function was removed, of which calls may be in flight.
    pub(super) fn note_removed(&self, metrics: &Arc<FunctionMetrics>) {
        self.removed().push(Arc::downgrade(metrics));
    }

    fn removed(&self) -> MutexGuard<'_, Vec<Weak<FunctionMetrics>>> {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.retain(|metrics| metrics.strong_count() > 0);
        removed
    }
}

/// A function that was registered while the node runs. Dropping it removes the function: a later call finds no such
/// function, and calls that have begun are still answered.
#[derive(Debug)]
#[must_use = "dropping it removes the function"]
pub struct Registration {
    registered: Weak<Registered>,
    entry: Arc<Entry>,
}

impl Registration {
    /// Returns the queue of its calls, to share it.
    pub(super) fn queue(&self) -> Option<QueueSlot> {
        self.entry.queue.clone()
    }

    /// Takes the calls that wait for an earlier registration, without starting any.
    pub(super) fn take_waiting(&self, earlier: &Self) {
        if let (Some(queue), Some(earlier)) = (&self.entry.queue, &earlier.entry.queue) {
            queue.take_waiting(earlier);
        }
    }

    /// Fails the calls that wait, and all that come to wait, since nothing provides the function any longer.
    pub(super) fn fail_waiting(&self) {
        if let Some(queue) = &self.entry.queue {
            queue.fail_waiting();
        }
    }

    /// Changes the maximum number of concurrent calls, if the function's description has set one. Starts none.
    pub(super) fn set_workers(&self, count: usize) {
        if let Some(queue) = &self.entry.queue {
            queue.set_workers(count);
        }
    }

    fn is(&self, found: &Weak<Entry>) -> bool {
        std::ptr::eq(found.as_ptr(), &raw const *self.entry)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(registered) = self.registered.upgrade() else { return };
        registered.note_removed(&self.entry.metrics);
        let Ok(()) = registered.names.update(|names| {
            let mut names = names.cloned().unwrap_or_default();
            // Another one may have taken its place.
            names.remove(&self.entry.name, |found| self.is(found));
            let is_empty = names.values().next().is_none();
            Ok::<_, Infallible>((!is_empty).then_some(names))
        });
        #[cfg(feature = "nats")]
        registered.changed.notify(usize::MAX);
    }
}
