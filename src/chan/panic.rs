//! Catching a function's panic, with its message and the way that led to it.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Once};

/// What is known of a panic in a function.
#[derive(Clone, Debug)]
pub struct Panic {
    message: String,
    /// `file:line:column`.
    place: Option<String>,
    /// Captured, which is quick. To resolve its names is slow and left to who reads it.
    backtrace: Option<Arc<Backtrace>>,
    limit: usize,
}

impl Panic {
    /// Returns the panic's message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns where it happened and how the code got there, cut to
    /// [`Settings::backtrace_limit`](super::Settings::backtrace_limit) bytes. Empty if that is 0.
    ///
    /// May take milliseconds, since it looks up names in the program's debug information.
    pub fn backtrace(&self) -> String {
        let Some(backtrace) = &self.backtrace else { return String::new() };
        let mut text = match &self.place {
            Some(place) => format!("at {place}\n{backtrace}"),
            None => backtrace.to_string(),
        };
        let end = (0..=self.limit.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        text
    }

    fn of(payload: &(dyn Any + Send)) -> Self {
        let message = if let Some(text) = payload.downcast_ref::<&str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "a panic without a text".to_owned()
        };
        Self { message, place: None, backtrace: None, limit: 0 }
    }

    fn seen(info: &PanicHookInfo<'_>, limit: usize) -> Self {
        Self {
            place: info.location().map(ToString::to_string),
            backtrace: (limit > 0).then(|| Arc::new(Backtrace::force_capture())),
            limit,
            ..Self::of(info.payload())
        }
    }
}

thread_local! {
    /// `Some(limit)` while a function runs on this thread.
    static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
    /// What the hook saw of the latest panic on this thread.
    static SEEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
    /// Whether there is something in `SEEN`, which costs more to look at.
    static ANY: Cell<bool> = const { Cell::new(false) };
}

fn see(panic: Panic) {
    SEEN.set(Some(panic));
    ANY.set(true);
}

fn take_seen() -> Option<Panic> {
    if ANY.replace(false) { SEEN.take() } else { None }
}

/// Runs `f`, in which functions are [caught](catch): what they panic with is kept and not printed.
pub(crate) fn watch<T>(backtrace_limit: usize, f: impl FnOnce() -> T) -> T {
    struct Leave(Option<usize>);
    impl Drop for Leave {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }

    static HOOK: Once = Once::new();
    // Under loom, where all threads are one of std's, it would hide what a model panics with.
    if !cfg!(chanrpc_loom) {
        HOOK.call_once(set_hook);
    }

    let _leave = Leave(LIMIT.replace(Some(backtrace_limit)));
    f()
}

/// A panic's place is only known to the process's panic hook. Ours keeps it for panics inside functions, which then
/// print nothing, and hands all others to the hook that was there before.
#[cold]
fn set_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| match LIMIT.get() {
        Some(limit) => see(Panic::seen(info, limit)),
        None => {
            take_seen();
            previous(info);
        }
    }));
}

/// Runs a function, or a part of one; its panic becomes an error.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Panic> {
    take_seen();
    // The state may be half changed when its function panics. That is the function's affair, as it would be
    // behind a lock; the caller and the server's owner both learn of it.
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(caught)
}

#[cold]
fn caught(payload: Box<dyn Any + Send>) -> Panic {
    // Nothing was seen if somebody has put another hook in our place.
    let panic = take_seen().unwrap_or_else(|| Panic::of(&*payload));
    drop_quietly(payload);
    panic
}

/// Drops a value of the user's, whose own panic has nowhere to go.
pub(crate) fn drop_quietly(value: impl Sized) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(move || drop(value))) {
        std::mem::forget(payload);
    }
}

/// The panic that is unwinding this thread, for one who is dropped by it.
pub(super) fn current() -> Option<Panic> {
    std::thread::panicking().then(|| {
        SEEN.with_borrow(Clone::clone).unwrap_or_else(|| Panic::of(&"a panic that nothing is known of"))
    })
}
