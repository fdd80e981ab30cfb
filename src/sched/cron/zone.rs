//! The time zone of a cron expression.

use std::borrow::Cow;
use std::fmt;

use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

/// A time zone as written in a configuration. It is looked up when it is used, as by
/// [`Cron::parse`](super::Cron::parse).
///
/// Its text is `utc`, `local`, an offset from UTC such as `+05:30`, or a name of the [IANA database]:
///
/// ```
/// use chanrpc::sched::Zone;
///
/// assert_eq!("utc".parse(), Ok(Zone::Utc));
/// assert_eq!("-09:30".parse(), Ok(Zone::minutes(-(9 * 60 + 30))));
/// assert_eq!("Asia/Kolkata".parse(), Ok(Zone::named("Asia/Kolkata")));
/// assert_eq!(Zone::minutes(330).to_string(), "+05:30");
/// ```
///
/// [IANA database]: https://www.iana.org/time-zones
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Zone {
    /// Coordinated universal time.
    Utc,
    /// A fixed offset in seconds east of UTC, or west of it if negative; less than 26 hours.
    Offset(i32),
    /// A zone of the IANA database by its name, such as `Europe/Berlin`; case is ignored. The system's database, if
    /// any, takes precedence over the bundled one.
    Named(Cow<'static, str>),
    /// The zone of this machine, or of the environment variable `TZ` if set.
    Local,
}

impl Zone {
    /// Returns the zone with a fixed offset in minutes east of UTC, or west of it if negative.
    pub const fn minutes(east: i32) -> Self {
        Self::Offset(east.saturating_mul(60))
    }

    /// Returns the zone of the IANA database with this name.
    pub fn named(name: impl Into<Cow<'static, str>>) -> Self {
        Self::Named(name.into())
    }

    /// Parses `utc`, `local`, an offset or a name.
    pub(super) fn parse(text: &str) -> Result<Self, ZoneError> {
        if text.eq_ignore_ascii_case("utc") {
            Ok(Self::Utc)
        } else if text.eq_ignore_ascii_case("local") {
            Ok(Self::Local)
        } else if text.starts_with(['+', '-']) {
            let zone = DateTimeParser::new().parse_time_zone(text);
            let offset = zone.ok().and_then(|zone| zone.to_fixed_offset().ok());
            let offset = offset.ok_or_else(|| ZoneError::Offset { found: text.to_owned() })?;
            Ok(Self::Offset(offset.seconds()))
        } else {
            Ok(Self::Named(Cow::Owned(text.to_owned())))
        }
    }

    /// Looks up the zone.
    pub(super) fn look_up(&self) -> Result<TimeZone, ZoneError> {
        match self {
            Self::Utc => Ok(TimeZone::UTC),
            Self::Offset(seconds) => Offset::from_seconds(*seconds)
                .map(TimeZone::fixed)
                .map_err(|_| ZoneError::Offset { found: self.to_string() }),
            // The system's database may be incomplete.
            Self::Named(name) => TimeZone::get(name)
                .or_else(|_| TimeZoneDatabase::bundled().get(name))
                .map_err(|_| ZoneError::Unknown { name: name.to_string() }),
            Self::Local => TimeZone::try_system().map_err(|_| ZoneError::Local),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc => f.write_str("utc"),
            Self::Offset(seconds) => {
                let sign = if *seconds < 0 { '-' } else { '+' };
                let seconds = seconds.unsigned_abs();
                write!(f, "{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60)?;
                if seconds.is_multiple_of(60) { Ok(()) } else { write!(f, ":{:02}", seconds % 60) }
            }
            Self::Named(name) => f.write_str(name),
            Self::Local => f.write_str("local"),
        }
    }
}

/// The reason why a time zone is invalid or unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ZoneError {
    /// The offset is malformed, or 26 hours or more.
    Offset {
        /// The offset as it was written.
        found: String,
    },
    /// Neither the system's database nor the bundled one has this name.
    Unknown {
        /// The name.
        name: String,
    },
    /// The zone of the machine is unknown, or the variable `TZ` is not a known zone.
    Local,
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset { found } => {
                write!(f, "{found:?} is no offset from utc; write one such as +05:30, below 26 hours")
            }
            Self::Unknown { name } => {
                write!(
                    f,
                    "no time zone {name:?} is known; write a name such as Europe/Berlin, an offset such as \
                     +05:30, utc or local"
                )
            }
            Self::Local => f.write_str(
                "the time zone of this machine is unknown; set the variable TZ, or write a name such as \
                 Europe/Berlin, an offset such as +05:30, or utc",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_and_shown() {
        for (text, zone) in [
            ("utc", Zone::Utc),
            ("local", Zone::Local),
            ("+00:00", Zone::Offset(0)),
            ("+05:30", Zone::minutes(330)),
            ("+05:45", Zone::minutes(345)),
            ("-09:30", Zone::minutes(-570)),
            ("-00:00:01", Zone::Offset(-1)),
            ("Europe/Berlin", Zone::named("Europe/Berlin")),
        ] {
            assert_eq!(zone.to_string(), text);
            assert_eq!(text.parse(), Ok(zone));
        }
        assert_eq!("UTC".parse(), Ok(Zone::Utc));
        assert_eq!("+0530".parse(), Ok(Zone::minutes(330)));
        for wrong in ["+", "-5", "+5:30", "+05:60", "+26:00", "+05:30 ", "+05:30[Asia/Kolkata]"] {
            let offset = ZoneError::Offset { found: wrong.into() };
            assert_eq!(wrong.parse::<Zone>(), Err(offset.into()));
        }
    }

    #[test]
    fn what_is_no_zone_is_said() {
        assert!(Zone::Offset(26 * 3600 - 1).look_up().is_ok());
        assert_eq!(
            Zone::minutes(26 * 60).look_up().unwrap_err().to_string(),
            "\"+26:00\" is no offset from utc; write one such as +05:30, below 26 hours"
        );
        assert!(Zone::minutes(i32::MIN).look_up().is_err());
        assert_eq!(
            Zone::named("Europe/Berlim").look_up().unwrap_err().to_string(),
            "no time zone \"Europe/Berlim\" is known; write a name such as Europe/Berlin, an offset such as \
             +05:30, utc or local"
        );
        for wrong in ["", "/", ".", "..", "../zoneinfo/Europe/Berlin", "/etc/passwd", "Europe", "a\0b"] {
            assert!(Zone::named(wrong).look_up().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_known_without_the_systems_database() {
        for name in ["Asia/Kolkata", "europe/berlin", "Australia/Lord_Howe", "America/New_York"] {
            assert!(TimeZoneDatabase::bundled().get(name).is_ok(), "{name}");
            assert!(Zone::named(name).look_up().is_ok(), "{name}");
        }
    }
}
