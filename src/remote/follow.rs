//! Subscriptions at another node, over a connection of their own, which exists while there are any. They are made again
//! on each new connection, and continue after the last event.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use rustc_hash::FxHashMap;
use serde_json::value::RawValue;
use smol::future::{FutureExt, pending};
use smol::{Executor, Task, Timer};

use super::connection::Connection;
use super::driver;
use super::target::Target;
use crate::message::{Fault, RawJson, code};
use crate::route::{Call, Peer, PeerError, Provider, RegistryBuilder, Way, covers};

/// How long after a refusal that may be temporary a subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The number of refusals after which that time no longer doubles.
const MAX_FAILURES: u32 = 5;
/// The maximum number of topics whose last number is known.
const MAX_POSITIONS: usize = 4096;

/// What a node tells of topics.
pub(crate) enum News<'a> {
    /// An event, published so long ago if it was kept.
    Event { topic: &'a str, seq: u64, data: &'a str, age: Option<Duration> },
    /// Events of a topic or family do not come.
    Missed { topic: &'a str, count: Option<u64> },
    /// A subscription is not possible.
    Refused { name: &'a str, fault: &'a Fault },
    /// Nothing further will come.
    Dropped,
}

/// Receives what a node tells, in order. Must return soon.
pub(crate) type Tell = Box<dyn Fn(News<'_>) + Send + Sync>;

/// Subscriptions at another node, until it is dropped.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    _task: Task<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there are names to subscribe to or to unsubscribe from.
    changed: Event,
    timeout: Duration,
    tell: Tell,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Name>,
    /// Names that are subscribed to and no longer wanted.
    unwanted: Vec<String>,
    /// The number of the last event of each topic.
    seqs: FxHashMap<String, u64>,
    /// As it was when the connection was established: earlier events come again for a family.
    seen: FxHashMap<String, u64>,
    epoch: Option<String>,
    /// The number of the connection.
    connection: u64,
}

impl Name {
    /// Tries again after a while, which grows.
    fn fail(&mut self) {
        self.status = Status::Retry(Instant::now() + RETRY * 2_u32.pow(self.failures));
        self.failures = (self.failures + 1).min(MAX_FAILURES);
    }
}

/// A topic or family to subscribe to.
struct Name {
    way: Way,
    status: Status,
    /// How often it has been refused or has ended over this connection.
    failures: u32,
    /// It was subscribed to before, so that events may have been missed since.
    resumes: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    New,
    Asked,
    Subscribed,
    Retry(Instant),
}

impl Status {
    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::New => true,
            Self::Retry(at) => at <= now,
            Self::Asked | Self::Subscribed => false,
        }
    }
}

/// What to ask a node for.
struct Requests {
    /// The parameters of subscriptions, their names, and how many nodes have forwarded them.
    asked: Vec<(RawJson<'static>, String, u32)>,
    unwanted: Vec<String>,
    /// When there is more to ask for.
    retry: Option<Instant>,
    /// The number of the connection.
    connection: u64,
}

/// What a node tells of a topic, and its reply to a subscription.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Told<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    seq: Option<u64>,
    epoch: Option<String>,
    missed: bool,
    count: Option<u64>,
    next: Option<u64>,
    age_ms: Option<u64>,
    reason: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Told<'a> {
    /// Parses an object, or an array of one.
    fn parse(json: &'a str) -> Self {
        let inner = json.trim().strip_prefix('[').and_then(|json| json.strip_suffix(']'));
        serde_json::from_str(inner.unwrap_or(json)).unwrap_or_default()
    }
}

impl Follower {
    /// Creates subscriptions at a node, of which there are none yet.
    pub(super) fn new(executor: &Executor<'static>, target: &Target, tell: Tell) -> Self {
        let timeout = target.limits.deadline;
        let (state, changed) = (Mutex::default(), Event::new());
        let shared = Arc::new(Shared { state, changed, timeout, tell });
        let receiver = Arc::new(Receiver(shared.clone()));
        let registry = RegistryBuilder::new("".into(), &[]).fallback(receiver).build();
        let target = Arc::new(target.with_registry(registry));
        let dropped = Dropped(shared.clone());
        let task = executor.spawn(async move {
            dropped.0.run(&target).await;
        });
        Self { shared, _task: task }
    }

    /// Subscribes to a topic or family, for subscribers whose request has come that way.
    pub(crate) fn follow(&self, name: &str, way: Way) {
        let state = Name { way, status: Status::New, resumes: false, failures: 0 };
        self.shared.lock().names.insert(name.to_owned(), state);
        self.shared.changed.notify(usize::MAX);
    }

    /// Ends a subscription.
    pub(crate) fn unfollow(&self, name: &str) {
        let mut state = self.shared.lock();
        if state.names.remove(name).is_some() {
            state.unwanted.push(name.to_owned());
            state.forget_positions();
        }
        drop(state);
        self.shared.changed.notify(usize::MAX);
    }

    /// Ends all subscriptions.
    pub(crate) fn stop(&self) {
        self.shared.lock().names.clear();
        self.shared.changed.notify(usize::MAX);
    }
}

impl State {
    fn is_wanted(&self, topic: &str) -> bool {
        self.names.keys().any(|name| covers(name, topic))
    }

    /// Forgets the numbers of topics that are not subscribed to.
    fn forget_positions(&mut self) {
        let names = &self.names;
        let is_wanted = |topic: &String| names.keys().any(|name| covers(name, topic));
        self.seqs.retain(|topic, _| is_wanted(topic));
        self.seen.retain(|topic, _| is_wanted(topic));
    }

    /// Notes that there is a new connection.
    fn connected(&mut self) {
        self.connection += 1;
        self.seen = self.seqs.clone();
        self.unwanted.clear();
        self.names.values_mut().for_each(|name| (name.status, name.failures) = (Status::New, 0));
    }

    /// Returns what to ask for now; `None` if there are no names.
    fn due(&mut self, now: Instant) -> Option<Requests> {
        if self.names.is_empty() {
            return None;
        }
        let due = self.names.iter().filter(|(_, name)| name.status.is_due(now));
        let due: Vec<_> = due.map(|(text, _)| text.clone()).collect();
        let mut asked = Vec::new();
        for text in due {
            let Some(name) = self.names.get_mut(&text) else { continue };
            name.status = Status::Asked;
            let (resumes, way) = (name.resumes, name.way.clone());
            asked.push((self.request(&text, resumes, &way), text, way.hops));
        }
        let retry = self.names.values().filter_map(|name| match name.status {
            Status::Retry(at) => Some(at),
            _ => None,
        });
        let (unwanted, connection) = (std::mem::take(&mut self.unwanted), self.connection);
        Some(Requests { asked, unwanted, retry: retry.min(), connection })
    }

    fn note_seq(&mut self, topic: &str, seq: u64) {
        if let Some(last) = self.seqs.get_mut(topic) {
            *last = (*last).max(seq);
        } else {
            // Then it is not known what a family has missed.
            if self.seqs.len() >= MAX_POSITIONS {
                self.seqs.clear();
            }
            self.seqs.insert(topic.to_owned(), seq);
        }
    }

    /// Returns the parameters of a subscription.
    fn request(&self, name: &str, resumes: bool, way: &Way) -> RawJson<'static> {
        let since = self.seqs.get(name).filter(|_| resumes);
        let via = Some(&way.via).filter(|via| !via.is_empty());
        let since = since.map_or(String::new(), |seq| format!(",\"since\":{seq}"));
        let epoch = self.epoch.as_ref().filter(|_| !since.is_empty());
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let epoch = epoch.map_or(String::new(), |epoch| format!(",\"epoch\":{}", quoted(epoch)));
        let via = via.map_or(String::new(), |via| format!(",\"via\":{}", quoted(via)));
        RawJson::checked(format!("{{\"topic\":{}{since}{epoch}{via}}}", quoted(name)))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a connection while there are names.
    async fn run(self: &Arc<Self>, target: &Arc<Target>) {
        loop {
            let changed = self.changed.listen();
            if self.lock().names.is_empty() {
                changed.await;
                continue;
            }
            let connection = Connection::new(target.clone());
            // One task, in this order: a loss is noticed before the next connection is established.
            driver::run(connection.clone(), true).or(self.subscribe_on(&connection)).await;
        }
    }

    /// Subscribes on each connection that is established, until there are no names.
    async fn subscribe_on(self: &Arc<Self>, connection: &Connection) {
        loop {
            let connected = async { Some(connection.reconnected().await) };
            let Some(connected) = connected.or(self.unneeded()).await else { return };
            let Ok(peer) = connected else { return };
            self.lock().connected();
            let lost = async {
                connection.lost().await;
                Some(())
            };
            if lost.or(self.subscribe(&peer)).await.is_none() {
                return;
            }
        }
    }

    /// Completes when there are no names.
    async fn unneeded<T>(&self) -> Option<T> {
        loop {
            let changed = self.changed.listen();
            if self.lock().names.is_empty() {
                return None;
            }
            changed.await;
        }
    }

    /// Subscribes and unsubscribes over one connection, until there are no names.
    async fn subscribe(self: &Arc<Self>, peer: &Peer) -> Option<()> {
        loop {
            let changed = self.changed.listen();
            let now = Instant::now();
            let Requests { asked, unwanted, retry, connection } = self.lock().due(now)?;
            let deadline = Some(now + self.timeout);
            for name in unwanted {
                let params = RawJson::of(&[name]).ok();
                peer.call(peer.reserve(), "rpc.unsubscribe".into(), params, deadline, 0, false, drop);
            }
            for (params, name, hops) in asked {
                let shared = self.clone();
                // On the thread of the connection, so before the first event.
                let answer = move |result| shared.answered(&name, connection, result);
                let id = peer.reserve();
                peer.call(id, "rpc.subscribe".into(), Some(params), deadline, hops, false, answer);
            }
            let retry = async {
                match retry {
                    Some(at) => _ = Timer::at(at).await,
                    None => pending().await,
                }
            };
            changed.or(retry).await;
        }
    }

    /// Handles the answer to a subscription over the connection of that number.
    fn answered(&self, name: &str, connection: u64, result: Result<RawJson<'static>, PeerError>) {
        let mut state = self.lock();
        if state.connection != connection {
            return;
        }
        let State { names, seqs, seen, epoch, .. } = &mut *state;
        // It may have ended meanwhile.
        let Some(entry) = names.get_mut(name).filter(|entry| entry.status == Status::Asked) else { return };
        match result {
            Ok(reply) => {
                let told = Told::parse(reply.get());
                let has_changed = told.epoch.is_some() && *epoch != told.epoch;
                if has_changed {
                    (*epoch, _, _) = (told.epoch, seqs.clear(), seen.clear());
                }
                let resumed = std::mem::replace(&mut entry.resumes, true);
                entry.status = Status::Subscribed;
                let is_known = told.seq.is_some() && seqs.contains_key(name);
                let is_missing = resumed && (told.missed || has_changed || !is_known);
                if let Some(seq) = told.seq {
                    seqs.entry(name.to_owned()).or_insert(seq);
                }
                drop(state);
                if is_missing {
                    (self.tell)(News::Missed { topic: name, count: None });
                }
            }
            // The connection ends, and the next one asks again.
            Err(PeerError::Unsent(_) | PeerError::Lost(_)) => {}
            Err(PeerError::Fault(fault)) if !matches!(fault.code, code::BUSY | code::CLOSED) => {
                names.remove(name);
                drop(state);
                (self.tell)(News::Refused { name, fault: &fault });
            }
            Err(error) => {
                if entry.failures == 0 {
                    log::warn!("subscribing to {name} failed, and is tried again: {error:?}");
                }
                entry.fail();
                entry.resumes = true;
                drop(state);
                (self.tell)(News::Missed { topic: name, count: None });
                self.changed.notify(usize::MAX);
            }
        }
    }

    /// Handles what the node tells.
    fn receive(&self, method: &str, params: &str) {
        let told = Told::parse(params);
        let topic = &*told.topic;
        let mut state = self.lock();
        match (method, told.seq, told.data) {
            ("rpc.event", Some(seq), Some(data)) if state.is_wanted(topic) => {
                let is_kept = told.age_ms.is_some();
                if is_kept && state.seen.get(topic).is_some_and(|seen| seq <= *seen) {
                    return;
                }
                state.note_seq(topic, seq);
                let names = state.names.iter_mut().filter(|(name, _)| covers(name, topic));
                names.for_each(|(_, name)| name.failures = 0);
                drop(state);
                let age = told.age_ms.map(Duration::from_millis);
                (self.tell)(News::Event { topic, seq, data: data.get(), age });
            }
            ("rpc.missed", ..) if state.is_wanted(topic) => {
                if let Some(next) = told.next {
                    state.note_seq(topic, next.saturating_sub(1));
                }
                drop(state);
                (self.tell)(News::Missed { topic, count: told.count });
            }
            ("rpc.ended", ..) => {
                let Some(name) = state.names.get_mut(topic) else { return };
                if name.failures == 0 {
                    name.fail();
                    drop(state);
                    self.changed.notify(usize::MAX);
                    return;
                }
                // Again, and without an event.
                state.names.remove(topic);
                drop(state);
                let fault = Fault::new(code::NO_PROVIDER, told.reason.unwrap_or_default());
                (self.tell)(News::Refused { name: topic, fault: &fault });
            }
            _ => {}
        }
    }
}

/// Answers what a node tells of topics, and nothing else.
struct Receiver(Arc<Shared>);

impl Provider for Receiver {
    fn call(&self, call: Call<'_>) {
        match call.method() {
            method @ ("rpc.event" | "rpc.missed" | "rpc.ended") => {
                self.0.receive(method, call.params().map_or("", RawJson::get));
                call.reply(Ok(RawJson::NULL));
            }
            _ => {
                let message = "only events are received here";
                call.reply(Err(Fault::new(code::UNKNOWN_FUNCTION, message)));
            }
        }
    }
}

/// Tells that nothing further will come, when the task is dropped.
struct Dropped(Arc<Shared>);

impl Drop for Dropped {
    fn drop(&mut self) {
        (self.0.tell)(News::Dropped);
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("names", &self.shared.lock().names.keys()).finish_non_exhaustive()
    }
}
