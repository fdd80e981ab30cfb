//! One connection as a state machine: bytes, answers and the time go in; calls and bytes come out.
//!
//! It does no I/O and asks no clock. Whoever drives it
//!
//! 1. appends what was read to [`Session::input`] and calls [`Session::received`],
//!    or [`Session::ended`] when the peer sends no more;
//! 2. calls [`Session::poll_answers`], which hands on what providers have answered;
//! 3. writes [`Session::output`] and says with [`Session::sent`] how much went out;
//! 4. calls [`Session::expire`] when [`Session::next_deadline`] has come;
//!
//! and reads on only while [`Session::wants_input`].

mod output;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde_json::value::RawValue;

use crate::codec::jsonrpc::{self, Bounds, Refused, Text};
use crate::codec::{Lines, Next};
use crate::config::Limits;
use crate::message::{Fault, Id, Message, Outcome, Request, code};
use crate::metrics::Metrics;
use crate::route::{Call, Inbox, Registry, Reply, Token};
use output::Output;

/// What stands around a result in a reply, its id aside: `{"jsonrpc":"2.0","result":`, `,"id":` and `}`.
const ENVELOPE: usize = 33;
/// What an error may say beside its data.
const SENTENCE: usize = 128;
/// Requests beyond those in flight are taken in up to so many bytes: what they cancel is cancelled at once, and
/// a peer that breaks off is noticed while its calls run.
const READ_AHEAD: usize = 16 * 1024;

/// How messages are told apart in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One a line.
    Lines,
    /// The transport has frames of its own: each [`Session::received`] is one message, and so is each
    /// [`Session::output`].
    Messages,
}

/// One connection's state. See the [module](self).
#[derive(Debug)]
pub struct Session {
    registry: Arc<Registry>,
    limits: Arc<Limits>,
    input: Vec<u8>,
    framing: Frames,
    output: Output,
    inbox: Arc<Inbox>,
    next_token: Token,
    calls: FxHashMap<Token, InFlight>,
    /// No deadline in `calls` is earlier.
    earliest: Option<Instant>,
    /// Requests that wait for a place in flight.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    batches: FxHashMap<Token, Batch>,
    /// Answers that came while output had no room for them.
    answers: VecDeque<(Token, Outcome)>,
    /// No more input comes.
    ended: bool,
}

#[derive(Debug)]
enum Frames {
    Lines(Lines),
    Messages,
}

#[derive(Debug)]
struct InFlight {
    /// `None` in a notification.
    id: Option<Id>,
    batch: Option<Token>,
    deadline: Instant,
}

/// A request, kept until there is a place in flight for it.
#[derive(Debug)]
struct Waiting {
    batch: Option<Token>,
    id: Option<Id>,
    method: String,
    params: Option<Box<RawValue>>,
    deadline: Instant,
    hops: u32,
}

impl Waiting {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.method.len() + self.params.as_ref().map_or(0, |params| params.get().len())
    }
}

/// The replies to a batch, gathered until none is missing.
#[derive(Debug)]
struct Batch {
    missing: usize,
    replies: Vec<u8>,
}

impl Session {
    /// Creates the session of a new connection.
    pub fn new(registry: Arc<Registry>, limits: Arc<Limits>, framing: Framing) -> Self {
        let framing = match framing {
            Framing::Lines => Frames::Lines(Lines::new(limits.message)),
            Framing::Messages => Frames::Messages,
        };
        Self {
            registry,
            limits,
            input: Vec::new(),
            output: Output::new(matches!(framing, Frames::Lines(_))),
            framing,
            inbox: Arc::default(),
            next_token: 0,
            calls: FxHashMap::default(),
            earliest: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            batches: FxHashMap::default(),
            answers: VecDeque::new(),
            ended: false,
        }
    }

    /// Where the driver appends what it has read.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Tells whether there is room for more input.
    pub fn wants_input(&self) -> bool {
        let gathered: usize = self.batches.values().map(|batch| batch.replies.len()).sum();
        self.waiting_bytes < READ_AHEAD && self.output.len() + gathered < self.limits.output
    }

    /// Takes in what the input holds, as far as there is room for calls; the rest is taken in when there is.
    pub fn received(&mut self, now: Instant) {
        match self.framing {
            Frames::Messages => {
                let text = std::mem::take(&mut self.input);
                self.text(&text, now);
            }
            Frames::Lines(_) => self.go_on(now),
        }
    }

    /// Says that no more input comes. A last line without its end is taken as whole.
    pub fn ended(&mut self, now: Instant) {
        self.ended = true;
        self.go_on(now);
    }

    /// Turns the answers that are there into output, as far as it has room, and begins what has waited for room.
    /// `Ready` if there were any. Otherwise the task is woken when one comes, unless output must go first.
    pub fn poll_answers(&mut self, cx: &Context<'_>, now: Instant) -> Poll<()> {
        let mut moved = Poll::Pending;
        loop {
            self.go_on(now);
            let Some((token, outcome)) = self.next_answer(cx) else { return moved };
            self.answer(token, &outcome);
            moved = Poll::Ready(());
        }
    }

    fn next_answer(&mut self, cx: &Context<'_>) -> Option<(Token, Outcome)> {
        while self.has_room() {
            let next = self.answers.pop_front();
            if next.is_some() || self.inbox.poll_answers(cx, &mut self.answers).is_pending() {
                return next;
            }
        }
        None
    }

    /// The next bytes to write: all that there are, or with [`Framing::Messages`] one message.
    pub fn output(&self) -> &[u8] {
        self.output.front()
    }

    /// Says that so many bytes of [`output`](Self::output) were written.
    pub fn sent(&mut self, bytes: usize) {
        self.output.sent(bytes);
    }

    /// When [`expire`](Self::expire) should be called, unless this changes before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Answers the calls whose deadline has passed. If there are none, since all were answered long ago, the session
    /// gives back what memory they took.
    pub fn expire(&mut self, now: Instant) {
        let late: Vec<Token> =
            self.calls.iter().filter(|(_, call)| call.deadline <= now).map(|(token, _)| *token).collect();
        for token in late {
            self.give_up(token, Fault::new(code::DEADLINE, "the call's deadline passed"));
        }
        while let Some(at) = self.waiting.iter().position(|waiting| waiting.deadline <= now) {
            let late = "the call's deadline passed before its turn came";
            self.give_up_waiting(at, &Err(Fault::new(code::DEADLINE, late)));
        }
        let begun = self.calls.values().map(|call| call.deadline);
        self.earliest = begun.chain(self.waiting.iter().map(|waiting| waiting.deadline)).min();
        self.go_on(now);
        if self.is_idle() {
            self.rest();
        }
    }

    /// Gives back the memory of what is not there any more. Not done after each call, since the next one takes it again.
    fn rest(&mut self) {
        self.input.shrink_to_fit();
        self.calls.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.batches.shrink_to_fit();
        self.answers.shrink_to_fit();
        self.output.rest();
        self.inbox.rest();
    }

    /// Answers everything that is not answered yet with `fault`.
    pub fn give_up_all(&mut self, fault: &Fault) {
        while !self.waiting.is_empty() {
            self.give_up_waiting(0, &Err(fault.clone()));
        }
        let tokens: Vec<Token> = self.calls.keys().copied().collect();
        for token in tokens {
            self.give_up(token, fault.clone());
        }
    }

    /// Tells whether every request is answered and every answer written. Notifications may still run.
    pub fn is_answered(&self) -> bool {
        let asked = self.calls.values().any(|call| call.id.is_some());
        !asked && self.waiting.is_empty() && self.input.is_empty() && self.output.len() == 0
    }

    /// Tells whether every request and notification is done and every answer written.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.waiting.is_empty() && self.output.len() == 0
    }

    fn has_room(&self) -> bool {
        self.output.len() < self.limits.output
    }

    /// Begins what has waited for room.
    fn go_on(&mut self, now: Instant) {
        self.begin_waiting();
        if matches!(self.framing, Frames::Lines(_)) {
            self.lines(now);
        }
    }

    fn lines(&mut self, now: Instant) {
        let mut input = std::mem::take(&mut self.input);
        let mut at = 0;
        while self.wants_input() && at < input.len() {
            let Frames::Lines(lines) = &mut self.framing else { break };
            let (line, cut) = match lines.next(&input[at..]) {
                Next::Line(line, cut) => (line, cut),
                Next::TooLong(cut) => {
                    self.too_long(&input[at..at + cut]);
                    at += cut;
                    continue;
                }
                Next::Incomplete(0) if self.ended => {
                    (lines.last(&input[at..]).unwrap_or(0..0), input.len() - at)
                }
                Next::Incomplete(0) => break,
                Next::Incomplete(cut) => (0..0, cut),
            };
            if !line.is_empty() {
                self.text(&input[at + line.start..at + line.end], now);
            }
            at += cut;
        }
        input.drain(..at);
        self.input = output::kept(input);
    }

    /// Answers a message that the transport or the framing found to be over the limit; `beginning` is what is
    /// known of it.
    pub fn too_long(&mut self, beginning: &[u8]) {
        self.registry.metrics().too_large.add();
        let id = jsonrpc::id_at_front(beginning).unwrap_or_else(Id::null);
        let message = format!("a message of more than {} bytes (limits.message)", self.limits.message);
        self.reply(&id, &Err(Fault::new(code::REQUEST_TOO_LARGE, message)));
    }

    fn text(&mut self, text: &[u8], now: Instant) {
        let bounds = Bounds { depth: self.limits.depth, batch: self.limits.batch };
        match jsonrpc::decode(text, bounds) {
            Text::Single(message) => self.single(message, now),
            Text::Batch(messages) => self.batch(messages, now),
        }
    }

    fn single(&mut self, message: Result<Message<'_>, Refused>, now: Instant) {
        match message {
            Ok(Message::Request(request)) => self.take(request, None, now),
            Ok(Message::Cancel(id)) => self.cancel(&id),
            // We asked nothing, so this answers nothing; to complain of it could go on for ever.
            Ok(Message::Reply(..)) => self.registry.metrics().refused.add(),
            Err(refused) => {
                self.registry.metrics().refused.add();
                self.reply(&refused.id, &Err(refused.fault));
            }
        }
    }

    fn batch(&mut self, messages: Vec<Result<Message<'_>, Refused>>, now: Instant) {
        let batch = self.token();
        // The batch itself counts as missing, until all its messages are looked at.
        self.batches.insert(batch, Batch { missing: 1, replies: Vec::new() });
        for message in messages {
            match message {
                Ok(Message::Request(request)) => {
                    if request.id.is_some() {
                        self.batches.entry(batch).and_modify(|batch| batch.missing += 1);
                    }
                    self.take(request, Some(batch), now);
                }
                Ok(Message::Cancel(id)) => self.cancel(&id),
                Ok(Message::Reply(..)) => self.registry.metrics().refused.add(),
                Err(refused) => {
                    self.batches.entry(batch).and_modify(|batch| batch.missing += 1);
                    self.registry.metrics().refused.add();
                    self.batch_reply(batch, &refused.id, &Err(refused.fault));
                }
            }
        }
        self.batch_part(batch);
    }

    /// Begins a request, or keeps it until there is a place for it and all before it have begun.
    fn take(&mut self, request: Request<'_>, batch: Option<Token>, now: Instant) {
        let Request { id, method, params, meta } = request;
        let given = meta.deadline.unwrap_or(self.limits.deadline);
        // A notification may outlive its connection, and then it is only this that ends it.
        let longest = if id.is_some() { MAX_DEADLINE } else { self.limits.deadline };
        let deadline = now + given.min(longest);
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        self.registry.metrics().calls.add();
        if self.waiting.is_empty() && self.calls.len() < self.limits.in_flight {
            return self.begin(id, batch, &method, params, deadline, meta.hops);
        }
        let (method, params) = (method.into_owned(), params.map(ToOwned::to_owned));
        let waiting = Waiting { batch, id, method, params, deadline, hops: meta.hops };
        self.waiting_bytes += waiting.bytes();
        self.waiting.push_back(waiting);
    }

    fn begin_waiting(&mut self) {
        while self.calls.len() < self.limits.in_flight {
            let Some(next) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= next.bytes();
            let Waiting { batch, id, method, params, deadline, hops } = next;
            self.begin(id, batch, &method, params.as_deref(), deadline, hops);
        }
    }

    fn begin(
        &mut self,
        id: Option<Id>,
        batch: Option<Token>,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) {
        let token = self.token();
        self.registry.metrics().in_flight.add();
        let reply = Reply::new(&self.inbox, token, id.is_none());
        self.calls.insert(token, InFlight { id, batch, deadline });
        self.registry.call(Call { method, params, deadline, hops, reply });
    }

    fn cancel(&mut self, id: &Id) {
        let fault = || Fault::new(code::CANCELLED, "cancelled by the caller");
        let begun = self.calls.iter().find(|(_, call)| call.id.as_ref() == Some(id)).map(|(token, _)| *token);
        if let Some(token) = begun {
            self.give_up(token, fault());
        } else if let Some(at) = self.waiting.iter().position(|waiting| waiting.id.as_ref() == Some(id)) {
            self.give_up_waiting(at, &Err(fault()));
        }
    }

    /// Ends a request that has not begun.
    fn give_up_waiting(&mut self, at: usize, outcome: &Outcome) {
        let Some(waiting) = self.waiting.remove(at) else { return };
        self.waiting_bytes -= waiting.bytes();
        self.count(outcome);
        if let Some(id) = waiting.id {
            self.tell(waiting.batch, &id, outcome);
        }
    }

    /// Ends a call that its provider has not answered, or whose answer has not had room.
    fn give_up(&mut self, token: Token, fault: Fault) {
        match self.answers.iter().position(|(answered, _)| *answered == token) {
            Some(at) => drop(self.answers.remove(at)),
            None => self.inbox.cancel(token),
        }
        self.answer(token, &Err(fault));
    }

    fn answer(&mut self, token: Token, outcome: &Outcome) {
        // It is not there if it was given up meanwhile.
        let Some(InFlight { id, batch, .. }) = self.calls.remove(&token) else { return };
        self.registry.metrics().in_flight.sub(1);
        self.count(outcome);
        if let Some(id) = id {
            self.tell(batch, &id, outcome);
        }
    }

    /// Counts a call that ends late or cancelled, whoever found it to be so.
    fn count(&self, outcome: &Outcome) {
        match outcome.as_ref().map_err(|fault| fault.code) {
            Err(code::DEADLINE) => self.registry.metrics().deadlines.add(),
            Err(code::CANCELLED) => self.registry.metrics().cancelled.add(),
            _ => {}
        }
    }

    fn tell(&mut self, batch: Option<Token>, id: &Id, outcome: &Outcome) {
        match batch {
            None => self.reply(id, outcome),
            Some(batch) => self.batch_reply(batch, id, outcome),
        }
    }

    fn reply(&mut self, id: &Id, outcome: &Outcome) {
        let (limit, metrics) = (self.limits.message, self.registry.metrics());
        self.output.message(|out| encode(out, limit, metrics, id, outcome));
    }

    fn batch_reply(&mut self, token: Token, id: &Id, outcome: &Outcome) {
        if let Some(Batch { replies, .. }) = self.batches.get_mut(&token) {
            replies.push(if replies.is_empty() { b'[' } else { b',' });
            let left = self.limits.message.saturating_sub(replies.len());
            encode(replies, left, self.registry.metrics(), id, outcome);
        }
        self.batch_part(token);
    }

    /// One part of a batch is dealt with; after the last the replies go out, if there are any.
    fn batch_part(&mut self, token: Token) {
        let Some(batch) = self.batches.get_mut(&token) else { return };
        batch.missing -= 1;
        if batch.missing > 0 {
            return;
        }
        if let Some(Batch { mut replies, .. }) = self.batches.remove(&token)
            && !replies.is_empty()
        {
            replies.push(b']');
            self.output.message(|out| out.extend_from_slice(&replies));
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }
}

/// Appends a reply, or that it would take more than `limit` bytes.
fn encode(out: &mut Vec<u8>, limit: usize, metrics: &Metrics, id: &Id, outcome: &Outcome) {
    let start = out.len();
    jsonrpc::encode_reply(out, id, outcome);
    let size = out.len() - start - ENVELOPE - id.as_json().len();
    let data =
        outcome.as_ref().err().and_then(|fault| fault.data.as_ref()).map_or(0, |data| data.get().len());
    let most = limit + if outcome.is_ok() { 0 } else { SENTENCE };
    if size > most || data > limit {
        metrics.replies_too_large.add();
        out.truncate(start);
        let message = format!("a reply of {size} bytes; the limit leaves {limit} (limits.message)");
        jsonrpc::encode_reply(out, id, &Err(Fault::new(code::REPLY_TOO_LARGE, message)));
    }
}

/// Longer deadlines make no difference, and so large ones no overflow.
const MAX_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

impl Drop for Session {
    fn drop(&mut self) {
        self.inbox.close();
        self.registry.metrics().in_flight.sub(self.calls.len() as u64);
    }
}
