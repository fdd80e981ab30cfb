//! The errors of cron expressions.

use std::fmt;

use super::field::FieldError;
use super::zone::ZoneError;

/// The reason why a text is not a [`Cron`](super::Cron) or a [`Zone`](super::Zone), or the zone is unknown. Its message
/// names the invalid part and what a valid one looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError(Problem);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The expression has neither five nor six fields.
    Fields {
        /// The expression.
        found: String,
    },
    /// The expression begins with `@`, but is not a known name.
    Name {
        /// The name.
        found: String,
    },
    /// A field is invalid.
    Field(FieldError),
    /// The expression matches no time of any year, such as 30 February.
    Never {
        /// The expression.
        found: String,
    },
    /// The time zone is malformed or unknown.
    Zone(ZoneError),
}

impl From<Problem> for CronError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<FieldError> for CronError {
    fn from(error: FieldError) -> Self {
        Self(Problem::Field(error))
    }
}

impl From<ZoneError> for CronError {
    fn from(error: ZoneError) -> Self {
        Self(Problem::Zone(error))
    }
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Problem::Fields { found } => write!(
                f,
                "cron expression {found:?} has {count} fields; it needs 5 (minute, hour, day of month, month, day of \
                 week) or 6 (a second before them), such as 30 9 * * mon-fri",
                count = found.split_whitespace().count(),
            ),
            Problem::Name { found } => write!(
                f,
                "{found:?} is no cron expression; write @yearly, @annually, @monthly, @weekly, @daily, @midnight, \
                 @hourly, or fields such as 30 9 * * mon-fri"
            ),
            Problem::Field(error) => error.fmt(f),
            Problem::Never { found } => {
                write!(f, "cron expression {found:?} never comes: no such month has such a day")
            }
            Problem::Zone(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CronError {}
