//! Conversion of TOML's date-times.

use std::time::{Duration, SystemTime};

use toml_datetime::{Datetime, Offset};

/// Converts a date-time, if it has an offset and is not before 1970.
pub(crate) fn to_system_time(datetime: &Datetime) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(since_1970(datetime)?)
}

/// Returns the time since the beginning of 1970 (UTC), if the date-time has an offset and is not before. The number of
/// days is Howard Hinnant's `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>).
fn since_1970(datetime: &Datetime) -> Option<Duration> {
    let (Some(date), Some(time), Some(offset)) = (datetime.date, datetime.time, datetime.offset) else {
        return None;
    };
    // Years begin in March here, so that a leap day is the last of its year; an era of 400 years has a fixed length.
    let year = i64::from(date.year) - i64::from(date.month <= 2);
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = (i64::from(date.month) + 9) % 12;
    let day = (153 * month + 2) / 5 + i64::from(date.day) - 1;
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468;
    let minutes = days * 1_440 + i64::from(time.hour) * 60 + i64::from(time.minute)
        - match offset {
            Offset::Z => 0,
            Offset::Custom { minutes } => i64::from(minutes),
        };
    let seconds = u64::try_from(minutes * 60 + i64::from(time.second.unwrap_or(0))).ok()?;
    Some(Duration::new(seconds, time.nanosecond.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datetimes() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1969-12-31T23:30:00-01:00", Some(1_800)),
            ("2000-02-28T23:59:59Z", Some(951_782_399)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2025-12-31T23:59:59Z", Some(1_767_225_599)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799)),
            ("1969-12-31T23:59:59Z", None),
            ("2027-01-01T00:00:00", None),
            ("2027-01-01", None),
        ] {
            let datetime = text.parse::<Datetime>().unwrap();
            assert_eq!(since_1970(&datetime), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
