//! Drives a connection: its calls, their deadlines and cancellations.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::{AbortHandle, Abortable, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustc_hash::FxHashMap;

use super::super::protocol::Link;
use super::Head;
use super::exchange::exchange;
use crate::chan::BoxFuture;
use crate::codec::grpc::format_timeout;
use crate::codec::protobuf::{Method, Schema, Streaming};
use crate::message::{Fault, RawJson, code};
use crate::nearest::nearest;
use crate::route::{CallId, PeerCall, PeerError, Post, Posts, matches};
use crate::transport::http2::Client;
use crate::transport::{Alarm, Stream};

/// Yields to other tasks after this many answers.
const BUDGET: u32 = 64;

type Answer = (CallId, Result<RawJson<'static>, PeerError>);

/// The calls of one connection. Ends with it.
pub(super) struct Calls<'a> {
    link: &'a dyn Link,
    client: Client<Box<dyn Stream>>,
    schema: Arc<Schema>,
    head: Head,
    posts: Posts,
    /// Calls that wait until the server takes more, and their size in bytes.
    waiting: VecDeque<PeerCall>,
    bytes: usize,
    in_flight: FxHashMap<CallId, Sent>,
    running: FuturesUnordered<Abortable<BoxFuture<'static, Answer>>>,
    is_stopping: bool,
    alarm: Alarm,
}

/// A call that is sent.
struct Sent {
    /// `None` if nobody waits for the answer.
    call: Option<PeerCall>,
    deadline: Instant,
    abort: AbortHandle,
}

impl<'a> Calls<'a> {
    pub(super) fn new(
        link: &'a dyn Link,
        client: Client<Box<dyn Stream>>,
        schema: Arc<Schema>,
        head: Head,
    ) -> Self {
        Self {
            link,
            client,
            schema,
            head,
            posts: Posts::default(),
            waiting: VecDeque::new(),
            bytes: 0,
            in_flight: FxHashMap::default(),
            running: FuturesUnordered::new(),
            is_stopping: false,
            alarm: Alarm::default(),
        }
    }

    fn answer(&self, call: PeerCall, result: Result<RawJson<'static>, PeerError>) {
        self.link.mailbox().answer(call, result);
    }

    /// Takes what was posted. Returns `true` if it was something.
    fn take_posts(&mut self, cx: &Context<'_>) -> bool {
        if self.bytes >= self.link.server().limits.output {
            self.link.mailbox().watch_posts(cx, &mut self.posts);
            return false;
        }
        if self.link.mailbox().poll(cx, &mut VecDeque::new(), &mut self.posts).is_pending() {
            return false;
        }
        while let Some(post) = self.posts.queue.pop_front() {
            match post {
                Post::Call(call) => {
                    self.bytes += call.bytes();
                    self.waiting.push_back(*call);
                }
                Post::Cancel(id) => self.withdraw(id, PeerError::cancelled()),
                // Servers are watched without that, and are never sent a notification that is encoded.
                Post::Watch { .. } | Post::Notification(_) => {}
            }
        }
        true
    }

    /// Ends a call.
    fn withdraw(&mut self, id: CallId, error: PeerError) {
        if let Some(sent) = self.in_flight.remove(&id) {
            sent.abort.abort();
            if let Some(call) = sent.call {
                self.answer(call, Err(error));
            }
        } else if let Some(at) = self.waiting.iter().position(|call| call.id == id)
            && let Some(call) = self.waiting.remove(at)
        {
            self.bytes -= call.bytes();
            self.answer(call, Err(error));
        }
    }

    /// Sends calls that wait. Returns `true` if there were any.
    fn send_waiting(&mut self) -> bool {
        let mut has_sent = false;
        while self.in_flight.len() < self.client.capacity()
            && let Some(call) = self.waiting.pop_front()
        {
            self.bytes -= call.bytes();
            self.send(call);
            has_sent = true;
        }
        has_sent
    }

    fn send(&mut self, mut call: PeerCall) {
        let limits = self.link.server().limits;
        let now = Instant::now();
        let deadline = call.deadline.unwrap_or_else(|| now + limits.deadline);
        if deadline <= now {
            return self.answer(call, Err(PeerError::Deadline));
        }
        if call.method == "rpc.list" {
            let listing = self.listing(call.params.as_ref());
            return self.answer(call, Ok(RawJson::checked(listing)));
        }
        let method = match self.method(&call.method) {
            Ok(method) => method,
            Err(fault) => return self.answer(call, Err(PeerError::Fault(fault))),
        };
        let mut extra = vec![("grpc-timeout", format_timeout(deadline - now))];
        if call.hops > 0 {
            extra.push(("chanrpc-hops", call.hops.to_string()));
        }
        let request = self.head.request(&method.path(), &extra);
        let (id, params) = (call.id, call.params.take());
        let exchange = exchange(self.client.requests(), request, method, params, limits.message);
        let exchange: BoxFuture<'static, Answer> = Box::pin(async move { (id, exchange.await) });
        let (exchange, abort) = abortable(exchange);
        self.running.push(exchange);
        let call = if call.is_notification {
            self.answer(call, Ok(RawJson::NULL));
            None
        } else {
            Some(call)
        };
        self.in_flight.insert(id, Sent { call, deadline, abort });
    }

    /// Returns the methods that can be called, as a node lists functions: those that match the pattern in `params`, with
    /// the detail that they ask for.
    fn listing(&self, params: Option<&RawJson<'_>>) -> String {
        let params: serde_json::Value =
            params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
        let param = |position: usize, name: &str| params.get(position).or_else(|| params.get(name));
        let pattern = param(0, "pattern").and_then(serde_json::Value::as_str).unwrap_or("*");
        let is_verbose = param(1, "verbose").is_some_and(|verbose| *verbose == true);
        let methods = self.schema.methods();
        let is_listed =
            |method: &&Method| method.streaming() == Streaming::None && matches(pattern, &method.path());
        let listed = methods.iter().filter(is_listed);
        let listed =
            listed.map(|method| if is_verbose { method.listing() } else { format!("{:?}", method.path()) });
        format!("[{}]", listed.collect::<Vec<_>>().join(","))
    }

    /// Returns the method of this name.
    fn method(&self, name: &str) -> Result<Method, Fault> {
        let Some(method) = self.schema.method(name) else {
            let known: Vec<_> = self.schema.methods().iter().map(Method::path).collect();
            let near = nearest(name, &mut known.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let name: String = name.chars().take(200).collect();
            let message = format!("no method {name:?} at {}{near}", self.link.server().address);
            return Err(Fault::new(code::UNKNOWN_FUNCTION, message));
        };
        if method.streaming() == Streaming::None {
            return Ok(method);
        }
        let message = format!("{} takes or gives a stream, which no call does", method.path());
        Err(Fault::new(code::UNKNOWN_FUNCTION, message))
    }

    /// Ends the calls whose deadline has passed. Returns the next deadline.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        // Set again when the mailbox is watched.
        if self.posts.next_deadline.take().is_some_and(|next| next <= now) {
            for call in self.link.mailbox().take_expired(now) {
                self.answer(call, Err(PeerError::Deadline));
            }
        }
        let sent = self.in_flight.iter().map(|(id, sent)| (*id, sent.deadline));
        let waiting = self.waiting.iter().filter_map(|call| Some((call.id, call.deadline?)));
        let (late, later): (Vec<_>, Vec<_>) = sent.chain(waiting).partition(|(_, deadline)| *deadline <= now);
        for (id, _) in late {
            self.withdraw(id, PeerError::Deadline);
        }
        later.into_iter().map(|(_, deadline)| deadline).chain(self.posts.next_deadline).min()
    }

    /// Answers the calls that are left, since the connection has ended.
    fn fail_all(&mut self, reason: &str) {
        for (_, sent) in std::mem::take(&mut self.in_flight) {
            if let Some(call) = sent.call {
                self.answer(call, Err(PeerError::Lost(reason.to_owned().into())));
            }
        }
        for call in std::mem::take(&mut self.waiting) {
            self.answer(call, Err(PeerError::Unsent(reason.to_owned().into())));
        }
        self.link.end(reason);
    }
}

impl Future for Calls<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut answers = 0;
        loop {
            let is_awaited = !this.in_flight.is_empty();
            let ended = this.client.poll(cx, is_awaited);
            let mut has_advanced = false;
            while let Poll::Ready(Some(done)) = this.running.poll_next_unpin(cx) {
                has_advanced = true;
                answers += 1;
                if let Ok((id, result)) = done
                    && let Some(call) = this.in_flight.remove(&id).and_then(|sent| sent.call)
                {
                    this.answer(call, result);
                }
            }
            if let Poll::Ready(ended) = ended {
                // What has arrived before is answered above.
                let reason = ended
                    .as_ref()
                    .map_or_else(ToString::to_string, |()| "the server has closed the connection".to_owned());
                this.fail_all(&reason);
                return Poll::Ready(ended);
            }
            if !this.is_stopping
                && let Some(reason) = this.client.refusal(cx)
            {
                this.is_stopping = true;
                this.link.stopping(&reason);
                for call in std::mem::take(&mut this.waiting) {
                    this.answer(call, Err(PeerError::Unsent(reason.clone().into())));
                }
                this.bytes = 0;
                has_advanced = true;
            }
            has_advanced |= this.take_posts(cx);
            has_advanced |= !this.is_stopping && this.send_waiting();
            if this.posts.is_closing && this.waiting.is_empty() && this.in_flight.is_empty() {
                this.fail_all("the client was closed");
                return Poll::Ready(Ok(()));
            }
            if has_advanced {
                if answers >= BUDGET {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            let deadline = this.expire(Instant::now());
            let next = [deadline, this.client.next_check()].into_iter().flatten().min();
            if this.alarm.poll(next, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
