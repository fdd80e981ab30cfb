//! The events of a subscription, for code in this process.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use smol::stream::Stream;

use super::events::{Event, Notice};
use super::mailbox::{Mailbox, Posts};
use crate::config::{Limits, Overflow};
use crate::message::Fault;

/// The size of the events that are taken out of the queue at once, in bytes.
const ROOM: usize = 4096;

/// The events of a topic or a family, with data of type `T`, until it is dropped. A stream, which ends after
/// [`TopicEvent::Ended`]. Created by [`Topics::subscribe`](super::Topics::subscribe) and
/// [`Remote::subscribe`](crate::Remote::subscribe).
#[must_use = "dropping it ends the subscription"]
pub struct Subscription<T> {
    /// Closed when dropped, which ends the subscription.
    mailbox: Arc<Mailbox>,
    posts: Posts,
    is_ended: bool,
    /// What brings the events, if that is no topic of this node.
    _source: Option<Box<dyn Any + Send + Sync>>,
    data: PhantomData<fn() -> T>,
}

/// What happens to a subscription.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TopicEvent<T> {
    /// An event was published.
    Published {
        /// The topic.
        topic: Arc<str>,
        /// Its number within the topic.
        seq: u64,
        /// What was published.
        data: T,
        /// The time since then, if it was published before the subscription and kept.
        age: Option<Duration>,
    },
    /// An event was published whose data are not as expected.
    Invalid {
        /// The topic.
        topic: Arc<str>,
        /// Its number within the topic.
        seq: u64,
        /// What is wrong with its data.
        fault: Fault,
    },
    /// Events were missed, since this subscriber was too slow or the connection to another node was lost.
    Missed {
        /// The topic or family.
        topic: Arc<str>,
        /// How many; `None` if that is not known.
        count: Option<u64>,
    },
    /// The subscription has ended.
    Ended {
        /// Why.
        reason: String,
    },
}

impl<T> Subscription<T> {
    pub(super) fn new(mailbox: Arc<Mailbox>, source: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let posts = Posts { room: ROOM, ..Posts::default() };
        Self { mailbox, posts, is_ended: false, _source: source, data: PhantomData }
    }

    /// Creates a subscription to what comes through the feed, and keeps what `source` returns for it.
    pub(crate) fn fed(
        limits: &Limits,
        source: impl FnOnce(Feed) -> Option<Box<dyn Any + Send + Sync>>,
    ) -> Self {
        let mailbox = Arc::<Mailbox>::default();
        mailbox.accept_events(limits);
        let source = source(Feed(mailbox.clone()));
        Self::new(mailbox, source)
    }
}

impl<T: DeserializeOwned> Subscription<T> {
    /// Waits for what happens next. Returns `None` after the end. Threads wait by `smol::block_on(subscription.next())`.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// # use chanrpc::route::TopicEvent;
    /// let builder = Node::builder("example");
    /// let mut lines = builder.topics().subscribe::<String>("chat.*")?;
    /// builder.topics().publish("chat.lobby", "hello")?;
    /// drop(builder.listen("127.0.0.1:0").start()?);
    ///
    /// while let Some(event) = smol::block_on(lines.next()) {
    ///     match event {
    ///         TopicEvent::Published { topic, data, .. } => println!("{topic}: {data}"),
    ///         other => println!("{other:?}"), // the node is stopping
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn next(&mut self) -> Option<TopicEvent<T>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn take(&mut self, notice: &Notice) -> TopicEvent<T> {
        match notice {
            Notice::Event { event, is_kept, .. } => {
                let (topic, seq) = (event.topic.clone(), event.seq);
                match serde_json::from_str(event.data()) {
                    Ok(data) => {
                        let age = is_kept.then(|| event.published.elapsed());
                        TopicEvent::Published { topic, seq, data, age }
                    }
                    Err(error) => {
                        TopicEvent::Invalid { topic, seq, fault: Fault::invalid_params(error.to_string()) }
                    }
                }
            }
            Notice::Missed { topic, count, .. } => TopicEvent::Missed { topic: topic.clone(), count: *count },
            Notice::Ended { reason, .. } => {
                self.is_ended = true;
                TopicEvent::Ended { reason: reason.clone().into() }
            }
        }
    }
}

impl<T> Unpin for Subscription<T> {}

impl<T: DeserializeOwned> Stream for Subscription<T> {
    type Item = TopicEvent<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TopicEvent<T>>> {
        let this = &mut *self;
        if this.is_ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(notice) = this.posts.events.pop_front() {
                return Poll::Ready(Some(this.take(&notice)));
            }
            if this.mailbox.poll(cx, &mut VecDeque::new(), &mut this.posts).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("ended", &self.is_ended).finish_non_exhaustive()
    }
}

/// Where the events of a subscription come from that no topic of this node brings.
pub(crate) struct Feed(Arc<Mailbox>);

impl Feed {
    /// Adds an event, in place of the oldest if too many wait.
    pub(crate) fn event(&self, topic: &str, seq: u64, data: &str, age: Option<Duration>) {
        let now = Instant::now();
        let published = age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
        let event = Arc::new(Event::new(topic.into(), seq, data, published));
        if let super::mailbox::Delivered::Queued { waker: Some(waker), .. } =
            self.0.deliver(&event, Overflow::Oldest, age.is_some())
        {
            waker.wake();
        }
    }

    /// Tells that events were missed, before the one with the number `next` if that is known.
    pub(crate) fn missed(&self, topic: &str, count: Option<u64>, next: Option<u64>) {
        if let Some(waker) = self.0.miss(&topic.into(), count, next.unwrap_or(0)) {
            waker.wake();
        }
    }

    /// Tells that there will be no more.
    pub(crate) fn ended(&self, topic: &str, reason: &str) {
        self.0.events_ended(topic, reason);
    }
}
