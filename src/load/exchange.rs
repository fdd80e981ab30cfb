//! One connection's share of the load as a state machine: the time and bytes go in; bytes come out.
//!
//! Times count from the moment at which the load begins.

use std::collections::VecDeque;
use std::time::Duration;

use super::Dialect;
use super::answer::{self, Answer, Next};
use super::request::{self, FIRST_ID, Template};
use super::tally::Tally;

/// How long answers are waited for when nothing more is sent.
pub(super) const DRAIN: Duration = Duration::from_secs(1);
/// A longer answer is taken for something else.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// What all connections are to do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) dialect: Dialect,
    pub(super) request: Template,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
    /// Calls a second over all connections; without, each sends as soon as it may.
    pub(super) rate: Option<f64>,
    /// Calls due before this are not counted.
    pub(super) begin: Duration,
    /// No calls are due from here on.
    pub(super) end: Duration,
}

/// Why a connection carries no more.
pub(super) type Trouble = &'static str;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    plan: &'a Plan,
    /// Among all connections, which decides when its calls are due.
    number: usize,
    /// Among those of its thread.
    index: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// What is in flight, oldest first, where answers carry no id that could be relied on.
    order: VecDeque<usize>,
    /// Calls begun, which is also the number of the next.
    begun: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
}

/// A place for one call in flight. Its ids are `FIRST_ID` + its index + any multiple of how many slots there are.
#[derive(Clone, Copy, Debug)]
struct Slot {
    id: u32,
    /// When the call in flight was due; `None` if there is none.
    due: Option<Duration>,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(plan: &'a Plan, number: usize, index: usize) -> Self {
        let slots = (0..plan.in_flight).map(|slot| Slot { id: FIRST_ID + slot as u32, due: None }).collect();
        Self {
            plan,
            number,
            index,
            slots,
            free: (0..plan.in_flight).rev().collect(),
            order: VecDeque::new(),
            begun: 0,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
        }
    }

    /// Puts the requests that are due, and have a place, into the output.
    pub(super) fn send(&mut self, now: Duration, tally: &mut Tally) {
        while let Some(due) = self.next_due(now).filter(|due| *due <= now) {
            let Some(slot) = self.free.pop() else { break };
            if self.is_measured(due) {
                tally.latest = tally.latest.max(now - due);
            }
            let Slot { id, due: place } = &mut self.slots[slot];
            *place = Some(due);
            self.plan.request.append(*id, &mut self.output);
            if self.plan.dialect == Dialect::Http {
                self.order.push_back(slot);
            }
            self.begun += 1;
        }
    }

    /// When the next call is due, if one is: at its place in the schedule, or now.
    fn next_due(&self, now: Duration) -> Option<Duration> {
        let due = match self.plan.rate {
            None => now,
            Some(rate) => self.due(self.begun, rate),
        };
        (due < self.plan.end).then_some(due)
    }

    /// When a call of this connection is due; those of all connections take turns.
    fn due(&self, call: u64, rate: f64) -> Duration {
        let before = call as f64 * self.plan.connections as f64 + self.number as f64;
        Duration::try_from_secs_f64(before / rate).unwrap_or(Duration::MAX)
    }

    /// How many calls of this connection are due before a time.
    fn calls_before(&self, time: Duration, rate: f64) -> u64 {
        ((time.as_secs_f64() * rate - self.number as f64) / self.plan.connections as f64).ceil() as u64
    }

    fn is_measured(&self, due: Duration) -> bool {
        (self.plan.begin..self.plan.end).contains(&due)
    }

    /// What is to be written.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// Says that so many bytes of it were written.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
    }

    /// Takes in what was read.
    pub(super) fn received(&mut self, bytes: &[u8], now: Duration, tally: &mut Tally) -> Result<(), Trouble> {
        if self.input.is_empty() {
            let taken = self.answers(bytes, now, tally)?;
            self.input.extend_from_slice(&bytes[taken..]);
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let taken = self.answers(&input, now, tally)?;
            input.drain(..taken);
            self.input = input;
        }
        if self.input.len() > LONGEST_ANSWER { Err("an answer without end") } else { Ok(()) }
    }

    /// Takes in whole answers; returns how many bytes they take.
    fn answers(&mut self, bytes: &[u8], now: Duration, tally: &mut Tally) -> Result<usize, Trouble> {
        let mut at = 0;
        loop {
            at += match answer::next(self.plan.dialect, &bytes[at..]) {
                Next::Incomplete => return Ok(at),
                Next::Nothing(len) => len,
                Next::Answer(answer, len) => {
                    self.answer(answer, now, tally);
                    len
                }
                Next::Ping(payload, len) => {
                    request::append_pong(payload, &mut self.output);
                    len
                }
                Next::Broken(trouble) => return Err(trouble),
            };
        }
    }

    fn answer(&mut self, answer: Answer<'_>, now: Duration, tally: &mut Tally) {
        let slot = match answer.id {
            None => self.order.pop_front(),
            Some(id) => id.checked_sub(FIRST_ID).map(|number| number as usize % self.slots.len()),
        };
        let Some(slot) = slot.filter(|slot| answer.id.is_none_or(|id| self.slots[*slot].id == id)) else {
            return Self::stray(answer, tally);
        };
        let Some(due) = self.slots[slot].due.take() else { return Self::stray(answer, tally) };
        let step = self.slots.len() as u32;
        let id = &mut self.slots[slot].id;
        *id = id.checked_add(step).unwrap_or(FIRST_ID + slot as u32);
        self.free.push(slot);
        if self.is_measured(due) {
            match answer.error {
                None => tally.answer(self.index, now.saturating_sub(due)),
                Some(text) => tally.error(text),
            }
        }
    }

    /// Counts an answer to nothing that was asked.
    fn stray(answer: Answer<'_>, tally: &mut Tally) {
        tally.strays += 1;
        if let Some(text) = answer.error {
            tally.first_error.get_or_insert_with(|| text.to_vec());
        }
    }

    /// Tells whether nothing is left to send or to wait for.
    pub(super) fn is_done(&self, now: Duration) -> bool {
        now >= self.plan.end && (self.free.len() == self.slots.len() || now >= self.plan.end + DRAIN)
    }

    /// When something is to be done next, bytes aside.
    pub(super) fn next_time(&self, now: Duration) -> Duration {
        let due = self.next_due(now).filter(|_| self.plan.rate.is_some() && !self.free.is_empty());
        due.unwrap_or(if now < self.plan.end { self.plan.end } else { self.plan.end + DRAIN })
    }

    /// Enters what was not answered or sent, at the end, or earlier if the load is broken off. What a lost connection had
    /// in flight is not slow but gone, so it has no age.
    pub(super) fn finish(&mut self, now: Duration, lost: Option<String>, tally: &mut Tally) {
        let slots = std::mem::take(&mut self.slots);
        for due in slots.iter().filter_map(|slot| slot.due).filter(|due| self.is_measured(*due)) {
            match lost {
                None => tally.unanswered(now.saturating_sub(due)),
                Some(_) => tally.unanswered += 1,
            }
        }
        if let Some(rate) = self.plan.rate {
            let first = self.begun.max(self.calls_before(self.plan.begin, rate));
            let end = if lost.is_none() { now.min(self.plan.end) } else { self.plan.end };
            let calls = self.calls_before(end, rate).saturating_sub(first);
            match lost {
                None => {
                    let age = |due| now.saturating_sub(due);
                    tally.unsent(calls, age(self.due(first, rate)), age(end));
                }
                Some(_) => tally.unsent += calls,
            }
        }
        if let Some(why) = lost {
            tally.lose(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(in_flight: usize, rate: Option<f64>) -> Plan {
        let request = Template::new(Dialect::Lines, "", None, "f", None);
        Plan {
            dialect: Dialect::Lines,
            request,
            connections: 1,
            in_flight,
            rate,
            begin: Duration::ZERO,
            end: 10 * SECOND,
        }
    }

    /// Takes the requests out of the output and returns the ids.
    fn requests(exchange: &mut Exchange<'_>) -> Vec<u32> {
        let output = exchange.output().to_vec();
        exchange.sent(output.len());
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let id = |line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap();
        lines.map(|line| id(line) as u32).collect()
    }

    fn answers(ids: &[u32]) -> Vec<u8> {
        let line = |id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":1}}\n");
        ids.iter().map(line).collect::<String>().into_bytes()
    }

    /// A server that takes 1 ms for each of 100 calls a second, but stands still once, from second 2 to 4.
    fn stall(in_flight: usize, rate: Option<f64>) -> Tally {
        let plan = plan(in_flight, rate);
        let mut exchange = Exchange::new(&plan, 0, 0);
        let mut tally = Tally::new(1);
        let mut now = Duration::ZERO;
        let step = Duration::from_millis(1);
        let mut asked: VecDeque<(Duration, u32)> = VecDeque::new();
        while !exchange.is_done(now) {
            if !(2 * SECOND..4 * SECOND).contains(&now) {
                while asked.front().is_some_and(|(at, _)| *at < now) {
                    let (_, id) = asked.pop_front().unwrap();
                    exchange.received(&answers(&[id]), now, &mut tally).unwrap();
                }
            }
            exchange.send(now, &mut tally);
            asked.extend(requests(&mut exchange).into_iter().map(|id| (now, id)));
            now += step;
        }
        exchange.finish(now, None, &mut tally);
        tally
    }

    #[test]
    fn a_stall_shows_in_the_latency_of_every_call_that_was_due_meanwhile() {
        // Whether the calls could be sent or not: they were due.
        for in_flight in [1, 1000] {
            let tally = stall(in_flight, Some(100.0));
            assert_eq!(tally.answered, [1000], "{in_flight} in flight");
            // Two seconds of ten: those due in the first of them were late by more than a second.
            let late = tally.latencies.count_between(SECOND.as_nanos() as u64, u64::MAX);
            assert!((99..=115).contains(&late), "{late} of {in_flight} in flight");
            let p50 = Duration::from_nanos(tally.latencies.value_at_quantile(0.5));
            let p90 = Duration::from_nanos(tally.latencies.value_at_quantile(0.9));
            assert!(p50 < 10 * Duration::from_millis(1), "{p50:?}");
            assert!(p90 > Duration::from_millis(900) && p90 < Duration::from_millis(1200), "{p90:?}");
            assert_eq!((tally.unanswered, tally.unsent), (0, 0));
        }
    }

    #[test]
    fn a_closed_loop_waits_with_the_server_and_so_sees_one_late_call() {
        let tally = stall(1, None);
        assert_eq!(tally.latencies.count_between(SECOND.as_nanos() as u64, u64::MAX), 1);
    }

    #[test]
    fn calls_due_that_are_never_answered_or_sent_count_with_their_age() {
        let plan = plan(5, Some(100.0));
        let mut exchange = Exchange::new(&plan, 0, 0);
        let mut tally = Tally::new(1);
        exchange.send(9 * SECOND, &mut tally);
        assert_eq!(requests(&mut exchange).len(), 5);
        assert!(!exchange.is_done(10 * SECOND));
        assert!(exchange.is_done(11 * SECOND));
        exchange.finish(11 * SECOND, None, &mut tally);
        assert_eq!((tally.answered[0], tally.unanswered, tally.unsent), (0, 5, 995));
        assert_eq!(tally.latencies.len(), 1000);
        assert!(Duration::from_nanos(tally.latencies.value_at_quantile(0.5)) > 4 * SECOND);
        assert_eq!(tally.latest, 9 * SECOND);
    }

    #[test]
    fn answers_may_come_in_any_order_and_in_any_pieces() {
        let plan = plan(4, None);
        let mut exchange = Exchange::new(&plan, 0, 0);
        let mut tally = Tally::new(1);
        let ms = Duration::from_millis;
        exchange.send(ms(0), &mut tally);
        let first = requests(&mut exchange);
        let bytes = answers(&[first[2], first[0]]);
        for piece in bytes.chunks(7) {
            exchange.received(piece, ms(5), &mut tally).unwrap();
        }
        exchange.send(ms(5), &mut tally);
        let second = requests(&mut exchange);
        assert_eq!(second.len(), 2);
        assert!(second.iter().all(|id| !first.contains(id)), "{first:?} {second:?}");
        exchange.received(&answers(&[second[0]]), ms(7), &mut tally).unwrap();
        exchange.received(&answers(&[first[3], first[1]]), ms(100), &mut tally).unwrap();
        assert_eq!(tally.answered, [5]);
        let of = |at| tally.latencies.count_at(ms(at).as_nanos() as u64);
        assert_eq!((of(5), of(2), of(100)), (2, 1, 2));
        // Once more, never asked, and something that no server of ours would say.
        exchange.received(&answers(&[first[0], 7]), ms(100), &mut tally).unwrap();
        assert_eq!((tally.answered[0], tally.strays), (5, 2));
        assert!(exchange.received(b"garbage\n", ms(100), &mut tally).is_err());
    }

    #[test]
    fn only_calls_due_after_the_warm_up_count() {
        let plan = Plan { begin: SECOND, ..plan(1, None) };
        let mut exchange = Exchange::new(&plan, 0, 0);
        let mut tally = Tally::new(1);
        for half in [1, 3, 21] {
            exchange.send(half * SECOND / 2, &mut tally);
            let ids = requests(&mut exchange);
            exchange.received(&answers(&ids), half * SECOND / 2, &mut tally).unwrap();
        }
        assert_eq!(tally.answered, [1]);
        assert!(exchange.is_done(11 * SECOND));
    }

    #[test]
    fn connections_share_the_rate() {
        let plan = Plan { connections: 4, ..plan(100, Some(8.0)) };
        let mut tally = Tally::new(4);
        let mut times = Vec::new();
        for number in 0..4 {
            let mut exchange = Exchange::new(&plan, number, number);
            let mut now = Duration::ZERO;
            while now < SECOND {
                now = exchange.next_time(now);
                exchange.send(now, &mut tally);
                times.push(now);
            }
        }
        times.sort();
        times.truncate(8);
        assert_eq!(times, (0..8).map(|call| call * SECOND / 8).collect::<Vec<_>>());
    }

    #[test]
    fn ids_stay_apart_when_they_start_again() {
        let plan = plan(2, None);
        let mut exchange = Exchange::new(&plan, 0, 0);
        exchange.slots[1].id = u32::MAX;
        let mut tally = Tally::new(1);
        exchange.send(SECOND, &mut tally);
        assert_eq!(requests(&mut exchange), [FIRST_ID, u32::MAX]);
        exchange.received(&answers(&[u32::MAX]), SECOND, &mut tally).unwrap();
        assert_eq!((tally.answered[0], tally.strays), (1, 0));
        assert_eq!(exchange.slots[1].id, FIRST_ID + 1);
    }
}
