//! Why a scheduler did not take something.

use std::fmt;

/// Says why a scheduler did not take what it was given, which is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// It is closed, or takes nothing more before it closes.
    Closed,
    /// As many as its [`Settings`](super::Settings) allow are there already.
    Full {
        /// The field of the settings.
        setting: &'static str,
        /// Its value.
        limit: usize,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the scheduler is closed"),
            Self::Full { setting, limit } => {
                write!(f, "the scheduler is at its limit of {limit} {setting} (raise Settings::{setting})")
            }
        }
    }
}

impl std::error::Error for ScheduleError {}
