//! Moments at which a loop does something.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
#[cfg(feature = "cron")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use smol::Timer;

#[cfg(feature = "cron")]
use super::cron::Cron;

/// Names a timer of one scheduler, to [cancel](super::Handle::cancel) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(u64);

/// The timers of one loop, in the order in which they are due.
pub(super) struct Timers<S> {
    due: BTreeMap<(Instant, u64), Action<S>>,
    /// When each is due. A repeated one that is about to run is here and not there.
    times: HashMap<u64, Instant>,
    limit: usize,
    serial: u64,
    clock: Timer,
    sleeper: Option<Waker>,
}

pub(super) type Repeated<S> = Box<dyn FnMut(&mut S) + Send>;

/// What is done.
pub(super) enum Action<S> {
    Once(Box<dyn FnOnce(&mut S) + Send>),
    Every(Duration, Repeated<S>),
    #[cfg(feature = "cron")]
    Cron(Box<Calendar>, Repeated<S>),
}

/// A timer that is due. It goes back to [`Timers::put_back`] when it has run.
pub(super) struct Due<S> {
    id: u64,
    at: Instant,
    action: Action<S>,
}

/// What a repeated timer is put back with.
pub(super) struct Again<S>(Due<S>);

impl<S> Timers<S> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            due: BTreeMap::new(),
            times: HashMap::new(),
            limit,
            serial: 0,
            clock: Timer::never(),
            sleeper: None,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Adds a timer, unless there are too many. The waker, if any, is to be woken without the lock.
    pub(super) fn add(
        &mut self,
        at: Instant,
        action: Action<S>,
    ) -> Result<(TimerId, Option<Waker>), Action<S>> {
        if self.times.len() >= self.limit {
            return Err(action);
        }
        self.serial += 1;
        let id = self.serial;
        let is_next = self.due.first_key_value().is_none_or(|((first, _), _)| at < *first);
        self.times.insert(id, at);
        self.due.insert((at, id), action);
        Ok((TimerId(id), if is_next { self.sleeper.take() } else { None }))
    }

    /// Removes a timer. It is dropped without the lock.
    pub(super) fn remove(&mut self, TimerId(id): TimerId) -> Option<Option<Action<S>>> {
        let at = self.times.remove(&id)?;
        Some(self.due.remove(&(at, id)))
    }

    /// Removes all. They are dropped without the lock.
    pub(super) fn clear(&mut self) -> BTreeMap<(Instant, u64), Action<S>> {
        self.limit = 0;
        self.times.clear();
        std::mem::take(&mut self.due)
    }

    /// Takes the next timer that is due; otherwise has the loop woken when one is.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Due<S>> {
        while let Some(entry) = self.due.first_entry() {
            let (at, id) = *entry.key();
            if at <= Instant::now() {
                let action = entry.remove();
                if let Action::Once(_) = action {
                    self.times.remove(&id);
                }
                return Poll::Ready(Due { id, at, action });
            }
            self.clock.set_at(at);
            if Pin::new(&mut self.clock).poll(cx).is_pending() {
                break;
            }
        }
        self.sleeper = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Puts a repeated timer back, unless it was removed meanwhile. It is dropped without the lock.
    pub(super) fn put_back(&mut self, Again(Due { id, at, mut action }): Again<S>) -> Option<Action<S>> {
        let next = match &mut action {
            Action::Once(_) => None,
            // What was missed is left out, so that a loop that was late does not have to catch up.
            Action::Every(period, _) => at.checked_add(*period).map(|next| next.max(Instant::now())),
            #[cfg(feature = "cron")]
            Action::Cron(calendar, _) => calendar.next(),
        };
        match (self.times.get_mut(&id), next) {
            (Some(time), Some(next)) => {
                *time = next;
                self.due.insert((next, id), action);
                None
            }
            _ => {
                self.times.remove(&id);
                Some(action)
            }
        }
    }
}

impl<S> Due<S> {
    /// Runs it, and returns it if it is to be put back.
    pub(super) fn run(self, run: impl FnOnce(&mut dyn FnMut(&mut S))) -> Option<Again<S>> {
        let Self { id, at, action } = self;
        let mut action = match action {
            Action::Once(action) => {
                let mut action = Some(action);
                run(&mut |state| {
                    if let Some(action) = action.take() {
                        action(state);
                    }
                });
                return None;
            }
            action => action,
        };
        match &mut action {
            Action::Once(_) => {}
            Action::Every(_, action) => run(action),
            #[cfg(feature = "cron")]
            Action::Cron(calendar, action) => {
                if calendar.fire() {
                    run(action);
                }
            }
        }
        Some(Again(Self { id, at, action }))
    }
}

/// When a [`Cron`] timer is due. It goes by the calendar's clock, which may be set, so it looks again now and then.
#[cfg(feature = "cron")]
pub(super) struct Calendar {
    cron: Cron,
    next: SystemTime,
    last: Option<SystemTime>,
}

#[cfg(feature = "cron")]
impl Calendar {
    /// How long a clock that was set may go unnoticed.
    const LOOK: Duration = Duration::from_secs(30);
    /// A clock that was set back by less than this does not make moments come again.
    const REPEAT: Duration = Duration::from_secs(3 * 3600);

    /// Starts with the next moment from now, if there is one.
    pub(super) fn new(cron: Cron) -> Option<(Self, Instant)> {
        let next = cron.next_after(SystemTime::now())?;
        let calendar = Self { cron, next, last: None };
        let at = calendar.look()?;
        Some((calendar, at))
    }

    /// Tells whether the moment has come, which is then over.
    fn fire(&mut self) -> bool {
        let fires = self.next <= SystemTime::now();
        if fires {
            self.last = Some(self.next);
        }
        fires
    }

    /// When to look next; `None` if there is no further moment.
    fn next(&mut self) -> Option<Instant> {
        let now = SystemTime::now();
        if self.last == Some(self.next) || self.next > now {
            let again = |last: &SystemTime| last.duration_since(now).is_ok_and(|ahead| ahead < Self::REPEAT);
            self.next = self.cron.next_after(self.last.filter(again).unwrap_or(now))?;
        }
        self.look()
    }

    fn look(&self) -> Option<Instant> {
        let left = self.next.duration_since(SystemTime::now()).unwrap_or_default();
        Instant::now().checked_add(left.min(Self::LOOK))
    }
}
