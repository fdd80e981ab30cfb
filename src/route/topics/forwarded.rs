//! Topics whose events come from another node: what is followed there, as long as anybody here subscribes.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashMap;

use super::{TopicHub, covers};
use crate::route::Provider;

/// Subscriptions at another node.
pub(crate) trait Follow: Send + Sync {
    /// Subscribes to a topic or family there, for subscribers whose request has come that way.
    fn follow(&self, name: &str, way: Way);

    /// Ends that subscription.
    fn unfollow(&self, name: &str);

    /// Ends all subscriptions.
    fn stop(&self);
}

/// The way that a subscription has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    /// The number of nodes that have forwarded it.
    pub(crate) hops: u32,
    /// Their epochs, separated by commas.
    pub(crate) via: String,
}

impl Way {
    /// Returns the way after one more node.
    fn through(&self, epoch: &str) -> Self {
        let separator = if self.via.is_empty() { "" } else { "," };
        Self { hops: self.hops + 1, via: format!("{}{separator}{epoch}", self.via) }
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
        let (count, way) = followed.entry(name.into()).or_insert((0, way));
        *count += 1;
        if *count == 1
            && let Some(upstream) = self.upstream()
        {
            upstream.follow.follow(name, way.clone());
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
            if let Some(upstream) = self.upstream() {
                upstream.follow.unfollow(name);
            }
        }
        is_last
    }

    /// Returns `true` if the events of a topic are received.
    pub(super) fn is_followed(&self, topic: &str) -> bool {
        self.followed().keys().any(|name| covers(name, topic))
    }

    fn followed(&self) -> MutexGuard<'_, FxHashMap<Box<str>, (usize, Way)>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a subscription needs of other nodes, until it is dropped.
pub(super) struct Interest {
    topics: Arc<TopicHub>,
    /// The configured names, and what is followed for each.
    names: Vec<(Box<str>, Box<str>)>,
}

impl Interest {
    /// Follows a name at the nodes that have a part of it. `configured` are the names whose events come from others.
    pub(super) fn new(topics: &Arc<TopicHub>, name: &str, way: &Way) -> Self {
        let mut names = Vec::new();
        topics.each_forwarded(&mut |configured, forwarded| {
            let narrower = match () {
                () if covers(configured, name) => name,
                () if covers(name, configured) => configured,
                () => return,
            };
            // A topic of its own does not belong to the family around it.
            if topics.is_configured_as(narrower, configured) {
                names.push((configured.into(), narrower.into()));
                forwarded.acquire(narrower, way.through(topics.epoch()));
            }
        });
        Self { topics: topics.clone(), names }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        for (configured, name) in &self.names {
            if let Some(forwarded) = self.topics.forwarded(configured)
                && forwarded.release(name)
            {
                self.topics.interrupt(name, forwarded);
            }
        }
    }
}
