//! The fields of cron expressions.

use std::fmt;

/// The values of a field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    /// One bit per value.
    values: u64,
    /// The field begins with `*`.
    pub(super) star: bool,
}

impl Set {
    pub(super) fn has(self, value: i8) -> bool {
        self.first_from(value) == Some(value)
    }

    /// Returns the first value from `least` on, which is 0 to 63.
    pub(super) fn first_from(self, least: i8) -> Option<i8> {
        let values = self.values & u64::MAX << least;
        (values != 0).then_some(values.trailing_zeros() as i8)
    }

    pub(super) fn with_sunday_as_0(mut self) -> Self {
        self.values |= self.values >> 7 & 1;
        self
    }
}

/// A field of a cron expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// 0 to 59.
    Second,
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or `jan` to `dec`.
    Month,
    /// 0 to 7, where 0 and 7 are Sunday, or `sun` to `sat`.
    DayOfWeek,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Field {
    /// Returns the smallest and the largest value.
    const fn bounds(self) -> (u8, u8) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
        }
    }

    /// Returns the names of the values, from the smallest on.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &WEEKDAYS,
            _ => &[],
        }
    }

    /// Describes a valid value.
    const fn hint(self) -> &'static str {
        match self {
            Self::Second | Self::Minute => "0 to 59, such as 30, 0-29, */15 or 0,30",
            Self::Hour => "0 to 23, such as 9, 9-17, */6 or 8,20",
            Self::DayOfMonth => "1 to 31, such as 1, 1-7, */2 or 1,15",
            Self::Month => "1 to 12 or jan to dec, such as 6, jun-aug, */3 or 1,7",
            Self::DayOfWeek => "0 to 7 or sun to sat (0 and 7 are sunday), such as 1, mon-fri or 6,0",
        }
    }

    pub(super) fn read(self, text: &str) -> Result<Set, FieldError> {
        let mut values = 0;
        for item in text.split(',') {
            let wrong = |problem| FieldError {
                field: self,
                found: if item.is_empty() { text.to_owned() } else { item.to_owned() },
                problem,
            };
            values |= self.read_item(item).map_err(wrong)?;
        }
        Ok(Set { values, star: text.starts_with('*') })
    }

    fn read_item(self, item: &str) -> Result<u64, FieldProblem> {
        let (min, max) = self.bounds();
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((first, last)) => {
                let (first, end) = (self.value(first)?, self.value(last)?);
                // The name of Sunday is 0, but it may also end a range.
                (first, if last == "sun" && first > 0 { 7 } else { end })
            }
            None if step.is_some() => {
                self.value(range)?;
                return Err(FieldProblem::StepOfOne);
            }
            None => (self.value(range)?, self.value(range)?),
        };
        if first > last {
            return Err(FieldProblem::Backwards);
        }
        let step = match step {
            Some(step) => number(step).filter(|step| (1..=max).contains(step)).ok_or(FieldProblem::Step)?,
            None => 1,
        };
        Ok((first..=last).step_by(step.into()).fold(0, |values, value| values | 1 << value))
    }

    fn value(self, text: &str) -> Result<u8, FieldProblem> {
        let (min, max) = self.bounds();
        if let Some(at) = self.names().iter().position(|name| *name == text) {
            return Ok(min + at as u8);
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FieldProblem::Malformed);
        }
        number(text).filter(|value| (min..=max).contains(value)).ok_or(FieldProblem::OutOfRange)
    }
}

/// Parses digits without a sign.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// An invalid field of a cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    field: Field,
    /// The invalid item of its list, or the whole field if an item is empty.
    found: String,
    problem: FieldProblem,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, found, problem } = self;
        write!(f, "{field} {found:?}: {problem}; it is {hint}", hint = field.hint())
    }
}

/// The reason why a field of a cron expression is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldProblem {
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
