//! Topics: who has subscribed to which, and what is published to them.
//!
//! Locks are taken in this order: the directory, a topic, a mailbox. No waker and no destructor of a subscription runs
//! under any of them.

mod topic;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::RegistryError;
use super::mailbox::{Held, Mailbox, Peer, TOPIC};
use super::name::quoted;
use super::names::{Names, key};
use crate::config::{Limits, Overflow, TopicConfig};
use crate::message::{Fault, code};
use crate::metrics::{Counter, Metrics};
use topic::{Joining, Published, StartAt, SubscriptionId, Topic};

/// The topics of a node.
pub(crate) struct Topics {
    directory: RwLock<Directory>,
    configured: Names<Arc<Configured>>,
    /// What applies to a topic that is not configured.
    unconfigured: Arc<Configured>,
    /// Differs after each start of the node, so that numbers of earlier ones do not count.
    epoch: String,
    limits: OnceLock<Arc<Limits>>,
    metrics: Arc<Metrics>,
    /// No topic that was removed, or to which was published while it did not exist, has had a larger number.
    floor: AtomicU64,
    last_subscription: AtomicU64,
}

#[derive(Default)]
struct Directory {
    topics: FxHashMap<Arc<str>, Arc<Topic>>,
    /// The subscriptions to families, with the prefix of each.
    families: FxHashMap<SubscriptionId, (Box<str>, Joining)>,
}

/// A topic or family of the configuration.
struct Configured {
    config: Arc<TopicConfig>,
    published: Counter,
}

/// A request to subscribe.
#[derive(Debug, Default)]
pub(crate) struct Subscribe<'a> {
    /// A topic, or a family of topics.
    pub(crate) topic: &'a str,
    /// The number of the last event that the subscriber has seen.
    pub(crate) since: Option<u64>,
    /// The epoch of that number.
    pub(crate) epoch: Option<&'a str>,
    /// What happens when too many events wait; `None`: as the topic is configured.
    pub(crate) overflow: Option<Overflow>,
}

/// The state of a topic when a subscription to it began.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    /// The number of its last event; `None` for a family.
    pub(crate) seq: Option<u64>,
    /// Events after `since`, or since an earlier subscription, are neither kept nor delivered.
    pub(crate) is_missing: bool,
}

/// A subscription of a connection, until it is dropped.
struct Subscription {
    topics: Arc<Topics>,
    name: Box<str>,
    id: SubscriptionId,
    mailbox: usize,
}

impl Topics {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let unconfigured =
            Configured { config: Arc::new(TopicConfig::new("")), published: Counter::default() };
        Self {
            directory: RwLock::default(),
            configured: Names::default(),
            unconfigured: Arc::new(unconfigured),
            epoch: format!("{:016x}", fastrand::u64(..)),
            limits: OnceLock::new(),
            metrics,
            floor: AtomicU64::new(0),
            last_subscription: AtomicU64::new(0),
        }
    }

    /// Adds a topic or family of the configuration.
    ///
    /// # Errors
    /// [`RegistryError`] if its name is taken, reserved or invalid.
    pub(super) fn configure(&mut self, config: &TopicConfig) -> Result<(), RegistryError> {
        let configured = Configured { config: Arc::new(config.clone()), published: Counter::default() };
        self.configured.insert(&config.name, Arc::new(configured))
    }

    /// Sets the limits, unless they are set.
    pub(crate) fn set_limits(&self, limits: &Arc<Limits>) {
        let _ = self.limits.set(limits.clone());
    }

    fn limits(&self) -> &Limits {
        self.limits.get_or_init(Arc::default)
    }

    /// Returns what distinguishes the numbers of this node from those before its start.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Publishes `data`, which is JSON, to a topic. Returns the number of connections that receive it.
    ///
    /// # Errors
    /// If the name is no topic's, or a limit is reached.
    pub(crate) fn publish(self: &Arc<Self>, name: &str, data: &str) -> Result<usize, Fault> {
        if is_family(name)? {
            return Err(Fault::invalid_params(format!("{} is a family; publish to one topic", quoted(name))));
        }
        let limit = self.limits().message;
        if data.len() > limit {
            self.metrics.too_large.inc();
            let message =
                format!("an event of {} bytes exceeds the limit of {limit} (limits.message)", data.len());
            return Err(Fault::new(code::REQUEST_TOO_LARGE, message));
        }
        let configured = self.configured(name);
        configured.published.inc();
        loop {
            let found = self.read().topics.get(name).cloned();
            let topic = match found {
                Some(topic) => topic,
                None if configured.config.keep > 0 || self.read().has_family_of(name) => {
                    self.topic(&mut self.write(), name)?
                }
                None => {
                    self.floor.fetch_add(1, Ordering::Relaxed);
                    return Ok(0);
                }
            };
            if let Some(mut published) = topic.publish(data, Instant::now()) {
                let reached = self.finish(&mut published);
                if reached == 0 {
                    self.write().remove_if_unused(&topic, &self.floor);
                }
                return Ok(reached);
            }
        }
    }

    /// Subscribes a connection to a topic or family, or changes its subscription.
    ///
    /// # Errors
    /// If the name is invalid, or a limit is reached.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        peer: &Peer,
        request: &Subscribe<'_>,
    ) -> Result<Subscribed, Fault> {
        let is_family = is_family(request.topic)?;
        if is_family && request.since.is_some() {
            return Err(Fault::invalid_params(
                "since is the number of an event of one topic, not of a family",
            ));
        }
        let is_of_this_epoch = request.epoch.is_none_or(|epoch| epoch == self.epoch);
        let start = match request.since {
            None => StartAt::FirstKept,
            Some(since) if is_of_this_epoch => StartAt::After(since),
            Some(_) => StartAt::Lost,
        };
        let limits = self.limits();
        let id = self.last_subscription.fetch_add(1, Ordering::Relaxed) + 1;
        let mailbox = peer.mailbox();
        let subscription = Subscription {
            topics: self.clone(),
            name: request.topic.into(),
            id,
            mailbox: topic::key(mailbox),
        };
        self.metrics.subscriptions.inc();
        // Dropped last, so that no event is lost in between.
        let (_replaced, has_ended) =
            match mailbox.hold_subscription(request.topic, Box::new(subscription), limits) {
                Ok(Some(replaced)) => (Some(replaced), false),
                // An earlier one may have ended, unknown to the subscriber.
                Ok(None) => (None, mailbox.forget_events(request.topic, true, covers)),
                Err(refused) => {
                    drop(refused);
                    self.metrics.subscriptions_refused.inc();
                    let message = format!(
                        "the connection has {} subscriptions (limits.subscriptions)",
                        limits.subscriptions
                    );
                    return Err(Fault::new(code::BUSY, message));
                }
            };
        let joining = Joining { id, mailbox: mailbox.clone(), overflow: request.overflow };
        let mut directory = self.write();
        if is_family {
            let prefix = request.topic.trim_end_matches('*');
            directory.families.insert(id, (prefix.into(), joining.clone()));
            let topics: Vec<_> = directory.matching(prefix).cloned().collect();
            let mut joined: Vec<_> =
                topics.iter().map(|topic| topic.join(&joining, StartAt::FirstKept).2).collect();
            drop(directory);
            for published in &mut joined {
                self.finish(published);
            }
            return Ok(Subscribed { seq: None, is_missing: has_ended });
        }
        let topic = self.topic(&mut directory, request.topic);
        let joined = topic.map(|topic| topic.join(&joining, start));
        drop(directory);
        match joined {
            Ok((seq, is_missing, mut published)) => {
                self.finish(&mut published);
                Ok(Subscribed { seq: Some(seq), is_missing: is_missing || has_ended })
            }
            Err(fault) => {
                self.unsubscribe(peer, request.topic);
                Err(fault)
            }
        }
    }

    /// Ends a connection's subscription. Returns `false` if there is none.
    pub(crate) fn unsubscribe(&self, peer: &Peer, name: &str) -> bool {
        let subscription = peer.release(&(TOPIC, name.into()));
        let existed = subscription.is_some();
        drop(subscription);
        peer.mailbox().forget_events(name, false, covers);
        existed
    }

    /// Ends all subscriptions of a connection for a reason, which it is told.
    pub(crate) fn end(mailbox: &Mailbox, reason: &'static str) {
        drop(mailbox.end_subscriptions(|_| true, reason));
    }

    /// Returns the number of topics.
    pub(crate) fn count(&self) -> usize {
        self.read().topics.len()
    }

    /// Visits each configured topic and family, and how many events were published to it; those published to others are
    /// under an empty name.
    pub(super) fn each_published(&self, visit: &mut dyn FnMut(&str, u64)) {
        for Configured { config, published } in self.configured.values().map(|configured| &**configured) {
            visit(&config.name, published.get());
        }
        visit("", self.unconfigured.published.get());
    }

    /// Wakes the subscribers of an event, ends the subscriptions for which there was no room, and counts. Returns the
    /// number of connections that receive it. No lock may be held.
    fn finish(&self, published: &mut Published) -> usize {
        published.wake();
        self.metrics.events_dropped.add(published.dropped);
        for (mailbox, ids) in published.ended.drain(..) {
            let is_ended = |held: &Held| {
                held.downcast_ref::<Subscription>().is_some_and(|subscription| ids.contains(&subscription.id))
            };
            let reason = "the subscriber was too slow";
            let ended = mailbox.end_subscriptions(is_ended, reason);
            self.metrics.subscriptions_ended.add(ended.len() as u64);
        }
        published.reached
    }

    fn configured(&self, name: &str) -> &Arc<Configured> {
        self.configured.find(name).unwrap_or(&self.unconfigured)
    }

    /// Returns a topic, which is created if it does not exist.
    fn topic(&self, directory: &mut Directory, name: &str) -> Result<Arc<Topic>, Fault> {
        if let Some(topic) = directory.topics.get(name) {
            return Ok(topic.clone());
        }
        let limit = self.limits().topics;
        if directory.topics.len() >= limit {
            self.metrics.topics_refused.inc();
            let message = format!("the node has {limit} topics in use (limits.topics)");
            return Err(Fault::new(code::BUSY, message));
        }
        let config = self.configured(name).config.clone();
        let topic = Arc::new(Topic::new(name.into(), config, self.floor.load(Ordering::Relaxed)));
        for (prefix, joining) in directory.families.values() {
            if name.starts_with(&**prefix) {
                topic.join(joining, StartAt::FirstKept);
            }
        }
        directory.topics.insert(topic.name.clone(), topic.clone());
        Ok(topic)
    }

    fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// Returns the topics with a prefix.
    fn matching<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Topic>> {
        self.topics.values().filter(move |topic| topic.name.starts_with(prefix))
    }

    /// Removes a topic without subscribers and kept events. Its numbers go on if it is created again.
    fn remove_if_unused(&mut self, topic: &Topic, floor: &AtomicU64) {
        if let Some(seq) = topic.remove_if_unused() {
            floor.fetch_max(seq, Ordering::Relaxed);
            self.topics.remove(&topic.name);
        }
    }

    /// Returns `true` if anybody has subscribed to a family that a topic belongs to.
    fn has_family_of(&self, name: &str) -> bool {
        self.families.values().any(|(prefix, _)| name.starts_with(&**prefix))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Self { topics, name, id, mailbox } = self;
        topics.metrics.subscriptions.sub(1);
        let mut directory = topics.write();
        directory.families.remove(id);
        let left: Vec<_> = match name.strip_suffix('*') {
            Some(prefix) => directory.matching(prefix).cloned().collect(),
            None => directory.topics.get(&**name).cloned().into_iter().collect(),
        };
        for topic in left {
            topic.leave(*mailbox, *id);
            directory.remove_if_unused(&topic, &topics.floor);
        }
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("topics", &self.count()).finish_non_exhaustive()
    }
}

/// Returns `true` if a name is a family's, and `false` if it is a topic's.
///
/// # Errors
/// If it is neither.
fn is_family(name: &str) -> Result<bool, Fault> {
    match key(name) {
        Ok(key) => Ok(key.ends_with('.')),
        Err(_) => Err(Fault::invalid_params(format!(
            "{} is no topic: a name has 1 to 128 visible ASCII characters without quotes and backslashes, and does \
             not begin with \"rpc.\"; \"*\" may only end a family, as in \"chat.*\"",
            quoted(name)
        ))),
    }
}

/// Returns `true` if a subscription to `name` receives the events of `topic`.
fn covers(name: &str, topic: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => topic.starts_with(prefix),
        None => name == topic,
    }
}
