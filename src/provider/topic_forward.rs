//! Topics of other nodes.

use std::sync::Arc;

use crate::remote::{Follower, News, Remote, RemoteError};
use crate::route::{Follow, Provider, TopicHub, Upstream, Way};

/// Returns the node of a topic: what is published goes through `publish`, and what is subscribed to through a connection of
/// its own to the node of `remote`. `number` distinguishes the node from others.
///
/// # Errors
/// If the executor was dropped.
pub(crate) fn upstream(
    topics: &Arc<TopicHub>,
    remote: &Remote,
    publish: Arc<dyn Provider>,
    number: usize,
    follow: Option<Arc<dyn Follow>>,
) -> Result<Upstream, RemoteError> {
    let follow = match follow {
        Some(follow) => follow,
        None => {
            let weak = Arc::downgrade(topics);
            let tell = move |news: News<'_>| {
                let Some(topics) = weak.upgrade() else { return };
                match news {
                    News::Event { topic, data, age, .. } => topics.relay(number, topic, data, age),
                    News::Missed { topic, count, .. } => topics.relay_missed(number, topic, count),
                    News::Refused { name, fault } => topics.relay_refused(number, name, fault),
                    News::Dropped => {}
                }
            };
            Arc::new(remote.follower(Box::new(tell))?)
        }
    };
    Ok(Upstream { publish, follow, number })
}

impl Follow for Follower {
    fn follow(&self, name: &str, way: Way) {
        Self::follow(self, name, way);
    }

    fn unfollow(&self, name: &str, is_over: bool) {
        Self::unfollow(self, name, is_over);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}
