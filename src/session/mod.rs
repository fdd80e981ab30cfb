//! One connection as a state machine: bytes, answers and the time go in; calls and bytes come out.
//!
//! It does no I/O and asks no clock. Whoever drives it
//!
//! 1. appends what was read to [`Session::input`] and calls [`Session::received`],
//!    or [`Session::end`] when the peer sends no more;
//! 2. calls [`Session::poll_answers`], which hands on what providers have answered;
//! 3. writes [`Session::output`] and says with [`Session::sent`] how much went out;
//! 4. calls [`Session::expire`] when [`Session::next_deadline`] has come;
//!
//! and reads on only while [`Session::wants_input`].

mod arrival;
mod batches;
mod calls;
mod output;
mod verdict;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::codec::jsonrpc::DecodeLimits;
use crate::codec::{Codec, DecodeError, Decoded, Dialect, FrameResult};
use crate::config::Limits;
use crate::message::{Answer, Fault, Id, Message, code};
use crate::metrics::Metrics;
use crate::route::{CallId, Grants, Registry};
use arrival::{Arrival, Late};
use batches::Batches;
use calls::Calls;
use output::Output;
use verdict::Nonsense;
pub use verdict::Verdict;

/// What an error may say beside its data, over the limit.
const SENTENCE: usize = 128;
/// What stands around a result or an error of which only a sentence is over the limit: the id, and names.
const AROUND: usize = SENTENCE + 2 * Id::MAX_LEN;
/// Messages of a stream that are taken in, and time that this takes, before other connections have their turn.
const TURN: (u32, Duration) = (64, Duration::from_millis(5));
/// Requests beyond those in flight are taken in up to so many bytes: what they cancel is cancelled at once, and
/// a peer that breaks off is noticed while its calls run.
const READ_AHEAD: usize = 16 * 1024;

/// What a first line is told that begins with no bracket.
const NO_JSON: &str = "no JSON: a message begins with { or [";

/// One connection's state. See the [module](self).
#[derive(Debug)]
pub struct Session {
    registry: Arc<Registry>,
    limits: Arc<Limits>,
    pass: Grants,
    codec: Codec,
    input: Vec<u8>,
    /// How much of `input` is worked off. It is cut before more is read, and not after each message.
    worked_off: usize,
    /// Whole messages may stand in `input`, which there was no room or no time for.
    left_over: bool,
    output: Output,
    calls: Calls,
    batches: Batches,
    /// Where a result stands from when it is known until it is in the output, unless it is written there at once.
    result: Vec<u8>,
    /// Until when the time is accounted for, to some function or to none.
    clock: Instant,
    /// When calls begin no more before others have had their turn.
    turn_end: Instant,
    /// Messages that were taken in so far.
    taken: u64,
    /// There may be more in the input that could be taken in at once.
    interrupted: bool,
    /// No more input comes.
    ended: bool,
    arrival: Arrival,
    nonsense: Nonsense,
    /// Why no more of the peer's input is looked at.
    verdict: Option<Verdict>,
}

impl Session {
    /// Creates the session of a new connection.
    pub fn new(
        registry: Arc<Registry>,
        limits: Arc<Limits>,
        dialect: Dialect,
        pass: Grants,
        now: Instant,
    ) -> Self {
        let bounds = DecodeLimits { depth: limits.depth, batch: limits.batch };
        let codec = Codec::new(dialect, limits.message, bounds);
        let mut arrival = Arrival::default();
        if pass.allows_nothing() {
            arrival.expect_token(now, limits.auth_timeout);
        }
        Self {
            registry,
            limits,
            pass,
            input: Vec::new(),
            worked_off: 0,
            left_over: false,
            output: Output::new(codec.is_framed()),
            codec,
            calls: Calls::default(),
            batches: Batches::default(),
            result: Vec::new(),
            clock: now,
            turn_end: now,
            taken: 0,
            interrupted: false,
            ended: false,
            arrival,
            nonsense: Nonsense::default(),
            verdict: None,
        }
    }

    /// Where the driver appends what it has read.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Tells whether there is room for more input, and all that has come is worked off but for a message that is not whole
    /// yet. So the input holds one message and one read at most, whatever the peer sends.
    pub fn wants_input(&self) -> bool {
        !self.has_ended() && !self.interrupted && !self.left_over && self.has_room_for_more()
    }

    /// Takes in what the input holds, as far as there is room for calls; the rest is taken in when there is.
    pub fn received(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.turn_end = self.clock.max(now) + TURN.1;
        if self.codec.is_framed() {
            if self.codec.is_undetected() && self.input.is_empty() {
                return;
            }
            let mut frame = std::mem::take(&mut self.input);
            self.frame(&frame, now);
            frame.clear();
            self.input = output::kept(frame);
        } else {
            self.go_on(now);
        }
    }

    /// Tells whether input was left for later, so that others have their turn.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Tells whether what came at `now` has taken so long that others should have their turn.
    pub fn is_turn_over(&self, now: Instant) -> bool {
        self.clock > now + TURN.1
    }

    /// How many messages were taken in so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Says that no more input comes. A last message that its sender did not mark as whole is taken as such.
    pub fn end(&mut self, now: Instant) {
        self.ended = true;
        self.go_on(now);
    }

    /// Tells whether no more input comes, or would be looked at.
    pub fn has_ended(&self) -> bool {
        self.ended || self.is_broken()
    }

    /// Tells whether the peer makes no sense, and none of what it still sends would be looked at.
    pub fn is_broken(&self) -> bool {
        self.verdict.is_some()
    }

    /// Returns why no more of the peer's input is looked at.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Turns the answers that are there into output, as far as it has room, and begins what has waited for room.
    /// `Ready` if there were any. Otherwise the task is woken when one comes, unless output must go first.
    pub fn poll_answers(&mut self, cx: &Context<'_>, now: Instant) -> Poll<()> {
        let mut moved = Poll::Pending;
        self.clock = self.clock.max(now);
        loop {
            self.go_on(now);
            if self.interrupted {
                return Poll::Ready(());
            }
            if !self.has_room() {
                return moved;
            }
            let Poll::Ready((token, outcome)) = self.calls.poll_answer(cx) else { return moved };
            self.finish(token, &outcome);
            moved = Poll::Ready(());
        }
    }

    /// The next bytes to write: all that there are, or if the transport has frames those of one.
    pub fn output(&self) -> &[u8] {
        self.output.front()
    }

    /// Takes all output, which then needs no [`sent`](Self::sent).
    pub fn take_output(&mut self) -> Vec<u8> {
        self.output.take()
    }

    /// Tells whether the transport has frames, each of which holds one message.
    pub fn is_framed(&self) -> bool {
        self.codec.is_framed()
    }

    /// Says that so many bytes of [`output`](Self::output) were written.
    pub fn sent(&mut self, bytes: usize) {
        self.output.sent(bytes);
    }

    /// When [`expire`](Self::expire) should be called, unless this changes before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (self.calls.earliest(), self.arrival.next_look()) {
            (Some(call), Some(look)) => Some(call.min(look)),
            (call, look) => call.or(look),
        }
    }

    /// Answers the calls whose deadline has passed. If there are none, since all were answered long ago, the session
    /// gives back what memory they took.
    pub fn expire(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        for token in self.calls.late(now) {
            self.give_up(token, &Fault::new(code::DEADLINE, "the call's deadline passed"));
        }
        while let Some(waiting) = self.calls.take_late_waiting(now) {
            let late = "the call's deadline passed before its turn came";
            self.drop_waiting(waiting, &Fault::new(code::DEADLINE, late));
        }
        match self.arrival.late(now, &self.limits) {
            Some(Late::Message) => self.message_is_late(),
            // A token of a host that has guessed waits before it is judged.
            Some(Late::Token) if self.pass.allows_nothing() && !self.calls.is_empty() => {
                self.arrival.expect_token(now, self.limits.auth_timeout);
            }
            Some(Late::Token) if self.pass.allows_nothing() && !self.is_broken() => {
                self.metrics().unauthenticated.add();
                self.end_late(Verdict::NoToken, &Id::null());
            }
            _ => {}
        }
        self.go_on(now);
        if self.is_idle() {
            self.rest();
        }
    }

    fn message_is_late(&mut self) {
        self.metrics().slow_messages.add();
        let input = std::mem::take(&mut self.input);
        let id = match self.codec.reject(&input, Fault::new(code::DEADLINE, "")) {
            Decoded::Single(Err(refused)) => refused.id,
            _ => Id::null(),
        };
        self.end_late(Verdict::Slow, &id);
    }

    /// Listens no more to a peer that is late.
    fn end_late(&mut self, verdict: Verdict, id: &Id<'_>) {
        (self.input, self.worked_off) = (Vec::new(), 0);
        self.verdict = Some(verdict);
        let code = if verdict == Verdict::NoToken { code::DENIED } else { code::DEADLINE };
        self.tell(None, id, Err(&Fault::new(code, verdict.to_string())));
    }

    /// Gives back the memory of what is not there any more. Not done after each call, since the next one takes it again.
    fn rest(&mut self) {
        self.input.drain(..std::mem::take(&mut self.worked_off));
        self.input.shrink_to_fit();
        self.result = Vec::new();
        self.calls.rest();
        self.batches.rest();
        self.output.rest();
    }

    /// Answers everything that is not answered yet with `fault`.
    pub fn give_up_all(&mut self, fault: &Fault) {
        while let Some(waiting) = self.calls.take_waiting() {
            self.drop_waiting(waiting, fault);
        }
        for token in self.calls.begun() {
            self.give_up(token, fault);
        }
    }

    /// Tells whether every request is answered, and every answer in the output or beyond. Notifications may still run.
    pub fn is_settled(&self) -> bool {
        self.calls.are_answered() && self.input.is_empty()
    }

    /// Tells whether every request is answered and every answer written. Notifications may still run.
    pub fn is_answered(&self) -> bool {
        self.is_settled() && self.output.len() == 0
    }

    /// Tells whether every request and notification is done and every answer written.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.output.len() == 0
    }

    fn metrics(&self) -> &Metrics {
        self.registry.metrics()
    }

    fn has_time(&self) -> bool {
        self.clock <= self.turn_end
    }

    fn has_room(&self) -> bool {
        self.output.len() < self.limits.output
    }

    /// Begins what has waited for room, and takes in more.
    fn go_on(&mut self, now: Instant) {
        self.turn_end = self.clock.max(now) + TURN.1;
        self.begin_waiting();
        self.interrupted = false;
        let is_open = !self.input.is_empty() || (self.codec.is_skipping() && !self.arrival.is_open());
        if is_open && !self.codec.is_framed() {
            self.stream(now);
            // A cancellation may have made room.
            self.begin_waiting();
        }
        self.interrupted |= self.is_put_off();
    }

    /// Takes in what stands in the input, message by message.
    fn stream(&mut self, now: Instant) {
        let mut input = std::mem::take(&mut self.input);
        let (mut at, mut left) = (self.worked_off, TURN.0);
        self.left_over = false;
        while at < input.len() && !self.is_broken() {
            self.interrupted = left == 0 || (left < TURN.0 && self.is_turn_over(now));
            if self.interrupted || !self.has_room_for_more() {
                self.left_over = true;
                break;
            }
            left -= 1;
            let rest = &input[at..];
            at += match self.codec.next_frame(rest) {
                FrameResult::Frame(frame, cut) => {
                    self.arrival.whole();
                    if !frame.is_empty() {
                        self.frame(&rest[frame], now);
                    }
                    cut
                }
                FrameResult::TooLong(cut) => {
                    self.too_long(&rest[..cut]);
                    cut
                }
                FrameResult::Invalid(why) => {
                    self.refuse(&Id::null(), Fault::new(code::PARSE, why), rest);
                    self.verdict = Some(Verdict::Unreadable);
                    rest.len()
                }
                FrameResult::Incomplete(0) if self.ended => {
                    if let Some(frame) = self.codec.last_frame(rest) {
                        self.frame(&rest[frame], now);
                    }
                    rest.len()
                }
                FrameResult::Incomplete(0) => break,
                FrameResult::Incomplete(cut) => cut,
            };
        }
        let before = input.len() - self.worked_off;
        if at == input.len() || self.is_broken() {
            input.clear();
            at = 0;
        } else if !self.left_over && at > 0 {
            // Only the beginning of one message is moved.
            input = input.split_off(at);
            at = 0;
        }
        self.worked_off = at;
        let left = input.len() - at;
        let is_open = left > 0 || self.codec.is_skipping();
        // While this node has no room for more, the peer can do nothing about it.
        let waits = !self.has_ended() && !self.left_over && self.has_room_for_more();
        self.arrival.left(before, left, is_open && waits, now, self.limits.stall_timeout);
        self.input = output::kept(input);
    }

    fn has_room_for_more(&self) -> bool {
        self.calls.want_more() && self.output.len() + self.batches.bytes() < self.limits.output
    }

    /// Answers a message that the transport or the framing found to be over the limit; `beginning` is what is
    /// known of it.
    pub fn too_long(&mut self, beginning: &[u8]) {
        if !self.nonsense.has_spoken() && !self.codec.is_plausible(beginning) {
            return self.refuse(&Id::null(), Fault::new(code::PARSE, NO_JSON), beginning);
        }
        self.metrics().too_large.add();
        self.pass.log_rejection(&code::REQUEST_TOO_LARGE);
        let message = format!("a message of more than {} bytes (limits.message)", self.limits.message);
        match self.codec.reject(beginning, Fault::new(code::REQUEST_TOO_LARGE, message)) {
            Decoded::Single(Ok(_)) => {}
            Decoded::Single(Err(DecodeError { id, fault })) => self.tell(None, &id, Err(&fault)),
            Decoded::Batch(refused) => {
                let batch = self.batches.open();
                for DecodeError { id, fault } in refused.into_iter().filter_map(Result::err) {
                    self.batches.expect(batch);
                    self.tell(Some(batch), &id, Err(&fault));
                }
                self.part_done(batch);
            }
        }
    }

    /// Takes in one message, or a batch.
    fn frame(&mut self, frame: &[u8], now: Instant) {
        self.taken += 1;
        match self.codec.decode(frame) {
            Decoded::Single(Ok(message)) => {
                self.nonsense.understood();
                self.message(message, None, now);
            }
            Decoded::Single(Err(DecodeError { id, fault })) => self.refuse(&id, fault, frame),
            Decoded::Batch(messages) => {
                self.judge_batch(&messages);
                let batch = self.batches.open();
                for message in messages {
                    match message {
                        Ok(message) => self.message(message, Some(batch), now),
                        Err(DecodeError { id, fault }) => {
                            self.metrics().refused.add();
                            self.pass.log_rejection(&fault.code);
                            self.batches.expect(batch);
                            self.tell(Some(batch), &id, Err(&fault));
                        }
                    }
                }
                self.part_done(batch);
            }
        }
    }

    fn message(&mut self, message: Message<'_>, batch: Option<CallId>, now: Instant) {
        match message {
            Message::Request(request) => {
                if let (Some(batch), Some(_)) = (batch, &request.id) {
                    self.batches.expect(batch);
                }
                self.take(request, batch, now);
            }
            Message::Cancel(id) => self.cancel(&id),
            // We asked nothing, so this answers nothing; to complain of it could go on for ever.
            Message::Reply(..) => self.metrics().refused.add(),
        }
    }

    /// Answers what is no message, of which `text` is at least the beginning.
    fn refuse(&mut self, id: &Id<'_>, mut fault: Fault, text: &[u8]) {
        self.metrics().refused.add();
        self.pass.log_rejection(&fault.code);
        if *id != Id::null() {
            self.nonsense.understood();
        } else if let Some(verdict) = self.nonsense.judge(&fault, &self.codec, text) {
            self.end_for(verdict);
            fault.message = format!("{}; {verdict}", fault.message).into();
        }
        self.tell(None, id, Err(&fault));
    }

    /// Judges a batch as one message, which makes sense if a part of it does.
    fn judge_batch(&mut self, messages: &[Result<Message<'_>, DecodeError>]) {
        let makes_sense =
            |part: &Result<_, DecodeError>| part.as_ref().map_or_else(|e| e.id != Id::null(), |_| true);
        if messages.iter().any(makes_sense) {
            self.nonsense.understood();
        } else if let Some(verdict) = self.nonsense.again() {
            self.end_for(verdict);
        }
    }

    fn end_for(&mut self, verdict: Verdict) {
        self.metrics().foreign.add();
        self.verdict = Some(verdict);
    }

    /// Writes an answer, or keeps it until the rest of its batch is there.
    fn tell(&mut self, batch: Option<CallId>, id: &Id<'_>, answer: Answer<'_>) {
        self.end_for_mistake(answer);
        let (codec, limit, metrics) = (&self.codec, self.limits.message, self.registry.metrics());
        match batch {
            None => self.output.message(|out| {
                codec.frame(out, |out| reply(codec, out, limit, metrics, id, answer));
            }),
            Some(batch) => {
                self.batches.reply(batch, |out| {
                    reply(codec, out, limit.saturating_sub(out.len()), metrics, id, answer);
                });
                self.part_done(batch);
            }
        }
    }

    /// The same, unless it answers a notification.
    fn tell_if_asked(&mut self, batch: Option<CallId>, id: Option<&Id<'_>>, answer: Answer<'_>) {
        match id {
            Some(id) => self.tell(batch, id, answer),
            None => self.end_for_mistake(answer),
        }
    }

    /// Listens no more to a peer that has made a mistake, if its dialect has no other answer to that.
    fn end_for_mistake(&mut self, answer: Answer<'_>) {
        if self.codec.sends_results_only() && answer.is_err_and(is_mistake) {
            self.verdict.get_or_insert(Verdict::Mistake);
        }
    }

    /// One part of a batch is dealt with; after the last the replies go out, if there are any.
    fn part_done(&mut self, batch: CallId) {
        if let Some(replies) = self.batches.part_done(batch) {
            let codec = &self.codec;
            self.output.message(|out| codec.frame(out, |out| out.extend_from_slice(&replies)));
        }
    }
}

/// Appends a reply, or that it would take more than `limit` bytes.
fn reply(codec: &Codec, out: &mut Vec<u8>, limit: usize, metrics: &Metrics, id: &Id<'_>, answer: Answer<'_>) {
    let start = out.len();
    let mut sent = match excess(answer, limit) {
        None => codec.encode_reply(out, id, answer),
        Some(size) => codec.encode_reply(out, id, Err(&too_large(size, limit, metrics))),
    };
    // A dialect other than JSON's may need more for the same.
    let size = out.len() - start;
    if size > limit.saturating_add(AROUND) {
        out.truncate(start);
        sent = codec.encode_reply(out, id, Err(&too_large(size, limit, metrics)));
    }
    if !sent {
        metrics.unsent.add();
    }
}

/// What is told in place of a reply of so many bytes.
fn too_large(size: usize, limit: usize, metrics: &Metrics) -> Fault {
    metrics.replies_too_large.add();
    let message = format!("a reply of {size} bytes; the limit leaves {limit} (limits.message)");
    Fault::new(code::REPLY_TOO_LARGE, message)
}

/// Tells whether a fault is the caller's, which some dialects answer by an end.
fn is_mistake(fault: &Fault) -> bool {
    matches!(
        fault.code,
        code::PARSE
            | code::INVALID_REQUEST
            | code::INVALID_PARAMS
            | code::UNKNOWN_FUNCTION
            | code::REQUEST_TOO_LARGE
            | code::DENIED
    )
}

/// The size of an answer that is larger than `limit`. The sentence of an error may go beyond it.
fn excess(answer: Answer<'_>, limit: usize) -> Option<usize> {
    let (result, sentence) = match answer {
        Ok(result) => (result.len(), 0),
        Err(Fault { data, message, .. }) => (data.as_ref().map_or(0, |data| data.get().len()), message.len()),
    };
    (result > limit || result + sentence > limit + SENTENCE).then_some(result + sentence)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.calls.log_given_up(&self.pass, self.clock);
        self.metrics().in_flight.sub(self.calls.close());
    }
}
