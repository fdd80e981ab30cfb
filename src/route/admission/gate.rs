//! One bound on the calls that run at once, and what is counted of it.

use crate::config::{WhenFull, Workers};
use crate::message::{Fault, code};
use crate::metrics::WorkerStats;

/// Whose calls a gate bounds.
#[derive(Clone)]
pub(in crate::route) enum Level {
    Node,
    /// All functions of one sort of provider.
    Provider(&'static str),
    /// One function or family, and the sort of its provider.
    Function(String, &'static str),
}

/// Workers that calls of one function, or of several, hold while they run.
pub(super) struct Gate {
    level: Level,
    workers: usize,
    pub(super) queue: usize,
    pub(super) when_full: WhenFull,
    /// How many workers a single function may hold.
    share: usize,
    pub(super) busy: usize,
    pub(super) waiting: usize,
    refused: u64,
    shed: u64,
}

impl Gate {
    pub(super) fn new(level: Level, workers: &Workers) -> Self {
        let &Workers { count, queue, when_full, share } = workers;
        let count = count.max(1);
        let share = share.unwrap_or(count).clamp(1, count);
        Self { level, workers: count, queue, when_full, share, busy: 0, waiting: 0, refused: 0, shed: 0 }
    }

    /// Tells whether a call of a function that runs `busy` calls already may begin.
    pub(super) fn has_room(&self, busy: usize) -> bool {
        self.busy < self.workers && busy < self.share
    }

    /// The error of a call that may not even wait.
    pub(super) fn refuse(&mut self) -> Fault {
        self.refused += 1;
        let message = format!("{} calls run and {} wait ({})", self.busy, self.waiting, self.setting());
        Fault::new(code::BUSY, message)
    }

    /// The error of a call that has waited and leaves its place to a newer one.
    pub(super) fn shed(&mut self) -> Fault {
        self.shed += 1;
        let message = format!(
            "{} calls run, {} wait, and a newer one took this one's place ({})",
            self.busy,
            self.waiting,
            self.setting()
        );
        Fault::new(code::BUSY, message)
    }

    /// Where the bounds are set.
    fn setting(&self) -> String {
        match &self.level {
            Level::Node => "count and queue in [workers]".to_owned(),
            Level::Provider(kind) => format!("count and queue in [workers.{kind}]"),
            Level::Function(_, "exec") => "concurrency and queue of this function".to_owned(),
            Level::Function(..) => "workers and queue of this function".to_owned(),
        }
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let (level, function, provider) = match &self.level {
            Level::Node => ("node", None, None),
            Level::Provider(kind) => ("provider", None, Some(*kind)),
            Level::Function(name, kind) => ("function", Some(name.clone()), Some(*kind)),
        };
        WorkerStats {
            level,
            function,
            provider,
            workers: self.workers as u64,
            busy: self.busy as u64,
            waiting: self.waiting as u64,
            refused: self.refused,
            shed: self.shed,
        }
    }
}
