//! Catching a function's panic, with its message and the way that led to it.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// What is known of a panic in a function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Panic {
    /// The panic's message.
    pub message: String,
    /// Where it happened and how the code got there, cut to
    /// [`Settings::backtrace_limit`](super::Settings::backtrace_limit) bytes. Empty if that is 0.
    pub backtrace: String,
}

thread_local! {
    /// `Some(limit)` while a function runs on this thread.
    static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
    /// What the hook saw of the latest panic on this thread.
    static SEEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic in it becomes an error.
pub(super) fn catch<T>(backtrace_limit: usize, f: impl FnOnce() -> T) -> Result<T, Panic> {
    // A panic's place is only known to the process's panic hook. Ours keeps it for panics inside functions,
    // which then print nothing, and hands all others to the hook that was there before.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| match LIMIT.get() {
            Some(limit) => SEEN.set(Some(describe(info, limit))),
            None => previous(info),
        }));
    });

    let outer = LIMIT.replace(Some(backtrace_limit));
    // The state may be half changed when its function panics. That is the function's affair, as it would be
    // behind a lock; the caller and the server's owner both learn of it.
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    LIMIT.set(outer);
    result.map_err(|payload| {
        // Nothing was seen if somebody has put another hook in our place.
        take_seen().unwrap_or_else(|| Panic { message: message(&*payload), backtrace: String::new() })
    })
}

/// Takes what the hook saw of the latest panic on this thread.
fn take_seen() -> Option<Panic> {
    SEEN.take()
}

/// The panic that is unwinding this thread, for one who is dropped by it.
pub(super) fn current() -> Option<Panic> {
    std::thread::panicking().then(|| {
        SEEN.with_borrow(Clone::clone)
            .unwrap_or_else(|| Panic { message: "unknown".into(), backtrace: String::new() })
    })
}

fn describe(info: &PanicHookInfo<'_>, limit: usize) -> Panic {
    let mut backtrace = String::new();
    if limit > 0 {
        if let Some(place) = info.location() {
            backtrace = format!("at {place}\n");
        }
        backtrace += &Backtrace::force_capture().to_string();
        backtrace.truncate(backtrace.floor_char_boundary_at(limit));
    }
    Panic { message: message(info.payload()), backtrace }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

trait FloorCharBoundary {
    /// The largest character boundary at or below `index` (`str::floor_char_boundary`, for our MSRV).
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}
