//! Calls to the peer: sending, replies, deadlines and the loss of the connection.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Instant;

use super::keepalive::{Keepalive, PeerIdle};
use super::outbound::{self, Dialled, Matched, Notice, Outbound};
use super::{Session, SessionError};
use crate::codec::{Codec, DecodeError, Decoded, Outgoing};
use crate::message::{Fault, Id, Message, Meta, Outcome, RawJson, Request, code};
use crate::route::{CallId, Grants, PING, PeerCall, PeerError, Post};

impl Session {
    /// Returns `true` if this node has established the connection.
    pub fn is_dialled(&self) -> bool {
        self.outbound.as_ref().is_some_and(|outbound| outbound.dialled.is_some())
    }

    /// Returns `true` if the peer passes on the calls of others.
    #[cfg(feature = "nats")]
    pub(super) fn is_broker(&self) -> bool {
        let dialled = self.outbound.as_ref().and_then(|outbound| outbound.dialled.as_ref());
        dialled.is_some_and(|dialled| dialled.is_broker)
    }

    /// Has `heard` called when the peer sends something for the first time.
    pub fn when_heard(&mut self, heard: impl FnOnce() + Send + 'static) {
        if let Some(outbound) = &mut self.outbound {
            outbound.when_heard = Some(Notice(Box::new(heard)));
        }
    }

    /// Has `stopping` called when the peer says that it stops, and so takes no further call.
    pub fn when_stopping(&mut self, stopping: impl FnOnce() + Send + 'static) {
        if let Some(outbound) = &mut self.outbound {
            outbound.when_stopping = Some(Notice(Box::new(stopping)));
        }
    }

    /// Has `ponged` called when the peer answers a ping without an error for the first time.
    pub fn when_ponged(&mut self, ponged: impl FnOnce() + Send + 'static) {
        if let Some(outbound) = &mut self.outbound {
            outbound.when_ponged = Some(Notice(Box::new(ponged)));
        }
    }

    /// Tells a peer that forwards calls that this node stops reading, so that it sends none without a result. Returns
    /// `true` if there is more to write.
    pub fn announce_stop(&mut self) -> bool {
        self.announce(CLOSING)
    }

    /// Tells such a peer, once, that what is not answered by now was not read. Returns `true` if there is more to write.
    pub fn announce_end(&mut self) -> bool {
        self.announce(CLOSED) && {
            self.is_peer_node = false;
            true
        }
    }

    fn announce(&mut self, method: &'static str) -> bool {
        if self.is_peer_node {
            let request = Request { id: None, method: method.into(), params: None, meta: Meta::default() };
            self.send(&Outgoing::Request(&request));
        }
        self.is_peer_node
    }

    /// Handles what a node says when it stops. Returns `false` if it is something else.
    pub(super) fn note_stop(&mut self, method: &str) -> bool {
        let Some(outbound) = &mut self.outbound else { return false };
        match method {
            CLOSING => {
                if let Some(Notice(stopping)) = outbound.when_stopping.take() {
                    stopping();
                }
                self.calls.mailbox().refuse_calls(&PeerError::Unsent("the other node is stopping".into()));
            }
            CLOSED => outbound.is_finished = true,
            #[cfg(feature = "nats")]
            method
                if method.starts_with(crate::codec::nats::REFUSED)
                    && outbound.dialled.as_ref().is_some_and(|dialled| dialled.is_broker) =>
            {
                return self.note_refused(method);
            }
            _ => return false,
        }
        true
    }

    /// Ends the latest call of a function, which the peer has refused to pass on. Returns `false` if there is none.
    #[cfg(feature = "nats")]
    fn note_refused(&mut self, notice: &str) -> bool {
        let name = notice.split_once(' ').map_or("", |(_, name)| name);
        let Some(call) = self.outbound.as_mut().and_then(|outbound| outbound.take_latest(name)) else {
            return false;
        };
        let message =
            format!("the NATS server does not let this node publish to {name:?} (permissions violation)");
        self.answer(call, Err(PeerError::Fault(Fault::new(code::DENIED, message))));
        true
    }

    /// Writes what selects the dialect at the other node, unless a message does.
    pub fn write_preface(&mut self, now: Instant) {
        let _ = self.poll_replies(&Context::from_waker(Waker::noop()), now);
        if self.output.position() == 0 {
            match self.codec.preface() {
                b"" => self.send_ping(),
                preface => self.output.message(|out| out.extend_from_slice(preface)),
            }
        }
    }

    /// Returns `true` if the connection is to be closed, since everything posted is written.
    pub fn is_closing(&self) -> bool {
        self.posts.is_closing && self.posts.queue.is_empty() && self.output.len() == 0
    }

    /// Waits for calls that are posted while there is no output space, since their deadlines may pass.
    pub(super) fn watch_posts(&mut self, cx: &Context<'_>) {
        if let Some(mailbox) = self.calls.existing_mailbox() {
            mailbox.watch_posts(cx, &mut self.posts);
        }
    }

    /// Sends calls that were posted while there is output space.
    pub(super) fn send_posts(&mut self, now: Instant) {
        while self.has_output_space() {
            let Some(post) = self.posts.queue.pop_front() else { break };
            match post {
                Post::Call(call) => self.send_call(*call, now),
                Post::Notification(body) => self.send_body(&body),
                Post::Cancel(id) => self.withdraw(id, PeerError::cancelled(), now),
                Post::Watch { knows_meta } => self.watch_peer(knows_meta, now),
            }
        }
    }

    fn send_call(&mut self, mut call: PeerCall, now: Instant) {
        let outbound = self.outbound.get_or_insert_with(|| Box::new(Outbound::new(None, now)));
        let (codec, limit) = (&self.codec, self.limits.message);
        if call.deadline.is_some_and(|deadline| deadline <= now) {
            return self.answer(call, Err(PeerError::Deadline));
        }
        if !call.is_notification && (self.ended || self.error.is_some() && outbound.dialled.is_none()) {
            let reason = self.unanswerable_reason();
            return self.answer(call, Err(PeerError::Unsent(reason)));
        }
        if !codec.sends_json() && !outbound.knows_meta {
            call.hops = 0;
        }
        let id = (!call.is_notification).then(|| outbound.id(call.id, codec.sends_json()));
        let bytes = call.bytes();
        let mut request = outbound::request(&mut call, id, now);
        if outbound.program().is_some_and(|program| !program.has_meta) {
            request.meta = Meta::default();
        }
        let position = self.output.position();
        let sent = self.output.message(|out| {
            let start = out.len();
            let result = if !codec.encode(out, &Outgoing::Request(&request)) {
                Err(inexpressible(codec.sends_results_only()))
            } else if out.len() - start > limit {
                Err(too_large(out.len() - start, limit, codec))
            } else if codec.finish(out, start) {
                Ok(())
            } else {
                Err(too_large(bytes, limit, codec))
            };
            if result.is_err() {
                out.truncate(start);
            }
            result
        });
        // A broker tells which function it has refused, not which call.
        #[cfg(feature = "nats")]
        {
            call.method = request.method;
        }
        match sent {
            Err(fault) => self.answer(call, Err(PeerError::Fault(fault))),
            Ok(()) => {
                if let Some(notification) = outbound.sent(call, position, bytes) {
                    self.answer(notification, Ok(RawJson::NULL));
                } else if outbound.watch.is_none()
                    && let Some(dialled) = &outbound.dialled
                {
                    outbound.watch = Keepalive::watch(dialled.silence, now);
                }
            }
        }
    }

    /// Sends a notification whose body is encoded.
    fn send_body(&mut self, body: &[u8]) {
        if let Some(outbound) = &mut self.outbound {
            outbound.sent_notification();
        }
        let codec = &self.codec;
        self.output.message(|out| {
            let start = out.len();
            out.extend_from_slice(body);
            codec.finish(out, start);
        });
    }

    /// Fails all calls until the connection ends, since the peer has rejected the token.
    fn token_rejected(&mut self, fault: &Fault) {
        let Some(outbound) = &mut self.outbound else { return };
        let address = outbound.dialled.as_ref().map_or("the peer", |dialled| &dialled.address);
        log::warn!("{address} rejected the token: {fault}");
        let error = PeerError::Fault(fault.clone());
        for call in outbound.take_all() {
            self.answer(call, Err(error.clone()));
        }
        self.calls.mailbox().close_outbox(&error);
    }

    /// Ends a call that is in flight, and tells the peer.
    fn withdraw(&mut self, id: CallId, error: PeerError, now: Instant) {
        let Some(outbound) = &mut self.outbound else { return };
        let Some(call) = outbound.cancel(id) else { return };
        let id = outbound.id(id, self.codec.sends_json());
        let is_late = call.deadline.is_some_and(|deadline| deadline <= now);
        let watched = outbound.watch.as_mut().filter(|_| is_late);
        let is_suspect = watched.is_some_and(|watch| watch.suspect(now));
        // A peer that offers functions may work on one call at a time, so that it answers no ping meanwhile.
        let offers = outbound.keepalive.as_mut().filter(|_| is_late && outbound.dialled.is_none());
        let is_asked = offers.is_some_and(Keepalive::ask);
        self.send(&Outgoing::Cancel(&id));
        self.answer(call, Err(error));
        if is_suspect || is_asked {
            self.ping();
        }
    }

    /// Checks from now on that the peer is alive, since others depend on it. (A peer to which this node has connected is
    /// checked always.)
    fn watch_peer(&mut self, knows_meta: bool, now: Instant) {
        let outbound = self.outbound.get_or_insert_with(|| Box::new(Outbound::new(None, now)));
        outbound.knows_meta |= knows_meta;
        if outbound.dialled.is_none() && outbound.keepalive.is_none() {
            outbound.keepalive = Keepalive::prompt(self.limits.offer_keepalive, now);
        }
    }

    /// Returns `true` if calls to the peer are in flight, or wait to be sent.
    pub fn awaits_peer(&self) -> bool {
        !self.posts.queue.is_empty()
            || self.outbound.as_ref().is_some_and(|outbound| outbound.awaits_replies())
            || self.calls.existing_mailbox().is_some_and(|mailbox| mailbox.has_posts())
    }

    /// Returns `true` if the peer is dead.
    pub fn has_vanished(&self) -> bool {
        self.error == Some(SessionError::Vanished)
    }

    /// Returns `true`, once, if the transport should ping the peer.
    pub fn take_ping(&mut self) -> bool {
        self.outbound.as_mut().is_some_and(|outbound| std::mem::take(&mut outbound.is_ping_due))
    }

    /// Fails the calls in flight and drops what the peer offers, since nothing that it sends is read any longer.
    pub(super) fn fail_unanswerable(&mut self) {
        let reason = self.unanswerable_reason();
        let outbound = self.outbound.as_mut().filter(|outbound| outbound.dialled.is_none());
        for call in outbound.map(|outbound| outbound.take_all()).into_iter().flatten() {
            self.answer(call, Err(PeerError::Lost(reason.clone())));
        }
        if let Some(mailbox) = self.calls.existing_mailbox() {
            mailbox.drop_offers();
        }
    }

    /// Returns why the peer cannot answer calls.
    fn unanswerable_reason(&self) -> Cow<'static, str> {
        self.error.map_or(FINISHED.into(), |error| error.to_string().into())
    }

    /// Writes a message that is small, and that the dialect can express or need not.
    fn send(&mut self, message: &Outgoing<'_>) {
        let codec = &self.codec;
        self.output.message(|out| {
            let start = out.len();
            codec.encode(out, message);
            codec.finish(out, start);
        });
    }

    fn answer(&mut self, call: PeerCall, result: Result<RawJson<'static>, PeerError>) {
        self.calls.mailbox().answer(call, result);
    }

    pub(super) fn handle_reply(&mut self, id: &Id<'_>, outcome: Outcome) {
        let Some(outbound) = &mut self.outbound else {
            // Replying to a reply could go on for ever.
            return self.metrics().refused.inc();
        };
        match outbound.match_reply(id, outcome) {
            Matched::Call(call, outcome) => self.answer(*call, outcome.map_err(PeerError::Fault)),
            Matched::Auth(outcome) => outcome.err().iter().for_each(|fault| self.token_rejected(fault)),
            Matched::None | Matched::Ambiguous if outbound.program().is_some() => {
                self.note_stray(id.as_json().as_bytes());
            }
            Matched::None => {}
            // One of several calls will never be answered.
            Matched::Ambiguous if outbound.dialled.is_some() => {
                self.error = Some(SessionError::UnmatchedReply);
            }
            Matched::Ambiguous => self.metrics().refused.inc(),
        }
    }

    /// Handles a frame that is not a valid message: from a peer that is called, it may be a reply that deviates from
    /// the specification. Returns `false` if it is none.
    pub(super) fn handle_deviating(&mut self, error: &DecodeError, frame: &[u8]) -> bool {
        let Some(outbound) = &self.outbound else { return false };
        let is_dialled = outbound.dialled.is_some();
        let replies = self.codec.decode_deviating_replies(frame);
        if !is_dialled && !replies.iter().any(|(id, _)| outbound.is_in_flight(id)) {
            return false;
        }
        if replies.is_empty() {
            self.note_stray(frame);
            self.metrics().refused.inc();
            // A request that is invalid gets an error; anything else is ignored.
            return error.id == Id::null();
        }
        for (id, outcome) in replies {
            self.handle_reply(&id, outcome);
        }
        true
    }

    /// Returns `true` if a line that separates no messages is skipped.
    pub(super) fn skips_lines(&self) -> bool {
        self.codec.sends_json() && self.outbound.as_ref().is_some_and(|outbound| outbound.program().is_some())
    }

    /// Notes output of a program that is no message, or a reply to no call.
    pub(super) fn note_stray(&self, output: &[u8]) {
        if let Some(program) = self.outbound.as_ref().and_then(|outbound| outbound.program()) {
            (program.stray)(output);
        }
    }

    /// Fails the call whose reply is longer than a message may be, of which `prefix` is known.
    pub(super) fn reject_oversized_reply(&mut self, prefix: &[u8]) {
        let message = format!("a reply of more than {} bytes (limits.message)", self.limits.message);
        let fault = Fault::new(code::REPLY_TOO_LARGE, message);
        let rejected = match self.codec.reject(prefix, fault) {
            Decoded::Single(rejected) => vec![rejected],
            Decoded::Batch(rejected) => rejected,
        };
        for part in rejected {
            let (id, outcome) = match part {
                Ok(Message::Reply(id, outcome)) => (id, outcome),
                Ok(_) => continue,
                Err(DecodeError { id, fault }) => (id, Err(fault)),
            };
            if id == Id::null() {
                self.error = Some(SessionError::ReplyTooLarge);
                return;
            }
            self.handle_reply(&id, outcome);
        }
    }

    /// Fails calls whose deadline has passed, and pings a silent peer.
    pub(super) fn expire_outbound(&mut self, now: Instant) {
        // Set again when the session is polled.
        if self.posts.next_deadline.take().is_some_and(|next| next <= now) {
            for call in self.calls.mailbox().take_expired(now) {
                self.answer(call, Err(PeerError::Deadline));
            }
        }
        let Some(outbound) = &mut self.outbound else { return };
        let idle = outbound.keepalive.as_mut().and_then(|keepalive| keepalive.check(now));
        let answers_pings = |dialled: &Dialled| dialled.answers_pings.load(Ordering::Relaxed);
        let is_watched = outbound.watch.is_some() && outbound.dialled.as_ref().is_some_and(answers_pings);
        let watched = outbound.watch.as_mut().and_then(|watch| watch.check(now));
        // Another server may answer nothing while it works.
        let idle = watched.filter(|watched| is_watched || matches!(watched, PeerIdle::PingDue)).or(idle);
        let owes_nothing = !outbound.awaits_replies();
        outbound.watch.take_if(|watch| owes_nothing && !watch.is_suspect());
        let (is_peer_full, is_dialled) = (outbound.is_peer_full(&self.limits), outbound.dialled.is_some());
        for id in outbound.expired(now) {
            self.withdraw(id, PeerError::Deadline, now);
        }
        match idle {
            None => {}
            Some(_) if !is_dialled && !self.calls.mailbox().is_watched() => {
                self.outbound.iter_mut().for_each(|outbound| outbound.keepalive = None);
            }
            Some(PeerIdle::PingDue) => self.ping(),
            // A peer that is watched answers pings whatever else it does.
            Some(PeerIdle::Dead) if is_dialled && is_peer_full && !is_watched => self.note_activity(),
            Some(PeerIdle::Dead) => {
                if !is_dialled {
                    self.metrics().vanished.inc();
                }
                self.error = Some(SessionError::Vanished);
            }
        }
    }

    /// Has the transport ping the peer, or sends a ping. Any input shows that the peer is alive, so that the reply needs
    /// no handling.
    fn ping(&mut self) {
        match &mut self.outbound {
            Some(outbound) if self.codec.is_framed() => outbound.is_ping_due = true,
            _ => self.send_ping(),
        }
    }

    /// Sends a ping as a request.
    pub fn send_ping(&mut self) {
        let ping = self.send_own(PING, None);
        self.outbound.iter_mut().for_each(|outbound| outbound.ping = ping);
    }

    /// Presents the token, if there is one.
    pub(super) fn present_token(&mut self) {
        let dialled = self.outbound.as_ref().and_then(|outbound| outbound.dialled.as_ref());
        if let Some(token) = dialled.and_then(|dialled| dialled.token.clone()) {
            let auth = self.send_own(Grants::AUTH, RawJson::of(&[&*token]).ok());
            self.outbound.iter_mut().for_each(|outbound| outbound.auth = auth);
        }
    }

    /// Sends a request of the session's own.
    fn send_own(&mut self, method: &'static str, params: Option<RawJson<'static>>) -> Option<CallId> {
        let number = self.calls.mailbox().next_id();
        let outbound = self.outbound.as_mut()?;
        outbound.sent_own(number);
        let sends_json = self.codec.sends_json();
        let id = Some(outbound.id(number, sends_json));
        // Like a call that is forwarded, so that a node says when it stops: several nodes are watched, and no call is lost.
        let is_watching = outbound.dialled.as_ref().is_some_and(|dialled| !dialled.silence.is_zero());
        let hops = u32::from(is_watching && sends_json && method == PING);
        let request = Request { id, method: method.into(), params, meta: Meta { hops, ..Meta::default() } };
        self.send(&Outgoing::Request(&request));
        Some(number)
    }

    /// Notes that the peer is alive.
    pub fn note_activity(&mut self) {
        let Some(outbound) = &mut self.outbound else { return };
        for keepalive in [&mut outbound.keepalive, &mut outbound.watch].into_iter().flatten() {
            keepalive.record_activity();
        }
        if let Some(Notice(heard)) = outbound.when_heard.take() {
            heard();
        }
    }

    /// Returns the reason for which the peer has most likely closed the connection.
    pub fn close_reason(&self) -> Cow<'static, str> {
        match &self.outbound {
            Some(_) if self.is_closing() => "the client was closed".into(),
            Some(outbound) => outbound.close_reason(),
            None => "closed by the peer".into(),
        }
    }

    /// Fails all calls to the peer, since the connection is lost for this reason. None of them has run if the peer has
    /// processed nothing.
    pub fn disconnected(&mut self, reason: &str, unprocessed: bool) {
        let Some(mailbox) = self.calls.existing_mailbox() else { return };
        let unsent = PeerError::Unsent(reason.to_owned().into());
        for post in std::mem::take(&mut self.posts.queue) {
            if let Post::Call(call) = post {
                mailbox.answer(*call, Err(unsent.clone()));
            }
        }
        if let Some(outbound) = self.outbound.as_mut().filter(|outbound| !outbound.is_closed) {
            let sent = if unprocessed { 0 } else { self.output.written() };
            outbound.fail_all(mailbox, reason, sent);
        }
        mailbox.close_outbox(&unsent);
        mailbox.drop_offers();
    }

    /// Notes that the transport failed to write. If it encrypts, it may have sent some of the output regardless.
    pub fn write_failed(&mut self) {
        let dialled = self.outbound.as_ref().and_then(|outbound| outbound.dialled.as_ref());
        if dialled.is_some_and(|dialled| dialled.is_encrypted) {
            self.output.consume(self.output.len());
        }
    }
}

/// Why a peer cannot answer.
const FINISHED: &str = "the peer has finished sending";

/// What a stopping node sends to nodes that forward calls to it: it takes no more; it has answered all that it took.
const CLOSING: &str = "rpc.closing";
const CLOSED: &str = "rpc.closed";

fn too_large(size: usize, limit: usize, codec: &Codec) -> Fault {
    let name = codec.limit_name();
    let message = format!("a request of {size} bytes exceeds the limit of {limit} bytes ({name})");
    Fault::new(code::REQUEST_TOO_LARGE, message)
}

/// Returns the error for a call that the peer's dialect cannot express.
fn inexpressible(has_results_only: bool) -> Fault {
    let message = if has_results_only {
        "the peer's dialect has no replies that can be matched to calls: use go"
    } else {
        "the parameters contain a number or a text that the peer's dialect cannot express"
    };
    Fault::invalid_params(message)
}
