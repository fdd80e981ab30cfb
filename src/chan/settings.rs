//! The settings of a server.

use std::borrow::Cow;

use crate::setters::setters;

/// The settings of a server, besides its state and its functions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The name in messages. By default the name of the state's type.
    pub name: Option<Cow<'static, str>>,
    /// How many calls may wait in the queue; 256 by default. 0 is taken as 1.
    pub capacity: usize,
    /// How many bytes of a panic's backtrace are kept; 4096 by default, 0 for none.
    pub backtrace_limit: usize,
}

setters!(ServerSettings { capacity: usize, backtrace_limit: usize });

impl ServerSettings {
    /// Sets [`name`](Self#structfield.name).
    #[must_use]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { name: None, capacity: 256, backtrace_limit: 4096 }
    }
}
