//! `[[access]]`, and who may address a listener.

use std::time::{Duration, SystemTime};

use toml_datetime::{Datetime, Offset};

use super::read::visible_name;
use super::table::{Field, Result, Table};
use super::{Listen, Rule, same_address};
use crate::origin;

pub(super) const HEADING: &str = "[[access]]";

/// Reads one rule.
pub(super) fn rule(table: &Table<'_>, listeners: &[Listen]) -> Result<Rule> {
    table.allow(&["functions", "name", "token", "listen", "expires"])?;
    let example = "[\"demo.*\", \"rpc.list\"]";
    let functions = table
        .require("functions", example)?
        .list(&format!("a list of functions such as {example}"))?
        .map(|field| visible_name(field, "demo.*").map(str::to_owned))
        .collect::<Result<_>>()?;
    let name = table.get("name").map(|field| visible_name(field, "dashboard")).transpose()?;
    let token = table.get("token").map(hash).transpose()?;
    let listen = match table.get("listen") {
        Some(field) => field
            .list("a list of addresses such as [\"0.0.0.0:7300\"]")?
            .map(|field| listener(field, listeners))
            .collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let expires = table.get("expires").map(moment).transpose()?;
    if expires.is_some() && token.is_none() {
        return Err(table.fail("has expires but no token; only what a token allows can expire"));
    }
    let place = format!("{}:{}", table.source.file, table.source.line(table.at));
    Ok(Rule { place, functions, name: name.map(str::to_owned), token, listen, expires })
}

/// Reads the hash of a token.
fn hash(field: Field<'_>) -> Result<[u8; 32]> {
    // What stands here instead may be a token, so it is not shown.
    let wanted = || field.fail("expected \"sha256:\" and 64 hexadecimal digits; `chanrpc token` prints them");
    let digits = field.string()?.strip_prefix("sha256:").ok_or_else(wanted)?;
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wanted());
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wanted())?;
    }
    Ok(hash)
}

/// Reads the address of a listener, and gives it as it is typed there.
fn listener(field: Field<'_>, listeners: &[Listen]) -> Result<String> {
    let address = field.string()?;
    match listeners.iter().find(|listen| same_address(&listen.address, address)) {
        Some(listen) => Ok(listen.address.clone()),
        None => {
            let known: Vec<_> = listeners.iter().map(|listen| listen.address.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(field.fail(&format!("no [[listen]] has the address {address:?}; there are: {known}")))
        }
    }
}

/// Reads a moment.
fn moment(field: Field<'_>) -> Result<SystemTime> {
    let moment = field.value.get_ref().as_datetime().and_then(since_1970);
    let moment = moment.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    moment.ok_or_else(|| {
        field.expected("a date and time with its offset, without quotes: 2027-01-01T00:00:00Z")
    })
}

/// The time from the beginning of 1970 to a moment, if it tells its offset and is not before. The number of days is
/// Howard Hinnant's `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>).
fn since_1970(moment: &Datetime) -> Option<Duration> {
    let (Some(date), Some(time), Some(offset)) = (moment.date, moment.time, moment.offset) else {
        return None;
    };
    // Years begin in March here, so that a leap day ends one; 400 of them, an era, always have as many days.
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

/// Reads the names by which a listener may be addressed, and gives them in lower case.
pub(super) fn hosts(field: Field<'_>) -> Result<Vec<String>> {
    let wanted = "names without a port, such as [\"board-a\", \"board-a.lan\"]";
    let host = |field: Field<'_>| {
        let host = field.string()?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if !(1..=253).contains(&host.len()) || !host.bytes().all(fits) {
            return Err(field.expected(wanted));
        }
        Ok(host.to_ascii_lowercase())
    };
    field.list(wanted)?.map(host).collect()
}

/// Reads where pages and programs may come from, in the form that [`origin::normalize`] gives.
pub(super) fn origins(field: Field<'_>) -> Result<Vec<String>> {
    let wanted = "origins: scheme and host such as [\"https://app.example\"], or exactly what the client sends, such as \
                  \"file://\" or \"null\"";
    field
        .list(wanted)?
        .map(|field| origin::normalize(field.string()?).ok_or_else(|| field.expected(wanted)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
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
            let moment = text.parse::<Datetime>().unwrap();
            assert_eq!(since_1970(&moment), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
