//! The client of one node.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::RemoteCall;
use super::calling::{self, calling_methods};
use super::connection::ConnectionLease;
use super::endpoint::{Endpoint, Mode};
use super::error::RemoteError;
use super::follow::{Follower, News, Tell};
#[cfg(all(feature = "cli", feature = "nats"))]
use super::nats::Survey;
use super::node_endpoint::NodeEndpoint;
use crate::chan::{CallError, FunctionId};
use crate::message::RawJson;
use crate::metrics::TargetState;
use crate::route::{Subscription, Way};

/// A client of another node. Cheap to clone, and safe to share between threads.
///
/// It is used like a [`Client`](crate::chan::Client) of a server in this process, with the same typed ids. Arguments
/// travel as JSON: a tuple or a `Vec` as an array, a struct as an object, `()` as no parameters, another value as an
/// array of one. An error of the function, or of the other node, is [`CallError::Failed`] with a
/// [`Fault`](crate::message::Fault); see [`CallError::fault`].
///
/// One connection multiplexes all calls. The client connects at once, and reconnects with exponential backoff when the
/// connection is lost. Calls wait while an attempt to connect is under way; between attempts they fail at once with
/// [`CallError::Unreachable`]. Dropping the last clone closes the connection and fails its calls.
///
/// A node stops reading a connection with [`Limits::in_flight`](crate::config::Limits::in_flight) calls in flight. So
/// that slow calls do not delay all others, calls beyond that number use further connections, up to 4 in total, which
/// are not re-established when lost. Calls on one connection arrive in order.
///
/// ```
/// use std::time::Duration;
///
/// use chanrpc::chan::Id1;
/// use chanrpc::node::Node;
/// use chanrpc::remote::Remote;
///
/// const ECHO: Id1<Vec<String>, Vec<String>> = Id1::new("rpc.echo");
///
/// let node = Node::builder("example").listen("127.0.0.1:0").start()?;
///
/// let remote = Remote::connect(node.addresses()[0].to_string());
/// let echoed = remote.call(ECHO, vec!["hello".into()]).timeout(Duration::from_secs(5)).wait()?;
/// assert_eq!(echoed, ["hello"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a client does nothing by itself"]
pub struct Remote(pub(super) Arc<NodeEndpoint>);

impl Remote {
    /// Returns the other node's address, as given.
    pub fn address(&self) -> &str {
        &self.0.pool.target().address
    }

    calling_methods! {"# let client = Remote::connect(node.addresses()[0].to_string());"}

    /// Publishes an event to a topic of the other node, and waits for the number of connections that receive it.
    ///
    /// ```
    /// # use chanrpc::{Node, Remote};
    /// # let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// # let mut readings = node.node().topics().subscribe::<f64>("sensor.attic")?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.publish("sensor.attic", &21.5).wait()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, topic: &str, data: &(impl Serialize + ?Sized)) -> RemoteCall<u64> {
        calling::call(self.endpoint(), "rpc.publish".into(), &(topic, data))
    }

    /// Subscribes to a topic of the other node, or to a family such as `chat.*`, whose data are a `T`, until the result is
    /// dropped.
    ///
    /// The subscription has a connection of its own. When that is lost, the client connects and subscribes again, and
    /// receives what the node has kept since. What was missed is told by [`TopicEvent::Missed`](crate::route::TopicEvent).
    /// The subscription ends only if the node refuses it, or the executor is dropped. Events wait for a slow subscriber as
    /// for [`Topics::subscribe`](crate::route::Topics::subscribe), by the limits of this client.
    ///
    /// It is a stream, so that [`Handle::attach_stream`](crate::Handle::attach_stream) delivers its events on the loop of a
    /// scheduler.
    ///
    /// ```
    /// # use chanrpc::{Node, Remote};
    /// # use chanrpc::route::TopicEvent;
    /// # let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// let mut readings = remote.subscribe::<f64>("sensor.*");
    /// # while node.node().topics().publish("sensor.attic", &21.5)? == 0 {}
    /// match smol::block_on(readings.next()) {
    ///     Some(TopicEvent::Published { topic, data, .. }) => assert_eq!((&*topic, data), ("sensor.attic", 21.5)),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe<T: DeserializeOwned>(&self, topic: &str) -> Subscription<T> {
        Subscription::fed(&self.0.pool.target().limits, |feed| {
            let name = topic.to_owned();
            let tell = move |news: News<'_>| match news {
                News::Event { topic, seq, data, age } => feed.event(topic, seq, data, age),
                News::Missed { topic, count, next } => feed.missed(topic, count, next),
                News::Refused { fault, .. } => feed.ended(&name, &fault.to_string()),
                News::Dropped => feed.ended(&name, "the client's executor was dropped"),
            };
            let follower = self.follower(Box::new(tell)).ok()?;
            follower.follow(topic, Way::default());
            // The client's thread, if it has one, runs as long as the subscription exists.
            Some(Box::new((follower, self.clone())))
        })
    }

    /// Returns subscriptions at the other node, of which there are none yet.
    ///
    /// # Errors
    /// If the executor was dropped.
    pub(crate) fn follower(&self, tell: Tell) -> Result<Follower, RemoteError> {
        let pool = &self.0.pool;
        match pool.executor() {
            Ok(executor) => Ok(Follower::new(&executor, pool.target(), tell)),
            Err(error) => {
                tell(News::Dropped);
                Err(error)
            }
        }
    }

    /// Waits for an attempt to connect that is under way. Calls do so themselves.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// smol::block_on(remote.connected())?;
    ///
    /// let nobody = Remote::connect("127.0.0.1:1");
    /// assert!(smol::block_on(nobody.connected()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError::Unreachable`] if the attempt fails, or none is under way.
    pub async fn connected(&self) -> Result<(), CallError> {
        self.0.pool.lease()?.connection().connected().await?;
        Ok(())
    }

    /// Closes the connections after everything is written, or after `timeout`. Calls that were cancelled just before
    /// are thus cancelled at the other node too. Later calls fail.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// # use std::time::Duration;
    /// remote.go(ADD, 5).wait()?;
    /// smol::block_on(remote.close(Duration::from_secs(5)));
    /// assert!(remote.call(ADD, 5).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn close(&self, timeout: Duration) {
        self.0.pool.close(timeout).await;
    }

    /// Has `watcher` called whenever the other node has answered the first ping of the persistent connection, until it
    /// returns `false`. It must return soon.
    pub(crate) fn when_node_found(&self, watcher: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.pool.target().watchers().push(Box::new(watcher));
    }

    /// Returns the state of the persistent connection, for how long it has been in it, and why it is not established.
    pub(crate) fn health(&self) -> (TargetState, Duration, Option<String>) {
        let health = self.0.pool.health();
        health.map_or((TargetState::Closing, Duration::ZERO, None), |(state, since, reason)| {
            (state, since.elapsed(), reason)
        })
    }

    /// Returns `true` if the persistent connection is established.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.pool.is_connected()
    }

    /// Notes that nobody calls any longer, so that it closes when the last call is answered.
    pub(crate) fn withdraw(&self) {
        self.0.withdraw();
    }

    /// Closes the connections if nobody calls any longer. Returns `false` while calls are in flight.
    pub(crate) fn retire(&self) -> bool {
        self.0.retire()
    }

    pub(super) fn endpoint(&self) -> Arc<dyn Endpoint> {
        self.0.clone()
    }

    /// Returns `true` if both share their connections.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns a connection with capacity for a call.
    pub(crate) fn lease(&self) -> Result<ConnectionLease, RemoteError> {
        self.0.pool.lease()
    }

    /// Asks the services of NATS for their functions, with the parameters of `rpc.list`. `None` if this is a client of a
    /// node.
    #[cfg(all(feature = "cli", feature = "nats"))]
    pub(crate) async fn survey(
        &self,
        params: &RawJson<'_>,
        deadline: Instant,
    ) -> Option<Result<Survey, RemoteError>> {
        let client = self.0.pool.target().nats.as_ref()?;
        Some(self.0.survey(client, Some(params), deadline).await)
    }

    /// Calls a function until `deadline`. In go mode it ends when the request is queued for sending.
    pub(crate) async fn send(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        self.0.call(method, params, deadline, hops, mode).await
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.address()).finish_non_exhaustive()
    }
}
