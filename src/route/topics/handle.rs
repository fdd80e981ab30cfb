//! Topics, for the code of the node's own process.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Subscribe, TopicHub, Upstream, check_topic};
use crate::message::{Fault, RawJson, code};
use crate::route::mailbox::{Mailbox, Peer, Posts};
use crate::route::subscription::Subscription;
use crate::route::{Call, CallHead, Caller, Responder};

/// The topics of a node, for functions, schedulers and threads of its own process. Cheap to clone.
///
/// [`NodeBuilder::topics`](crate::node::NodeBuilder::topics) returns it before the node starts, so that the state of a
/// server can have it. Access rules do not apply to it.
///
/// ```
/// use chanrpc::route::{TopicEvent, Topics};
/// use chanrpc::{Functions, Id0, Node, Remote};
///
/// const SAY: Id0<String> = Id0::new("say");
///
/// let mut functions = Functions::exported();
/// functions.register(SAY, |topics: &mut Topics, text: String| {
///     topics.publish("chat.lobby", &text).map(drop)
/// })?;
/// let builder = Node::builder("example");
/// let topics = builder.topics();
/// let mut lobby = topics.subscribe::<String>("chat.lobby")?;
/// let node = builder.serve(functions, topics).listen("127.0.0.1:0").start()?;
///
/// Remote::connect(node.addresses()[0].to_string()).call(SAY, "hello".into()).wait()?;
/// let event = smol::block_on(lobby.next());
/// assert!(matches!(event, Some(TopicEvent::Published { data, .. }) if data == "hello"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Topics(Arc<TopicHub>);

impl Topics {
    pub(crate) fn new(hub: &Arc<TopicHub>) -> Self {
        Self(hub.clone())
    }

    /// Publishes an event, and returns the number of subscribers that receive it: connections, and subscriptions in this
    /// process. Never waits for any of them.
    ///
    /// If another node has the topic (`forward`), the event is sent there, and the result is 0: that node counts. Whether
    /// it has come there is told by [`publish_acknowledged`](Self::publish_acknowledged) only.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// # use chanrpc::route::TopicEvent;
    /// let topics = Node::builder("example").topics();
    /// let mut readings = topics.subscribe::<f64>("sensor.attic")?;
    /// assert_eq!(topics.publish("sensor.attic", &21.5)?, 1);
    /// let event = smol::block_on(readings.next());
    /// assert!(matches!(event, Some(TopicEvent::Published { data: 21.5, seq: 1, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A fault if `data` has no JSON form or is larger than [`Limits::message`](crate::config::Limits::message), the name is
    /// no topic's, the node has [`Limits::topics`](crate::config::Limits::topics) already, or it has not started yet and
    /// another node has the topic.
    pub fn publish(&self, topic: &str, data: &(impl Serialize + ?Sized)) -> Result<usize, Fault> {
        self.publish_raw(topic, &as_json(data)?)
    }

    fn publish_raw(&self, topic: &str, data: &RawJson<'_>) -> Result<usize, Fault> {
        let Some(upstream) = self.0.upstream(topic)? else { return self.0.publish(topic, data.get()) };
        // Nobody waits for the answer.
        self.publish_upstream(upstream, topic, data, Responder::new(&Arc::default(), 1, true))?;
        Ok(0)
    }

    /// Publishes an event, and waits until the node that has the topic (`forward`) has counted the subscribers that
    /// receive it. A topic of this node's own waits for nobody. If the future is dropped, the event may have come there.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// # let topics = Node::builder("example").topics();
    /// # smol::block_on(async {
    /// let count = topics.publish_acknowledged("sensor.attic", &21.5).await?;
    /// # assert_eq!(count, 0);
    /// # Ok::<(), chanrpc::message::Fault>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and those of that node and of the way there: [`code::NO_PROVIDER`] if the event was
    /// not sent, [`code::LOST`] or [`code::DEADLINE`] if it may have come there.
    pub fn publish_acknowledged<D: Serialize + ?Sized>(
        &self,
        topic: &str,
        data: &D,
    ) -> impl Future<Output = Result<usize, Fault>> + Send + use<D> {
        let sent = self.begin_acknowledged(topic, data);
        async move {
            match sent? {
                Sent::Here(count) => Ok(count),
                Sent::Upstream(answer) => answer.await,
            }
        }
    }

    fn begin_acknowledged(&self, topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Sent, Fault> {
        let data = as_json(data)?;
        let Some(upstream) = self.0.upstream(topic)? else {
            return self.0.publish(topic, data.get()).map(Sent::Here);
        };
        let answer = OneAnswer(Arc::default());
        self.publish_upstream(upstream, topic, &data, Responder::new(&answer.0, 1, false))?;
        Ok(Sent::Upstream(answer))
    }

    fn publish_upstream(
        &self,
        upstream: &Upstream,
        topic: &str,
        data: &RawJson<'_>,
        responder: Responder,
    ) -> Result<(), Fault> {
        check_topic(topic)?;
        let params = RawJson::checked(format!("{{\"topic\":\"{topic}\",\"data\":{}}}", data.get()));
        let deadline = Instant::now() + self.0.limits().deadline;
        let head = CallHead { method: "rpc.publish", deadline, hops: 0 };
        Call::detached(&head, &Caller::local(), Some(params), responder, |call| upstream.publish.call(call));
        Ok(())
    }

    /// Subscribes to a topic, or to a family such as `chat.*`, whose data are a `T`, until the result is dropped.
    ///
    /// It is a stream, so that [`Handle::attach_stream`](crate::Handle::attach_stream) delivers its events on the loop of a
    /// scheduler:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Node, Scheduler};
    /// # use chanrpc::route::TopicEvent;
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let scheduler = Scheduler::new(&executor, Functions::new(), |_| 0.0);
    /// # let handle = scheduler.handle();
    /// # let owner = executor.spawn(scheduler.run());
    /// # let topics = Node::builder("example").topics();
    /// let me = handle.clone();
    /// handle.attach_stream(topics.subscribe::<f64>("sensor.*")?, move |hottest: &mut f64, event| {
    ///     match event {
    ///         TopicEvent::Published { data, .. } => *hottest = hottest.max(data),
    ///         TopicEvent::Ended { .. } => me.close(),
    ///         // Some were missed, or are no number.
    ///         _ => {}
    ///     }
    /// #   ; me.close();
    /// })?;
    /// topics.publish("sensor.attic", &21.5)?;
    /// assert_eq!(smol::block_on(executor.run(owner)), 21.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Events wait for a slow subscriber as for a slow connection: at most [`Limits::events`](crate::config::Limits::events),
    /// and [`Limits::output`](crate::config::Limits::output) bytes; then `when_full` of the topic decides.
    ///
    /// # Errors
    /// A fault if the name is neither a topic's nor a family's, the node has
    /// [`Limits::topics`](crate::config::Limits::topics) already, or it stops.
    pub fn subscribe<T: DeserializeOwned>(&self, topic: &str) -> Result<Subscription<T>, Fault> {
        let mailbox = Arc::<Mailbox>::default();
        self.0.subscribe(&Peer::new(&mailbox), &Subscribe { topic, ..Subscribe::default() })?;
        Ok(Subscription::new(mailbox, None))
    }

    /// Subscribes the connection of a caller, until it is [removed](Self::remove), unsubscribes or ends. So the topic is a
    /// group of callers, to all of whom [`publish`](Self::publish) sends. They receive `rpc.event`; clients of Leaf a
    /// message with the last part of the topic's name.
    ///
    /// ```
    /// use chanrpc::route::{Topics, WithCaller};
    /// use chanrpc::{Functions, Id1, Node, Remote};
    ///
    /// const ENTER: Id1<WithCaller<()>, usize> = Id1::new("enter");
    ///
    /// let mut functions = Functions::exported();
    /// functions.register(ENTER, |topics: &mut Topics, WithCaller(caller, ())| {
    ///     topics.add("room.1.People", &caller)?;
    ///     topics.publish("room.1.People", &format!("{} is here", caller.connection()))
    /// })?;
    /// let builder = Node::builder("example");
    /// let topics = builder.topics();
    /// let node = builder.serve(functions, topics).listen("127.0.0.1:0").start()?;
    ///
    /// let (ann, bob) = (node.addresses()[0].to_string(), node.addresses()[0].to_string());
    /// let (ann, bob) = (Remote::connect(ann), Remote::connect(bob));
    /// assert_eq!(ann.call1::<_, usize>("enter", ()).wait()?, 1);
    /// assert_eq!(bob.call1::<_, usize>("enter", ()).wait()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A fault if the caller is a single request over HTTP or in this process, or as [`subscribe`](Self::subscribe).
    pub fn add(&self, topic: &str, caller: &Caller) -> Result<(), Fault> {
        let unreachable = || {
            let message =
                format!("a caller over {:?} has no connection that receives events", caller.dialect());
            Fault::new(code::INVALID_PARAMS, message)
        };
        let peer = caller.peer().ok_or_else(unreachable)?;
        self.0.subscribe(peer, &Subscribe { topic, ..Subscribe::default() }).map(drop)
    }

    /// Ends the subscription of a caller's connection. Returns `false` if there is none.
    pub fn remove(&self, topic: &str, caller: &Caller) -> bool {
        caller.peer().is_some_and(|peer| self.0.unsubscribe(peer, topic))
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn as_json(data: &(impl Serialize + ?Sized)) -> Result<RawJson<'static>, Fault> {
    RawJson::of(data).map_err(|error| Fault::invalid_params(error.to_string()))
}

/// Where an event went.
enum Sent {
    /// To this number of subscribers of this node.
    Here(usize),
    Upstream(OneAnswer),
}

/// Completes with the answer of another node. Dropped, it cancels the call.
struct OneAnswer(Arc<Mailbox>);

impl Future for OneAnswer {
    type Output = Result<usize, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut replies = VecDeque::new();
        ready!(self.0.poll(cx, &mut replies, &mut Posts::default()));
        let Some((_, outcome)) = replies.pop_front() else { return Poll::Pending };
        Poll::Ready(outcome.and_then(|count| {
            let no_count =
                || Fault::new(code::INTERNAL, format!("the node of the topic has answered {count}"));
            count.get().parse().map_err(|_| no_count())
        }))
    }
}

impl Drop for OneAnswer {
    fn drop(&mut self) {
        self.0.close();
    }
}
