//! Topics whose events are published over NATS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use smol::Executor;

use crate::codec::nats::{TOPICS, subject_of};
use crate::message::{Fault, RawJson, code};
use crate::provider::topics::publication;
use crate::remote::{Mode, NatsRole, Remote, RemoteError, control};
use crate::route::{Call, Follow, Peer, Provider, Responder, TopicHub, Upstream, Way, covers};

/// Distinguishes NATS from other nodes.
const NUMBER: usize = usize::MAX;

/// What is subscribed to at NATS, as long as anybody here subscribes.
pub(crate) struct NatsTopics {
    /// Set if topics have their events from here.
    topics: OnceLock<Weak<TopicHub>>,
    prefix: String,
    /// The topics that have a subject of their own, with that.
    fixed: Vec<(String, String)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peer: Option<Peer>,
    /// The names that are followed, each with the number of its subscription.
    followed: BTreeMap<String, u64>,
    last: u64,
    /// Messages may have been missed.
    was_lost: bool,
}

impl NatsTopics {
    /// Creates topics behind a prefix. Those in `fixed` have a subject of their own.
    pub(crate) fn new(prefix: String, fixed: Vec<(String, String)>) -> Arc<Self> {
        Arc::new(Self { topics: OnceLock::new(), prefix, fixed, state: Mutex::default() })
    }

    /// Returns `true` if topics have their events from here.
    pub(crate) fn is_used(&self) -> bool {
        self.topics.get().is_some()
    }

    fn hub(&self) -> Option<Arc<TopicHub>> {
        self.topics.get()?.upgrade()
    }

    /// Returns where the events of these topics come from, and go to.
    pub(crate) fn upstream(
        self: &Arc<Self>,
        topics: &Arc<TopicHub>,
        remote: &Remote,
        executor: &Arc<Executor<'static>>,
    ) -> Upstream {
        let _ = self.topics.set(Arc::downgrade(topics));
        let publish = Publish { topics: self.clone(), remote: remote.clone(), executor: executor.clone() };
        Upstream { publish: Arc::new(publish), follow: self.clone(), number: NUMBER }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the subject of a topic, or the pattern of those of a family.
    fn subject(&self, name: &str) -> Option<String> {
        let fixed = self.fixed.iter().find(|(own, _)| own == name);
        fixed.map(|(_, subject)| subject.clone()).or_else(|| subject_of(&self.prefix, name))
    }

    /// Returns the line that subscribes to a topic or family.
    fn subscription(&self, name: &str, number: u64) -> Option<String> {
        self.subject(name).map(|subject| format!("SUB {subject} {TOPICS}{number}"))
    }

    /// Notes that events of a topic or family may have been missed.
    fn missed(&self, name: &str) {
        if let Some(topics) = self.hub() {
            topics.relay_missed(NUMBER, name, None);
        }
    }
}

impl State {
    /// Returns `true` if the messages of a name arrive at the subscription of another one.
    fn is_covered(&self, name: &str) -> bool {
        self.followed.keys().any(|other| other != name && covers(other, name))
    }
}

impl Follow for NatsTopics {
    fn follow(&self, name: &str, _way: Way) {
        if self.subject(name).is_none() {
            let fault =
                Fault::new(code::UNKNOWN_FUNCTION, "the name is no NATS subject: a part of it is empty");
            if let Some(topics) = self.hub() {
                topics.relay_refused(NUMBER, name, &fault);
            }
            return;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        if state.followed.contains_key(name) {
            return;
        }
        state.last += 1;
        let number = state.last;
        // A message that two subscriptions of a connection match arrives twice.
        let covered: Vec<_> = state.followed.iter().filter(|(other, _)| covers(name, other)).collect();
        if let Some(peer) = state.peer.as_ref().filter(|_| !state.is_covered(name)) {
            let lines = covered.iter().map(|(_, number)| ended(**number));
            control(peer, &lines.chain(self.subscription(name, number)).collect::<Vec<_>>());
        }
        let interrupted: Vec<_> = covered.into_iter().map(|(other, _)| other.clone()).collect();
        state.followed.insert(name.to_owned(), number);
        drop(guard);
        interrupted.iter().for_each(|other| self.missed(other));
    }

    fn unfollow(&self, name: &str, is_over: bool) {
        if !is_over {
            return;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(number) = state.followed.remove(name) else { return };
        if let Some(peer) = state.peer.as_ref().filter(|_| !state.is_covered(name)) {
            let uncovered = state.followed.iter().filter(|(other, _)| covers(name, other));
            let uncovered = uncovered.filter(|(other, _)| !state.is_covered(other));
            let lines = uncovered.filter_map(|(other, number)| self.subscription(other, *number));
            control(peer, &std::iter::once(ended(number)).chain(lines).collect::<Vec<_>>());
        }
    }

    fn stop(&self) {
        let mut state = self.state();
        state.followed.clear();
        state.peer = None;
    }
}

impl NatsRole for NatsTopics {
    fn subscribe(&self, peer: &Peer) {
        let mut state = self.state();
        state.peer = Some(peer.clone());
        let uncovered = state.followed.iter().filter(|(name, _)| !state.is_covered(name));
        let lines = uncovered.filter_map(|(name, number)| self.subscription(name, *number));
        control(peer, &lines.collect::<Vec<_>>());
        let missed: Vec<_> = match std::mem::take(&mut state.was_lost) {
            true => state.followed.keys().cloned().collect(),
            false => Vec::new(),
        };
        drop(state);
        missed.iter().for_each(|name| self.missed(name));
    }

    fn unsubscribe(&self, peer: &Peer) {
        let mut state = self.state();
        let uncovered = state.followed.iter().filter(|(name, _)| !state.is_covered(name));
        control(peer, &uncovered.map(|(_, number)| ended(*number)).collect::<Vec<_>>());
        state.was_lost = true;
    }

    fn lost(&self) {
        let mut state = self.state();
        state.peer = None;
        state.was_lost = true;
    }

    fn message(&self, mut call: Call<'_>) {
        let subject = call.method();
        let data = call.take_params().unwrap_or(RawJson::NULL);
        if let Some(topics) = self.hub() {
            let mut has_own = false;
            for (name, _) in self.fixed.iter().filter(|(_, own)| own == subject) {
                topics.relay(NUMBER, name, data.get(), None);
                has_own = true;
            }
            let rest = subject.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix('.'));
            if let Some(name) = rest.filter(|_| !has_own) {
                topics.relay(NUMBER, name, data.get(), None);
            }
        }
        call.reply(Ok(RawJson::NULL));
    }
}

/// Returns the line that ends a subscription.
fn ended(number: u64) -> String {
    format!("UNSUB {TOPICS}{number}")
}

/// Publishes events over NATS.
struct Publish {
    topics: Arc<NatsTopics>,
    remote: Remote,
    executor: Arc<Executor<'static>>,
}

impl Provider for Publish {
    fn call(&self, call: Call<'_>) {
        let (topic, data) = match publication(call.params()) {
            Ok(publication) => publication,
            Err(fault) => return call.reply(Err(fault)),
        };
        let Some(subject) = self.topics.subject(&topic) else {
            let message = format!("{topic:?} is no NATS subject: a part of it is empty");
            return call.reply(Err(Fault::invalid_params(message)));
        };
        let deadline = call.deadline();
        let responder = call.defer();
        let (remote, executor) = (self.remote.clone(), &self.executor);
        match remote.lease().and_then(|lease| Ok((lease.connection().peer()?, lease))) {
            Ok((Some(peer), lease)) => {
                let answer = move |sent: Result<_, _>| {
                    answer(responder, sent.map_err(|error| lease.connection().error(error)));
                };
                peer.call(peer.reserve(), subject.into(), Some(data), None, 0, true, answer);
            }
            // Once it is connected.
            Ok((None, _)) => executor.spawn(send(remote, subject, data, deadline, responder)).detach(),
            Err(error) => answer(responder, Err(error)),
        }
    }
}

async fn send(
    remote: Remote,
    subject: String,
    data: RawJson<'static>,
    deadline: Instant,
    responder: Responder,
) {
    answer(responder, remote.send(subject.into(), Some(data), deadline, 0, Mode::Go).await);
}

/// Answers a publisher: nobody knows how many receive the event.
fn answer(responder: Responder, sent: Result<RawJson<'static>, RemoteError>) {
    responder.send(match sent {
        Ok(_) => Ok(RawJson::checked("0")),
        Err(RemoteError::Fault(fault)) => Err(fault),
        Err(error @ RemoteError::Deadline) => Err(Fault::new(code::DEADLINE, error.to_string())),
        Err(error) => Err(Fault::not_sent(error.to_string())),
    });
}
