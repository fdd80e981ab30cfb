//! What is known of a node by the calls that it was sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::choice::{Candidate, Readiness};

/// How long a node is passed over after it has refused a call, and at most after many in a row.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Over how many answers the mean of their times is taken.
const ANSWERS: u64 = 16;
/// After fewer answers the mean is unknown: single ones of equal nodes differ by much.
const FIRST_ANSWERS: u64 = 4;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered without an error.
    Result,
    /// The node has refused it, as it would another call.
    Refusal,
    /// Neither tells anything of the node.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    /// Calls without an answer.
    in_flight: AtomicUsize,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// It has refused calls since its last answer, and is passed over until then.
    refuses_until: Option<Instant>,
    pause: Duration,
    /// How long an answer takes, as a moving mean in microseconds.
    mean: u64,
    /// The number of answers, up to that which the mean is worth.
    answers: u64,
}

impl Record {
    /// Notes a call, which [`ended`](Self::ended) follows.
    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Notes what became of a call, and how long that took.
    pub(super) fn note(&self, outcome: Outcome, time: Duration, now: Instant) {
        let mut history = self.history();
        match outcome {
            Outcome::Refusal => {
                history.pause = (history.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
                history.refuses_until = Some(now + history.pause);
            }
            Outcome::Result => {
                (history.pause, history.refuses_until) = (Duration::ZERO, None);
                history.note_time(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            }
            Outcome::Other => {}
        }
    }

    pub(super) fn is_refusing(&self, now: Instant) -> bool {
        self.history().is_refusing(now)
    }

    /// Returns how the node compares with others.
    pub(super) fn candidate(&self, index: usize, is_connected: bool, now: Instant) -> Candidate {
        let history = self.history();
        let readiness = match is_connected {
            _ if history.is_refusing(now) => Readiness::Refusing,
            true => Readiness::Connected,
            false => Readiness::Connecting,
        };
        let mean = if history.answers < FIRST_ANSWERS { 0 } else { history.mean.max(1) };
        Candidate { index, readiness, in_flight: self.in_flight(), mean }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn is_refusing(&self, now: Instant) -> bool {
        self.refuses_until.is_some_and(|until| until > now)
    }

    fn note_time(&mut self, micros: u64) {
        self.answers = (self.answers + 1).min(ANSWERS);
        let (rest, answers) = (self.answers - 1, self.answers);
        self.mean = self.mean / answers * rest + self.mean % answers * rest / answers + micros / answers;
    }
}
