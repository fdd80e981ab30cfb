//! What a scheduler may be told.

use std::borrow::Cow;

use crate::setters::setters;

/// What a scheduler may be told. Every number is a bound, beyond which it says [`ScheduleError`](super::ScheduleError).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedulerSettings {
    /// The name in messages. By default the name of the state's type.
    pub name: Option<Cow<'static, str>>,
    /// How many calls from outside may wait in the queue; 256 by default.
    pub capacity: usize,
    /// How many posted tasks may wait; 256 by default.
    pub posts: usize,
    /// How many async calls of its own may be pending; 256 by default.
    pub calls: usize,
    /// How many timers may be set; 1,024 by default.
    pub timers: usize,
    /// How many jobs may run at a time, each on a thread; 4 by default. 0 is taken as 1.
    pub workers: usize,
    /// How many further jobs may wait for a worker; 64 by default.
    pub jobs: usize,
    /// How many jobs, futures and waterfalls may be open; 1,024 by default.
    pub open: usize,
    /// How many streams may be attached; 64 by default.
    pub streams: usize,
    /// How many bytes of a panic's backtrace are kept; 4096 by default, 0 for none.
    pub backtrace_limit: usize,
}

setters!(SchedulerSettings {
    capacity: usize,
    posts: usize,
    calls: usize,
    timers: usize,
    workers: usize,
    jobs: usize,
    open: usize,
    streams: usize,
    backtrace_limit: usize
});

impl SchedulerSettings {
    /// Sets [`name`](Self#structfield.name).
    #[must_use]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        Self {
            name: None,
            capacity: 256,
            posts: 256,
            calls: 256,
            timers: 1024,
            workers: 4,
            jobs: 64,
            open: 1024,
            streams: 64,
            backtrace_limit: 4096,
        }
    }
}
