//! Every subscriber sees the numbers of a topic without a gap, unless it is told: whatever the order of subscriptions,
//! events, slow reads and lost connections. Without a transport, an executor or a clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use chanrpc::config::{Config, Limits};
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::route::{Grants, registry_from_config};
use chanrpc::internals::session::Session;
use chanrpc::node::Node;
use chanrpc::route::Registry;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::request;

const TOPICS: [&str; 3] = ["a.x", "a.y", "b"];
const NAMES: [&str; 4] = ["a.x", "a.*", "b", "a.y"];
const POLICIES: [&str; 3] = ["oldest", "latest", "end"];
const CONFIG: &str = "[limits]\nevents = 4\noutput = 600\n[[topic]]\nname = \"a.x\"\nkeep = 2\n";

/// A subscriber, and what it may expect next of each topic.
struct Subscriber {
    session: Session,
    received: Vec<u8>,
    /// The name that each request subscribes to, or unsubscribes from.
    asked: BTreeMap<u64, (&'static str, bool)>,
    subscribed: BTreeMap<&'static str, ()>,
    /// The next number; `None` if the first is not known.
    next: BTreeMap<String, Option<u64>>,
    /// The number of the last event when the subscription began: kept events may come until then.
    began: BTreeMap<String, u64>,
}

fn covers(name: &str, topic: &str) -> bool {
    name.strip_suffix('*').map_or(name == topic, |prefix| topic.starts_with(prefix))
}

impl Subscriber {
    fn new(registry: &Arc<Registry>, limits: &Arc<Limits>, now: Instant) -> Self {
        let session = Session::new(registry.clone(), limits.clone(), Dialect::JsonLines, Grants::all(), now);
        Self {
            session: session.reachable(),
            received: Vec::new(),
            asked: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            next: BTreeMap::new(),
            began: BTreeMap::new(),
        }
    }

    fn send(&mut self, id: u64, method: &str, params: &Value, now: Instant) {
        let line = request(id, method, params) + "\n";
        self.session.input().extend_from_slice(line.as_bytes());
        self.session.received(now);
        self.poll(now);
    }

    fn poll(&mut self, now: Instant) {
        let cx = Context::from_waker(Waker::noop());
        while self.session.poll_replies(&cx, now).is_ready() {}
    }

    /// Reads at most `most` bytes, and checks the complete messages.
    fn read(&mut self, most: usize, now: Instant) -> Result<usize, TestCaseError> {
        let count = self.session.output().len().min(most);
        self.received.extend_from_slice(&self.session.output()[..count]);
        if count > 0 {
            self.session.consume_output(count);
        }
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            self.check(&serde_json::from_slice(&line).unwrap())?;
        }
        self.poll(now);
        Ok(count)
    }

    fn is_covered(&self, topic: &str) -> bool {
        self.subscribed.keys().any(|name| covers(name, topic))
    }

    /// Forgets what was expected of topics without a subscription.
    fn forget(&mut self) {
        let subscribed = &self.subscribed;
        self.next.retain(|topic, _| subscribed.keys().any(|name| covers(name, topic)));
        self.began.retain(|topic, _| subscribed.keys().any(|name| covers(name, topic)));
    }

    fn check(&mut self, message: &Value) -> Result<(), TestCaseError> {
        let params = &message["params"];
        let topic = params["topic"].as_str().unwrap_or_default().to_owned();
        match message["method"].as_str() {
            None => {
                let (name, begins) = self.asked.remove(&message["id"].as_u64().unwrap()).unwrap();
                let result = &message["result"];
                prop_assert!(!result.is_null(), "{}", message);
                if !begins {
                    // Otherwise the subscription has ended, as is told later.
                    if *result == true {
                        self.subscribed.remove(name);
                        self.forget();
                    }
                    return Ok(());
                }
                let was_covered = self.is_covered(name);
                if result["missed"] == true {
                    self.next.retain(|topic, _| !covers(name, topic));
                    self.began.retain(|topic, _| !covers(name, topic));
                }
                self.subscribed.insert(name, ());
                // Events of a subscription that goes on may still come.
                let goes_on = match result["missed"] == true {
                    true => self.subscribed.keys().any(|other| *other != name && covers(other, name)),
                    false => was_covered,
                };
                if let Some(seq) = result["seq"].as_u64().filter(|_| !goes_on) {
                    self.began.insert(name.to_owned(), seq);
                    self.next.insert(name.to_owned(), None);
                }
            }
            Some("rpc.event") => {
                prop_assert!(self.is_covered(&topic), "not subscribed: {}", message);
                let seq = params["seq"].as_u64().unwrap();
                prop_assert_eq!(&params["data"], seq);
                let next = self.next.entry(topic.clone()).or_default();
                if params.get("age_ms").is_some() {
                    // Repeated for another subscription, or before the first new event.
                    *next = next.map(|next| next.max(seq + 1)).or(Some(seq + 1));
                    return Ok(());
                }
                match *next {
                    Some(next) => prop_assert_eq!(seq, next, "{}", message),
                    None => {
                        let began = self.began.get(&topic);
                        prop_assert!(began.is_none_or(|began| seq == began + 1), "{:?} {}", began, message);
                    }
                }
                *next = Some(seq + 1);
            }
            Some("rpc.missed") => {
                let (count, new) = (params["count"].as_u64(), params["next"].as_u64().unwrap());
                let next = self.next.entry(topic).or_default();
                if let Some(next) = *next {
                    // Another subscription may have ended, as is told later.
                    prop_assert!(next + count.unwrap_or_default() <= new, "{} after {}", message, next);
                }
                *next = Some(new);
            }
            Some("rpc.ended") => {
                let name = NAMES.into_iter().find(|name| *name == topic).unwrap();
                prop_assert!(self.subscribed.remove(name).is_some(), "not subscribed: {}", message);
                // The events of another subscription may begin anywhere.
                self.next.retain(|topic, _| !covers(name, topic));
                self.began.retain(|topic, _| !covers(name, topic));
            }
            Some(_) => prop_assert!(false, "{}", message),
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Action {
    Subscribe(usize, usize, usize),
    Unsubscribe(usize, usize),
    Publish(usize),
    Read(usize, usize),
    Lose(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (0..3_usize, 0..NAMES.len(), 0..4_usize)
            .prop_map(|(who, name, policy)| Action::Subscribe(who, name, policy)),
        1 => (0..3_usize, 0..NAMES.len()).prop_map(|(who, name)| Action::Unsubscribe(who, name)),
        12 => (0..TOPICS.len()).prop_map(Action::Publish),
        4 => (0..3_usize, 1..500_usize).prop_map(|(who, bytes)| Action::Read(who, bytes)),
        1 => (0..3_usize).prop_map(Action::Lose),
    ]
}

proptest! {
    #[test]
    fn numbers_have_no_gap_unless_told(actions in prop::collection::vec(action(), 1..150)) {
        let now = Instant::now();
        let config = Config::parse(CONFIG, "test").unwrap();
        let executor = Arc::new(smol::Executor::new());
        let registry = registry_from_config(&config, &executor).unwrap().build();
        // Sets the limits of the topics.
        let _node = Node::new(executor, registry.clone(), config.limits.clone());
        let limits = Arc::new(config.limits);
        let new = || Subscriber::new(&registry, &limits, now);
        let mut subscribers = [new(), new(), new()];
        // It holds all topics, so that their numbers begin at 1.
        let mut witness = new();
        for (id, name) in (1..).zip(["a.*", "b"]) {
            witness.asked.insert(id, (name, true));
            witness.send(id, "rpc.subscribe", &json!([name]), now);
            witness.read(usize::MAX, now)?;
        }
        let mut last = BTreeMap::<&str, u64>::new();
        let mut id = 2;
        for action in actions {
            id += 1;
            match action {
                Action::Subscribe(who, name, policy) => {
                    let mut params = json!({ "topic": NAMES[name] });
                    if let Some(policy) = POLICIES.get(policy) {
                        params["when_full"] = json!(policy);
                    }
                    subscribers[who].asked.insert(id, (NAMES[name], true));
                    subscribers[who].send(id, "rpc.subscribe", &params, now);
                }
                Action::Unsubscribe(who, name) => {
                    subscribers[who].asked.insert(id, (NAMES[name], false));
                    subscribers[who].send(id, "rpc.unsubscribe", &json!([NAMES[name]]), now);
                }
                Action::Publish(topic) => {
                    let topic = TOPICS[topic];
                    let seq = last.entry(topic).or_default();
                    *seq += 1;
                    let line = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"rpc.publish\",\"params\":[\"{topic}\",{seq}]}}\n");
                    witness.session.input().extend_from_slice(line.as_bytes());
                    witness.session.received(now);
                    witness.poll(now);
                    witness.read(usize::MAX, now)?;
                    prop_assert_eq!(witness.next.get(topic), Some(&Some(*seq + 1)));
                    subscribers.iter_mut().for_each(|subscriber| subscriber.poll(now));
                }
                Action::Read(who, bytes) => {
                    subscribers[who].read(bytes, now)?;
                }
                Action::Lose(who) => subscribers[who] = new(),
            }
        }
        for subscriber in &mut subscribers {
            while subscriber.read(usize::MAX, now)? > 0 {}
            prop_assert!(subscriber.asked.is_empty(), "unanswered: {:?}", subscriber.asked);
            for (topic, next) in &subscriber.next {
                let last = last.get(topic.as_str()).copied().unwrap_or_default();
                // A subscription without an event since is up to date if it began at the last one.
                let known = next.map_or_else(|| subscriber.began.get(topic).copied(), |next| Some(next - 1));
                prop_assert!(known.is_none_or(|known| known == last), "{topic}: {known:?} of {last}");
            }
        }
        // Nothing is left of subscribers that are gone.
        drop((subscribers, witness));
        prop_assert_eq!(chanrpc::internals::route::RegistryInternals::metrics(&*registry).subscriptions.get(), 0);
    }
}
