//! The timers of a loop.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
#[cfg(feature = "cron")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use smol::Timer;

#[cfg(feature = "cron")]
use super::cron::CronSchedule;

/// The id of a timer of one scheduler, to [cancel](super::Handle::cancel) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    /// The due time of a timer that is not repeated.
    at: Instant,
    serial: u64,
}

/// The timers of one loop, ordered by due time.
pub(super) struct Timers<S> {
    due: BTreeMap<(Instant, u64), Action<S>>,
    /// The due time of each repeated timer. A timer that runs now is here, but not in `due`.
    repeated: BTreeMap<u64, Instant>,
    /// A repeated timer runs now.
    running: bool,
    limit: usize,
    serial: u64,
    /// The most recent reading of the clock.
    now: Instant,
    clock: Timer,
}

/// The action of a timer.
pub(super) enum Action<S> {
    Once(Box<dyn FnOnce(&mut S) + Send>),
    Repeated(Box<Repeated<S>>),
}

/// The action of a repeated timer.
pub(super) struct Repeated<S> {
    rule: Rule,
    action: Box<dyn FnMut(&mut S) + Send>,
}

/// The rule by which a timer repeats.
pub(super) enum Rule {
    Every(Duration),
    #[cfg(feature = "cron")]
    Cron(CronSchedule),
}

/// A timer that is due.
pub(super) enum Due<S> {
    Once(Box<dyn FnOnce(&mut S) + Send>),
    Repeated(Again<S>),
}

/// A repeated timer that is due. It is returned to [`Timers::put_back`] when it has run.
pub(super) struct Again<S> {
    serial: u64,
    at: Instant,
    repeated: Box<Repeated<S>>,
}

impl<S> Again<S> {
    /// Returns the action, or `None` if only the system's clock had to be checked.
    pub(super) fn action(&mut self) -> Option<&mut (dyn FnMut(&mut S) + Send)> {
        let Repeated { rule, action } = &mut *self.repeated;
        let fires = match rule {
            Rule::Every(_) => true,
            #[cfg(feature = "cron")]
            Rule::Cron(schedule) => schedule.fire(SystemTime::now()),
        };
        fires.then_some(&mut **action)
    }
}

impl<S> Action<S> {
    pub(super) fn repeated(rule: Rule, action: impl FnMut(&mut S) + Send + 'static) -> Self {
        Self::Repeated(Box::new(Repeated { rule, action: Box::new(action) }))
    }
}

impl<S> Timers<S> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            due: BTreeMap::new(),
            repeated: BTreeMap::new(),
            running: false,
            limit,
            serial: 0,
            now: Instant::now(),
            clock: Timer::never(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Adds a timer, unless the limit is reached. Also returns whether it is the next one, for which the loop has to be
    /// woken.
    pub(super) fn add(&mut self, at: Instant, action: Action<S>) -> Result<(TimerId, bool), Action<S>> {
        if self.due.len() + usize::from(self.running) >= self.limit {
            return Err(action);
        }
        self.serial += 1;
        let serial = self.serial;
        let is_next = self.due.first_key_value().is_none_or(|((first, _), _)| at < *first);
        if let Action::Repeated(_) = action {
            self.repeated.insert(serial, at);
        }
        self.due.insert((at, serial), action);
        Ok((TimerId { at, serial }, is_next))
    }

    /// Removes a timer, to be dropped without the lock. Returns `Some(None)` for a repeated timer that runs now.
    pub(super) fn remove(&mut self, TimerId { at, serial }: TimerId) -> Option<Option<Action<S>>> {
        match self.repeated.remove(&serial) {
            Some(at) => Some(self.due.remove(&(at, serial))),
            None => self.due.remove(&(at, serial)).map(Some),
        }
    }

    /// Rejects further timers, stops all repetition, and removes the timers that are not due, to be dropped without the
    /// lock.
    pub(super) fn shut(&mut self) -> BTreeMap<(Instant, u64), Action<S>> {
        self.limit = 0;
        self.repeated.clear();
        self.now = Instant::now();
        self.due.split_off(&(self.now, u64::MAX))
    }

    /// Removes the remaining timers, to be dropped without the lock.
    pub(super) fn clear(&mut self) -> BTreeMap<(Instant, u64), Action<S>> {
        std::mem::take(&mut self.due)
    }

    /// Takes the next due timer, or registers the loop to be woken when one is due.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Due<S>> {
        while let Some(entry) = self.due.first_entry() {
            let (at, serial) = *entry.key();
            if at > self.now {
                self.now = Instant::now();
            }
            if at <= self.now {
                return Poll::Ready(match entry.remove() {
                    Action::Once(action) => Due::Once(action),
                    Action::Repeated(repeated) => {
                        self.running = true;
                        Due::Repeated(Again { serial, at, repeated })
                    }
                });
            }
            self.clock.set_at(at);
            if Pin::new(&mut self.clock).poll(cx).is_pending() {
                break;
            }
        }
        Poll::Pending
    }

    /// Returns `true` if no timer is set.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Reschedules a repeated timer. Returns it, to be dropped without the lock, if it was removed meanwhile or has no
    /// further time.
    pub(super) fn put_back(&mut self, again: Again<S>) -> Option<Box<Repeated<S>>> {
        self.running = false;
        let Again { serial, at, mut repeated } = again;
        let now = Instant::now();
        let next = match &mut repeated.rule {
            Rule::Every(period) => next_tick(at, *period, now),
            #[cfg(feature = "cron")]
            Rule::Cron(schedule) => schedule.next(SystemTime::now(), now),
        };
        match (self.repeated.get_mut(&serial), next) {
            (Some(time), Some(next)) => {
                *time = next;
                self.due.insert((next, serial), Action::Repeated(repeated));
                None
            }
            _ => {
                self.repeated.remove(&serial);
                Some(repeated)
            }
        }
    }
}

/// Returns the next tick of a timer that was due at `at`: the first time after `now` that is whole periods away, or
/// `now` for a period of zero. Returns `None` if an `Instant` cannot represent it.
fn next_tick(at: Instant, period: Duration, now: Instant) -> Option<Instant> {
    let late = now.saturating_duration_since(at);
    if late < period {
        return at.checked_add(period);
    }
    let Some(since_tick) = late.as_nanos().checked_rem(period.as_nanos()) else { return Some(now) };
    let since_tick = Duration::new((since_tick / 1_000_000_000) as u64, (since_tick % 1_000_000_000) as u32);
    now.checked_add(period - since_tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_phase() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        for (period, at, now, next) in [
            (10, 10, 10, 20), // in time
            (10, 10, 19, 20),
            (10, 10, 20, 30), // a tick that is due now was missed by the run that ends now
            (10, 10, 35, 40), // after a stall
            (10, 10, 1_000_009, 1_000_010),
            (10, 10, 5, 20), // the monotonic clock cannot go back, but if it did
        ] {
            let next_at = next_tick(start + ms(at), ms(period), start + ms(now));
            assert_eq!(next_at, Some(start + ms(next)), "{period} {at} {now}");
        }
        assert_eq!(next_tick(start, Duration::ZERO, start + ms(7)), Some(start + ms(7)));
        assert_eq!(next_tick(start, Duration::MAX, start + ms(7)), None);
        assert_eq!(
            next_tick(start, Duration::from_nanos(1), start + ms(7)),
            Some(start + ms(7) + Duration::from_nanos(1))
        );
    }
}
