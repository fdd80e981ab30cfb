//! The due times of a cron timer, on a clock that can be changed.
//!
//! The wall clock and the monotonic clock are arguments.

use std::time::{Duration, Instant, SystemTime};

use super::Cron;

/// The due times of a timer with a [`Cron`] expression. Checks the wall clock periodically.
///
/// As in Vixie's cron, the expression decides what happens when the clock is set back. A wildcard expression (see
/// [`Cron`]) follows the clock. A fixed time does not recur, unless the clock was set back so far that it must have
/// been wrong.
pub(in crate::sched) struct CronSchedule {
    cron: Cron,
    next: SystemTime,
    /// The most recent time that has fired.
    last: Option<SystemTime>,
    /// Both clocks at the last check.
    seen: (SystemTime, Instant),
}

impl CronSchedule {
    /// The maximum time until a change of the clock is noticed.
    const LOOK: Duration = Duration::from_secs(30);
    /// A clock that was set back by this or more was wrong before: all times recur.
    const WRONG: Duration = Duration::from_secs(3 * 3600);
    /// A clock that was set back by less than this was adjusted: no time fires twice in a row.
    const ADJUSTED: Duration = Duration::from_secs(60);

    /// Starts with the next time after now, if one exists. Also returns when to check.
    pub(in crate::sched) fn new(cron: Cron, now: SystemTime, at: Instant) -> Option<(Self, Instant)> {
        let next = cron.next_after(now)?;
        let schedule = Self { cron, next, last: None, seen: (now, at) };
        let look = schedule.look(now, at)?;
        Some((schedule, look))
    }

    /// Returns `true` if the next time has come, and marks it as fired.
    pub(in crate::sched) fn fire(&mut self, now: SystemTime) -> bool {
        let fires = self.next <= now;
        if fires {
            self.last = Some(self.next);
        }
        fires
    }

    /// Returns when to check next, or `None` if no further time exists.
    pub(in crate::sched) fn next(&mut self, now: SystemTime, at: Instant) -> Option<Instant> {
        let (then, then_at) = std::mem::replace(&mut self.seen, (now, at));
        let expected = then.checked_add(at.saturating_duration_since(then_at))?;
        if expected.duration_since(now).is_ok_and(|back| back >= Self::WRONG) {
            self.last = None;
        }
        if self.last == Some(self.next) || self.next > now {
            self.next = self.next_from(now)?;
        }
        self.look(now, at)
    }

    fn next_from(&self, now: SystemTime) -> Option<SystemTime> {
        // The last time is in the future only if the clock was set back since.
        let Some((last, ahead)) = self.last.and_then(|last| Some((last, last.duration_since(now).ok()?)))
        else {
            return self.cron.next_after(now);
        };
        if self.cron.is_fixed() {
            return self.cron.next_after(last);
        }
        match self.cron.next_after(now)? {
            again if again == last && ahead < Self::ADJUSTED => self.cron.next_after(last),
            next => Some(next),
        }
    }

    fn look(&self, now: SystemTime, at: Instant) -> Option<Instant> {
        let left = self.next.duration_since(now).unwrap_or_default();
        at.checked_add(left.min(Self::LOOK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::Zone;

    /// Both clocks of a test, of which the wall clock is changed.
    struct Day {
        now: SystemTime,
        at: Instant,
    }

    impl Day {
        fn shown(&self) -> String {
            jiff::Timestamp::try_from(self.now).unwrap().to_string()
        }
    }

    /// Runs an expression from `begin` through stretches of a length in seconds, after each of which the clock is
    /// changed by some seconds. Returns the time on the clock of each firing.
    fn fires(expression: &str, begin: &str, stretches: &[(u64, i64)]) -> Vec<String> {
        let begin: jiff::Timestamp = begin.parse().unwrap();
        let mut day = Day { now: begin.into(), at: Instant::now() };
        let cron = Cron::parse(expression, Zone::Utc).unwrap();
        let (mut schedule, mut look) = CronSchedule::new(cron, day.now, day.at).unwrap();
        let mut fired = Vec::new();
        for (stretch, set) in stretches {
            let end = day.at + Duration::from_secs(*stretch);
            while look <= end {
                day.now += look - day.at;
                day.at = look;
                if schedule.fire(day.now) {
                    fired.push(day.shown()[11..19].to_owned());
                }
                look = schedule.next(day.now, day.at).unwrap();
            }
            day.now += end - day.at;
            day.at = end;
            match u64::try_from(*set) {
                Ok(ahead) => day.now += Duration::from_secs(ahead),
                Err(_) => day.now -= Duration::from_secs(set.unsigned_abs()),
            }
        }
        fired
    }

    #[test]
    fn a_clock_that_is_set() {
        const HOUR: i64 = 3600;
        let noon = "2024-05-01T12:00:00Z";
        for (what, expression, stretches, expected) in [
            ("nothing", "30 * * * *", &[(7200, 0)][..], &["12:30:00", "13:30:00"][..]),
            (
                "back: what the clock shows goes on",
                "0 */10 * * * *",
                &[(1300, -HOUR), (700, 0)],
                &["12:10:00", "12:20:00", "11:30:00"],
            ),
            (
                "back by a little: so does a wildcard of seconds, once it is noticed at 11:59:45",
                "*/5 * * * * *",
                &[(12, -30), (10, 0)],
                &["12:00:05", "12:00:10", "11:59:50"],
            ),
            (
                "adjusted by a second: no moment twice in a row",
                "*/5 * * * * *",
                &[(10, -1), (5, 0)],
                &["12:00:05", "12:00:10"],
            ),
            (
                "adjusted by a second, an hourly one",
                "30 * * * *",
                &[(1800, -1), (3602, 0)],
                &["12:30:00", "13:30:00"],
            ),
            (
                "back: fixed times do not come again",
                "30 12 * * *",
                &[(3600, -HOUR), (7200, 0)],
                &["12:30:00"],
            ),
            (
                "but those to come do",
                "30 12,13 * * *",
                &[(3600, -HOUR), (7200, 0)],
                &["12:30:00", "13:30:00"],
            ),
            ("back before it came", "30 12 * * *", &[(1700, -HOUR), (3700, 0)], &["12:30:00"]),
            (
                "back by so much that the clock was wrong",
                "30 12 * * *",
                &[(3600, -5 * HOUR), (20_000, 0)],
                &["12:30:00", "12:30:00"],
            ),
            (
                "the same, when it had come long before",
                "30 12 * * *",
                &[(7200, -4 * HOUR), (10_000, 0)],
                &["12:30:00", "12:30:00"],
            ),
            (
                "ahead: a fixed time that was left out comes soon",
                "30 12 * * *",
                &[(60, HOUR), (60, 0)],
                &["13:01:30"],
            ),
            (
                "ahead: several of them come as one",
                "0 13,14,15 * * *",
                &[(60, 4 * HOUR), (60, 0)],
                &["16:01:30"],
            ),
            (
                "ahead: a wildcard comes once and goes on",
                "0 */10 * * * *",
                &[(660, HOUR), (1200, 0)],
                &["12:10:00", "13:11:30", "13:20:00", "13:30:00"],
            ),
        ] {
            assert_eq!(fires(expression, noon, stretches), expected, "{what}");
        }
    }
}
