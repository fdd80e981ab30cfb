//! Catching a function's panic, with its message and backtrace.
//!
//! The message comes from the panic's payload. Location and backtrace are known only to the process's panic hook, which
//! keeps them until the panic is caught. The hook does not run for resumed panics, and does run for panics that a
//! function catches itself, so what it captured is used only if it matches the payload. Functions may run inside one
//! another; each [`catch`] has its own level.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use super::error::CallError;
use super::panic_info::Panic;

/// Returns the text of a payload.
fn text(mut payload: &(dyn Any + Send)) -> String {
    // A payload that was thrown again by `panic_any` is boxed twice.
    while let Some(inner) = payload.downcast_ref::<Box<dyn Any + Send>>() {
        payload = &**inner;
    }
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else if let Some(text) = payload.downcast_ref::<Box<str>>() {
        text.to_string()
    } else if let Some(text) = payload.downcast_ref::<Cow<'static, str>>() {
        text.to_string()
    } else if let Some(panic) = payload.downcast_ref::<Panic>() {
        panic.message().to_owned()
    } else if let Some(error) = payload.downcast_ref::<CallError>() {
        error.to_string()
    } else {
        "a panic without a text".to_owned()
    }
}

thread_local! {
    /// `Some(limit)` while a function runs on this thread.
    static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
    static CATCH: Cell<Catch> = const { Cell::new(Catch(0)) };
    /// The level of the innermost `catch` on this thread.
    static LEVEL: RefCell<Level> = const { RefCell::new(Level { captured: None, dropped: Vec::new() }) };
}

/// A cheap summary of the innermost `catch` on this thread: the flags below and, above them, the number of nested
/// `catch`es, which is 0 outside of any. One word, since every call reads and writes it.
#[derive(Clone, Copy)]
struct Catch(u32);

impl Catch {
    /// The thread was already unwinding: a destructor calls the function.
    const UNWINDING: u32 = 1;
    /// `LEVEL`, which costs more to access, is not empty.
    const ANY: u32 = 2;
    const FLAGS: u32 = Self::UNWINDING | Self::ANY;

    fn depth(self) -> u32 {
        self.0 / (Self::FLAGS + 1)
    }

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    /// Returns the summary of a `catch` inside this one.
    fn nested(self, unwinding: bool) -> Self {
        Self(((self.0 | Self::FLAGS) + 1) | u32::from(unwinding))
    }
}

#[derive(Default)]
struct Level {
    /// The panic that the hook captured last.
    captured: Option<Captured>,
    /// Responders that a panic may have dropped. They answer when the panic is caught.
    dropped: Vec<Dropped>,
}

struct Captured {
    panic: Panic,
    payload: TypeId,
}

impl Captured {
    fn fits(&self, payload: &(dyn Any + Send), message: &str) -> bool {
        self.payload == payload.type_id() && self.panic.message() == message
    }
}

struct Dropped {
    answer: Box<dyn FnOnce(CallError)>,
    /// The answer if no panic is caught.
    otherwise: CallError,
}

/// Updates the level of the innermost `catch`. Does nothing while the thread's locals are being destroyed.
fn update_level(f: impl FnOnce(&mut Level)) {
    let updated = LEVEL.try_with(|level| level.try_borrow_mut().map(|mut level| f(&mut level)));
    if let Ok(Ok(())) = updated {
        CATCH.set(Catch(CATCH.get().0 | Catch::ANY));
    }
}

#[cold]
fn take_level() -> Box<Level> {
    let level = LEVEL.try_with(|level| level.try_borrow_mut().map(|mut level| mem::take(&mut *level)));
    Box::new(level.ok().and_then(Result::ok).unwrap_or_default())
}

static HOOK: Once = Once::new();

/// Installs the process's panic hook once.
pub(crate) fn install_hook() {
    // Under loom, which runs all threads on one of std's, the hook would hide the panics of a model. A thread that is
    // unwinding must not set the hook, so it leaves that to the next caller.
    if !cfg!(chanrpc_loom) && !HOOK.is_completed() && !std::thread::panicking() {
        HOOK.call_once(set_hook);
    }
}

/// Keeps the location of panics inside functions, which then print nothing, and passes all others to the previous hook.
#[cold]
fn set_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| match LIMIT.get() {
        Some(limit) => {
            let captured = Captured {
                panic: Panic::captured(info, text(info.payload()), limit),
                payload: info.payload().type_id(),
            };
            update_level(|level| level.captured = Some(captured));
        }
        None => previous(info),
    }));
}

/// Runs `f`, which [catches](catch) functions. Their panics are captured and not printed.
pub(crate) fn with_capture<T>(backtrace_limit: usize, f: impl FnOnce() -> T) -> T {
    struct Leave(Option<usize>);
    impl Drop for Leave {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }

    install_hook();
    let _leave = Leave(LIMIT.replace(Some(backtrace_limit)));
    f()
}

/// Runs a function, or a part of one. A panic becomes an error.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_with(f, |_| ())
}

/// Like [`catch`]. `report` gets the panic before any caller that waits for the function.
pub(crate) fn catch_with<T>(f: impl FnOnce() -> T, report: impl FnOnce(&Panic)) -> Result<T, Panic> {
    match catch_level(f, report) {
        Ok(value) => Ok(value),
        Err((panic, payload)) => {
            drop_quietly(payload);
            Err(panic)
        }
    }
}

/// Returns the number of functions that run inside one another on this thread.
pub(super) fn depth() -> u32 {
    CATCH.get().depth()
}

type Payload = Box<dyn Any + Send>;

/// What belongs to the `catch` around the innermost one.
struct Outer {
    catch: Catch,
    level: Option<Box<Level>>,
}

/// Begins a level.
#[inline]
fn enter() -> Outer {
    let catch = CATCH.get();
    CATCH.set(catch.nested(std::thread::panicking()));
    Outer { catch, level: catch.has(Catch::ANY).then(take_level) }
}

/// Ends a level, and returns what was updated in it.
#[inline]
fn leave(outer: Outer) -> Option<Box<Level>> {
    let level = CATCH.get().has(Catch::ANY).then(take_level);
    CATCH.set(outer.catch);
    if let Some(outer) = outer.level {
        restore(outer);
    }
    level
}

#[cold]
fn restore(outer: Box<Level>) {
    update_level(|level| *level = *outer);
}

fn catch_level<T>(f: impl FnOnce() -> T, report: impl FnOnce(&Panic)) -> Result<T, (Panic, Payload)> {
    let outer = enter();
    // The state may be half changed when its function panics. That is the function's affair, as it would be
    // behind a lock; the caller and the server's owner both learn of it.
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    let level = leave(outer);
    match result {
        Ok(value) => {
            if let Some(level) = level {
                returned(*level);
            }
            Ok(value)
        }
        Err(payload) => {
            let mut report = Some(report);
            let panic = caught(level, &*payload, &mut |panic| {
                if let Some(report) = report.take() {
                    report(panic);
                }
            });
            Err((panic, payload))
        }
    }
}

/// Answers the calls of a level whose function returned after all.
#[cold]
fn returned(level: Level) {
    for Dropped { answer, otherwise } in level.dropped {
        answer(otherwise);
    }
}

#[cold]
fn caught(level: Option<Box<Level>>, payload: &(dyn Any + Send), report: &mut dyn FnMut(&Panic)) -> Panic {
    let level = level.unwrap_or_default();
    let panic = Panic::new(text(payload));
    let panic = match level.captured {
        Some(captured) if captured.fits(payload, panic.message()) => captured.panic,
        _ => panic,
    };
    report(&panic);
    for Dropped { answer, .. } in level.dropped {
        answer(CallError::Panicked(panic.clone()));
    }
    panic
}

/// Drops a value of the user's, and ignores a panic of its destructor.
pub(crate) fn drop_quietly(value: impl Sized) {
    if let Err((_, payload)) = catch_level(move || drop(value), |_| ()) {
        // Dropping the payload could panic again, endlessly.
        mem::forget(payload);
    }
}

/// Drops values of the user's, all of them even if one panics.
pub(crate) fn drop_each_quietly(values: impl IntoIterator) {
    values.into_iter().for_each(drop_quietly);
}

/// Answers a call whose responder is dropped. If a panic unwinds this thread, the answer is sent when the panic is
/// caught, since its payload is not known before.
pub(super) fn answer_dropped(answer: impl FnOnce(CallError) + 'static) {
    if !std::thread::panicking() {
        return answer(CallError::Unanswered);
    }
    let catch = CATCH.get();
    let unknown = || {
        let message = "a panic of the thread that held the responder".to_owned();
        CallError::Panicked(Panic::new(message))
    };
    if catch.depth() == 0 {
        return answer(unknown());
    }
    // If the thread was already unwinding when the function began, it most likely has not panicked since.
    let mut answer = Some(Box::new(answer) as Box<dyn FnOnce(CallError)>);
    update_level(|level| {
        let captured = level.captured.as_ref().map(|captured| CallError::Panicked(captured.panic.clone()));
        let otherwise = captured.unwrap_or_else(|| match catch.has(Catch::UNWINDING) {
            true => CallError::Unanswered,
            false => unknown(),
        });
        level.dropped.extend(answer.take().map(|answer| Dropped { answer, otherwise }));
    });
    if let Some(answer) = answer {
        answer(unknown());
    }
}
