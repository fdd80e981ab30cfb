//! The error of a scheduler that rejects a task.

use std::fmt;

/// The reason why a scheduler rejected a task, which is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The scheduler is closed, or drains.
    Closed,
    /// A limit of its [`SchedulerSettings`](super::SchedulerSettings) is reached.
    Full {
        /// The field of the settings.
        setting: &'static str,
        /// Its value.
        limit: usize,
    },
}

impl ScheduleError {
    /// Returns `true` if a limit is reached, so that a later attempt may succeed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Returns `true` if the scheduler is closed, or drains.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the scheduler is closed"),
            Self::Full { setting, limit } => {
                write!(
                    f,
                    "the scheduler is at its limit of {limit} {setting} (raise SchedulerSettings::{setting})"
                )
            }
        }
    }
}

impl std::error::Error for ScheduleError {}
