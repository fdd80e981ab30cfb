//! Topics: who has subscribed to which, and what is published to them.
//!
//! Locks are taken in this order: what is followed at a node, the directory, a topic, a mailbox. No waker and no
//! destructor of a subscription runs under any of them.

mod forwarded;
mod handle;
mod topic;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::task::{Context, Wake};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use smol::Timer;

use super::RegistryError;
use super::access::{Access, PEER, Right, RightEnd};
use super::mailbox::{Held, Mailbox, Peer, TOPIC};
use super::name::quoted;
use super::names::{Names, key};
use crate::config::{Limits, Overflow, TopicConfig};
use crate::message::{Fault, code};
use crate::metrics::{Counter, Metrics};
pub(crate) use forwarded::{Follow, Upstream, Way};
use forwarded::{Forwarded, Interest};
pub use handle::Topics;
pub(crate) use topic::{EXPIRED, WITHDRAWN};
use topic::{Joining, Published, StartAt, SubscriptionId, Topic};

/// The topics of a node.
pub(crate) struct TopicHub {
    directory: RwLock<Directory>,
    configured: OnceLock<Names<Arc<Configured>>>,
    /// What applies to a topic that is not configured.
    unconfigured: Arc<Configured>,
    /// Differs after each start of the node, so that numbers of earlier ones do not count.
    epoch: String,
    limits: RwLock<Option<Arc<Limits>>>,
    metrics: Arc<Metrics>,
    /// No topic that was removed, or to which was published while it did not exist, has had a larger number.
    floor: AtomicU64,
    last_subscription: AtomicU64,
    is_stopped: AtomicBool,
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
    /// `None` if its events are published here.
    forwarded: Option<Forwarded>,
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
    /// The right to it; `None` in this process.
    pub(crate) right: Option<Right>,
    /// The way that the request has come.
    pub(crate) way: Way,
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
    topics: Arc<TopicHub>,
    name: Box<str>,
    id: SubscriptionId,
    mailbox: usize,
    /// What it needs of other nodes.
    interest: Option<Arc<Interest>>,
    right: Option<Right>,
    /// Ends it with the right to it.
    _expiry: Option<Timer>,
}

impl TopicHub {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let unconfigured = Configured {
            config: Arc::new(TopicConfig::new("")),
            published: Counter::default(),
            forwarded: None,
        };
        Self {
            directory: RwLock::default(),
            configured: OnceLock::new(),
            unconfigured: Arc::new(unconfigured),
            epoch: format!("{:016x}", fastrand::u64(..)),
            limits: RwLock::default(),
            metrics,
            floor: AtomicU64::new(0),
            last_subscription: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Sets the topics and families of the configuration, unless they are set.
    ///
    /// # Errors
    /// [`RegistryError`] if a name is taken, reserved or invalid.
    pub(crate) fn configure(&self, configs: &[TopicConfig]) -> Result<(), RegistryError> {
        let mut names = Names::default();
        for config in configs {
            let forwarded = config.is_forwarded().then(Forwarded::default);
            let config = Arc::new(config.clone());
            let name = config.name.clone();
            names.insert(&name, Arc::new(Configured { config, published: Counter::default(), forwarded }))?;
        }
        let _ = self.configured.set(names);
        Ok(())
    }

    /// Sets the other node of a configured topic or family.
    pub(crate) fn set_upstream(&self, configured: &str, upstream: Upstream) {
        if let Some(forwarded) = self.forwarded(configured) {
            forwarded.set_upstream(upstream);
        }
    }

    /// Returns the counters of the node.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Sets the limits.
    pub(crate) fn set_limits(&self, limits: &Arc<Limits>) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Some(limits.clone());
    }

    /// Returns `true` if the limits are set.
    pub(crate) fn has_limits(&self) -> bool {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn limits(&self) -> Arc<Limits> {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Ends the subscriptions that other access rules do not allow, or only for a shorter time.
    pub(crate) fn check_rights(&self, access: &Arc<Access>) {
        let is_ended = |held: &Held| {
            held.downcast_ref::<Subscription>().is_some_and(|subscription| {
                let right = subscription.right.as_ref();
                right.is_some_and(|right| !right.persists(access, &subscription.name))
            })
        };
        for mailbox in self.mailboxes() {
            let ended = mailbox.end_subscriptions(is_ended, WITHDRAWN);
            self.metrics.subscriptions_ended.add(ended.len() as u64);
        }
    }

    /// Returns what distinguishes the numbers of this node from those before its start.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Returns the other node of a topic, if its events come from one.
    ///
    /// # Errors
    /// If the name is no topic's, or the node has not started yet.
    pub(crate) fn upstream(&self, name: &str) -> Result<Option<&Upstream>, Fault> {
        let Some(forwarded) = &self.configured(name).forwarded else { return Ok(None) };
        check_topic(name)?;
        let not_started = || Fault::new(code::NO_PROVIDER, "the node has not started yet");
        forwarded.upstream().map(Some).ok_or_else(not_started)
    }

    /// Publishes `data`, which is JSON, to a topic of this node. Returns the number of connections that receive it.
    ///
    /// # Errors
    /// If the name is no topic's, or a limit is reached.
    pub(crate) fn publish(self: &Arc<Self>, name: &str, data: &str) -> Result<usize, Fault> {
        check_topic(name)?;
        self.deliver(name, data, Instant::now(), false)
    }

    /// Publishes an event of another node, which has published it so long ago.
    pub(crate) fn relay(self: &Arc<Self>, upstream: usize, name: &str, data: &str, age: Option<Duration>) {
        let is_from = |forwarded: &Forwarded| forwarded.is_from(upstream);
        if check_topic(name).is_ok() && self.configured(name).forwarded.as_ref().is_some_and(is_from) {
            self.metrics.events_relayed.inc();
            let now = Instant::now();
            let at = age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
            if let Err(fault) = self.deliver(name, data, at, age.is_some()) {
                log::warn!(target: PEER, "an event of {} is lost: {fault}", quoted(name));
                self.metrics.events_dropped.inc();
                self.relay_missed(upstream, name, Some(1));
            }
        }
    }

    /// Tells the subscribers of a topic or family that events of another node were missed.
    pub(crate) fn relay_missed(self: &Arc<Self>, upstream: usize, name: &str, count: Option<u64>) {
        let Ok(is_family) = is_family(name) else { return };
        let is_from =
            |topic: &str| self.configured(topic).forwarded.as_ref().is_some_and(|it| it.is_from(upstream));
        let mut skipped = Vec::new();
        let mut directory = self.write();
        if is_family {
            let prefix = name.trim_end_matches('*');
            let topics = directory.matching(prefix).filter(|topic| is_from(&topic.name));
            skipped.extend(topics.map(|topic| topic.skip(None)));
            // Of topics that nobody here knows, too.
            for (own, joining) in directory.families.values() {
                if own.starts_with(prefix) || prefix.starts_with(&**own) {
                    skipped.push(miss_family(own, joining));
                }
            }
        } else if is_from(name) && (directory.topics.contains_key(name) || directory.has_family_of(name)) {
            match self.topic(&mut directory, name) {
                Ok(topic) => skipped.push(topic.skip(count)),
                // There is no place for its numbers.
                Err(_) => {
                    let families = directory.families.values().filter(|(own, _)| name.starts_with(&**own));
                    skipped.extend(families.map(|(own, joining)| miss_family(own, joining)));
                }
            }
        }
        drop(directory);
        skipped.iter_mut().for_each(|published| _ = self.finish(published));
    }

    /// Ends the subscriptions to topics of another node that it has refused.
    pub(crate) fn relay_refused(&self, upstream: usize, name: &str, fault: &Fault) {
        log::warn!(target: PEER, "subscribing to {} at its node failed: {fault}", quoted(name));
        let refused = "the node of the topic has refused: ";
        let reasons = [(true, format!("{refused}{fault}")), (false, format!("{refused}{name}: {fault}"))];
        for mailbox in self.mailboxes() {
            for (is_same, reason) in &reasons {
                let is_ended = |held: &Held| {
                    held.downcast_ref::<Subscription>().is_some_and(|subscription| {
                        let interest = subscription.interest.as_ref();
                        (*subscription.name == *name) == *is_same
                            && interest.is_some_and(|interest| interest.needs(upstream, name))
                    })
                };
                drop(mailbox.end_subscriptions(is_ended, reason));
            }
        }
    }

    /// Ends all subscriptions for good, since the node stops.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.mailboxes().iter().for_each(|mailbox| Self::end(mailbox, "the node is stopping"));
        self.each_forwarded(&mut |_, forwarded| {
            if let Some(upstream) = forwarded.upstream() {
                upstream.follow.stop();
            }
        });
    }

    /// Returns all subscribed connections.
    fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        let directory = self.read();
        let of_topics = directory.topics.values().flat_map(|topic| topic.mailboxes());
        of_topics.chain(directory.families.values().map(|(_, joining)| joining.mailbox.clone())).collect()
    }

    /// Notes that nobody needs a topic or family of another node any longer.
    fn interrupt(&self, name: &str, forwarded: &Forwarded) {
        let followed = forwarded.followed();
        let is_followed = |topic: &str| followed.keys().any(|name| covers(name, topic));
        // A topic of its own does not belong to the family around it.
        let is_theirs = |topic: &str| {
            covers(name, topic)
                && self.configured(topic).forwarded.as_ref().is_some_and(|it| std::ptr::eq(it, forwarded))
        };
        let mut directory = self.write();
        let topics = directory.topics.values();
        let topics = topics.filter(|topic| is_theirs(&topic.name) && !is_followed(&topic.name));
        let topics: Vec<_> = topics.cloned().collect();
        for topic in topics {
            topic.interrupt();
            directory.remove_if_unused(&topic, &self.floor);
        }
        // A topic that was removed already must not go on with its next number either.
        self.floor.fetch_add(1, Ordering::Relaxed);
    }

    /// Delivers an event to the subscribers of a topic. Returns their number.
    fn deliver(self: &Arc<Self>, name: &str, data: &str, at: Instant, is_kept: bool) -> Result<usize, Fault> {
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
            if let Some(mut published) = topic.publish(data, at, is_kept) {
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
        request.way.check()?;
        if request.way.via.split(',').any(|epoch| epoch == self.epoch) {
            let message = format!("the topic {} is forwarded in a circle", quoted(request.topic));
            return Err(Fault::new(code::HOP_LIMIT, message));
        }
        let is_of_this_epoch = request.epoch.is_none_or(|epoch| epoch == self.epoch);
        let start = match request.since {
            None => StartAt::FirstKept,
            Some(since) if is_of_this_epoch => StartAt::After(since),
            Some(_) => StartAt::Lost,
        };
        if self.is_stopped.load(Ordering::SeqCst) {
            return Err(Fault::new(code::CLOSED, "the node is stopping"));
        }
        let limits = self.limits();
        let id = self.last_subscription.fetch_add(1, Ordering::Relaxed) + 1;
        let mailbox = peer.mailbox();
        let end = request.right.as_ref().and_then(|right| right.end.clone());
        let interest = self.has_forwarded().then(|| Arc::new(Interest::new(self, request.topic)));
        let subscription = Subscription {
            topics: self.clone(),
            name: request.topic.into(),
            id,
            mailbox: topic::key(mailbox),
            interest: interest.clone(),
            right: request.right.clone(),
            _expiry: end.clone().map(|end| self.expiry(mailbox, id, end)),
        };
        // Until it has joined, nobody publishes, nor ends it.
        let mut directory = self.write();
        self.metrics.subscriptions.inc();
        // Dropped last, so that no event is lost in between.
        let (_replaced, has_ended) =
            match mailbox.hold_subscription(request.topic, Box::new(subscription), &limits) {
                Ok(Some(replaced)) => (Some(replaced), false),
                // An earlier one may have ended, unknown to the subscriber.
                Ok(None) => (None, mailbox.forget_events(request.topic, true, covers)),
                Err(refused) => {
                    drop(directory);
                    drop(refused);
                    self.metrics.subscriptions_refused.inc();
                    let message = format!(
                        "the connection has {} subscriptions (limits.subscriptions)",
                        limits.subscriptions
                    );
                    return Err(Fault::new(code::BUSY, message));
                }
            };
        let follow = || {
            // Only now: what comes at once must find a subscriber.
            if let Some(interest) = &interest {
                interest.acquire(&request.way);
            }
        };
        let joining = Joining { id, mailbox: mailbox.clone(), overflow: request.overflow, end };
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
            follow();
            return Ok(Subscribed { seq: None, is_missing: has_ended });
        }
        let topic = self.topic(&mut directory, request.topic);
        let joined = topic.map(|topic| topic.join(&joining, start));
        drop(directory);
        match joined {
            Ok((seq, is_missing, mut published)) => {
                self.finish(&mut published);
                follow();
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
    pub(crate) fn end(mailbox: &Mailbox, reason: &str) {
        drop(mailbox.end_subscriptions(|_| true, reason));
    }

    /// Returns a timer that ends a subscription of a connection with the right to it.
    fn expiry(self: &Arc<Self>, mailbox: &Arc<Mailbox>, id: SubscriptionId, end: RightEnd) -> Timer {
        let mut timer = Timer::after(end.remaining());
        let (topics, mailbox) = (Arc::downgrade(self), Arc::downgrade(mailbox));
        let waker = Arc::new(Expiry { topics, mailbox, id, end }).into();
        // Registers the waker.
        let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
        timer
    }

    fn end_by_id(&self, mailbox: &Mailbox, ids: &[SubscriptionId], reason: &'static str) {
        let is_ended = |held: &Held| {
            held.downcast_ref::<Subscription>().is_some_and(|subscription| ids.contains(&subscription.id))
        };
        let ended = mailbox.end_subscriptions(is_ended, reason);
        self.metrics.subscriptions_ended.add(ended.len() as u64);
    }

    /// Returns the number of topics.
    pub(crate) fn count(&self) -> usize {
        self.read().topics.len()
    }

    /// Visits each configured topic and family, and how many events were published to it; those published to others are
    /// under an empty name.
    pub(super) fn each_published(&self, visit: &mut dyn FnMut(&str, u64)) {
        for configured in self.configured.get().iter().flat_map(|configured| configured.values()) {
            visit(&configured.config.name, configured.published.get());
        }
        visit("", self.unconfigured.published.get());
    }

    /// Wakes the subscribers of an event, ends the subscriptions for which there was no room, and counts. Returns the
    /// number of connections that receive it. No lock may be held.
    fn finish(&self, published: &mut Published) -> usize {
        published.wake();
        self.metrics.events_dropped.add(published.dropped);
        for (mailbox, ids, reason) in published.ended.drain(..) {
            self.end_by_id(&mailbox, &ids, reason);
        }
        published.reached
    }

    fn configured(&self, name: &str) -> &Arc<Configured> {
        self.configured.get().and_then(|configured| configured.find(name)).unwrap_or(&self.unconfigured)
    }

    /// Visits the configured names whose events come from other nodes.
    fn each_forwarded(&self, visit: &mut dyn FnMut(&str, &Forwarded)) {
        for configured in self.configured.get().iter().flat_map(|configured| configured.values()) {
            if let Some(forwarded) = &configured.forwarded {
                visit(&configured.config.name, forwarded);
            }
        }
    }

    fn has_forwarded(&self) -> bool {
        let mut configured = self.configured.get().into_iter().flat_map(Names::values);
        configured.any(|configured| configured.forwarded.is_some())
    }

    /// Returns what is known of a configured name whose events come from another node.
    fn forwarded(&self, configured: &str) -> Option<&Forwarded> {
        self.configured.get()?.find(configured.trim_end_matches('*'))?.forwarded.as_ref()
    }

    /// Returns `true` if the configuration of a topic or family is that of the configured name.
    fn is_configured_as(&self, name: &str, configured: &str) -> bool {
        name.ends_with('*') || self.configured(name).config.name == configured
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
        let Self { topics, name, id, mailbox, .. } = self;
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

/// Ends a subscription when it is woken.
struct Expiry {
    topics: Weak<TopicHub>,
    mailbox: Weak<Mailbox>,
    id: SubscriptionId,
    end: RightEnd,
}

impl Wake for Expiry {
    fn wake(self: Arc<Self>) {
        // If the clock was set back, the next event ends it in time.
        if self.end.has_passed()
            && let (Some(topics), Some(mailbox)) = (self.topics.upgrade(), self.mailbox.upgrade())
        {
            topics.end_by_id(&mailbox, &[self.id], EXPIRED);
        }
    }
}

impl fmt::Debug for TopicHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicHub").field("topics", &self.count()).finish_non_exhaustive()
    }
}

/// Tells the subscriber of a family that events were missed.
fn miss_family(prefix: &str, joining: &Joining) -> Published {
    Published::waking(joining.mailbox.miss(&format!("{prefix}*").into(), None, 0))
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

/// Checks that a name is a topic's.
fn check_topic(name: &str) -> Result<(), Fault> {
    match is_family(name)? {
        false => Ok(()),
        true => Err(Fault::invalid_params(format!("{} is a family; publish to one topic", quoted(name)))),
    }
}

/// Returns `true` if a subscription to `name` receives the events of `topic`.
pub(crate) fn covers(name: &str, topic: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => topic.starts_with(prefix),
        None => name == topic,
    }
}
