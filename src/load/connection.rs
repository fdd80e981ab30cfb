//! One connection as a state machine: time and received bytes in, bytes to send out.
//!
//! All times count from the start of the load.

use std::collections::VecDeque;
use std::time::Duration;

use super::Dialect;
use super::reply::{self, Parsed, Reply};
use super::request::{self, FIRST_ID, Template};
use super::stats::Stats;

/// How long to wait for outstanding replies after the last call.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum length of a reply, in bytes.
const MAX_REPLY: usize = 16 * 1024 * 1024;

/// The settings of all connections.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) dialect: Dialect,
    pub(super) request: Template,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
    /// Calls per second over all connections; without a rate, each connection sends as soon as a slot is free.
    pub(super) rate: Option<f64>,
    /// Calls due before this time are not measured.
    pub(super) begin: Duration,
    /// No calls are due from this time on.
    pub(super) end: Duration,
}

/// Why a connection cannot continue.
pub(super) type ProtocolError = &'static str;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection<'a> {
    plan: &'a Plan,
    /// The index among all connections, which decides when its calls are due.
    number: usize,
    /// The index among the connections of its thread.
    index: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// The calls in flight, oldest first, for a dialect whose replies are matched by order instead of by id.
    order: VecDeque<usize>,
    /// The number of calls sent, which is also the index of the next.
    sent: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
}

/// One call in flight. Its ids are `FIRST_ID` + the slot's index + a multiple of the number of slots.
#[derive(Clone, Copy, Debug)]
struct Slot {
    id: u32,
    /// When the call in flight was due; `None` if the slot is free.
    due: Option<Duration>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(plan: &'a Plan, number: usize, index: usize) -> Self {
        let slots = (0..plan.in_flight).map(|slot| Slot { id: FIRST_ID + slot as u32, due: None }).collect();
        Self {
            plan,
            number,
            index,
            slots,
            free: (0..plan.in_flight).rev().collect(),
            order: VecDeque::new(),
            sent: 0,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
        }
    }

    /// Appends the requests that are due to the output while slots are free.
    pub(super) fn send(&mut self, now: Duration, stats: &mut Stats) {
        while let Some(due) = self.next_due(now).filter(|due| *due <= now) {
            let Some(slot) = self.free.pop() else { break };
            if self.is_measured(due) {
                stats.max_delay = stats.max_delay.max(now - due);
            }
            let Slot { id, due: slot_due } = &mut self.slots[slot];
            *slot_due = Some(due);
            self.plan.request.append(*id, &mut self.output);
            if self.plan.dialect == Dialect::Http {
                self.order.push_back(slot);
            }
            self.sent += 1;
        }
    }

    /// Returns when the next call is due, if one is: at its time in the schedule, or now.
    fn next_due(&self, now: Duration) -> Option<Duration> {
        let due = match self.plan.rate {
            None => now,
            Some(rate) => self.due(self.sent, rate),
        };
        (due < self.plan.end).then_some(due)
    }

    /// Returns when a call of this connection is due. The connections take turns.
    fn due(&self, call: u64, rate: f64) -> Duration {
        let before = call as f64 * self.plan.connections as f64 + self.number as f64;
        Duration::try_from_secs_f64(before / rate).unwrap_or(Duration::MAX)
    }

    /// Returns how many calls of this connection are due before `time`.
    fn calls_before(&self, time: Duration, rate: f64) -> u64 {
        ((time.as_secs_f64() * rate - self.number as f64) / self.plan.connections as f64).ceil() as u64
    }

    fn is_measured(&self, due: Duration) -> bool {
        (self.plan.begin..self.plan.end).contains(&due)
    }

    /// Returns the bytes to write.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// Removes `bytes` written bytes from the output.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
    }

    /// Processes received bytes.
    pub(super) fn received(
        &mut self,
        bytes: &[u8],
        now: Duration,
        stats: &mut Stats,
    ) -> Result<(), ProtocolError> {
        if self.input.is_empty() {
            let taken = self.handle_replies(bytes, now, stats)?;
            self.input.extend_from_slice(&bytes[taken..]);
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let taken = self.handle_replies(&input, now, stats)?;
            input.drain(..taken);
            self.input = input;
        }
        if self.input.len() > MAX_REPLY { Err("a reply is too long") } else { Ok(()) }
    }

    /// Processes complete replies and returns how many bytes they take.
    fn handle_replies(
        &mut self,
        bytes: &[u8],
        now: Duration,
        stats: &mut Stats,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        loop {
            at += match reply::parse(self.plan.dialect, &bytes[at..]) {
                Parsed::Incomplete => return Ok(at),
                Parsed::Skip(len) => len,
                Parsed::Reply(reply, len) => {
                    self.handle_reply(reply, now, stats);
                    len
                }
                Parsed::Ping(payload, len) => {
                    request::append_pong(payload, &mut self.output);
                    len
                }
                Parsed::Invalid(error) => return Err(error),
            };
        }
    }

    fn handle_reply(&mut self, reply: Reply<'_>, now: Duration, stats: &mut Stats) {
        let slot = match reply.id {
            None => self.order.pop_front(),
            Some(id) => id.checked_sub(FIRST_ID).map(|number| number as usize % self.slots.len()),
        };
        let Some(slot) = slot.filter(|slot| reply.id.is_none_or(|id| self.slots[*slot].id == id)) else {
            return Self::record_unexpected(reply, stats);
        };
        let Some(due) = self.slots[slot].due.take() else { return Self::record_unexpected(reply, stats) };
        let step = self.slots.len() as u32;
        let id = &mut self.slots[slot].id;
        *id = id.checked_add(step).unwrap_or(FIRST_ID + slot as u32);
        self.free.push(slot);
        if self.is_measured(due) {
            match reply.error {
                None => stats.record_reply(self.index, now.saturating_sub(due)),
                Some(text) => stats.record_error(text),
            }
        }
    }

    /// Counts a reply that matches no call in flight.
    fn record_unexpected(reply: Reply<'_>, stats: &mut Stats) {
        stats.unexpected += 1;
        if let Some(text) = reply.error {
            stats.first_error.get_or_insert_with(|| text.to_vec());
        }
    }

    /// Returns `true` if nothing is left to send or to wait for.
    pub(super) fn is_done(&self, now: Duration) -> bool {
        now >= self.plan.end && (self.free.len() == self.slots.len() || now >= self.plan.end + DRAIN_TIMEOUT)
    }

    /// Returns when to call `send` or `is_done` next if no bytes arrive before.
    pub(super) fn next_time(&self, now: Duration) -> Duration {
        let due = self.next_due(now).filter(|_| self.plan.rate.is_some() && !self.free.is_empty());
        due.unwrap_or(if now < self.plan.end { self.plan.end } else { self.plan.end + DRAIN_TIMEOUT })
    }

    /// Records the calls that were not answered or not sent, at the end or when the load is interrupted. Calls in
    /// flight on a lost connection have no latency, because they are not slow but lost.
    pub(super) fn finish(&mut self, now: Duration, lost: Option<String>, stats: &mut Stats) {
        let slots = std::mem::take(&mut self.slots);
        for due in slots.iter().filter_map(|slot| slot.due).filter(|due| self.is_measured(*due)) {
            match lost {
                None => stats.record_unanswered(now.saturating_sub(due)),
                Some(_) => stats.unanswered += 1,
            }
        }
        if let Some(rate) = self.plan.rate {
            let first = self.sent.max(self.calls_before(self.plan.begin, rate));
            let end = if lost.is_none() { now.min(self.plan.end) } else { self.plan.end };
            let calls = self.calls_before(end, rate).saturating_sub(first);
            match lost {
                None => {
                    let age = |due| now.saturating_sub(due);
                    stats.record_unsent(calls, age(self.due(first, rate)), age(end));
                }
                Some(_) => stats.unsent += calls,
            }
        }
        if let Some(reason) = lost {
            stats.record_lost(reason);
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

    /// Takes the requests from the output and returns their ids.
    fn requests(connection: &mut Connection<'_>) -> Vec<u32> {
        let output = connection.output().to_vec();
        connection.advance(output.len());
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let id = |line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap();
        lines.map(|line| id(line) as u32).collect()
    }

    fn answers(ids: &[u32]) -> Vec<u8> {
        let line = |id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":1}}\n");
        ids.iter().map(line).collect::<String>().into_bytes()
    }

    /// Simulates 100 calls per second to a server that replies after 1 ms, but stalls from second 2 to 4.
    fn stall(in_flight: usize, rate: Option<f64>) -> Stats {
        let plan = plan(in_flight, rate);
        let mut connection = Connection::new(&plan, 0, 0);
        let mut stats = Stats::new(1);
        let mut now = Duration::ZERO;
        let step = Duration::from_millis(1);
        let mut asked: VecDeque<(Duration, u32)> = VecDeque::new();
        while !connection.is_done(now) {
            if !(2 * SECOND..4 * SECOND).contains(&now) {
                while asked.front().is_some_and(|(at, _)| *at < now) {
                    let (_, id) = asked.pop_front().unwrap();
                    connection.received(&answers(&[id]), now, &mut stats).unwrap();
                }
            }
            connection.send(now, &mut stats);
            asked.extend(requests(&mut connection).into_iter().map(|id| (now, id)));
            now += step;
        }
        connection.finish(now, None, &mut stats);
        stats
    }

    #[test]
    fn stall_shows_in_the_latency_of_every_call_due_meanwhile() {
        // The calls were due, whether or not they could be sent.
        for in_flight in [1, 1000] {
            let stats = stall(in_flight, Some(100.0));
            assert_eq!(stats.answered, [1000], "{in_flight} in flight");
            // The stall lasts 2 of 10 seconds; calls due in its first second were late by more than a second.
            let late = stats.latencies.count_between(SECOND.as_nanos() as u64, u64::MAX);
            assert!((99..=115).contains(&late), "{late} of {in_flight} in flight");
            let p50 = Duration::from_nanos(stats.latencies.value_at_quantile(0.5));
            let p90 = Duration::from_nanos(stats.latencies.value_at_quantile(0.9));
            assert!(p50 < 10 * Duration::from_millis(1), "{p50:?}");
            assert!(p90 > Duration::from_millis(900) && p90 < Duration::from_millis(1200), "{p90:?}");
            assert_eq!((stats.unanswered, stats.unsent), (0, 0));
        }
    }

    #[test]
    fn closed_loop_sees_one_slow_call_during_a_stall() {
        let stats = stall(1, None);
        assert_eq!(stats.latencies.count_between(SECOND.as_nanos() as u64, u64::MAX), 1);
    }

    #[test]
    fn due_calls_without_reply_count_with_their_age() {
        let plan = plan(5, Some(100.0));
        let mut connection = Connection::new(&plan, 0, 0);
        let mut stats = Stats::new(1);
        connection.send(9 * SECOND, &mut stats);
        assert_eq!(requests(&mut connection).len(), 5);
        assert!(!connection.is_done(10 * SECOND));
        assert!(connection.is_done(11 * SECOND));
        connection.finish(11 * SECOND, None, &mut stats);
        assert_eq!((stats.answered[0], stats.unanswered, stats.unsent), (0, 5, 995));
        assert_eq!(stats.latencies.len(), 1000);
        assert!(Duration::from_nanos(stats.latencies.value_at_quantile(0.5)) > 4 * SECOND);
        assert_eq!(stats.max_delay, 9 * SECOND);
    }

    #[test]
    fn replies_arrive_in_any_order_and_fragmentation() {
        let plan = plan(4, None);
        let mut connection = Connection::new(&plan, 0, 0);
        let mut stats = Stats::new(1);
        let ms = Duration::from_millis;
        connection.send(ms(0), &mut stats);
        let first = requests(&mut connection);
        let bytes = answers(&[first[2], first[0]]);
        for piece in bytes.chunks(7) {
            connection.received(piece, ms(5), &mut stats).unwrap();
        }
        connection.send(ms(5), &mut stats);
        let second = requests(&mut connection);
        assert_eq!(second.len(), 2);
        assert!(second.iter().all(|id| !first.contains(id)), "{first:?} {second:?}");
        connection.received(&answers(&[second[0]]), ms(7), &mut stats).unwrap();
        connection.received(&answers(&[first[3], first[1]]), ms(100), &mut stats).unwrap();
        assert_eq!(stats.answered, [5]);
        let of = |at| stats.latencies.count_at(ms(at).as_nanos() as u64);
        assert_eq!((of(5), of(2), of(100)), (2, 1, 2));
        // A duplicate reply, a reply to an unknown id, and bytes that are not a reply.
        connection.received(&answers(&[first[0], 7]), ms(100), &mut stats).unwrap();
        assert_eq!((stats.answered[0], stats.unexpected), (5, 2));
        assert!(connection.received(b"garbage\n", ms(100), &mut stats).is_err());
    }

    #[test]
    fn calls_due_during_warm_up_are_not_counted() {
        let plan = Plan { begin: SECOND, ..plan(1, None) };
        let mut connection = Connection::new(&plan, 0, 0);
        let mut stats = Stats::new(1);
        for half in [1, 3, 21] {
            connection.send(half * SECOND / 2, &mut stats);
            let ids = requests(&mut connection);
            connection.received(&answers(&ids), half * SECOND / 2, &mut stats).unwrap();
        }
        assert_eq!(stats.answered, [1]);
        assert!(connection.is_done(11 * SECOND));
    }

    #[test]
    fn connections_share_the_rate() {
        let plan = Plan { connections: 4, ..plan(100, Some(8.0)) };
        let mut stats = Stats::new(4);
        let mut times = Vec::new();
        for number in 0..4 {
            let mut connection = Connection::new(&plan, number, number);
            let mut now = Duration::ZERO;
            while now < SECOND {
                now = connection.next_time(now);
                connection.send(now, &mut stats);
                times.push(now);
            }
        }
        times.sort();
        times.truncate(8);
        assert_eq!(times, (0..8).map(|call| call * SECOND / 8).collect::<Vec<_>>());
    }

    #[test]
    fn ids_stay_unique_after_wraparound() {
        let plan = plan(2, None);
        let mut connection = Connection::new(&plan, 0, 0);
        connection.slots[1].id = u32::MAX;
        let mut stats = Stats::new(1);
        connection.send(SECOND, &mut stats);
        assert_eq!(requests(&mut connection), [FIRST_ID, u32::MAX]);
        connection.received(&answers(&[u32::MAX]), SECOND, &mut stats).unwrap();
        assert_eq!((stats.answered[0], stats.unexpected), (1, 0));
        assert_eq!(connection.slots[1].id, FIRST_ID + 1);
    }
}
