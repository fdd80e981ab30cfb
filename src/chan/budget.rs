//! Cooperative budgets: a loop yields to other tasks of its executor after a number of calls, or after a time.
//!
//! An executor may poll 200 other tasks before it polls its main future again, so the budget of slow calls must be
//! short. Reading the clock costs a third of a quick call, so quick calls read it only every few calls.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::{Duration, Instant};

#[cfg(chanrpc_loom)]
use super::sync::LocalCell as _;
use super::sync::thread_cell;

/// A budget is spent after this time, once the current call has ended.
pub(crate) const MAX_TIME: Duration = Duration::from_millis(1);
/// The maximum number of calls between two reads of the clock.
const MAX_STRIDE: u32 = 16;
/// The maximum number of calls that a thread runs in place before it yields to other tasks, which would starve if every
/// `await` was ready immediately. The number is lower for slow calls.
const IN_PLACE_LIMIT: u32 = 128;
/// How often a loop yields after slow calls: the number of tasks that an executor may run before it polls its main
/// future.
const YIELDS: u32 = 200;

/// The budget of a loop.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The maximum number of calls.
    limit: u32,
    calls: u32,
    /// A time, and the number of calls that had ended by then.
    since: Option<(Instant, u32)>,
    stride: Stride,
}

impl Budget {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, calls: 0, since: None, stride: Stride::default() }
    }

    /// Records that a call is about to begin.
    #[inline]
    pub(crate) fn begin_call(&mut self) {
        if self.stride.is_short() && self.since.is_none() && self.limit > 1 {
            self.since = Some((Instant::now(), self.calls));
        }
    }

    /// Records that a call has ended. Returns `true` if the budget is spent.
    #[inline]
    pub(crate) fn end_call(&mut self) -> bool {
        self.calls += 1;
        if self.calls >= self.limit {
            return true;
        }
        self.stride.is_due() && self.is_late()
    }

    /// Reads the clock, and returns `true` if the time is over.
    fn is_late(&mut self) -> bool {
        let now = Instant::now();
        let (since, calls) = *self.since.get_or_insert((now, self.calls));
        self.stride.update(now - since, self.calls - calls)
    }

    /// Runs a future. Resets the budget whenever it is pending, since other tasks run then.
    pub(crate) async fn run<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let poll = future.as_mut().poll(cx);
            if poll.is_pending() {
                self.reset();
            }
            poll
        })
        .await
    }

    /// Yields to other tasks, including the executor's main future. After slow calls they get as much time if they need
    /// it.
    pub(crate) async fn yield_now(&mut self) {
        let slow = self.is_slow();
        self.reset();
        smol::future::yield_now().await;
        if !slow || cfg!(chanrpc_loom) {
            return;
        }
        let begun = Instant::now();
        for _ in 1..YIELDS {
            if begun.elapsed() >= MAX_TIME {
                return;
            }
            smol::future::yield_now().await;
        }
    }

    /// Returns `true` if the budget was spent with few calls.
    pub(crate) fn is_slow(&self) -> bool {
        self.calls < self.limit
    }

    /// Restores the budget, after other tasks have run.
    pub(crate) fn reset(&mut self) {
        self.calls = 0;
        self.since = None;
    }
}

thread_cell!(IN_PLACE: InPlaceBudget = InPlaceBudget { calls: 0, spent: Duration::ZERO, stride: 1 });
// The calls in place before the next that is timed. Apart from the budget, since every call reads and writes it.
thread_cell!(UNTIMED: u32 = 0);

/// The budget of a thread that runs calls in place. Its work between calls is not known, so only calls are timed; calls
/// that are not timed count as long as the one that was.
#[derive(Clone, Copy, Debug)]
struct InPlaceBudget {
    calls: u32,
    spent: Duration,
    /// The number of calls of which the last is timed.
    stride: u32,
}

/// Records that a call in place is about to begin on this thread. Returns the time if the call is to be timed. Never
/// under loom, whose models must not depend on the clock.
#[inline]
pub(super) fn begin_in_place() -> Option<Instant> {
    (!cfg!(chanrpc_loom) && UNTIMED.get() == 0).then(Instant::now)
}

/// Records that a call in place has ended that began at this time. If the budget of this thread is spent, returns `true`
/// and restores it.
#[inline]
pub(super) fn end_in_place(began: Option<Instant>) -> bool {
    match began {
        None => {
            UNTIMED.set(UNTIMED.get().saturating_sub(1));
            false
        }
        Some(began) => {
            let mut budget = IN_PLACE.get();
            let over = budget.end_stride(began.elapsed());
            IN_PLACE.set(budget);
            UNTIMED.set(budget.stride - 1);
            over
        }
    }
}

impl InPlaceBudget {
    /// Ends a stride whose last call took `time`. If the budget is spent, returns `true` and restores it.
    fn end_stride(&mut self, time: Duration) -> bool {
        self.calls += self.stride;
        self.spent += time * self.stride;
        // Never the first, which also bears the cost of a cold cache.
        let over = self.calls > IN_PLACE_LIMIT || (self.spent >= MAX_TIME && self.calls > 1);
        if over {
            (self.calls, self.spent) = (0, Duration::ZERO);
        }
        self.stride = next_stride(self.stride, time, 1).min(IN_PLACE_LIMIT + 1 - self.calls);
        over
    }
}

/// The number of calls until the next read of the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stride {
    left: u32,
    length: u32,
}

impl Default for Stride {
    fn default() -> Self {
        Self::SHORT
    }
}

impl Stride {
    const SHORT: Self = Self { left: 1, length: 1 };

    /// Returns `true` if the clock is read after the next call: calls are slow, or none has been timed.
    pub(super) fn is_short(&self) -> bool {
        self.length == 1
    }

    /// Counts a call. Returns `true` if the clock is to be read. Never under loom, whose models must not depend on it.
    pub(super) fn is_due(&mut self) -> bool {
        if cfg!(chanrpc_loom) {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Chooses the next stride after `calls` calls have taken `time`. Returns `true` if that is too long.
    pub(super) fn update(&mut self, time: Duration, calls: u32) -> bool {
        self.length = next_stride(self.length, time, calls);
        self.left = self.length;
        time >= MAX_TIME
    }
}

/// Returns the length of the stride after one of this length, if `calls` calls have taken `time`.
fn next_stride(length: u32, time: Duration, calls: u32) -> u32 {
    let Some(left) = MAX_TIME.checked_sub(time) else { return 1 };
    // At this rate the stride ends in time. It grows step by step.
    let each = (time.subsec_nanos() / calls.max(1)).max(1);
    (left.subsec_nanos() / each).clamp(1, (2 * length).min(MAX_STRIDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_slow_calls_ends_after_one() {
        let mut budget = Budget::new(64);
        for _ in 0..10 {
            budget.begin_call();
            std::thread::sleep(MAX_TIME);
            assert!(budget.end_call());
            budget.reset();
        }
    }

    #[test]
    fn quick_calls_look_at_the_clock_seldom_and_slow_ones_always() {
        let mut stride = Stride::default();
        let mut looks = 0;
        for calls in 1..=1000 {
            if stride.is_due() {
                looks += 1;
                assert!(!stride.update(Duration::from_nanos(100) * calls, calls));
            }
        }
        assert!((60..80).contains(&looks), "{looks}");
        // The first slow ones are seen at the end of a stride, all later ones at once.
        let mut late = (1..).take_while(|_| !stride.is_due()).count();
        assert!(late <= MAX_STRIDE as usize);
        for calls in 1..10 {
            assert!(stride.update(MAX_TIME * calls, calls));
            late = (1..).take_while(|_| !stride.is_due()).count();
            assert_eq!(late, 0);
        }
    }
}
