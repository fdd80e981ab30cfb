//! Topics whose events come from another node: what is followed there, as long as anybody here subscribes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashMap;

use super::{TopicHub, covers};
use crate::message::Fault;
use crate::route::Provider;

/// The length of an epoch.
const EPOCH: usize = 16;

/// Subscriptions at another node.
pub(crate) trait Follow: Send + Sync {
    /// Subscribes to a topic or family there, for subscribers whose requests have come that way. It may be followed already.
    fn follow(&self, name: &str, way: Way);

    /// Notes that a subscriber of a topic or family has left, which was the last if it `is_over`.
    fn unfollow(&self, name: &str, is_over: bool);

    /// Ends all subscriptions.
    fn stop(&self);
}

/// The way that a subscription has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Way {
    /// The number of nodes that have forwarded it.
    pub(crate) hops: u32,
    /// Their epochs, separated by commas; of several subscriptions to the same name, those of all.
    pub(crate) via: String,
}

impl Way {
    /// The maximum length of the epochs: a longer circle ends by `limits.hops`.
    const MAX_VIA: usize = 32 * (EPOCH + 1);

    /// Checks the epochs.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let is_epoch = |item: &str| item.len() == EPOCH && item.bytes().all(|b| b.is_ascii_hexdigit());
        if self.via.is_empty() || (self.via.len() < Self::MAX_VIA && self.via.split(',').all(is_epoch)) {
            return Ok(());
        }
        Err(Fault::invalid_params("via is for nodes: at most 32 epochs, separated by commas"))
    }

    /// Adds a way of another subscription to the same name: a circle is noticed whichever has begun first.
    fn merge(&mut self, other: &Self) {
        self.hops = self.hops.min(other.hops);
        for epoch in other.via.split(',') {
            let has_room = self.via.len() + EPOCH + 1 < Self::MAX_VIA;
            if has_room && !self.via.split(',').any(|known| known == epoch) {
                self.via = format!("{epoch},{}", self.via);
            }
        }
    }

    /// Returns the way after one more node.
    fn through(&self, epoch: &str) -> Self {
        let via = match &*self.via {
            "" => epoch.to_owned(),
            // The first one makes room.
            via if via.len() + EPOCH + 1 >= Self::MAX_VIA => format!("{},{epoch}", &via[EPOCH + 1..]),
            via => format!("{via},{epoch}"),
        };
        Self { hops: self.hops + 1, via }
    }
}

/// The other node of a topic.
pub(crate) struct Upstream {
    /// What is published there comes from this provider of `rpc.publish`.
    pub(crate) publish: Arc<dyn Provider>,
    pub(crate) follow: Arc<dyn Follow>,
    /// Distinguishes it from other nodes.
    pub(crate) number: usize,
}

/// A topic or family of the configuration whose events come from another node.
#[derive(Default)]
pub(super) struct Forwarded {
    /// The names that are followed there, how many subscriptions need each, and the way that they pass on.
    followed: Mutex<FxHashMap<Box<str>, (usize, Way)>>,
    upstream: OnceLock<Upstream>,
}

impl Forwarded {
    /// Returns the other node, which is not known before the node starts.
    pub(super) fn upstream(&self) -> Option<&Upstream> {
        self.upstream.get()
    }

    pub(super) fn is_from(&self, number: usize) -> bool {
        self.upstream().is_some_and(|upstream| upstream.number == number)
    }

    /// Sets the other node, unless it is set.
    pub(super) fn set_upstream(&self, upstream: Upstream) {
        let followed = self.followed();
        let upstream = self.upstream.get_or_init(|| upstream);
        followed.iter().for_each(|(name, (_, way))| upstream.follow.follow(name, way.clone()));
    }

    fn acquire(&self, name: &str, way: Way) {
        let mut followed = self.followed();
        let (count, merged) = followed.entry(name.into()).or_default();
        if *count == 0 {
            *merged = way;
        } else {
            merged.merge(&way);
        }
        *count += 1;
        if let Some(upstream) = self.upstream() {
            upstream.follow.follow(name, merged.clone());
        }
    }

    /// Returns `true` if nobody needs the name any longer.
    fn release(&self, name: &str) -> bool {
        let mut followed = self.followed();
        let Some((count, _)) = followed.get_mut(name) else { return false };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            followed.remove(name);
        }
        if let Some(upstream) = self.upstream() {
            upstream.follow.unfollow(name, is_last);
        }
        is_last
    }

    pub(super) fn followed(&self) -> MutexGuard<'_, FxHashMap<Box<str>, (usize, Way)>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a subscription needs of other nodes, until it is dropped.
pub(super) struct Interest {
    topics: Arc<TopicHub>,
    /// The configured names, and what is followed for each.
    names: Vec<(Box<str>, Box<str>)>,
    is_acquired: AtomicBool,
}

impl Interest {
    /// Returns what a subscription to `name` needs of the nodes that have a part of it.
    pub(super) fn new(topics: &Arc<TopicHub>, name: &str) -> Self {
        let mut names = Vec::new();
        topics.each_forwarded(&mut |configured, _| {
            let narrower = match () {
                () if covers(configured, name) => name,
                () if covers(name, configured) => configured,
                () => return,
            };
            // A topic of its own does not belong to the family around it.
            if topics.is_configured_as(narrower, configured) {
                names.push((configured.into(), narrower.into()));
            }
        });
        Self { topics: topics.clone(), names, is_acquired: AtomicBool::new(false) }
    }

    /// Follows the names, once.
    pub(super) fn acquire(&self, way: &Way) {
        self.is_acquired.store(true, Ordering::Relaxed);
        for (configured, name) in &self.names {
            if let Some(forwarded) = self.topics.forwarded(configured) {
                forwarded.acquire(name, way.through(self.topics.epoch()));
            }
        }
    }

    /// Returns `true` if it needs a name of that node.
    pub(super) fn needs(&self, upstream: usize, name: &str) -> bool {
        self.names.iter().any(|(configured, followed)| {
            **followed == *name && self.topics.forwarded(configured).is_some_and(|it| it.is_from(upstream))
        })
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if !*self.is_acquired.get_mut() {
            return;
        }
        for (configured, name) in &self.names {
            if let Some(forwarded) = self.topics.forwarded(configured)
                && forwarded.release(name)
            {
                self.topics.interrupt(name, forwarded);
            }
        }
    }
}
