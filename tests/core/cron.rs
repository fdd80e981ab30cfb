//! Cron expressions: parsing, and the times that they match.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chanrpc::sched::{Cron, CronError, Zone};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

fn cron(expression: &str, zone: &str) -> Cron {
    Cron::parse(expression, zone.parse().unwrap()).unwrap()
}

/// Parses `2021-03-01T00:00:00Z`, or the same with another offset in place of `Z`.
fn moment(text: &str) -> SystemTime {
    SystemTime::from(text.parse::<Timestamp>().unwrap())
}

#[track_caller]
fn assert_next(cron: &Cron, from: &str, expected: &[&str]) {
    let mut at = moment(from);
    for expected in expected {
        at = cron.next_after(at).unwrap();
        assert_eq!(Timestamp::try_from(at).unwrap(), expected.parse().unwrap(), "{cron} from {from}");
    }
}

fn wrong(expression: &str) -> CronError {
    Cron::parse(expression, Zone::Utc).unwrap_err()
}

// Parsing.

#[test]
fn fields_are_lists_of_values_ranges_and_steps() {
    let nine = "2025-06-06T09:10:00Z"; // a Friday
    for (expression, expected) in [
        ("* * * * *", ["2025-06-06T09:11:00Z", "2025-06-06T09:12:00Z"]),
        ("5-20/5,40 * * * *", ["2025-06-06T09:15:00Z", "2025-06-06T09:20:00Z"]),
        ("*/25 * * * *", ["2025-06-06T09:25:00Z", "2025-06-06T09:50:00Z"]),
        ("30 09 * * *", ["2025-06-06T09:30:00Z", "2025-06-07T09:30:00Z"]),
        ("*/20 10,30 9 * * *", ["2025-06-06T09:10:20Z", "2025-06-06T09:10:40Z"]),
        ("59 59 23 31 12 *", ["2025-12-31T23:59:59Z", "2026-12-31T23:59:59Z"]),
        ("0 0 1 JAN,jul *", ["2025-07-01T00:00:00Z", "2026-01-01T00:00:00Z"]),
        ("0 0 1 oct-dec/2 *", ["2025-10-01T00:00:00Z", "2025-12-01T00:00:00Z"]),
        ("0 9 * * 1-5", ["2025-06-09T09:00:00Z", "2025-06-10T09:00:00Z"]),
        ("0 9 * * 0", ["2025-06-08T09:00:00Z", "2025-06-15T09:00:00Z"]),
        ("0 9 * * 7", ["2025-06-08T09:00:00Z", "2025-06-15T09:00:00Z"]),
        ("0 9 * * sun", ["2025-06-08T09:00:00Z", "2025-06-15T09:00:00Z"]),
        ("0 9 * * 6-7", ["2025-06-07T09:00:00Z", "2025-06-08T09:00:00Z"]),
        ("0 9 * * Sat-Sun", ["2025-06-07T09:00:00Z", "2025-06-08T09:00:00Z"]),
        ("0 9 * * sun-mon", ["2025-06-08T09:00:00Z", "2025-06-09T09:00:00Z"]),
        ("0 9 * * sun-sun", ["2025-06-08T09:00:00Z", "2025-06-15T09:00:00Z"]),
        ("0 9 * * */7", ["2025-06-08T09:00:00Z", "2025-06-15T09:00:00Z"]),
        ("@hourly", ["2025-06-06T10:00:00Z", "2025-06-06T11:00:00Z"]),
        ("@daily", ["2025-06-07T00:00:00Z", "2025-06-08T00:00:00Z"]),
        ("@Midnight", ["2025-06-07T00:00:00Z", "2025-06-08T00:00:00Z"]),
        ("@weekly", ["2025-06-08T00:00:00Z", "2025-06-15T00:00:00Z"]),
        ("@monthly", ["2025-07-01T00:00:00Z", "2025-08-01T00:00:00Z"]),
        ("@yearly", ["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"]),
        ("@annually", ["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"]),
    ] {
        assert_next(&cron(expression, "utc"), nine, &expected);
    }
}

#[test]
fn expression_is_displayed_as_written() {
    let cron = cron("  30\t9 * *  MON-fri ", "Asia/Kolkata");
    assert_eq!(cron.expression(), "30 9 * * mon-fri");
    assert_eq!(cron.zone(), &Zone::named("Asia/Kolkata"));
    assert_eq!(cron.to_string(), "30 9 * * mon-fri in Asia/Kolkata");
    assert_eq!(Cron::parse("@Daily", Zone::minutes(-570)).unwrap().to_string(), "@daily in -09:30");
}

#[test]
fn errors_describe_the_fault() {
    for (expression, said) in [
        (
            "60 * * * *",
            "minute \"60\": the value is out of range; it is 0 to 59, such as 30, 0-29, */15 or 0,30",
        ),
        (
            "0 0,24 * * *",
            "hour \"24\": the value is out of range; it is 0 to 23, such as 9, 9-17, */6 or 8,20",
        ),
        (
            "0 22-5 * * *",
            "hour \"22-5\": the range ends before it begins, so write it as two; it is 0 to 23, such as 9, 9-17, \
             */6 or 8,20",
        ),
        (
            "*/90 * * * *",
            "minute \"*/90\": the step is zero, too large or no number; it is 0 to 59, such as 30, 0-29, */15 or 0,30",
        ),
        (
            "5/10 * * * *",
            "minute \"5/10\": a step needs a range or * before it; it is 0 to 59, such as 30, 0-29, */15 or 0,30",
        ),
        (
            "0 9 * * monday",
            "day of week \"monday\": no value, range, * or list of these; it is 0 to 7 or sun to sat (0 and 7 are \
             sunday), such as 1, mon-fri or 6,0",
        ),
        (
            "9 * * *",
            "cron expression \"9 * * *\" has 4 fields; it needs 5 (minute, hour, day of month, month, day of week) or \
             6 (a second before them), such as 30 9 * * mon-fri",
        ),
        (
            "@dialy",
            "\"@dialy\" is no cron expression; write @yearly, @annually, @monthly, @weekly, @daily, @midnight, \
             @hourly, or fields such as 30 9 * * mon-fri",
        ),
        ("0 0 30 2 *", "cron expression \"0 0 30 2 *\" never comes: no such month has such a day"),
    ] {
        assert_eq!(wrong(expression).to_string(), said);
    }
}

#[test]
fn errors_have_distinct_kinds() {
    const MALFORMED: &str = "no value, range, * or list of these";
    const OUT_OF_RANGE: &str = "the value is out of range";
    const BACKWARDS: &str = "the range ends before it begins";
    const STEP: &str = "the step is zero, too large or no number";
    const STEP_OF_ONE: &str = "a step needs a range or * before it";
    for (expression, field, found, problem) in [
        ("60 * * * * *", "second", "60", OUT_OF_RANGE),
        ("999 * * * *", "minute", "999", OUT_OF_RANGE),
        ("-5 * * * *", "minute", "-5", MALFORMED),
        ("+5 * * * *", "minute", "+5", MALFORMED),
        ("5- * * * *", "minute", "5-", MALFORMED),
        ("1-2-3 * * * *", "minute", "1-2-3", MALFORMED),
        ("1,,2 * * * *", "minute", "1,,2", MALFORMED),
        (", * * * *", "minute", ",", MALFORMED),
        ("** * * * *", "minute", "**", MALFORMED),
        ("*-5 * * * *", "minute", "*-5", MALFORMED),
        ("mon * * * *", "minute", "mon", MALFORMED),
        ("٣ * * * *", "minute", "٣", MALFORMED),
        ("1.5 * * * *", "minute", "1.5", MALFORMED),
        ("0 0-24 * * *", "hour", "0-24", OUT_OF_RANGE),
        ("0 */0 * * *", "hour", "*/0", STEP),
        ("0 */24 * * *", "hour", "*/24", STEP),
        ("0 */ * * *", "hour", "*/", STEP),
        ("0 */+2 * * *", "hour", "*/+2", STEP),
        ("0 */2/2 * * *", "hour", "*/2/2", STEP),
        ("0 /2 * * *", "hour", "/2", MALFORMED),
        ("0 30/2 * * *", "hour", "30/2", OUT_OF_RANGE),
        ("0 0 0 * *", "day of month", "0", OUT_OF_RANGE),
        ("0 0 ? * *", "day of month", "?", MALFORMED),
        ("0 0 1 13 *", "month", "13", OUT_OF_RANGE),
        ("0 0 1 dec-jan *", "month", "dec-jan", BACKWARDS),
        ("0 0 1 sun *", "month", "sun", MALFORMED),
        ("0 0 * * 8", "day of week", "8", OUT_OF_RANGE),
        ("0 0 * * fri-mon", "day of week", "fri-mon", BACKWARDS),
        ("0 0 * * jan", "day of week", "jan", MALFORMED),
        ("0 0 * * mon/2", "day of week", "mon/2", STEP_OF_ONE),
    ] {
        let (said, expected) = (wrong(expression).to_string(), format!("{field} {found:?}: {problem}"));
        assert!(said.starts_with(&expected), "{expression:?}: {said}");
    }
    for expression in ["", " ", "*", "* * * *", "* * * * * * *", "0 0 1 1 * 2025 @daily"] {
        let said = wrong(expression).to_string();
        assert!(said.contains(" fields; it needs 5"), "{expression:?}: {said}");
    }
    for expression in ["@", "@reboot", "@daily *", "@ daily"] {
        let said = wrong(expression).to_string();
        assert!(said.contains(" is no cron expression; write @yearly"), "{expression:?}: {said}");
    }
    let unknown = Cron::parse("@daily", Zone::named("Mars/Olympus")).unwrap_err();
    assert!(unknown.to_string().starts_with("no time zone \"Mars/Olympus\" is known"), "{unknown}");
}

#[test]
fn expression_that_never_matches_is_rejected() {
    for expression in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "* * 31 apr */2", "0 0 30-31 feb *"] {
        let said = wrong(expression).to_string();
        assert!(said.contains(" never comes"), "{expression:?}: {said}");
    }
    // But Mondays in February match.
    assert_next(&cron("0 0 30 2 1", "utc"), "2025-06-01T00:00:00Z", &["2026-02-02T00:00:00Z"]);
    assert_next(&cron("0 0 31 4,5 *", "utc"), "2025-06-01T00:00:00Z", &["2026-05-31T00:00:00Z"]);
}

// Calendar.

#[test]
fn february_29_matches_in_leap_years() {
    let leap = cron("0 0 29 2 *", "utc");
    assert_next(&leap, "2021-03-01T00:00:00Z", &["2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"]);
    assert_next(&leap, "2096-02-29T00:00:00Z", &["2104-02-29T00:00:00Z"]);
    assert_next(&leap, "1996-02-29T00:00:00Z", &["2000-02-29T00:00:00Z"]);
    // Both fields must match, because one of them begins with *: a Sunday, Wednesday or Saturday.
    let weekday = cron("0 12 29 2 */3", "Europe/Berlin");
    assert_next(&weekday, "2092-01-01T00:00:00Z", &["2096-02-29T11:00:00Z", "2108-02-29T11:00:00Z"]);
    assert_next(&cron("0 12 29 2 */7", "utc"), "2088-03-01T00:00:00Z", &["2128-02-29T12:00:00Z"]);
}

#[test]
fn one_day_field_suffices_unless_one_begins_with_a_star() {
    for (expression, days) in [
        ("0 0 13 * 5", ["06-06", "06-13", "06-20"]),
        ("0 0 3,4 * 1", ["06-02", "06-03", "06-04"]),
        ("0 0 * * 1", ["06-02", "06-09", "06-16"]),
        ("0 0 7-9 * *", ["06-07", "06-08", "06-09"]),
        ("0 0 */2 * 1", ["06-09", "06-23", "07-07"]),
        ("0 0 1-31/2 * 1", ["06-02", "06-03", "06-05"]),
        ("0 0 1-31 * 1", ["06-02", "06-03", "06-04"]),
        ("0 0 *,1 * 1", ["06-02", "06-09", "06-16"]),
        ("0 0 7,8 * */6", ["06-07", "06-08", "09-07"]), // a Sunday or Saturday
    ] {
        let days = days.map(|day| format!("2025-{day}T00:00:00Z"));
        assert_next(&cron(expression, "utc"), "2025-06-01T12:00:00Z", &days.each_ref().map(|day| &day[..]));
    }
}

#[test]
fn zones_with_half_and_quarter_hour_offsets() {
    // Shortly before nine local time: today's match is still ahead.
    for (zone, before, nine) in [
        ("+05:30", "2021-03-01T08:59:59+05:30", "2021-03-01T03:30:00Z"),
        ("Asia/Kolkata", "2021-03-01T00:00:00+05:30", "2021-03-01T03:30:00Z"),
        ("+05:45", "2021-03-01T08:30:00+05:45", "2021-03-01T03:15:00Z"),
        ("Asia/Kathmandu", "2021-03-01T08:30:00+05:45", "2021-03-01T03:15:00Z"),
        ("-09:30", "2021-03-01T08:30:00-09:30", "2021-03-01T18:30:00Z"),
        ("Pacific/Marquesas", "2021-03-01T08:30:00-09:30", "2021-03-01T18:30:00Z"),
        ("+14:00", "2021-03-01T08:59:59+14:00", "2021-02-28T19:00:00Z"),
        ("-12:00", "2021-03-01T00:00:00-12:00", "2021-03-01T21:00:00Z"),
    ] {
        let cron = cron("0 9 * * *", zone);
        assert_next(&cron, before, &[nine]);
        let tomorrow = cron.next_after(moment(nine)).unwrap();
        assert_eq!(tomorrow, moment(nine) + Duration::from_secs(24 * 3600), "{zone}");
    }
}

#[test]
fn next_time_is_a_later_whole_second() {
    let every = cron("* * * * * *", "utc");
    let at = UNIX_EPOCH + Duration::from_secs(1_000);
    assert_eq!(every.next_after(at), Some(at + Duration::from_secs(1)));
    assert_eq!(every.next_after(at + Duration::from_nanos(1)), Some(at + Duration::from_secs(1)));
    assert_eq!(every.next_after(at - Duration::from_nanos(100)), Some(at));
    let early = UNIX_EPOCH - Duration::from_secs(1_000);
    assert_eq!(every.next_after(early), Some(early + Duration::from_secs(1)));
    assert_eq!(every.next_after(early + Duration::from_millis(1)), Some(early + Duration::from_secs(1)));
    assert_eq!(every.next_after(early - Duration::from_millis(1)), Some(early));
}

#[test]
fn clock_jumping_ahead_leaves_one_next_time() {
    let cron = cron("*/5 * * * *", "utc");
    assert_next(&cron, "1970-01-01T00:00:03Z", &["1970-01-01T00:05:00Z"]);
    assert_next(&cron, "2025-06-06T09:12:00Z", &["2025-06-06T09:15:00Z"]);
}

#[test]
fn no_match_beyond_the_end_of_the_calendar() {
    let daily = cron("@daily", "Europe/Berlin");
    assert_next(&daily, "9999-12-28T12:00:00Z", &["9999-12-28T23:00:00Z", "9999-12-29T23:00:00Z"]);
    for late in ["9999-12-30T12:00:00Z", "9999-12-30T22:00:00Z"] {
        let next = cron("0 0 29 2 *", "Europe/Berlin").next_after(moment(late));
        assert_eq!(next, None);
    }
    // The range of the system's clock depends on the platform.
    let (mut early, mut late) = (UNIX_EPOCH, UNIX_EPOCH);
    for power in (0..64).rev() {
        let step = Duration::from_secs(1 << power);
        early = early.checked_sub(step).unwrap_or(early);
        late = late.checked_add(step).unwrap_or(late);
    }
    assert!(daily.next_after(early).is_some_and(|next| next > early));
    assert_eq!(daily.next_after(late), None);
}

#[test]
fn local_zone_is_that_of_the_machine() {
    match Cron::parse("@daily", Zone::Local) {
        Ok(cron) => assert!(cron.next_after(UNIX_EPOCH).is_some_and(|next| next > UNIX_EPOCH)),
        Err(error) => {
            assert!(error.to_string().starts_with("the time zone of this machine is unknown"), "{error}");
        }
    }
}

// Clock changes.

#[test]
fn fixed_time_in_a_gap_matches_right_after_it() {
    for (expression, zone, from, expected) in [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2025-03-29T12:00:00Z",
            ["2025-03-30T01:00:00Z", "2025-03-31T00:30:00Z"],
        ),
        (
            "0 3 * * *",
            "Europe/Berlin",
            "2025-03-29T12:00:00Z",
            ["2025-03-30T01:00:00Z", "2025-03-31T01:00:00Z"],
        ),
        (
            "59 1 * * *",
            "Europe/Berlin",
            "2025-03-29T12:00:00Z",
            ["2025-03-30T00:59:00Z", "2025-03-30T23:59:00Z"],
        ),
        (
            "30 2 * * 0",
            "Europe/Berlin",
            "2025-03-29T12:00:00Z",
            ["2025-03-30T01:00:00Z", "2025-04-06T00:30:00Z"],
        ),
        (
            "30 2,14 * * *",
            "Europe/Berlin",
            "2025-03-29T14:00:00Z",
            ["2025-03-30T01:00:00Z", "2025-03-30T12:30:00Z"],
        ),
        (
            "0-59 2-3 * * *",
            "Europe/Berlin",
            "2025-03-29T14:00:00Z",
            ["2025-03-30T01:00:00Z", "2025-03-30T01:01:00Z"],
        ),
        (
            "30 2 * * *",
            "America/New_York",
            "2025-03-08T12:00:00Z",
            ["2025-03-09T07:00:00Z", "2025-03-10T06:30:00Z"],
        ),
        // A gap of half an hour.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2025-10-04T00:00:00Z",
            ["2025-10-04T15:30:00Z", "2025-10-05T15:15:00Z"],
        ),
        (
            "30 2 * * *",
            "Australia/Lord_Howe",
            "2025-10-04T00:00:00Z",
            ["2025-10-04T15:30:00Z", "2025-10-05T15:30:00Z"],
        ),
        // The last hour of a Saturday, and the first of a Friday.
        (
            "30 23 * * 6",
            "America/Nuuk",
            "2025-03-28T12:00:00Z",
            ["2025-03-30T01:00:00Z", "2025-04-06T00:30:00Z"],
        ),
        ("@weekly", "America/Nuuk", "2025-03-28T12:00:00Z", ["2025-03-30T01:00:00Z", "2025-04-06T01:00:00Z"]),
        (
            "0 0 * * 5",
            "Africa/Cairo",
            "2025-04-20T00:00:00Z",
            ["2025-04-24T22:00:00Z", "2025-05-01T21:00:00Z"],
        ),
        // A gap of a whole day.
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-30T00:00:00Z",
            ["2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"],
        ),
    ] {
        assert_next(&cron(expression, zone), from, &expected);
    }
}

#[test]
fn fixed_time_that_repeats_matches_once() {
    for (expression, zone, from, expected) in [
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2025-10-25T12:00:00Z",
            ["2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z"],
        ),
        (
            "30 2,14 * * *",
            "Europe/Berlin",
            "2025-10-25T14:00:00Z",
            ["2025-10-26T00:30:00Z", "2025-10-26T13:30:00Z"],
        ),
        (
            "0,30 2-3 * * *",
            "Europe/Berlin",
            "2025-10-26T00:15:00Z",
            ["2025-10-26T00:30:00Z", "2025-10-26T02:00:00Z"],
        ),
        // At the repeated time it has matched already.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2025-10-26T01:10:00Z",
            ["2025-10-27T01:30:00Z", "2025-10-28T01:30:00Z"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2025-11-01T12:00:00Z",
            ["2025-11-02T05:30:00Z", "2025-11-03T06:30:00Z"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2025-04-05T00:00:00Z",
            ["2025-04-05T14:45:00Z", "2025-04-06T15:15:00Z"],
        ),
        (
            "15 1 * * *",
            "Australia/Lord_Howe",
            "2025-04-05T00:00:00Z",
            ["2025-04-05T14:15:00Z", "2025-04-06T14:45:00Z"],
        ),
        // The clock goes back from the end of Thursday, so Friday starts later.
        (
            "0 0 * * 5",
            "Africa/Cairo",
            "2025-10-30T00:00:00Z",
            ["2025-10-30T22:00:00Z", "2025-11-06T22:00:00Z"],
        ),
    ] {
        assert_next(&cron(expression, zone), from, &expected);
    }
}

#[test]
fn expression_with_a_star_follows_the_clock() {
    for (expression, zone, from, expected) in [
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2025-03-30T00:15:00Z",
            ["2025-03-30T00:30:00Z", "2025-03-30T01:00:00Z", "2025-03-30T01:30:00Z", "2025-03-30T02:00:00Z"],
        ),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2025-10-26T00:15:00Z",
            ["2025-10-26T00:30:00Z", "2025-10-26T01:00:00Z", "2025-10-26T01:30:00Z", "2025-10-26T02:00:00Z"],
        ),
        (
            "@hourly",
            "America/New_York",
            "2025-11-02T04:30:00Z",
            ["2025-11-02T05:00:00Z", "2025-11-02T06:00:00Z", "2025-11-02T07:00:00Z", "2025-11-02T08:00:00Z"],
        ),
        (
            "*/15 2 * * *",
            "America/New_York",
            "2025-03-08T12:00:00Z",
            ["2025-03-10T06:00:00Z", "2025-03-10T06:15:00Z", "2025-03-10T06:30:00Z", "2025-03-10T06:45:00Z"],
        ),
        (
            "*/20 1 * * *",
            "Australia/Lord_Howe",
            "2025-04-05T14:30:00Z",
            ["2025-04-05T14:40:00Z", "2025-04-05T15:10:00Z", "2025-04-06T14:30:00Z", "2025-04-06T14:50:00Z"],
        ),
        (
            "* 59 1 * * *",
            "Europe/Berlin",
            "2025-03-30T00:59:57Z",
            ["2025-03-30T00:59:58Z", "2025-03-30T00:59:59Z", "2025-03-30T23:59:00Z", "2025-03-30T23:59:01Z"],
        ),
    ] {
        assert_next(&cron(expression, zone), from, &expected);
    }
}

// Properties: compared with a clock that is read every minute.

/// A field as text, its values, and whether it begins with `*`.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    values: Vec<u8>,
}

impl Field {
    fn star(&self) -> bool {
        self.text.starts_with('*')
    }

    fn has(&self, value: i64) -> bool {
        self.values.iter().any(|one| i64::from(*one) == value)
    }
}

fn field(min: u8, max: u8) -> impl Strategy<Value = Field> {
    let item = prop_oneof![
        (min..=max).prop_map(|value| (value.to_string(), vec![value])),
        (min..=max, min..=max).prop_map(|(a, b)| {
            let (first, last) = (a.min(b), a.max(b));
            (format!("{first}-{last}"), (first..=last).collect())
        }),
        (min..=max, min..=max, 1..=max).prop_map(|(a, b, step)| {
            let (first, last) = (a.min(b), a.max(b));
            let values = (first..=last).filter(|value| (value - first).is_multiple_of(step)).collect();
            (format!("{first}-{last}/{step}"), values)
        }),
        (1..=max).prop_map(move |step| {
            let values = (min..=max).filter(|value| (value - min).is_multiple_of(step)).collect();
            (format!("*/{step}"), values)
        }),
    ];
    let list = prop::collection::vec(item, 1..=3).prop_map(|items| Field {
        text: items.iter().map(|(text, _)| &text[..]).collect::<Vec<_>>().join(","),
        values: items.into_iter().flat_map(|(_, values)| values).collect(),
    });
    let star = Just(Field { text: "*".into(), values: (min..=max).collect() });
    prop_oneof![2 => list, 1 => star]
}

/// Minute, hour, day of month, month, day of week.
#[derive(Clone, Debug)]
struct Expression([Field; 5]);

impl Expression {
    fn text(&self) -> String {
        self.0.each_ref().map(|field| &field.text[..]).join(" ")
    }

    fn is_fixed(&self) -> bool {
        !self.0[0].star() && !self.0[1].star()
    }

    fn fits(&self, [minute, hour, day, month, weekday]: [i64; 5]) -> bool {
        let [minutes, hours, days, months, weekdays] = &self.0;
        let day = days.has(day);
        let weekday = weekdays.has(weekday) || weekday == 0 && weekdays.has(7);
        let both = days.star() || weekdays.star();
        minutes.has(minute)
            && hours.has(hour)
            && months.has(month)
            && if both { day && weekday } else { day || weekday }
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    [
        field(0, 59).boxed(),
        field(0, 23).boxed(),
        field(1, 31).boxed(),
        field(1, 12).boxed(),
        field(0, 7).boxed(),
    ]
    .prop_map(Expression)
}

/// Returns what the calendar and the clock show `minutes` minutes after the start of 1970, computed without a library.
fn shown(minutes: i64) -> [i64; 5] {
    let (days, minute_of_day) = (minutes.div_euclid(1_440), minutes.rem_euclid(1_440));
    let weekday = (days + 4).rem_euclid(7);
    let (mut year, mut rest) = (1970, days);
    let length = |year: i64| if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 366 } else { 365 };
    while rest >= length(year) {
        rest -= length(year);
        year += 1;
    }
    let february = length(year) - 337;
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < days {
            break;
        }
        rest -= days;
        month += 1;
    }
    [minute_of_day % 60, minute_of_day / 60, rest + 1, month, weekday]
}

const MINUTE: Duration = Duration::from_secs(60);

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matches_a_clock_without_changes_read_every_minute(
        expression in expression(),
        east in prop_oneof![select(vec![0, 330, 345, -570, 60, -300]), -1_439..1_440_i64],
        seconds in 90_000_i64..4_102_444_800,
    ) {
        const DAYS: i64 = 45;
        let zone = Zone::minutes(i32::try_from(east).unwrap());
        let Ok(cron) = Cron::parse(&expression.text(), zone) else {
            let never = (0..366 * 8).all(|day| !expression.fits_date(shown(day * 1_440)));
            prop_assert!(never, "{} is refused", expression.text());
            return Ok(());
        };
        let after = seconds.div_euclid(60);
        let expected = (after + 1..after + DAYS * 1_440).find(|minute| expression.fits(shown(minute + east)));
        let next = cron.next_after(UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()));
        let next = next.unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        match expected {
            Some(minute) => prop_assert_eq!(next, minute.unsigned_abs() * 60, "{}", cron),
            None => prop_assert!(next >= (after + DAYS * 1_440).unsigned_abs() * 60, "{}", cron),
        }
    }

    #[test]
    fn matches_a_clock_with_changes_read_every_minute(
        fields in expression(),
        any_day in any::<bool>(),
        zone in select(vec![
            "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Nuuk", "Africa/Cairo",
            "Pacific/Apia", "Antarctica/Troll", "Africa/Casablanca", "Asia/Pyongyang", "America/Caracas",
        ]),
        which in any::<Index>(),
        before in -300_i64..2_000,
    ) {
        let mut expression = fields;
        if any_day {
            for (at, (min, max)) in [(2, (1, 31)), (3, (1, 12)), (4, (0, 7))] {
                expression.0[at] = Field { text: "*".into(), values: (min..=max).collect() };
            }
        }
        let Ok(cron) = Cron::parse(&expression.text(), Zone::named(zone)) else { return Ok(()) };

        let rules = TimeZone::get(zone).unwrap();
        let changes: Vec<_> = rules.following("2005-01-01T00:00Z".parse().unwrap()).take(70).collect();
        let change = changes[which.index(changes.len())].timestamp();
        let begin = Timestamp::from_second(change.as_second().div_euclid(60) * 60).unwrap();
        let begin = begin - SignedDuration::from_mins(before);
        let expected = moments(&expression, &rules, begin, 4_000);

        let mut at = SystemTime::from(begin);
        for expected in expected {
            at = cron.next_after(at).unwrap();
            prop_assert_eq!(Timestamp::try_from(at).unwrap(), expected, "{} from {}", cron, begin);
        }
        let end = SystemTime::from(begin) + MINUTE * 4_000;
        prop_assert!(cron.next_after(at).is_none_or(|next| next > end), "{} from {}", cron, begin);
    }

    #[test]
    fn seconds_field_refines_the_minutes(
        expression in expression(),
        second in subsequence((0..60_u8).collect::<Vec<_>>(), 1..60),
        seconds in 0_u64..4_102_444_800,
    ) {
        let zone = || Zone::named("Europe/Berlin");
        let Ok(minutes) = Cron::parse(&expression.text(), zone()) else { return Ok(()) };
        let list = second.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let refined = Cron::parse(&format!("{list} {}", expression.text()), zone()).unwrap();
        // Except at the first time after a gap, whose second is 0.
        let after = UNIX_EPOCH + Duration::from_secs(seconds / 60 * 60) - Duration::from_secs(1);
        let minute = minutes.next_after(after).unwrap();
        let next = refined.next_after(after).unwrap();
        prop_assert!(next == minute || next == minute + Duration::from_secs(second[0].into()), "{}", refined);
    }

    #[test]
    fn any_text_is_parsed_or_rejected(text in "[ -~]{0,30}|([0-9*,/@-]{1,4} ){4,6}", zone in "[ -~]{0,12}") {
        if let Err(error) = Cron::parse(&text, zone.parse().unwrap_or(Zone::Utc)) {
            let said = error.to_string();
            prop_assert!(!said.is_empty() && !said.starts_with(char::is_uppercase), "{}", said);
        }
    }
}

impl Expression {
    fn fits_date(&self, [_, _, day, month, weekday]: [i64; 5]) -> bool {
        let mut dates = self.clone();
        dates.0[0].values = vec![0];
        dates.0[1].values = vec![0];
        dates.fits([0, 0, day, month, weekday])
    }
}

/// Returns all matches in `minutes` minutes after `begin`, inclusive. A fixed time matches when the clock first reaches
/// or passes it; an expression with `*` matches whenever the clock shows it.
fn moments(expression: &Expression, rules: &TimeZone, begin: Timestamp, minutes: i64) -> Vec<Timestamp> {
    const MINUTE: SignedDuration = SignedDuration::from_mins(1);
    let shows = |at: DateTime| {
        let weekday = at.weekday().to_sunday_zero_offset();
        expression.fits([at.minute(), at.hour(), at.day(), at.month(), weekday].map(i64::from))
    };
    // Starts a day and a half before, to know which times the clock has shown already.
    let mut reached = rules.to_datetime(begin - MINUTE * 2_200);
    let mut moments = Vec::new();
    for minute in -2_199..=minutes {
        let at = begin + MINUTE * i32::try_from(minute).unwrap();
        let clock = rules.to_datetime(at);
        let mut comes = shows(clock);
        if expression.is_fixed() {
            comes = false;
            while reached < clock {
                reached += MINUTE;
                comes |= shows(reached);
            }
        }
        if comes && minute > 0 {
            moments.push(at);
        }
    }
    moments
}
