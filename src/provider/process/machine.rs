//! When an instance of a process is started, stopped, killed and started again. Time is an argument.

use std::time::{Duration, Instant};

/// The shortest wait before a new start, before jitter.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait before a new start, before jitter.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// An instance that has been up this long starts anew as if it were the first.
const STABLE: Duration = Duration::from_secs(60);
/// The interval at which an instance with calls is checked for its exit, which its stdout does not show while another
/// process holds it open.
const EXIT_CHECK: Duration = Duration::from_millis(500);

/// The times of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// It is started when a call needs it.
    pub(super) is_on_demand: bool,
    /// Without calls for so long it is stopped.
    pub(super) idle: Option<Duration>,
    /// The maximum time from its start until it is ready.
    pub(super) ready: Duration,
    /// How long it may be silent while it has calls.
    pub(super) stall: Duration,
    /// It can be pinged.
    pub(super) has_ping: bool,
    /// How long it may run on after its stdin is closed.
    pub(super) stop: Duration,
}

/// The state of one instance.
#[derive(Debug)]
pub(super) struct Machine {
    timing: Timing,
    phase: Phase,
    /// A call needs the instance.
    is_wanted: bool,
    /// It is not started again.
    is_closing: bool,
    calls: usize,
    /// When it had its first call, or its last one was answered.
    calls_since: Instant,
    last_output: Instant,
    is_pinged: bool,
    last_check: Instant,
    /// When it became ready; `None` unless it has.
    up_since: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not running.
    Down,
    /// Not running before this time.
    BackOff(Instant),
    /// Started at this time, and not ready.
    Starting(Instant),
    /// Ready.
    Up,
    /// Its stdin was closed at this time.
    Stopping(Instant),
    /// About to be killed.
    Killed(Reason),
    /// Not started again.
    Closed,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Ping,
    /// Check whether it has exited.
    Check,
    /// Close its stdin.
    Stop,
    Kill(Reason),
    /// Nothing more is due.
    Close,
}

/// Why an instance is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It was not ready in time.
    NotReady,
    /// It was silent while it had calls.
    Stalled,
    /// It did not exit when its stdin was closed, or is not needed before it is ready.
    Stopped,
}

impl Machine {
    pub(super) fn new(timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            phase: Phase::Down,
            is_wanted: false,
            is_closing: false,
            calls: 0,
            calls_since: now,
            last_output: now,
            is_pinged: false,
            last_check: now,
            up_since: None,
            failures: 0,
        }
    }

    /// Returns what is due, each action once.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Down | Phase::BackOff(_) if self.is_closing => {
                self.phase = Phase::Closed;
                Some(Action::Close)
            }
            Phase::BackOff(until) if now >= until => {
                self.phase = Phase::Down;
                self.poll(now)
            }
            Phase::Down if self.is_wanted || !self.timing.is_on_demand => {
                self.phase = Phase::Starting(now);
                self.is_wanted = false;
                Some(Action::Start)
            }
            Phase::Starting(_) if self.is_closing => self.kill(Reason::Stopped),
            Phase::Starting(since) if now >= since + self.timing.ready => self.kill(Reason::NotReady),
            Phase::Up if self.is_closing || self.idle_at().is_some_and(|at| now >= at) => {
                self.phase = Phase::Stopping(now);
                Some(Action::Stop)
            }
            Phase::Up if self.calls > 0 => self.poll_calls(now),
            Phase::Stopping(since) if now >= since + self.timing.stop => self.kill(Reason::Stopped),
            _ => None,
        }
    }

    fn poll_calls(&mut self, now: Instant) -> Option<Action> {
        if now >= self.silent_since() + self.timing.stall {
            return self.kill(Reason::Stalled);
        }
        if self.ping_at().is_some_and(|at| now >= at) {
            self.is_pinged = true;
            return Some(Action::Ping);
        }
        if now >= self.last_check + EXIT_CHECK {
            self.last_check = now;
            return Some(Action::Check);
        }
        None
    }

    fn kill(&mut self, reason: Reason) -> Option<Action> {
        self.phase = Phase::Killed(reason);
        Some(Action::Kill(reason))
    }

    /// Returns a time before which nothing is due, unless something happens; `None` for never.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackOff(until) => Some(until),
            Phase::Starting(since) => Some(since + self.timing.ready),
            Phase::Up if self.calls > 0 => {
                let (stalled, check) =
                    (self.silent_since() + self.timing.stall, self.last_check + EXIT_CHECK);
                [Some(stalled), self.ping_at(), Some(check)].into_iter().flatten().min()
            }
            Phase::Up => self.idle_at(),
            Phase::Stopping(since) => Some(since + self.timing.stop),
            Phase::Down | Phase::Killed(_) | Phase::Closed => None,
        }
    }

    fn idle_at(&self) -> Option<Instant> {
        let idle = self.timing.idle.filter(|_| self.calls == 0)?;
        Some(self.calls_since + idle)
    }

    fn silent_since(&self) -> Instant {
        self.last_output.max(self.calls_since)
    }

    fn ping_at(&self) -> Option<Instant> {
        let may_ping = self.timing.has_ping && !self.is_pinged;
        may_ping.then(|| self.silent_since() + self.timing.stall / 2)
    }

    /// Notes that a call needs the instance. It is started as soon as it may be.
    pub(super) fn want(&mut self) {
        self.is_wanted |= !matches!(self.phase, Phase::Up | Phase::Starting(_));
    }

    /// Notes that it has become ready.
    pub(super) fn ready(&mut self, now: Instant) {
        if let Phase::Starting(_) = self.phase {
            self.phase = Phase::Up;
            (self.up_since, self.calls_since) = (Some(now), now);
        }
    }

    /// Notes when it wrote last.
    pub(super) fn heard(&mut self, last_output: Instant) {
        if last_output > self.last_output {
            self.last_output = last_output;
            self.is_pinged = false;
        }
    }

    /// Sets how many calls it has.
    pub(super) fn set_calls(&mut self, calls: usize, now: Instant) {
        if (self.calls == 0) != (calls == 0) {
            (self.calls_since, self.last_check, self.is_pinged) = (now, now, false);
        }
        self.calls = calls;
    }

    /// Notes that it is not to be started again.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Notes that it does not run, after an action [`Start`](Action::Start). `jitter` is from 0 to 1. Returns how long
    /// it will not be started because of that; `None` if it has ended as it was told to.
    pub(super) fn ended(&mut self, now: Instant, jitter: f64) -> Option<Duration> {
        let was_told = matches!(self.phase, Phase::Stopping(_) | Phase::Killed(Reason::Stopped));
        let was_stopped = was_told || self.is_closing;
        let was_stable = self.up_since.take().is_some_and(|since| now >= since + STABLE);
        self.calls = 0;
        if was_stopped || was_stable {
            self.failures = 0;
        }
        if was_stopped {
            self.phase = Phase::Down;
            return None;
        }
        let wait = MIN_BACKOFF.saturating_mul(1 << self.failures.min(16)).min(MAX_BACKOFF);
        let wait = wait.mul_f64(0.5 + jitter);
        self.failures += 1;
        self.phase = Phase::BackOff(now + wait);
        Some(wait)
    }

    /// Returns `true` if it takes calls.
    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Returns `true` if it takes calls, or has taken some since it was started.
    pub(super) fn was_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Returns `true` if it is not ready, but will be.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting(_)) || self.is_wanted
    }

    /// Returns `true` if it is not running, or about to end.
    pub(super) fn is_down(&self) -> bool {
        !matches!(self.phase, Phase::Up | Phase::Starting(_))
    }

    /// Returns how long it will not be started because it has failed.
    pub(super) fn backs_off(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::BackOff(until) => until.checked_duration_since(now).filter(|wait| !wait.is_zero()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing() -> Timing {
        Timing {
            is_on_demand: false,
            idle: None,
            ready: 10 * SECOND,
            stall: 30 * SECOND,
            has_ping: false,
            stop: 5 * SECOND,
        }
    }

    /// Returns the next action that is due `within` a duration, and advances the time to that.
    fn next(machine: &mut Machine, now: &mut Instant, within: Duration) -> Option<Action> {
        let until = *now + within;
        loop {
            if let Some(action) = machine.poll(*now) {
                return Some(action);
            }
            let at = machine.next().filter(|at| *at <= until)?;
            assert!(at > *now, "{machine:?}");
            *now = at;
        }
    }

    #[test]
    fn failures_back_off_until_one_is_stable() {
        let start = Instant::now();
        let (mut machine, mut now) = (Machine::new(timing(), start), start);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(next(&mut machine, &mut now, 60 * SECOND), Some(Action::Start));
            waits.push(machine.ended(now, 0.5).unwrap().as_millis());
            assert!(machine.backs_off(now).is_some());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
        assert_eq!(next(&mut machine, &mut now, 60 * SECOND), Some(Action::Start));
        machine.ready(now);
        assert_eq!(machine.ended(now + STABLE - SECOND, 1.0), Some(45 * SECOND));
        assert_eq!(next(&mut machine, &mut now, 120 * SECOND), Some(Action::Start));
        machine.ready(now);
        assert_eq!(machine.ended(now + STABLE, 0.0), Some(MIN_BACKOFF / 2));
    }

    #[test]
    fn late_start_silence_and_refusal_to_stop_end_in_a_kill() {
        let start = Instant::now();
        let (mut machine, mut now) = (Machine::new(Timing { has_ping: true, ..timing() }, start), start);
        assert_eq!(machine.poll(now), Some(Action::Start));
        assert_eq!(next(&mut machine, &mut now, 10 * SECOND), Some(Action::Kill(Reason::NotReady)));
        assert_eq!(now, start + 10 * SECOND);
        machine.ended(now, 0.5);
        assert_eq!(next(&mut machine, &mut now, SECOND), Some(Action::Start));
        machine.ready(now);
        // Without calls it may be silent.
        assert_eq!(machine.next(), None);
        now += 1000 * SECOND;
        machine.set_calls(1, now);
        let since = now;
        let mut actions = Vec::new();
        while let Some(action) = next(&mut machine, &mut now, 60 * SECOND) {
            if action != Action::Check {
                actions.push((action, now - since));
            }
        }
        assert_eq!(actions, [(Action::Ping, 15 * SECOND), (Action::Kill(Reason::Stalled), 30 * SECOND)]);
        machine.ended(now, 0.5);
        assert_eq!(next(&mut machine, &mut now, SECOND), Some(Action::Start));
        machine.ready(now);
        machine.close();
        assert_eq!(machine.poll(now), Some(Action::Stop));
        let since = now;
        assert_eq!(next(&mut machine, &mut now, 60 * SECOND), Some(Action::Kill(Reason::Stopped)));
        assert_eq!(now - since, 5 * SECOND);
        assert_eq!(machine.ended(now, 0.5), None);
        assert_eq!(machine.poll(now), Some(Action::Close));
        assert_eq!(machine.poll(now), None);
    }

    #[test]
    fn sign_of_life_defers_the_kill() {
        let start = Instant::now();
        let (mut machine, mut now) = (Machine::new(timing(), start), start);
        machine.poll(now);
        machine.ready(now);
        machine.set_calls(1, now);
        for _ in 0..10 {
            now += 29 * SECOND;
            machine.heard(now);
            assert_eq!(machine.poll(now), Some(Action::Check));
            assert_eq!(machine.poll(now), None);
        }
        machine.set_calls(0, now);
        assert_eq!(machine.next(), None);
    }

    #[test]
    fn on_demand_it_starts_with_a_call_and_stops_when_idle() {
        let start = Instant::now();
        let timing = Timing { is_on_demand: true, idle: Some(60 * SECOND), ..timing() };
        let (mut machine, mut now) = (Machine::new(timing, start), start);
        for _ in 0..3 {
            assert_eq!(next(&mut machine, &mut now, 1000 * SECOND), None);
            machine.want();
            assert_eq!(machine.poll(now), Some(Action::Start));
            machine.ready(now);
            machine.set_calls(1, now);
            machine.set_calls(0, now + SECOND);
            let since = now;
            assert_eq!(next(&mut machine, &mut now, 1000 * SECOND), Some(Action::Stop));
            assert_eq!(now - since, 61 * SECOND);
            assert_eq!(machine.ended(now, 0.5), None);
        }
        // A call that comes meanwhile is not lost.
        machine.want();
        machine.poll(now);
        machine.ready(now);
        assert_eq!(next(&mut machine, &mut now, 1000 * SECOND), Some(Action::Stop));
        machine.want();
        machine.ended(now, 0.5);
        assert_eq!(machine.poll(now), Some(Action::Start));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Wait(u64),
        Ready,
        Heard,
        Calls(usize),
        Want,
        End,
        Close,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (0_u64..40_000).prop_map(Event::Wait),
            3 => Just(Event::Ready),
            3 => Just(Event::Heard),
            3 => (0_usize..3).prop_map(Event::Calls),
            2 => Just(Event::Want),
            3 => Just(Event::End),
            1 => Just(Event::Close),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: one start for each end, no start before the back-off is over or after
        /// closing, no action twice, and always a next time that lies ahead.
        #[test]
        fn machine_is_consistent(
            is_on_demand: bool,
            has_ping: bool,
            idle in proptest::option::of(1_u64..100),
            events in proptest::collection::vec(event(), 0..80),
        ) {
            let start = Instant::now();
            let idle = idle.map(Duration::from_secs);
            let timing = Timing { is_on_demand, idle, has_ping, ..timing() };
            let (mut machine, mut now) = (Machine::new(timing, start), start);
            let (mut running, mut killed, mut closing, mut closed) = (false, false, false, false);
            let mut not_before = start;
            for event in events {
                match event {
                    Event::Wait(millis) => now += Duration::from_millis(millis),
                    Event::Ready if running && !killed => machine.ready(now),
                    Event::Heard => machine.heard(now),
                    Event::Calls(calls) if machine.is_up() => machine.set_calls(calls, now),
                    Event::Want if !closing => machine.want(),
                    Event::End if running => {
                        (running, killed) = (false, false);
                        not_before = machine.ended(now, 0.0).map_or(now, |wait| now + wait);
                    }
                    Event::Close => {
                        machine.close();
                        closing = true;
                    }
                    _ => {}
                }
                let mut actions = 0;
                while let Some(action) = machine.poll(now) {
                    actions += 1;
                    prop_assert!(actions < 8, "{machine:?} goes on");
                    prop_assert!(!closed);
                    match action {
                        Action::Start => {
                            prop_assert!(!running && !closing && now >= not_before);
                            running = true;
                        }
                        Action::Kill(_) => {
                            prop_assert!(running && !killed);
                            killed = true;
                        }
                        Action::Ping => prop_assert!(has_ping && running),
                        Action::Check | Action::Stop => prop_assert!(running && !killed),
                        Action::Close => {
                            prop_assert!(closing && !running);
                            closed = true;
                        }
                    }
                }
                prop_assert!(machine.next().is_none_or(|at| at > now), "{machine:?}");
                prop_assert!(running || !machine.is_up());
            }
            // It always ends.
            machine.close();
            for _ in 0..4 {
                match next(&mut machine, &mut now, 1_000_000 * SECOND) {
                    Some(Action::Kill(_)) => drop(machine.ended(now, 0.0)),
                    Some(Action::Close) => closed = true,
                    _ => {}
                }
            }
            prop_assert!(closed || killed, "{machine:?}");
        }
    }
}
