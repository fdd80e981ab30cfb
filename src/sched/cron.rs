//! Cron expressions: their text, and the next moment that one of them means.
//!
//! The calendar and the time zones are jiff's; what is here is the reading and the search.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::zone::{Zone, ZoneError};

/// Moments that come again by the clock and the calendar of a [`Zone`], written as five fields or six:
///
/// | field | values | |
/// | --- | --- | --- |
/// | second | 0 to 59 | may be left out; then it is 0 |
/// | minute | 0 to 59 | |
/// | hour | 0 to 23 | |
/// | day of month | 1 to 31 | |
/// | month | 1 to 12 | or `jan` to `dec` |
/// | day of week | 0 to 7 | or `sun` to `sat`; 0 and 7 are Sunday |
///
/// A field is a list, such as `0,15,40-50/2`, of single values, of ranges such as `mon-fri` and of `*`, which is every
/// value. A range or `*` may have a step: `*/15` and `10-50/20` begin at their first value. A range does not run
/// backwards over the end of its field; `22-23,0-5` says what `22-5` would. Upper and lower case are the same.
///
/// Or it is a name: `@yearly` or `@annually`, `@monthly`, `@weekly`, `@daily` or `@midnight`, `@hourly`. Each is at the
/// beginning of what it names; a week begins on Sunday.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
///
/// use chanrpc::sched::{Cron, Zone};
///
/// let cron = Cron::parse("30 9 * * mon-fri", Zone::named("Asia/Kolkata"))?;
/// assert_eq!(cron.to_string(), "30 9 * * mon-fri in Asia/Kolkata");
///
/// let friday = UNIX_EPOCH + Duration::from_secs(1_614_918_600); // 2021-03-05 10:00 in Kolkata
/// let monday = UNIX_EPOCH + Duration::from_secs(1_615_176_000); // 2021-03-08 09:30 there
/// assert_eq!(cron.next_after(friday), Some(monday));
///
/// let wrong = Cron::parse("30 25 * * *", Zone::Utc).unwrap_err();
/// assert_eq!(
///     wrong.to_string(),
///     "hour \"25\": the value is out of range; it is 0 to 23, such as 9, 9-17, */6 or 8,20"
/// );
/// # Ok::<(), chanrpc::sched::CronError>(())
/// ```
///
/// # Days
///
/// As in Vixie's cron and its `crontab(5)`: if neither day of month nor day of week begins with `*`, a day that fits
/// **one** of them will do: `0 9 13 * fri` is every 13th and every Friday. Otherwise it must fit both: `0 9 * * fri` is
/// every Friday, and `0 9 */2 * fri` is a Friday with an odd date.
///
/// 29 February is a day of leap years only. What no year has, such as 30 February, is refused by [`Cron::parse`].
///
/// # When clocks are changed
///
/// Again as in Vixie's cron, it depends on whether the second, the minute or the hour begins with `*`. If none of them
/// does, each time is fixed, and comes once on its day:
///
/// - A time that the clock leaves out, as when summer begins, comes at the first moment after the gap; several of them
///   come there as one.
/// - A time that the clock shows twice, as when summer ends, counts the first time only.
///
/// If any of them does, the expression is about what the clock shows: what it leaves out does not come, and what it
/// shows twice comes twice. `*/15 * * * *` thus keeps its distance of 15 minutes when an hour is left out or repeated,
/// while `*/15 2 * * *` may not come at all on that day, or twice.
///
/// Leap seconds are unknown to the system's clock, and so they are here.
#[derive(Clone, Debug)]
pub struct Cron {
    expression: String,
    zone: Zone,
    /// The zone as it was found when the expression was read.
    time_zone: TimeZone,
    seconds: Set,
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

impl Cron {
    /// Reads an expression, and finds the zone that it is meant in. What is known of the zone from then on stays as it
    /// is: a [`Cron`] does not notice that [`Zone::Local`] becomes another, nor an update of the system's database.
    ///
    /// # Errors
    ///
    /// [`CronError`] if the expression is malformed or means no moment of any year, or if there is no such zone.
    pub fn parse(expression: &str, zone: Zone) -> Result<Self, CronError> {
        let mut expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        expression.make_ascii_lowercase();
        let fields = expand(&expression)?;
        let fields = fields.split(' ').collect::<Vec<_>>();
        let (second, [minute, hour, day, month, weekday]) = match *fields {
            [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => (second, [minute, hour, day, month, weekday]),
            _ => return Err(CronError::Fields { found: expression }),
        };
        let cron = Self {
            seconds: CronField::Second.read(second)?,
            minutes: CronField::Minute.read(minute)?,
            hours: CronField::Hour.read(hour)?,
            days: CronField::DayOfMonth.read(day)?,
            months: CronField::Month.read(month)?,
            weekdays: CronField::DayOfWeek.read(weekday)?.with_sunday_as_0(),
            time_zone: zone.look_up().map_err(CronError::Zone)?,
            expression,
            zone,
        };
        if cron.never() { Err(CronError::Never { found: cron.expression }) } else { Ok(cron) }
    }

    /// Returns the expression: in lower case, with one space between its fields, otherwise as it was written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Returns the zone that the expression is meant in.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns the first moment after this one that the expression means. It is a whole second, and never `moment`
    /// itself. `None`, that is never again, comes only at the end of the calendar, after the year 9999.
    ///
    /// It depends on nothing but `moment`. Who always asks for what comes after now, and not after the moment before,
    /// is not flooded when the system's clock is set ahead. If that is set back, moments come again.
    pub fn next_after(&self, moment: SystemTime) -> Option<SystemTime> {
        let second = match Timestamp::try_from(moment) {
            Ok(time) => {
                let begun_before = time.subsec_nanosecond() < 0;
                Timestamp::from_second(time.as_second() - i64::from(begun_before)).ok()?
            }
            Err(_) if moment < UNIX_EPOCH => Timestamp::MIN,
            Err(_) => return None,
        };
        self.next_after_second(second).map(SystemTime::from)
    }

    /// Goes from one change of the zone's offset to the next. Between two of them, the clock goes as time does.
    fn next_after_second(&self, second: Timestamp) -> Option<Timestamp> {
        const SECOND: SignedDuration = SignedDuration::from_secs(1);
        let fixed = self.is_fixed();

        let mut offset = self.time_zone.to_offset(second);
        let mut from = offset.to_datetime(second).checked_add(SECOND).ok()?;
        if fixed && let Some(change) = self.time_zone.preceding(second.checked_add(SECOND).ok()?).next() {
            let before = self.time_zone.to_offset(change.timestamp().checked_sub(SECOND).ok()?);
            from = from.max(before.to_datetime(change.timestamp())); // what the clock shows again came already
        }

        let mut found = self.first_from(from)?;
        for change in self.time_zone.following(second) {
            let end = offset.to_datetime(change.timestamp());
            if found < end {
                break;
            }
            offset = change.offset();
            let start = offset.to_datetime(change.timestamp());
            let next = if fixed {
                if found < start {
                    return Some(change.timestamp()); // it was in the gap
                }
                from.max(end).max(start)
            } else {
                start
            };
            if next < from || found < next {
                found = self.first_from(next)?;
            }
            from = next;
        }
        offset.to_timestamp(found).ok()
    }

    /// Returns `true` if each of its times comes once on its day, whatever the clock shows.
    pub(super) fn is_fixed(&self) -> bool {
        ![self.seconds, self.minutes, self.hours].iter().any(|set| set.star)
    }

    /// Finds the first date and time that fits and is not before `from`, on a clock that is never changed.
    fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        if self.fits(date)
            && let Some(time) = self.first_time_from(from.time())
        {
            return Some(date.to_datetime(time));
        }
        loop {
            date = date.tomorrow().ok()?;
            while !self.months.has(date.month()) {
                date = date.last_of_month().tomorrow().ok()?;
            }
            if self.fits(date) {
                return Some(date.to_datetime(self.first_time_from(Time::midnight())?));
            }
        }
    }

    fn fits(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let days = if self.one_day_will_do() { day || weekday } else { day && weekday };
        days && self.months.has(date.month())
    }

    fn one_day_will_do(&self) -> bool {
        !self.days.star && !self.weekdays.star
    }

    fn first_time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        let this_hour = self.hours.has(hour);
        let (hour, minute, second) = if this_hour
            && self.minutes.has(minute)
            && let Some(second) = self.seconds.first_from(second)
        {
            (hour, minute, second)
        } else if this_hour && let Some(minute) = self.minutes.first_from(minute + 1) {
            (hour, minute, self.seconds.first_from(0)?)
        } else {
            (self.hours.first_from(hour + 1)?, self.minutes.first_from(0)?, self.seconds.first_from(0)?)
        };
        Time::new(hour, minute, second, 0).ok()
    }

    /// Tells whether no month has such a day. Any date falls on each day of the week in some year.
    fn never(&self) -> bool {
        let longest = |month| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        !self.one_day_will_do()
            && !(1..=12).any(|month| {
                self.months.has(month) && self.days.first_from(1).is_some_and(|day| day <= longest(month))
            })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.expression, self.zone)
    }
}

/// Writes the fields that a name stands for.
fn expand(expression: &str) -> Result<&str, CronError> {
    Ok(match expression {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        name if name.starts_with('@') => return Err(CronError::Name { found: name.to_owned() }),
        fields => fields,
    })
}

/// The values of a field.
#[derive(Clone, Copy, Debug)]
struct Set {
    /// One bit a value.
    values: u64,
    /// Whether the field begins with `*`.
    star: bool,
}

impl Set {
    fn has(self, value: i8) -> bool {
        self.first_from(value) == Some(value)
    }

    /// Finds the first value that is not below `least`, which is 0 to 63.
    fn first_from(self, least: i8) -> Option<i8> {
        let values = self.values & u64::MAX << least;
        (values != 0).then_some(values.trailing_zeros() as i8)
    }

    fn with_sunday_as_0(mut self) -> Self {
        self.values |= self.values >> 7 & 1;
        self
    }
}

/// A field of a cron expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CronField {
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

impl CronField {
    /// The smallest value and the largest.
    const fn bounds(self) -> (u8, u8) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
        }
    }

    /// The names of the values, from the smallest on.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &WEEKDAYS,
            _ => &[],
        }
    }

    /// What a valid value looks like.
    const fn hint(self) -> &'static str {
        match self {
            Self::Second | Self::Minute => "0 to 59, such as 30, 0-29, */15 or 0,30",
            Self::Hour => "0 to 23, such as 9, 9-17, */6 or 8,20",
            Self::DayOfMonth => "1 to 31, such as 1, 1-7, */2 or 1,15",
            Self::Month => "1 to 12 or jan to dec, such as 6, jun-aug, */3 or 1,7",
            Self::DayOfWeek => "0 to 7 or sun to sat (0 and 7 are sunday), such as 1, mon-fri or 6,0",
        }
    }

    fn read(self, text: &str) -> Result<Set, CronError> {
        let mut values = 0;
        for item in text.split(',') {
            let wrong = |problem| CronError::Field {
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
                // A name is 0 for Sunday, which may end a week too.
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

/// Reads digits, and nothing else: no sign.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for CronField {
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

/// Says why there is no [`Cron`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CronError {
    /// There are neither five fields nor six.
    Fields {
        /// The expression.
        found: String,
    },
    /// It begins with `@`, but is no name that is known.
    Name {
        /// The name.
        found: String,
    },
    /// A field cannot be read.
    Field {
        /// Which one.
        field: CronField,
        /// The item of its list that is wrong; all of the field if that has an empty item.
        found: String,
        /// What is wrong with it.
        problem: FieldProblem,
    },
    /// It means no moment of any year, as 30 February.
    Never {
        /// The expression.
        found: String,
    },
    /// There is no such time zone.
    Zone(ZoneError),
}

/// What is wrong with a field of a cron expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldProblem {
    /// It is no value, range, `*` or list of these; or something is missing.
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

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields { found } => write!(
                f,
                "cron expression {found:?} has {count} fields; it needs 5 (minute, hour, day of month, month, day of \
                 week) or 6 (a second before them), such as 30 9 * * mon-fri",
                count = found.split_whitespace().count(),
            ),
            Self::Name { found } => write!(
                f,
                "{found:?} is no cron expression; write @yearly, @annually, @monthly, @weekly, @daily, @midnight, \
                 @hourly, or fields such as 30 9 * * mon-fri"
            ),
            Self::Field { field, found, problem } => {
                write!(f, "{field} {found:?}: {problem}; it is {hint}", hint = field.hint())
            }
            Self::Never { found } => {
                write!(f, "cron expression {found:?} never comes: no such month has such a day")
            }
            Self::Zone(error) => error.fmt(f),
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

impl std::error::Error for CronError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Zone(error) => Some(error),
            _ => None,
        }
    }
}
