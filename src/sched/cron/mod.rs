//! Cron expressions: parsing, and the search for the next matching time.
//!
//! jiff provides the calendar and the time zones.

mod error;
mod field;
mod schedule;
mod zone;

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub use error::CronError;
use error::Problem;
use field::{Field, Set};
pub(super) use schedule::CronSchedule;
pub use zone::Zone;

impl FromStr for Zone {
    type Err = CronError;

    /// Parses `utc`, `local`, an offset or a name, which is not looked up.
    ///
    /// # Errors
    ///
    /// [`CronError`] if the text begins with a sign but is not an offset.
    fn from_str(text: &str) -> Result<Self, CronError> {
        Ok(Self::parse(text)?)
    }
}

/// A cron expression in the calendar of a [`Zone`], written as five fields or six:
///
/// | field | values | |
/// | --- | --- | --- |
/// | second | 0 to 59 | optional; 0 if omitted |
/// | minute | 0 to 59 | |
/// | hour | 0 to 23 | |
/// | day of month | 1 to 31 | |
/// | month | 1 to 12 | or `jan` to `dec` |
/// | day of week | 0 to 7 | or `sun` to `sat`; 0 and 7 are Sunday |
///
/// A field is a list, such as `0,15,40-50/2`, of single values, of ranges such as `mon-fri` and of `*`, which is every
/// value. A range or `*` may have a step: `*/15` and `10-50/20` begin at their first value. A range cannot wrap around;
/// write `22-23,0-5` instead of `22-5`. Case is ignored.
///
/// An expression can also be a name: `@yearly` or `@annually`, `@monthly`, `@weekly`, `@daily` or `@midnight`,
/// `@hourly`. Each fires at the beginning of its period; a week begins on Sunday.
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
/// As in Vixie's cron and its `crontab(5)`: if neither day of month nor day of week begins with `*`, a day has to match
/// **one** of them: `0 9 13 * fri` is every 13th and every Friday. Otherwise it has to match both: `0 9 * * fri` is
/// every Friday, and `0 9 */2 * fri` is a Friday with an odd date.
///
/// 29 February exists in leap years only. [`Cron::parse`] rejects dates that no year has, such as 30 February.
///
/// # Daylight saving time
///
/// As in Vixie's cron, the result depends on whether the second, the minute or the hour begins with `*`. If none of
/// them does, each time is fixed, and fires once on its day:
///
/// - A time that the clock skips, as when summer time begins, fires at the end of the gap; several of them fire there once.
/// - A time that the clock shows twice, as when summer time ends, fires only the first time.
///
/// Otherwise the expression is a wildcard and follows the clock: a skipped time does not fire, and a repeated time
/// fires twice. `*/15 * * * *` thus keeps its distance of 15 minutes when an hour is skipped or repeated, while `*/15 2
/// * * *` may not fire at all on that day, or twice as often.
///
/// Leap seconds are unknown to the system's clock, and so they are here.
#[derive(Clone, Debug)]
pub struct Cron {
    expression: String,
    zone: Zone,
    /// The zone as it was found when the expression was parsed.
    time_zone: TimeZone,
    seconds: Set,
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

impl Cron {
    /// Parses an expression and looks up its zone. Later changes of [`Zone::Local`], or of the system's database, have
    /// no effect.
    ///
    /// # Errors
    ///
    /// [`CronError`] if the expression is malformed or matches no time of any year, or if the zone is unknown.
    pub fn parse(expression: &str, zone: Zone) -> Result<Self, CronError> {
        let mut expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        expression.make_ascii_lowercase();
        let fields = expand(&expression)?;
        let fields = fields.split(' ').collect::<Vec<_>>();
        let (second, [minute, hour, day, month, weekday]) = match *fields {
            [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => (second, [minute, hour, day, month, weekday]),
            _ => return Err(Problem::Fields { found: expression }.into()),
        };
        let cron = Self {
            seconds: Field::Second.read(second)?,
            minutes: Field::Minute.read(minute)?,
            hours: Field::Hour.read(hour)?,
            days: Field::DayOfMonth.read(day)?,
            months: Field::Month.read(month)?,
            weekdays: Field::DayOfWeek.read(weekday)?.with_sunday_as_0(),
            time_zone: zone.look_up()?,
            expression,
            zone,
        };
        if cron.never() { Err(Problem::Never { found: cron.expression }.into()) } else { Ok(cron) }
    }

    /// Returns the expression, in lower case and with one space between its fields.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Returns the zone of the expression.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns the first matching time after `moment`, a whole second. Returns `None` only at the end of the calendar,
    /// after the year 9999.
    ///
    /// The result depends only on `moment`. A caller that passes the current time, and not the previous result, is not
    /// flooded when the system's clock is set ahead. If the clock is set back, times recur.
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

    /// Steps from one change of the zone's offset to the next, between which the clock is continuous.
    fn next_after_second(&self, second: Timestamp) -> Option<Timestamp> {
        const SECOND: SignedDuration = SignedDuration::from_secs(1);
        let fixed = self.is_fixed();

        let mut offset = self.time_zone.to_offset(second);
        let mut from = offset.to_datetime(second).checked_add(SECOND).ok()?;
        if fixed && let Some(change) = self.time_zone.preceding(second.checked_add(SECOND).ok()?).next() {
            let before = self.time_zone.to_offset(change.timestamp().checked_sub(SECOND).ok()?);
            from = from.max(before.to_datetime(change.timestamp())); // repeated times have fired already
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
                    return Some(change.timestamp()); // in the gap
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

    /// Returns `true` if no field of the time is a wildcard, so that each time fires once on its day.
    pub(super) fn is_fixed(&self) -> bool {
        ![self.seconds, self.minutes, self.hours].iter().any(|set| set.star)
    }

    /// Returns the first matching date and time from `from` on, on a clock without changes.
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

    /// Returns `true` if no month has a matching day. Any date falls on each day of the week in some year.
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

/// Returns the fields of a named expression.
fn expand(expression: &str) -> Result<&str, CronError> {
    Ok(match expression {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        name if name.starts_with('@') => return Err(Problem::Name { found: name.to_owned() }.into()),
        fields => fields,
    })
}
