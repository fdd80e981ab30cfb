//! One connection as a state machine. Bytes, replies and the current time go in; calls and bytes come out.
//!
//! The session does no I/O and reads no clock. Its driver
//!
//! 1. appends the bytes it reads to [`Session::input`], then calls [`Session::received`],
//!    or [`Session::end`] once the peer has finished sending;
//! 2. calls [`Session::poll_replies`], which collects the replies of providers;
//! 3. writes [`Session::output`], then reports the number of bytes written with [`Session::consume_output`];
//! 4. calls [`Session::expire`] at [`Session::next_deadline`];
//!
//! and reads only while [`Session::wants_input`] returns `true`.
//!
//! Three methods report how much work is left. Each returns `true` if all of the following holds:
//!
//! | | input consumed | requests answered | notifications finished | output written |
//! | --- | --- | --- | --- | --- |
//! | [`has_replied`](Session::has_replied) | yes | yes | | |
//! | [`is_flushed`](Session::is_flushed) | yes | yes | | yes |
//! | [`is_idle`](Session::is_idle) | | yes | yes | yes |

mod batches;
mod calls;
mod dispatch;
mod error;
mod events;
mod input;
mod invalid;
mod keepalive;
mod outbound;
mod outgoing;
mod output;
mod peer_deadlines;
mod reply;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::codec::jsonrpc::DecodeLimits;
use crate::codec::{Codec, Dialect};
use crate::config::Limits;
#[cfg(feature = "grpc")]
use crate::message::Request;
use crate::message::{Fault, code};
use crate::metrics::Metrics;
#[cfg(feature = "grpc")]
use crate::route::Mailbox;
use crate::route::{Caller, FunctionCache, Grants, Peer, Posts, Registry};
use batches::Batches;
use calls::Calls;
pub use error::SessionError;
use invalid::InvalidMessages;
use outbound::Outbound;
pub use outbound::{Dialled, ProgramPeer, StrayOutput};
use output::Output;
use peer_deadlines::{Expired, PeerDeadlines};

/// The size of a reply without its result, in bytes.
const REPLY_ENVELOPE: usize = 64 * 1024;
/// Time that a session spends on calls before it yields to other connections.
const TIME_BUDGET: Duration = Duration::from_millis(5);

/// The state of one connection. See the [module](self).
#[derive(Debug)]
pub struct Session {
    registry: Arc<Registry>,
    functions: FunctionCache,
    limits: Arc<Limits>,
    grants: Grants,
    codec: Codec,
    input: Vec<u8>,
    /// Bytes at the front of `input` that are processed. They are removed before the next read, not after each message.
    consumed: usize,
    /// `input` may hold complete messages, left for lack of output space or time.
    has_buffered_messages: bool,
    output: Output,
    calls: Calls,
    /// Calls to the peer that are not sent for lack of output space.
    posts: Posts,
    /// The calls that were sent to the peer. `None` if there were none yet, and the peer has established the connection.
    outbound: Option<Box<Outbound>>,
    batches: Batches,
    /// Scratch buffer for a result that cannot be written to `output` directly.
    result: Vec<u8>,
    /// The end of the time already attributed, to a function or to none.
    clock: Instant,
    /// No further call is dispatched after this time until other connections have run.
    budget_end: Instant,
    /// Messages handled so far.
    messages: u64,
    /// Work is left that could be done at once, so that other connections run first.
    yielded: bool,
    /// The peer has finished sending.
    ended: bool,
    /// The peer is a node, which forwards calls.
    is_peer_node: bool,
    peer_deadlines: PeerDeadlines,
    invalid: InvalidMessages,
    /// Set if further input is ignored.
    error: Option<SessionError>,
}

impl Session {
    /// Creates the session of a new connection.
    pub fn new(
        registry: Arc<Registry>,
        limits: Arc<Limits>,
        dialect: Dialect,
        grants: Grants,
        now: Instant,
    ) -> Self {
        let decode_limits = DecodeLimits { depth: limits.depth, batch: limits.batch };
        let codec = Codec::new(dialect, limits.message, decode_limits);
        Self::with_codec(registry, limits, codec, grants, now)
    }

    /// Creates the session of a connection that this node has established, to call the peer. The peer may call the
    /// functions of `registry`.
    pub fn dialled(
        registry: Arc<Registry>,
        limits: Arc<Limits>,
        dialect: Dialect,
        dialled: Dialled,
        now: Instant,
    ) -> Self {
        let decode_limits = DecodeLimits { depth: limits.depth, batch: limits.batch };
        // The other node limits the result.
        let codec = Codec::new(dialect, limits.message + REPLY_ENVELOPE, decode_limits);
        let mut session = Self::dialled_with_codec(registry, limits, codec, dialled, now);
        session.grants.set_dialect(dialect.name());
        session
    }

    /// As [`dialled`](Self::dialled), and speaks whatever `codec` does.
    pub fn dialled_with_codec(
        registry: Arc<Registry>,
        limits: Arc<Limits>,
        codec: Codec,
        dialled: Dialled,
        now: Instant,
    ) -> Self {
        let grants = Grants::all().for_connection(dialled.resolved.0);
        let mut session = Self::with_codec(registry, limits, codec, grants, now).reachable();
        session.outbound = Some(Box::new(Outbound::new(Some(dialled), now)));
        session.present_token();
        session
    }

    /// As [`dialled_with_codec`](Self::dialled_with_codec), with a peer that passes on the calls of others: functions cannot
    /// reach those who call.
    #[cfg(feature = "nats")]
    pub(crate) fn brokered(
        registry: Arc<Registry>,
        limits: Arc<Limits>,
        codec: Codec,
        dialled: Dialled,
        now: Instant,
    ) -> Self {
        let grants = Grants::all().for_connection(dialled.resolved.0);
        let mut session = Self::with_codec(registry, limits, codec, grants, now);
        session.outbound = Some(Box::new(Outbound::new(Some(dialled), now)));
        session
    }

    /// Creates a session that speaks whatever `codec` does.
    pub fn with_codec(
        registry: Arc<Registry>,
        limits: Arc<Limits>,
        codec: Codec,
        grants: Grants,
        now: Instant,
    ) -> Self {
        let mut peer_deadlines = PeerDeadlines::default();
        if grants.allows_nothing() {
            peer_deadlines.expect_token(now, limits.auth_timeout);
        }
        Self {
            registry,
            functions: FunctionCache::default(),
            limits,
            grants,
            input: Vec::new(),
            consumed: 0,
            has_buffered_messages: false,
            output: Output::new(codec.is_framed()),
            codec,
            calls: Calls::default(),
            posts: Posts::default(),
            outbound: None,
            batches: Batches::default(),
            result: Vec::new(),
            clock: now,
            budget_end: now,
            messages: 0,
            yielded: false,
            ended: false,
            is_peer_node: false,
            peer_deadlines,
            invalid: InvalidMessages::default(),
            error: None,
        }
    }

    /// Returns a handle by which anybody can call the peer.
    pub fn peer(&mut self) -> Peer {
        let encoder = self.codec.notification_encoder(self.limits.message);
        let mailbox = self.calls.mailbox();
        mailbox.accept_calls(self.limits.output, Some(encoder));
        Peer::new(mailbox)
    }

    /// Returns who calls.
    pub(crate) fn caller(&self) -> &Caller {
        self.grants.caller()
    }

    /// Lets what the peer calls reach the peer, through its [`Caller`](crate::route::Caller).
    #[must_use]
    pub fn reachable(mut self) -> Self {
        let peer = self.peer();
        self.grants.set_peer(peer);
        self
    }

    /// Returns the buffer to which the driver appends the bytes it reads.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Returns `true` if the driver should read: the session has space for more requests, and every complete message in
    /// the input is processed. The input thus holds at most one message and one read, whatever the peer sends.
    pub fn wants_input(&self) -> bool {
        !self.is_read_closed()
            && !self.posts.is_closing
            && !self.yielded
            && !self.has_buffered_messages
            && self.can_read_ahead()
    }

    /// Processes the input as far as the session has space for calls. The remainder is processed when space is
    /// available.
    pub fn received(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.budget_end = self.clock.max(now) + TIME_BUDGET;
        if self.outbound.is_some() {
            self.note_activity();
            // A TLS alert or handshake record.
            if self.messages == 0 && self.is_dialled() && matches!(self.input[..], [0x15 | 0x16, 3, ..]) {
                self.error = Some(SessionError::PeerSpeaksTls);
            }
        }
        if self.codec.is_framed() {
            if self.codec.is_undetected() && self.input.is_empty() {
                return;
            }
            let mut frame = std::mem::take(&mut self.input);
            self.handle_frame(&frame, now);
            frame.clear();
            self.input = output::reuse_or_drop(frame);
        } else {
            self.process(now);
        }
    }

    /// Handles a request that did not arrive as bytes.
    #[cfg(feature = "grpc")]
    pub(crate) fn request(&mut self, request: Request<'_>, now: Instant) {
        self.clock = self.clock.max(now);
        self.budget_end = self.clock + TIME_BUDGET;
        self.messages += 1;
        self.handle_request(request, None, now);
    }

    /// Returns the mailbox if there is one. The responders of calls hold it until they answer.
    #[cfg(feature = "grpc")]
    pub(crate) fn mailbox(&self) -> Option<Arc<Mailbox>> {
        self.calls.existing_mailbox().cloned()
    }

    /// Returns `true` if work is left that could be done at once, so that other connections run first.
    pub fn has_yielded(&self) -> bool {
        self.yielded
    }

    /// Returns `true` if the work begun at `start` has exceeded the time budget, so that other connections should run.
    pub fn is_budget_spent(&self, start: Instant) -> bool {
        self.clock > start + TIME_BUDGET
    }

    /// Returns the number of messages handled so far. A batch counts as one.
    pub fn message_count(&self) -> u64 {
        self.messages
    }

    /// Notes that the peer has finished sending. Handles a last message that lacks its terminator.
    pub fn end(&mut self, now: Instant) {
        self.ended = true;
        self.process(now);
        self.fail_unanswerable();
    }

    /// Returns `true` if no further input arrives, or would be processed.
    pub fn is_read_closed(&self) -> bool {
        self.ended || self.has_failed()
    }

    /// Returns `true` if the session ignores further input because of an [`error`](Self::error).
    pub fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Returns the error after which the session ignores further input.
    pub fn error(&self) -> Option<SessionError> {
        self.error
    }

    /// Writes available replies to the output buffer until it is full, then dispatches requests that were waiting for
    /// space.
    ///
    /// Returns `Ready` if it wrote a reply or the session has yielded. Otherwise the task is woken when a reply
    /// arrives, unless output has to be written first.
    pub fn poll_replies(&mut self, cx: &Context<'_>, now: Instant) -> Poll<()> {
        let mut progress = Poll::Pending;
        self.clock = self.clock.max(now);
        if self.has_failed() {
            self.fail_unanswerable();
        }
        loop {
            self.process(now);
            if self.yielded {
                return Poll::Ready(());
            }
            self.send_posts(now);
            if !self.has_output_space() {
                self.watch_posts(cx);
                return progress;
            }
            self.posts.room = self.room_for_events();
            let Poll::Ready(reply) = self.calls.poll_reply(cx, &mut self.posts) else { return progress };
            self.send_events();
            if let Some((call, outcome)) = reply {
                self.complete(call, &outcome);
            }
            progress = Poll::Ready(());
        }
    }

    /// Returns the next bytes to write: the whole output, or one frame if the transport has frames.
    pub fn output(&self) -> &[u8] {
        self.output.front()
    }

    /// Removes and returns the whole output. Needs no [`consume_output`](Self::consume_output).
    pub fn take_output(&mut self) -> Vec<u8> {
        self.output.take()
    }

    /// Returns `true` if the transport has frames, each of which holds one message.
    pub fn is_framed(&self) -> bool {
        self.codec.is_framed()
    }

    /// Removes the first `bytes` bytes of [`output`](Self::output), which the driver has written.
    pub fn consume_output(&mut self, bytes: usize) {
        self.output.consume(bytes);
    }

    /// Returns the time at which the driver should call [`expire`](Self::expire), unless it changes before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let outbound = self.outbound.as_ref().and_then(|outbound| outbound.next_deadline());
        let deadlines = [
            self.calls.earliest_deadline(),
            self.peer_deadlines.next_check(),
            self.posts.next_deadline,
            outbound,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Answers the calls whose deadline has passed, and closes the session if the peer is late. Releases unused memory
    /// if the session is idle.
    pub fn expire(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        for call in self.calls.expired(now) {
            self.fail_call(call, &Fault::new(code::DEADLINE, "the call's deadline passed"));
        }
        while let Some(request) = self.calls.pop_expired(now) {
            let message = "the call's deadline passed while it was queued";
            self.fail_queued(request, &Fault::new(code::DEADLINE, message));
        }
        self.expire_outbound(now);
        match self.peer_deadlines.expired(now, &self.limits) {
            Some(Expired::Message) => self.close_for_slow_message(),
            // A token from a host that has presented wrong ones is checked after a delay.
            Some(Expired::Token) if self.grants.allows_nothing() && !self.calls.is_empty() => {
                self.peer_deadlines.expect_token(now, self.limits.auth_timeout);
            }
            Some(Expired::Token) if self.grants.allows_nothing() && !self.has_failed() => {
                self.close_for_missing_token();
            }
            _ => {}
        }
        self.process(now);
        if self.is_idle() {
            self.shrink();
        }
    }

    /// Releases unused memory. Not done after each call, since the next one would allocate it again.
    fn shrink(&mut self) {
        self.input.drain(..std::mem::take(&mut self.consumed));
        self.input.shrink_to_fit();
        self.result = Vec::new();
        self.calls.shrink();
        self.posts.queue.shrink_to_fit();
        self.posts.events.shrink_to_fit();
        if let Some(outbound) = &mut self.outbound {
            outbound.shrink();
        }
        self.batches.shrink();
        self.output.shrink();
    }

    /// Answers every unanswered request with `fault`, and cancels its call.
    pub fn fail_all(&mut self, fault: &Fault) {
        let unsent = fault.clone().unsent();
        while let Some(request) = self.calls.pop_queued() {
            self.fail_queued(request, &unsent);
        }
        for call in self.calls.in_flight() {
            self.fail_call(call, fault);
        }
    }

    /// Returns `true` if every request is answered, and every reply in the output or written. Notifications may still
    /// run.
    pub fn has_replied(&self) -> bool {
        self.calls.are_answered() && self.input.is_empty()
    }

    /// Returns `true` if every request is answered and every reply written. Notifications may still run.
    pub fn is_flushed(&self) -> bool {
        self.has_replied() && self.output.len() == 0
    }

    /// Returns `true` if every request is answered, every notification finished and every reply written.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.output.len() == 0
    }

    fn metrics(&self) -> &Metrics {
        self.registry.metrics()
    }

    fn has_time(&self) -> bool {
        self.clock <= self.budget_end
    }

    fn has_output_space(&self) -> bool {
        self.output.len() < self.limits.output
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.disconnected("the client was dropped", false);
        self.calls.log_abandoned(&self.grants, self.clock);
        self.metrics().in_flight.sub(self.calls.close());
    }
}
