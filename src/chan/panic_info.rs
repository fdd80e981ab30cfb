//! A function's panic: its message, location and backtrace.

use std::backtrace::Backtrace;
use std::error::Error;
use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::Arc;

/// A panic in a function. Cheap to clone, and small: each call moves the space for one several times.
#[derive(Clone, Debug)]
pub struct Panic(Arc<Details>);

#[derive(Debug)]
struct Details {
    message: String,
    /// `file:line:column`.
    location: Option<String>,
    /// Capturing is quick. Resolving its names is slow, and happens when it is read.
    backtrace: Option<Backtrace>,
    limit: usize,
}

impl PartialEq for Panic {
    /// Panics are equal if they have the same message and came from the same location.
    fn eq(&self, other: &Self) -> bool {
        (&self.0.message, &self.0.location) == (&other.0.message, &other.0.location)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Error for Panic {}

impl Panic {
    /// Returns the panic's message: its payload if that is a text.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the location of the panic and its backtrace, truncated to
    /// [`ServerSettings::backtrace_limit`](super::ServerSettings::backtrace_limit) bytes. Empty if that is 0.
    ///
    /// May take milliseconds, since it resolves names in the program's debug information.
    pub fn backtrace(&self) -> String {
        let Details { location, backtrace: Some(backtrace), limit, .. } = &*self.0 else {
            return String::new();
        };
        let mut text = match location {
            Some(location) => format!("at {location}\n{backtrace}"),
            None => backtrace.to_string(),
        };
        let end = (0..=text.len().min(*limit)).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        text
    }

    /// Returns a panic of which only the message is known.
    pub(super) fn new(message: String) -> Self {
        Self(Arc::new(Details { message, location: None, backtrace: None, limit: 0 }))
    }

    /// Returns a panic that the hook captured.
    pub(super) fn captured(info: &PanicHookInfo<'_>, message: String, limit: usize) -> Self {
        Self(Arc::new(Details {
            message,
            location: info.location().map(ToString::to_string),
            backtrace: (limit > 0).then(Backtrace::force_capture),
            limit,
        }))
    }
}
