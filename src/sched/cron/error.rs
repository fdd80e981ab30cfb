//! The errors of cron expressions.

use std::fmt;

use super::field::Field;
use super::zone::ZoneProblem;

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
    Field {
        /// The field.
        field: Field,
        /// The invalid item of its list, or the whole field if an item is empty.
        found: String,
        /// The reason.
        problem: FieldProblem,
    },
    /// The expression matches no time of any year, such as 30 February.
    Never {
        /// The expression.
        found: String,
    },
    /// The time zone is malformed or unknown.
    Zone(ZoneProblem),
}

/// The reason why a field of a cron expression is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldProblem {
    /// The item is not a value, range or `*`, or part of it is missing.
    Malformed,
    /// A value is too small or too large.
    OutOfRange,
    /// A range ends before it begins.
    Backwards,
    /// A step is not 1 to the field's largest value.
    Step,
    /// A step follows a single value.
    StepOfOne,
}

impl From<Problem> for CronError {
    fn from(problem: Problem) -> Self {
        Self(problem)
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
            Problem::Field { field, found, problem } => {
                write!(f, "{field} {found:?}: {problem}; it is {hint}", hint = field.hint())
            }
            Problem::Never { found } => {
                write!(f, "cron expression {found:?} never comes: no such month has such a day")
            }
            Problem::Zone(problem) => problem.fmt(f),
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "no value, range, * or list of these",
            Self::OutOfRange => "the value is out of range",
            Self::Backwards => "the range ends before it begins, so write it as two",
            Self::Step => "the step is zero, too large or no number",
            Self::StepOfOne => "a step needs a range or * before it",
        })
    }
}

impl std::error::Error for CronError {}
