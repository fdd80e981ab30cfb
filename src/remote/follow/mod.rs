//! Subscriptions at another node, over a connection of their own, which exists while there are any. They are made again
//! on each new connection, and continue after the last event.

mod state;
mod told;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::future::{FutureExt, pending};
use smol::{Executor, Task, Timer};

use super::connection::Connection;
use super::driver;
use super::target::Target;
use crate::message::{Fault, RawJson, code};
use crate::route::{Call, PEER, Peer, PeerError, Provider, RegistryBuilder, Way};
use state::{Name, Phase, Request, Requests, State};
use told::Told;

/// The maximum length of another node's reason, in characters.
const MAX_REASON: usize = 400;

/// What a node tells of topics.
pub(crate) enum News<'a> {
    /// An event, published so long ago if it was kept.
    Event { topic: &'a str, seq: u64, data: &'a str, age: Option<Duration> },
    /// Events of a topic or family do not come. The next one has this number, if that is known.
    Missed { topic: &'a str, count: Option<u64>, next: Option<u64> },
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

    /// Subscribes to a topic or family, for subscribers whose requests have come that way. It may be followed already.
    pub(crate) fn follow(&self, name: &str, way: Way) {
        let mut state = self.shared.lock();
        state.generation += 1;
        match state.names.get_mut(name) {
            Some(entry) => {
                entry.is_wanted = true;
                entry.is_stale |= entry.way != way;
                entry.way = way;
            }
            None => _ = state.names.insert(name.to_owned(), Name::new(way)),
        }
        drop(state);
        self.shared.changed.notify(usize::MAX);
    }

    /// Notes that a subscriber of a topic or family has left, which was the last if it `is_over`.
    pub(crate) fn unfollow(&self, name: &str, is_over: bool) {
        let mut state = self.shared.lock();
        state.generation += 1;
        if is_over {
            state.leave(name);
            drop(state);
            self.shared.changed.notify(usize::MAX);
        }
    }

    /// Ends all subscriptions.
    pub(crate) fn stop(&self) {
        self.shared.lock().names.clear();
        self.shared.changed.notify(usize::MAX);
    }
}

/// Shortens what another node says.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
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
            if self.lock().is_idle() {
                changed.await;
                continue;
            }
            let connection = Connection::new(target.clone());
            // One task, in this order: a loss is noticed before the next connection is established.
            driver::run(connection.clone(), true).or(self.subscribe_on(&connection)).await;
            self.lock().lost();
        }
    }

    /// Subscribes on each connection that is established, until there are no names.
    async fn subscribe_on(self: &Arc<Self>, connection: &Connection) {
        loop {
            let connected = async { Some(connection.reconnected().await) };
            let Some(connected) = connected.or(self.unneeded()).await else { return };
            let Ok(peer) = connected else { return };
            let lost = async {
                connection.lost().await;
                Some(())
            };
            if lost.or(self.subscribe(&peer)).await.is_none() {
                return;
            }
            self.lock().lost();
        }
    }

    /// Completes when there are no names.
    async fn unneeded<T>(&self) -> Option<T> {
        loop {
            let changed = self.changed.listen();
            if self.lock().is_idle() {
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
            let Requests { requests, retry } = self.lock().due(now)?;
            let deadline = Some(now + self.timeout);
            for Request { method, params, name, ticket, hops } in requests {
                let shared = self.clone();
                // On the thread of the connection, so before the first event.
                let answer = move |result| shared.answered(&name, ticket, result);
                peer.call(peer.reserve(), method.into(), Some(params), deadline, hops, false, answer);
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

    /// Handles the answer to the request with that number.
    fn answered(&self, name: &str, ticket: u64, result: Result<RawJson<'static>, PeerError>) {
        // The connection ends, and the next one asks again.
        if matches!(result, Err(PeerError::Unsent(_) | PeerError::Lost(_))) {
            return;
        }
        let mut state = self.lock();
        let generation = state.generation;
        let Some(entry) = state.names.get_mut(name).filter(|entry| entry.ticket == ticket) else { return };
        let phase = entry.phase;
        match (phase, result) {
            (Phase::Leaving, _) if entry.is_wanted => *entry = Name::new(entry.way.clone()),
            (Phase::Leaving, _) => _ = state.names.remove(name),
            (Phase::Asked, Ok(_)) if !entry.is_wanted => entry.phase = Phase::Leave,
            (Phase::Asked, Ok(reply)) => {
                entry.phase = Phase::Subscribed;
                let resumes = std::mem::replace(&mut entry.resumes, true);
                let is_missing = state.accepted(name, Told::parse(reply.get()), resumes);
                if is_missing && state.note_missed(name, None, None) {
                    drop(state);
                    (self.tell)(News::Missed { topic: name, count: None, next: None });
                }
            }
            (Phase::Asked | Phase::Renewing, Err(PeerError::Fault(fault)))
                if fault.code != code::CLOSED
                    && (fault.code != code::BUSY || entry.failures > 0 || phase == Phase::Renewing) =>
            {
                if entry.is_stale && phase == Phase::Asked {
                    // Another way may be accepted.
                    entry.phase = Phase::New;
                } else {
                    return self.refused(state, name, fault);
                }
            }
            (Phase::Asked, Err(_)) if !entry.is_wanted => entry.phase = Phase::Leave,
            (Phase::Asked, Err(error)) => {
                if entry.failures == 0 {
                    let error = shorten(&format!("{error:?}"));
                    log::warn!(target: PEER, "subscribing to {name} failed, and is tried again: {error}");
                }
                entry.fail();
                let is_news = entry.told.is_news(generation);
                drop(state);
                if is_news {
                    (self.tell)(News::Missed { topic: name, count: None, next: None });
                }
            }
            (Phase::Renewing, _) => entry.phase = Phase::Subscribed,
            _ => return,
        }
        self.changed.notify(usize::MAX);
    }

    /// Gives a name up, and tells why.
    fn refused(&self, mut state: MutexGuard<'_, State>, name: &str, mut fault: Fault) {
        if let Some(entry) = state.names.get_mut(name) {
            let is_subscribed = entry.phase == Phase::Renewing;
            let is_wanted = std::mem::replace(&mut entry.is_wanted, false);
            // What came the other way is subscribed to still.
            entry.phase = Phase::Leave;
            if !is_subscribed {
                state.names.remove(name);
            }
            state.forget_positions();
            drop(state);
            self.changed.notify(usize::MAX);
            if is_wanted {
                (fault.message, fault.data) = (shorten(&fault.message).into(), None);
                (self.tell)(News::Refused { name, fault: &fault });
            }
        }
    }

    /// Handles what the node tells.
    fn receive(&self, method: &str, params: &str) {
        let told = Told::parse(params);
        let topic = &*told.topic;
        let mut state = self.lock();
        match (method, told.seq, told.data) {
            ("rpc.event", Some(seq), Some(data)) if state.is_live(topic) => {
                let Some(missing) = state.note_event(topic, seq, told.age_ms.is_some()) else { return };
                drop(state);
                if missing > 0 {
                    (self.tell)(News::Missed { topic, count: Some(missing), next: Some(seq) });
                }
                let age = told.age_ms.map(Duration::from_millis);
                (self.tell)(News::Event { topic, seq, data: data.get(), age });
            }
            ("rpc.missed", ..) if state.is_live(topic) => {
                let is_news = state.note_missed(topic, told.count, told.next);
                drop(state);
                if is_news {
                    (self.tell)(News::Missed { topic, count: told.count, next: told.next });
                }
            }
            ("rpc.ended", ..) => {
                let Some(name) = state.names.get_mut(topic) else { return };
                if !matches!(name.phase, Phase::Subscribed | Phase::Renewing) {
                    return;
                }
                if name.failures == 0 {
                    name.fail();
                    drop(state);
                    self.changed.notify(usize::MAX);
                    return;
                }
                // Again, and without an event.
                name.phase = Phase::Asked;
                let fault = Fault::new(code::NO_PROVIDER, told.reason.unwrap_or_default());
                self.refused(state, topic, fault);
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

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_secs(1_000_000);

    /// What a follower tells, in words.
    type TellTale = Arc<Mutex<Vec<String>>>;

    fn shared() -> (Arc<Shared>, TellTale) {
        let told = TellTale::default();
        let into = told.clone();
        let tell: Tell = Box::new(move |news| {
            into.lock().unwrap().push(match news {
                News::Event { topic, seq, .. } => format!("{topic} {seq}"),
                News::Missed { topic, count, .. } => format!("{topic} missed {count:?}"),
                News::Refused { name, fault } => format!("{name} refused {}", fault.message.len()),
                News::Dropped => "dropped".into(),
            });
        });
        let shared = Shared { state: Mutex::default(), changed: Event::new(), timeout: NEVER, tell };
        (Arc::new(shared), told)
    }

    fn follower(shared: &Arc<Shared>) -> Follower {
        Follower { shared: shared.clone(), _task: Executor::new().spawn(async {}) }
    }

    /// Returns the requests that are due: method, name and number.
    fn due(shared: &Shared) -> Vec<(&'static str, String, u64)> {
        let requests = shared.lock().due(Instant::now());
        let requests = requests.into_iter().flat_map(|requests| requests.requests);
        requests.map(|request| (request.method, request.name, request.ticket)).collect()
    }

    fn accept(shared: &Shared, name: &str, ticket: u64, seq: Option<u64>) {
        let seq = seq.map_or("null".to_owned(), |seq| seq.to_string());
        let reply = format!("{{\"seq\":{seq},\"epoch\":\"e\",\"missed\":false}}");
        shared.answered(name, ticket, Ok(RawJson::checked(reply)));
    }

    fn event(shared: &Shared, topic: &str, seq: u64, is_kept: bool) {
        let age = if is_kept { ",\"age_ms\":5" } else { "" };
        shared.receive("rpc.event", &format!("{{\"topic\":\"{topic}\",\"seq\":{seq},\"data\":0{age}}}"));
    }

    fn take(told: &TellTale) -> Vec<String> {
        std::mem::take(&mut told.lock().unwrap())
    }

    #[test]
    fn nothing_stays_of_what_was_never_asked() {
        let (shared, _) = shared();
        let follower = follower(&shared);
        for round in 0..100 {
            follower.follow(&format!("t.{round}"), Way::default());
            follower.unfollow(&format!("t.{round}"), true);
        }
        let state = shared.lock();
        assert!(state.names.is_empty() && state.positions.is_empty());
    }

    #[test]
    fn subscription_that_is_wanted_again_begins_after_the_old_one_has_ended() {
        let (shared, told) = shared();
        let follower = follower(&shared);
        follower.follow("a", Way::default());
        let [(_, _, first)] = due(&shared)[..] else { panic!("one request") };
        accept(&shared, "a", first, Some(3));
        event(&shared, "a", 4, false);
        assert_eq!(take(&told), ["a 4"]);
        follower.unfollow("a", true);
        follower.follow("a", Way::default());
        // On its way still.
        event(&shared, "a", 5, false);
        let [(method, _, leaving)] = due(&shared)[..] else { panic!("one request") };
        assert_eq!(method, "rpc.unsubscribe");
        event(&shared, "a", 6, false);
        assert!(due(&shared).is_empty());
        // An answer that is late does not count.
        accept(&shared, "a", first, Some(9));
        assert!(due(&shared).is_empty());
        shared.answered("a", leaving, Ok(RawJson::checked("true".to_owned())));
        let [(method, _, second)] = due(&shared)[..] else { panic!("one request") };
        assert_eq!(method, "rpc.subscribe");
        accept(&shared, "a", second, Some(6));
        [4, 5, 6].into_iter().for_each(|seq| event(&shared, "a", seq, true));
        event(&shared, "a", 7, false);
        assert_eq!(take(&told), ["a 4", "a 5", "a 6", "a 7"]);
        follower.unfollow("a", true);
        assert!(shared.lock().due(Instant::now()).is_none(), "nobody needs a connection");
    }

    #[test]
    fn gaps_are_told_and_known_losses_once() {
        let (shared, told) = shared();
        let follower = follower(&shared);
        follower.follow("a.*", Way::default());
        let [(_, _, ticket)] = due(&shared)[..] else { panic!("one request") };
        accept(&shared, "a.*", ticket, None);
        event(&shared, "a.b", 4, false);
        event(&shared, "a.b", 7, false);
        assert_eq!(take(&told), ["a.b 4", "a.b missed Some(2)", "a.b 7"]);
        let missed = "{\"topic\":\"a.*\",\"count\":null,\"next\":null}";
        (0..3).for_each(|_| shared.receive("rpc.missed", missed));
        assert_eq!(take(&told), ["a.* missed None"]);
        // Of a topic, with its next number.
        for next in [9, 10] {
            let missed = format!("{{\"topic\":\"a.b\",\"count\":null,\"next\":{next}}}");
            shared.receive("rpc.missed", &missed);
        }
        event(&shared, "a.b", 10, false);
        assert_eq!(take(&told), ["a.b missed None", "a.b 10"]);
        shared.receive("rpc.missed", missed);
        follower.follow("a.*", Way::default());
        shared.receive("rpc.missed", missed);
        assert_eq!(take(&told), ["a.* missed None", "a.* missed None"], "somebody else must learn of it");
        shared.lock().lost();
        let [(_, _, ticket)] = due(&shared)[..] else { panic!("one request") };
        accept(&shared, "a.*", ticket, None);
        [9, 10, 11].into_iter().for_each(|seq| event(&shared, "a.b", seq, true));
        event(&shared, "a.b", 13, false);
        assert_eq!(take(&told), ["a.b 11", "a.b 13"]);
    }

    #[test]
    fn reasons_of_other_nodes_are_shortened() {
        let (shared, told) = shared();
        follower(&shared).follow("a", Way::default());
        let [(_, _, ticket)] = due(&shared)[..] else { panic!("one request") };
        let fault = Fault::new(code::DENIED, "x".repeat(100_000));
        shared.answered("a", ticket, Err(PeerError::Fault(fault)));
        assert_eq!(take(&told), [format!("a refused {}", MAX_REASON + 3)]);
        assert!(shared.lock().names.is_empty());
    }
}
