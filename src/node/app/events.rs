//! `GET /events`: the events of topics as a stream of server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::collections::VecDeque;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;

use crate::message::{Fault, code};
use crate::metrics::Metrics;
use crate::route::{
    Action, Grants, Mailbox, Notice, Peer, Posts, Registry, ShutdownSignal, Subscribe, TopicHub,
};
use crate::transport::http::BodyStream;

/// The size of the events that are encoded at once, in bytes.
const ROOM: usize = 16 * 1024;

/// The events of the subscriptions of one request.
#[derive(Debug)]
pub(super) struct EventStream {
    /// Closed when dropped, which ends the subscriptions.
    mailbox: Arc<Mailbox>,
    metrics: Arc<Metrics>,
    epoch: String,
    /// The topics and families in the order of the request, with the number of the last event of each topic.
    positions: Vec<(String, Option<u64>)>,
    /// What is sent next.
    out: String,
    keepalive: Option<(Duration, Timer)>,
    stop: ShutdownSignal,
    /// No id was sent yet.
    is_new: bool,
    /// The number of subscriptions that have not ended.
    open: usize,
    is_ending: bool,
    posts: Posts,
}

impl EventStream {
    /// Subscribes to the topics of a request with this query. `last` is the id of the last event that the client has
    /// received, if it has lost its connection.
    ///
    /// # Errors
    /// The fault of the first topic that cannot be subscribed to.
    pub(super) fn subscribe(
        registry: &Registry,
        grants: &Grants,
        query: &str,
        last: Option<&str>,
        keepalive: Duration,
        stop: ShutdownSignal,
    ) -> Result<Self, Fault> {
        let topics = registry.topics();
        let keepalive = (!keepalive.is_zero()).then(|| (keepalive / 2, Timer::after(keepalive / 2)));
        let mut stream = Self {
            mailbox: Arc::default(),
            metrics: registry.metrics().clone(),
            epoch: topics.epoch().to_owned(),
            positions: Vec::new(),
            out: String::new(),
            keepalive,
            stop,
            is_new: true,
            open: 0,
            is_ending: false,
            posts: Posts { room: ROOM, ..Posts::default() },
        };
        let names = query.split('&').filter_map(|pair| pair.strip_prefix("topic=")).map(decoded);
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return Err(Fault::invalid_params("name at least one topic: GET /events?topic=chat.lobby"));
        }
        let last = last.map(|last| Position::parse(last, names.len()));
        let peer = Peer::new(&stream.mailbox);
        for (at, name) in names.into_iter().enumerate() {
            grants.allow(Action::Subscribe, &name)?;
            let right = Some(grants.right(Action::Subscribe, &name));
            let mut request = Subscribe { topic: &name, right, ..Subscribe::default() };
            let is_family = name.ends_with('*');
            if let Some(last) = last.as_ref().filter(|_| !is_family) {
                request.epoch = Some(last.epoch);
                request.since = Some(last.seqs.get(at).copied().flatten().unwrap_or_default());
            }
            let subscribed = topics.subscribe(&peer, &request)?;
            if subscribed.is_missing || (is_family && last.is_some()) {
                let next = subscribed.seq.map_or_else(|| "null".to_owned(), |seq| (seq + 1).to_string());
                let data = format!("{{\"topic\":\"{name}\",\"count\":null,\"next\":{next}}}");
                _ = write!(stream.out, "event: missed\ndata: {data}\n\n");
            }
            // Kept events raise it as they are sent.
            let seq = if last.is_some() && !subscribed.is_missing { request.since } else { None };
            stream.positions.push((name, if is_family { None } else { seq.or(subscribed.seq) }));
        }
        let is_first =
            |at: &usize| stream.positions[..*at].iter().all(|(name, _)| *name != stream.positions[*at].0);
        stream.open = (0..stream.positions.len()).filter(is_first).count();
        Ok(stream)
    }

    /// Appends the id, which names the last event of each topic.
    fn put_id(&mut self) {
        self.is_new = false;
        _ = write!(self.out, "id: {}", self.epoch);
        for (at, (_, seq)) in self.positions.iter().enumerate() {
            self.out.push(if at == 0 { ':' } else { ',' });
            match seq {
                Some(seq) => _ = write!(self.out, "{seq}"),
                None => self.out.push('-'),
            }
        }
        self.out.push('\n');
    }

    /// Appends what a subscriber is told.
    fn put(&mut self, notice: &Notice, now: Instant) {
        match notice {
            Notice::Event { event, .. } => {
                self.metrics.events_sent.inc();
                let position = self.positions.iter_mut().find(|(name, _)| **name == *event.topic);
                if let Some((_, seq)) = position {
                    *seq = Some(event.seq);
                    self.put_id();
                }
            }
            other => _ = writeln!(self.out, "event: {}", other.method().trim_start_matches("rpc.")),
        }
        if let Notice::Ended { .. } = notice {
            self.open = self.open.saturating_sub(1);
            self.is_ending |= self.open == 0;
        }
        _ = write!(self.out, "data: {}\n\n", notice.params(now));
    }
}

impl BodyStream for EventStream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        if !self.is_ending && Pin::new(&mut self.stop).poll(cx).is_ready() {
            self.is_ending = true;
            TopicHub::end(&self.mailbox, "the node is stopping");
        }
        if self.mailbox.poll(cx, &mut VecDeque::new(), &mut self.posts).is_ready() {
            let now = Instant::now();
            while let Some(notice) = self.posts.events.pop_front() {
                self.put(&notice, now);
            }
        }
        // Kept events have been put.
        if self.is_new {
            self.put_id();
            self.out.push('\n');
        }
        if let Some((interval, timer)) = &mut self.keepalive {
            let is_due = Pin::new(&mut *timer).poll(cx).is_ready();
            if is_due && self.out.is_empty() {
                self.out.push_str(":\n\n");
            }
            if is_due || !self.out.is_empty() {
                timer.set_after(*interval);
                // Registers the task.
                let _ = Pin::new(timer).poll(cx);
            }
        }
        match std::mem::take(&mut self.out) {
            out if !out.is_empty() => Poll::Ready(Some(out.into_bytes())),
            _ if self.is_ending => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

/// What a client has received, from its `Last-Event-ID`.
struct Position<'a> {
    epoch: &'a str,
    seqs: Vec<Option<u64>>,
}

impl<'a> Position<'a> {
    /// Parses an id. One of another request is of no epoch.
    fn parse(id: &'a str, count: usize) -> Self {
        let (epoch, seqs) = id.split_once(':').unwrap_or_default();
        let seqs: Vec<_> = seqs.split(',').map(|seq| seq.parse().ok()).collect();
        Self { epoch: if seqs.len() == count { epoch } else { "" }, seqs }
    }
}

/// Returns the status of a response with a fault.
pub(super) fn status(fault: &Fault) -> u16 {
    match fault.code {
        code::DENIED => 403,
        code::BUSY => 503,
        _ => 400,
    }
}

/// Decodes the `%XX` of a value in a query.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex {
            Some(hex) if byte == b'%' => {
                bytes.push(hex);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
