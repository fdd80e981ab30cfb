//! When a loop lets other tasks of its executor run: after a number of calls, or of a time.
//!
//! An executor may poll as many as 200 other tasks before it polls its main future again, so a turn of slow calls must be
//! short. To read the clock costs a third of a quick call, so it is read only every few calls while they are quick.

use std::time::{Duration, Instant};

/// A turn ends when it has taken this long, and the call that runs then has ended.
pub(crate) const LONGEST: Duration = Duration::from_millis(1);
/// Most calls between two looks at the clock.
const STRIDE: u32 = 16;

/// The turn of a loop.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Most calls of a turn.
    most: u32,
    calls: u32,
    began: Option<Instant>,
    stride: Stride,
}

impl Turn {
    pub(crate) fn new(most: u32) -> Self {
        Self { most, calls: 0, began: None, stride: Stride::default() }
    }

    /// A call is about to begin.
    pub(crate) fn begin(&mut self) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
        }
    }

    /// A call has ended. Returns `true` if the turn has too.
    pub(crate) fn is_over(&mut self) -> bool {
        self.calls += 1;
        if self.calls >= self.most {
            return true;
        }
        self.stride.is_due() && self.began.is_none_or(|began| self.stride.look(began.elapsed(), self.calls))
    }

    /// The loop has let others run.
    pub(crate) fn reset(&mut self) {
        self.calls = 0;
        self.began = None;
    }
}

/// How many calls there may be before the next look at the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stride {
    left: u32,
    length: u32,
}

impl Default for Stride {
    fn default() -> Self {
        Self { left: 1, length: 1 }
    }
}

impl Stride {
    pub(super) const FIRST: Self = Self { left: 1, length: 1 };

    /// Counts a call. Returns `true` if the clock is to be read.
    pub(super) fn is_due(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Chooses the next stride when so many calls have taken this time. Returns `true` if that is too long.
    pub(super) fn look(&mut self, time: Duration, calls: u32) -> bool {
        // So short that the stride ends in time if the calls go on like this; longer step by step.
        let each = (time.as_nanos() / u128::from(calls.max(1))).max(1);
        let fit = LONGEST.saturating_sub(time).as_nanos() / each;
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        self.length = fit.clamp(1, (2 * self.length).min(STRIDE));
        self.left = self.length;
        time >= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_slow_calls_ends_after_one() {
        let mut turn = Turn::new(64);
        for _ in 0..10 {
            turn.begin();
            std::thread::sleep(LONGEST);
            assert!(turn.is_over());
            turn.reset();
        }
    }

    #[test]
    fn quick_calls_look_at_the_clock_seldom_and_slow_ones_always() {
        let mut stride = Stride::default();
        let mut looks = 0;
        for calls in 1..=1000 {
            if stride.is_due() {
                looks += 1;
                assert!(!stride.look(Duration::from_nanos(100) * calls, calls));
            }
        }
        assert!((60..80).contains(&looks), "{looks}");
        // The first slow ones are seen at the end of a stride, all later ones at once.
        let mut late = (1..).take_while(|_| !stride.is_due()).count();
        assert!(late <= STRIDE as usize);
        for calls in 1..10 {
            assert!(stride.look(LONGEST * calls, calls));
            late = (1..).take_while(|_| !stride.is_due()).count();
            assert_eq!(late, 0);
        }
    }
}
