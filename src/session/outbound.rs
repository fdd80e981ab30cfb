//! The calls of this node to the peer: sent, and waiting for a reply.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::keepalive::Keepalive;
use crate::config::Limits;
use crate::message::{Fault, Id, Meta, Outcome, Request, code};
use crate::route::{CallId, Mailbox, PeerCall, PeerError, PeerName};

/// The settings of a connection that this node has established.
#[derive(Clone, Default)]
pub struct Dialled {
    /// The peer's address, for errors.
    pub address: String,
    /// The address to which that was resolved.
    pub resolved: PeerName,
    /// Presented before anything else is sent.
    pub token: Option<Arc<str>>,
    /// After this much silence the peer is pinged. Zero: never.
    pub keepalive: Duration,
    /// While it owes a reply, the peer is pinged after this much silence, and must react within a fifth of it. Zero: never.
    pub silence: Duration,
    /// The peer has answered a ping, on any connection, as nodes do at any time.
    pub answers_pings: Arc<AtomicBool>,
    /// What was handed to the transport may have been sent even if writing failed.
    pub is_encrypted: bool,
    /// The peer passes on the calls of others, which would wait for each other if this end stopped reading.
    #[cfg(feature = "nats")]
    pub is_broker: bool,
    /// The peer is a program on its stdin and stdout.
    pub program: Option<ProgramPeer>,
}

/// In what a program on its stdin and stdout differs from a node.
#[derive(Clone)]
pub struct ProgramPeer {
    /// Requests carry the deadline and the hop count of the call.
    pub has_meta: bool,
    /// Receives what is no valid message, such as a banner, or a reply without a call. Neither ends the connection.
    pub stray: StrayOutput,
}

/// Receives output that is no message.
pub type StrayOutput = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Calls to the peer without a reply.
#[derive(Debug)]
pub(super) struct Outbound {
    /// `None` if the peer has established the connection.
    pub(super) dialled: Option<Dialled>,
    pub(super) keepalive: Option<Keepalive>,
    /// The last ping.
    pub(super) ping: Option<CallId>,
    /// Exists while a peer to which this node has connected owes a reply.
    pub(super) watch: Option<Keepalive>,
    /// Called when the peer sends something, and when it says that it stops.
    pub(super) when_heard: Option<Notice>,
    pub(super) when_stopping: Option<Notice>,
    /// Called when the peer answers a ping without an error, as nodes do.
    pub(super) when_ponged: Option<Notice>,
    /// The peer has answered every call that it has taken.
    pub(super) is_finished: bool,
    /// The peer reads a fifth element of a request in MessagePack-RPC.
    pub(super) knows_meta: bool,
    /// The transport should ping the peer.
    pub(super) is_ping_due: bool,
    in_flight: FxHashMap<CallId, SentCall>,
    /// The size of all calls in flight.
    bytes: usize,
    /// The number of the last call sent.
    last_id: CallId,
    /// The request that presents the token.
    pub(super) auth: Option<CallId>,
    /// A notification was sent. Some servers answer it, with a null id.
    notified: bool,
    /// An error with a null id, most likely the reason for which the peer will close the connection.
    last_error: Option<Fault>,
    /// No deadline of a call is earlier.
    earliest_deadline: Option<Instant>,
    /// Nothing more is sent.
    pub(super) is_closed: bool,
}

/// Is called once.
pub(super) struct Notice(pub(super) Box<dyn FnOnce() + Send>);

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notice")
    }
}

struct SentCall {
    call: PeerCall,
    /// The position of its first byte in the output of the connection.
    position: u64,
    /// Its approximate size when sent.
    bytes: usize,
}

/// The call that a reply belongs to.
pub(super) enum Matched {
    /// The call, and the outcome of it.
    Call(Box<PeerCall>, Outcome),
    /// The answer to the token.
    Auth(Outcome),
    /// No call waits for it.
    None,
    /// It belongs to one of several calls, but it is unknown to which.
    Ambiguous,
}

impl Outbound {
    pub(super) fn new(dialled: Option<Dialled>, now: Instant) -> Self {
        let keepalive = dialled.as_ref().and_then(|dialled| Keepalive::new(dialled.keepalive, now));
        Self {
            knows_meta: dialled.is_some(),
            dialled,
            keepalive,
            ping: None,
            watch: None,
            when_heard: None,
            when_stopping: None,
            when_ponged: None,
            is_finished: false,
            is_ping_due: false,
            in_flight: FxHashMap::default(),
            bytes: 0,
            last_id: 0,
            auth: None,
            notified: false,
            last_error: None,
            earliest_deadline: None,
            is_closed: false,
        }
    }

    /// Returns the id under which a call is sent. A client may not tell the ids of both sides apart, so the accepting
    /// side uses ids that a client does not choose: texts, or large numbers where texts are impossible.
    pub(super) fn id(&self, call: CallId, has_text_ids: bool) -> Id<'static> {
        match (&self.dialled, has_text_ids) {
            (Some(_), _) => Id::from(call),
            (None, true) => Id::from_json(format!("\"n{call}\"")).unwrap_or_else(Id::null),
            (None, false) => Id::from(FIRST_NUMBER + call),
        }
    }

    /// Returns the call that has an id, if it is one of ours.
    fn parse(&self, id: &Id<'_>) -> Option<CallId> {
        let number = match (&self.dialled, id.as_json().strip_prefix("\"n")) {
            (Some(_), _) => id.number()?,
            (None, Some(number)) => number.strip_suffix('"')?.parse().ok()?,
            (None, None) => id.number()?.checked_sub(FIRST_NUMBER)?,
        };
        (number <= self.last_id).then_some(number)
    }

    /// Returns `true` if calls wait for their reply.
    pub(super) fn awaits_replies(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Returns in what the peer differs from a node, if it is a program.
    pub(super) fn program(&self) -> Option<&ProgramPeer> {
        self.dialled.as_ref().and_then(|dialled| dialled.program.as_ref())
    }

    /// Returns `true` if a call with this id waits for its reply.
    pub(super) fn is_in_flight(&self, id: &Id<'_>) -> bool {
        self.parse(id).is_some_and(|id| self.in_flight.contains_key(&id))
    }

    /// Notes that a call of a size is sent at a position of the output. Returns it if it needs no reply.
    pub(super) fn sent(&mut self, call: PeerCall, position: u64, bytes: usize) -> Option<PeerCall> {
        self.last_id = self.last_id.max(call.id);
        if call.is_notification {
            self.notified = true;
            return Some(call);
        }
        self.bytes += bytes;
        // A program has the call until it answers. Its callers do not wait that long.
        let deadline = call.deadline.filter(|_| self.program().is_none());
        self.earliest_deadline = [self.earliest_deadline, deadline].into_iter().flatten().min();
        self.in_flight.insert(call.id, SentCall { call, position, bytes });
        None
    }

    /// Notes that a notification was sent.
    pub(super) fn sent_notification(&mut self) {
        self.notified = true;
    }

    /// Notes that a request of the session's own was sent.
    pub(super) fn sent_own(&mut self, id: CallId) {
        self.last_id = self.last_id.max(id);
    }

    /// Notes a notification that cancels a call. Returns the call if it is in flight.
    pub(super) fn cancel(&mut self, id: CallId) -> Option<PeerCall> {
        let call = self.remove(id)?;
        self.notified = true;
        Some(call)
    }

    /// Removes the latest call of a function.
    #[cfg(feature = "nats")]
    pub(super) fn take_latest(&mut self, method: &str) -> Option<PeerCall> {
        let calls = self.in_flight.iter().filter(|(_, sent)| sent.call.method == method);
        let latest = calls.map(|(id, _)| *id).max()?;
        self.remove(latest)
    }

    fn remove(&mut self, id: CallId) -> Option<PeerCall> {
        let SentCall { call, bytes, .. } = self.in_flight.remove(&id)?;
        self.bytes -= bytes;
        Some(call)
    }

    /// Removes all calls in flight.
    pub(super) fn take_all(&mut self) -> Vec<PeerCall> {
        self.bytes = 0;
        std::mem::take(&mut self.in_flight).into_values().map(|sent| sent.call).collect()
    }

    /// Finds the call that a reply belongs to.
    pub(super) fn match_reply(&mut self, received: &Id<'_>, outcome: Outcome) -> Matched {
        let is_null = *received == Id::null();
        if let (true, Err(fault)) = (is_null, &outcome) {
            self.last_error = Some(fault.clone());
        }
        let id = match self.parse(received) {
            Some(id) if self.auth == Some(id) => return Matched::Auth(outcome),
            Some(id) if self.ping == Some(id) => {
                if let (Some(dialled), Ok(_)) = (&self.dialled, &outcome) {
                    dialled.answers_pings.store(true, Ordering::Relaxed);
                    if let Some(Notice(ponged)) = self.when_ponged.take() {
                        ponged();
                    }
                }
                return Matched::None;
            }
            // Not in flight if the call was cancelled.
            Some(id) => id,
            None if is_null && self.notified && !is_decode_error(&outcome) => return Matched::None,
            None if !is_null && self.program().is_some() => return Matched::None,
            None => {
                let mut calls = self.in_flight.keys();
                match (calls.next().copied(), calls.next()) {
                    (None, _) => return Matched::None,
                    // It can only belong to this call.
                    (Some(id), None) => id,
                    _ => return Matched::Ambiguous,
                }
            }
        };
        let is_its_own = self.parse(received) == Some(id);
        let Some(call) = self.remove(id) else { return Matched::None };
        let outcome = match outcome {
            // The result may belong to another client's call.
            Ok(_) if !is_its_own => {
                let address = self.dialled.as_ref().map_or("the peer", |dialled| &dialled.address);
                let received = if is_null { "a null id" } else { "an id that is not the call's" };
                Err(Fault::new(code::INTERNAL, format!("{address} replied with {received}")))
            }
            outcome => outcome,
        };
        Matched::Call(Box::new(call), outcome)
    }

    /// Returns a time before which no call's deadline passes and no ping is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let ping = self.keepalive.as_ref().map(Keepalive::next_check);
        let watch = self.watch.as_ref().map(Keepalive::next_check);
        [self.earliest_deadline, ping, watch].into_iter().flatten().min()
    }

    /// Returns the calls whose deadline has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<CallId> {
        if self.earliest_deadline.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let deadlines = |sent: &SentCall| sent.call.deadline;
        let (past, later): (Vec<_>, Vec<_>) = self
            .in_flight
            .iter()
            .filter_map(|(id, sent)| Some((*id, deadlines(sent)?)))
            .partition(|call| call.1 <= now);
        self.earliest_deadline = later.into_iter().map(|call| call.1).min();
        past.into_iter().map(|call| call.0).collect()
    }

    /// Returns `true` if the peer may have stopped reading until it answers a call, so that a ping gets no reply.
    pub(super) fn is_peer_full(&self, limits: &Limits) -> bool {
        self.in_flight.len() > limits.in_flight || self.bytes >= limits.message
    }

    /// Returns the reason for which the peer has most likely closed the connection.
    pub(super) fn close_reason(&self) -> Cow<'static, str> {
        match &self.last_error {
            Some(fault) => format!("closed by the other node: {}", fault.message).into(),
            None => "closed by the other node".into(),
        }
    }

    /// Fails all calls, since the connection is lost. Those at a position of the output from `sent` on were not sent.
    pub(super) fn fail_all(&mut self, mailbox: &Mailbox, reason: &str, sent: u64) {
        self.is_closed = true;
        let reason: Cow<'static, str> = reason.to_owned().into();
        let unsent = PeerError::Unsent(reason.clone());
        for (_, SentCall { call, position, .. }) in std::mem::take(&mut self.in_flight) {
            // Once the first byte is sent, the whole request may have been, and the call may have run.
            let is_lost = position < sent && !self.is_finished;
            let error = if is_lost { PeerError::Lost(reason.clone()) } else { unsent.clone() };
            mailbox.answer(call, Err(error));
        }
    }

    /// Releases unused memory.
    pub(super) fn shrink(&mut self) {
        self.in_flight.shrink_to_fit();
    }
}

/// The first number that is used as an id on a connection that the peer has established.
const FIRST_NUMBER: u64 = 1 << 31;

/// Returns the request of a call.
pub(super) fn request(call: &mut PeerCall, id: Option<Id<'static>>, now: Instant) -> Request<'static> {
    let deadline = call.deadline.map(|at| at.saturating_duration_since(now));
    let method = std::mem::take(&mut call.method);
    Request { id, method, params: call.params.take(), meta: Meta { deadline, hops: call.hops } }
}

/// Returns `true` if an outcome means that a request could not be read, so that its id is unknown.
fn is_decode_error(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|fault| matches!(fault.code, code::PARSE | code::INVALID_REQUEST))
}

impl fmt::Debug for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialled").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProgramPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramPeer").field("has_meta", &self.has_meta).finish_non_exhaustive()
    }
}

impl fmt::Debug for SentCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentCall").field("call", &self.call).field("position", &self.position).finish()
    }
}
