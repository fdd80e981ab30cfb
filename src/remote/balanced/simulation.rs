//! A fleet of 10,000 nodes and a million calls, in simulated time: choice, records, credit and back-off are those of
//! the client, and only connections and functions are made up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::credit::Credit;
use super::record::{Outcome, Record};
use super::selection::Selection;
use crate::config::{Balance, Limits};
use crate::remote::backoff::{Backoff, MAX_BACKOFF};

/// How often callers call, and how long a function takes: up to twice this.
const PERIOD: Duration = Duration::from_micros(20);
const TAKES: Duration = Duration::from_millis(5);

/// What happens to the nodes, beside the calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A node answers a call.
    Answer(usize, Duration),
    /// The connection to a node has ended.
    Lost(usize),
    /// It is time to connect to it.
    Dial(usize),
}

struct Fleet {
    start: Instant,
    now: Duration,
    records: Vec<Record>,
    /// Nodes that run.
    alive: Vec<bool>,
    connected: Vec<bool>,
    backoffs: Vec<Backoff>,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    selection: Selection,
    credit: Credit,
    /// Calls of callers; what each node was sent; how many of these were lost.
    calls: usize,
    sent: Vec<usize>,
    lost: usize,
    /// Calls that no node took.
    unanswered: usize,
    retries: usize,
    /// How often a node was looked at.
    looks: usize,
    dials: usize,
    /// When a node that had come back was sent a call again.
    returned: Vec<Option<Duration>>,
    random: u64,
}

impl Fleet {
    fn new(count: usize) -> Self {
        let mut fleet = Self {
            start: Instant::now(),
            now: Duration::ZERO,
            records: (0..count).map(|_| Record::default()).collect(),
            alive: vec![true; count],
            connected: vec![true; count],
            backoffs: (0..count).map(|_| Backoff::new()).collect(),
            events: BinaryHeap::new(),
            selection: Selection::new(count),
            credit: Credit::new(),
            calls: 0,
            sent: vec![0; count],
            lost: 0,
            unanswered: 0,
            retries: 0,
            looks: 0,
            dials: 0,
            returned: vec![None; count],
            random: 1,
        };
        // All are found before anything is counted.
        fleet.run(count, Balance::Least, None);
        fleet.forget();
        fleet
    }

    /// Starts to count again.
    fn forget(&mut self) {
        (self.calls, self.lost, self.unanswered, self.retries, self.looks, self.dials) = (0, 0, 0, 0, 0, 0);
        self.sent.fill(0);
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = super::choice::mix(self.random);
        self.random % below
    }

    /// Has callers make `calls` calls.
    fn run(&mut self, calls: usize, balance: Balance, keys: Option<u64>) {
        for _ in 0..calls {
            self.now += PERIOD;
            while let Some(Reverse((at, event))) =
                self.events.peek().copied().filter(|Reverse((at, _))| *at <= self.now)
            {
                self.events.pop();
                self.happen(at, event);
            }
            self.calls += 1;
            self.credit.earn();
            let key = keys.map(|keys| self.random(keys));
            self.call(balance, key);
        }
    }

    fn call(&mut self, balance: Balance, key: Option<u64>) {
        let mut failures: Vec<(usize, ())> = Vec::new();
        let now = self.start + self.now;
        let (records, connected) = (&self.records, &self.connected);
        let (looks, turn) = (&mut self.looks, self.calls);
        let mut look = |index: usize| {
            *looks += 1;
            if connected[index] { Ok(records[index].candidate(index, true, now)) } else { Err(()) }
        };
        let Some(index) = self.selection.choose(balance, turn, key, &mut failures, &mut look) else {
            self.unanswered += 1;
            return;
        };
        self.sent[index] += 1;
        if self.alive[index] {
            self.returned[index].get_or_insert(self.now);
        }
        self.records[index].began();
        let takes = Duration::from_micros(self.random(2 * TAKES.as_micros() as u64));
        // A frozen node keeps its calls until its connection is given up.
        if self.alive[index] {
            self.events.push(Reverse((self.now + takes, Event::Answer(index, takes))));
        }
    }

    fn happen(&mut self, at: Duration, event: Event) {
        match event {
            Event::Answer(index, takes) if self.connected[index] && self.alive[index] => {
                self.records[index].note(Outcome::Result, takes, self.start + at);
                self.records[index].ended();
            }
            Event::Answer(..) => {}
            Event::Lost(index) => {
                self.connected[index] = false;
                while self.records[index].in_flight() > 0 {
                    self.records[index].ended();
                    self.lost += 1;
                    // As for calls that may be repeated, which are those that could make a storm.
                    if self.credit.spend() {
                        self.retries += 1;
                        self.call(Balance::Least, None);
                    }
                }
                self.backoffs[index] = Backoff::new();
                self.dial_later(index, at);
            }
            Event::Dial(index) => {
                self.dials += 1;
                self.connected[index] = self.alive[index];
                if !self.alive[index] {
                    self.dial_later(index, at);
                }
            }
        }
    }

    fn dial_later(&mut self, index: usize, at: Duration) {
        let wait = self.backoffs[index].next();
        self.events.push(Reverse((at + wait, Event::Dial(index))));
    }

    /// Has nodes end, whose connections are lost after `notice`.
    fn kill(&mut self, nodes: impl Iterator<Item = usize>, notice: Duration) {
        for index in nodes {
            self.alive[index] = false;
            self.events.push(Reverse((self.now + notice, Event::Lost(index))));
        }
    }

    /// Returns the lowest and the highest number of calls that a node was sent.
    fn range(&self) -> (usize, usize) {
        let counts = || self.sent.iter().copied();
        (counts().min().unwrap(), counts().max().unwrap())
    }
}

/// Returns the number of calls that a simulation makes: all of them with optimisation.
fn scaled(calls: usize) -> usize {
    if cfg!(debug_assertions) { calls / 4 } else { calls }
}

#[test]
fn ten_thousand_nodes_get_equal_shares_at_the_cost_of_a_hundred() {
    for balance in [Balance::Least, Balance::Turns] {
        let looks = [(100, 100_000), (10_000, 1_000_000)].map(|(count, calls)| {
            let mut fleet = Fleet::new(count);
            fleet.run(calls, balance, None);
            let (mean, (least, most)) = (calls / count, fleet.range());
            assert!(least >= mean * 9 / 10 && most <= mean * 11 / 10, "{count} nodes: {least} to {most}");
            assert_eq!(fleet.unanswered, 0);
            fleet.looks * 100 / calls
        });
        assert!(looks[1] <= looks[0] * 11 / 10, "looks at 100 nodes, for 100 and 10,000 nodes: {looks:?}");
    }
}

#[test]
fn keys_are_spread_over_all_nodes_and_cost_no_more() {
    let mut fleet = Fleet::new(10_000);
    let calls = scaled(1_000_000);
    fleet.run(calls, Balance::Least, Some(u64::MAX));
    assert!(fleet.looks <= calls * 2, "{}", fleet.looks);
    // As random as keys are: five standard deviations.
    let (mean, (least, most)) = (calls as f64 / 1e4, fleet.range());
    let deviation = 6.0 * mean.sqrt();
    assert!((least as f64) > mean - deviation && (most as f64) < mean + deviation, "{least} to {most}");
}

#[test]
fn half_of_the_nodes_die_at_once_without_a_storm() {
    let limits = Limits::default();
    let silence = limits.forward_silence + limits.forward_silence / 5;
    for (what, notice) in [("killed", Duration::ZERO), ("frozen", silence)] {
        let count = 10_000;
        let mut fleet = Fleet::new(count);
        fleet.run(count, Balance::Least, None);
        fleet.forget();
        let before = fleet.looks;
        fleet.kill((0..count).filter(|index| index % 2 == 0), notice);
        let calls = scaled(1_000_000);
        fleet.run(calls, Balance::Least, None);
        // No caller is turned away while half of them are there.
        assert_eq!(fleet.unanswered, 0, "{what}");
        // A fifth of the calls and ten at most, whatever is lost.
        assert!(fleet.retries <= calls / 5 + 10, "{what}: {} retries", fleet.retries);
        // A node that is known to be gone gets no call: only those on the way, or before that was noticed.
        let dead: usize = fleet.sent.iter().step_by(2).sum();
        let during = usize::try_from(notice.as_micros() / PERIOD.as_micros()).unwrap();
        let most = if notice.is_zero() { 0 } else { during.min(calls) };
        assert!(dead <= most, "{what}: {dead} calls for nodes that are gone");
        // Each is looked at again and again, at a cost that does not grow with them.
        assert!((fleet.looks - before) <= calls * 16 + 2 * count, "{what}: {} looks", fleet.looks);
        // Each is dialled at most as often as the longest wait allows, after the first second.
        let seconds = (PERIOD * u32::try_from(calls).unwrap()).as_secs_f64();
        let each = fleet.dials as f64 / (count / 2) as f64;
        let most = 7.0 + seconds / (MAX_BACKOFF.as_secs_f64() / 2.0);
        assert!(each <= most, "{what}: {each} attempts to connect in {seconds} s");
    }
}

#[test]
fn nodes_that_come_back_get_calls_soon() {
    let count = 10_000;
    let mut fleet = Fleet::new(count);
    fleet.kill(0..count / 2, Duration::ZERO);
    fleet.run(scaled(200_000), Balance::Least, None);
    let back = fleet.now;
    for index in 0..count / 2 {
        (fleet.alive[index], fleet.returned[index]) = (true, None);
    }
    fleet.forget();
    // The longest wait between attempts, with its jitter, and a round of looking at those that are out.
    let round = PERIOD * u32::try_from(count).unwrap();
    let latest = back + MAX_BACKOFF.mul_f64(1.5) + 2 * round;
    let calls = ((latest - back).as_micros() / PERIOD.as_micros()) as usize;
    fleet.run(calls, Balance::Least, None);
    let missing = fleet.returned[..count / 2].iter().filter(|at| at.is_none()).count();
    assert_eq!(missing, 0, "{missing} of {} nodes were sent no call within {:?}", count / 2, latest - back);
}
