//! The network client: calls the functions of another node over connections that all callers share.

mod backoff;
mod balanced;
mod builder;
mod call;
mod connection;
mod dial;
mod driver;
mod endpoint;
mod error;
mod follow;
#[cfg(feature = "grpc")]
mod grpc;
mod lanes;
#[cfg(feature = "grpc")]
mod link;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod nats_driver;
mod offering;
mod pool;
#[cfg(feature = "grpc")]
mod protocol;
mod submit;
mod target;
mod tcp;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use crate::chan::{BoxFuture, CallError, FunctionId, Id, KindMarker, Results, Takes};
#[cfg(feature = "nats")]
use crate::codec::nats::FLUSH;
use crate::message::RawJson;
#[cfg(feature = "nats")]
use crate::message::{Fault, code};
use crate::metrics::TargetState;
use crate::route::{CallId, LAST_CALLS, Peer, PeerError, Subscription, Way};
#[cfg(feature = "nats")]
use crate::route::{PEER, PING};
pub use crate::transport::tls::{Connector, TlsError};
pub use balanced::{Balanced, Policy};
pub(crate) use balanced::{BalancedRequest, Balancer, BalancerSettings, Failures, key_of};
use builder::IoThread;
pub use builder::RemoteBuilder;
pub use call::RemoteCall;
use call::{decode, request};
#[cfg(feature = "cli")]
pub(crate) use connection::Connection;
pub(crate) use connection::ConnectionLease;
pub(crate) use endpoint::Mode;
use endpoint::{Endpoint, Request};
pub(crate) use error::RemoteError;
pub(crate) use follow::{Follower, News, Tell};
#[cfg(feature = "grpc")]
pub(crate) use grpc::unblocked;
#[cfg(feature = "nats")]
pub use nats::Naming;
#[cfg(all(feature = "cli", feature = "nats"))]
pub(crate) use nats::NatsAddress;
#[cfg(feature = "nats")]
pub(crate) use nats::{NatsCredentials, NatsRole, NatsSettings, Survey, control};
pub(crate) use offering::{OfferEvent, Offering};
use pool::Pool;

/// The function that lists the functions of a node; over NATS, those of all services.
#[cfg(feature = "nats")]
const LIST: &str = "rpc.list";

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
pub struct Remote(Arc<Inner>);

struct Inner {
    pool: Pool,
    /// When the configuration ceased to have it.
    withdrawn: OnceLock<Instant>,
    _thread: Option<IoThread>,
}

impl Remote {
    /// Starts to connect to `address`, a `host:port`, on a thread of its own. [`builder`](Self::builder) takes more
    /// settings.
    ///
    /// ```
    /// # use chanrpc::Remote;
    /// let remote = Remote::connect("127.0.0.1:7300"); // returns at once
    /// assert_eq!(remote.address(), "127.0.0.1:7300");
    /// ```
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn connect(address: impl Into<String>) -> Self {
        Self::builder(address).connect()
    }

    /// Returns a builder of a client of the node at `address`, a `host:port`. A dialect may come first:
    /// `msgpack://board-a:7300` speaks MessagePack-RPC, `headers://board-a:7300` JSON-RPC with `Content-Length`, and
    /// `lines://`, the default, JSON-RPC in lines.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use chanrpc::Remote;
    /// # use chanrpc::config::Limits;
    /// let limits = Limits::default().deadline(Duration::from_secs(1));
    /// let remote = Remote::builder("board-a:7300").token("a secret").limits(limits).connect();
    /// ```
    pub fn builder(address: impl Into<String>) -> RemoteBuilder {
        RemoteBuilder::new(address)
    }

    /// Returns the other node's address, as given.
    pub fn address(&self) -> &str {
        &self.0.pool.target().address
    }

    /// Calls the function of a typed id and waits for its result.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// // A plain thread waits; a task awaits.
    /// assert_eq!(remote.call(ADD, 5).wait()?, 5);
    /// assert_eq!(smol::block_on(async { remote.call(ADD, 2).await })?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call<K, A, R>(&self, id: Id<K, A, R>, arguments: A) -> RemoteCall<R>
    where
        K: KindMarker<R>,
        A: Serialize,
        R: DeserializeOwned,
    {
        self.call_untyped(id.into_untyped(), &arguments)
    }

    /// Calls a function without a result by its name, and waits until it has run.
    ///
    /// ```
    /// # use chanrpc::{Functions, Node, Remote};
    /// # let mut functions = Functions::exported();
    /// functions
    ///     .register0("reset", |total: &mut i64, ()| *total = 0)?
    ///     .register1("total", |total: &mut i64, ()| *total)?;
    /// # let node = Node::builder("example").serve(functions, 5).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// remote.call0("reset", ()).wait()?;
    /// assert_eq!(remote.call1::<_, i64>("total", ()).wait()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call0<A: Serialize>(&self, id: impl Into<FunctionId>, arguments: A) -> RemoteCall<()> {
        self.call_untyped(id.into(), &arguments)
    }

    /// Calls a function with one result by its name, and waits for it.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.call1::<i64, i64>("add", 5).wait()?, 5);
    /// assert!(remote.call1::<i64, i64>("subtract", 5).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call1<A: Serialize, R: DeserializeOwned>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> RemoteCall<R> {
        self.call_untyped(id.into(), &arguments)
    }

    /// Calls a function with several results by its name, and waits for them.
    ///
    /// ```
    /// # use chanrpc::{Functions, Node, Remote};
    /// # let mut functions = Functions::exported();
    /// functions.register_n("divide", |_: &mut (), (a, b): (u64, u64)| (a / b, a % b))?;
    /// # let node = Node::builder("example").serve(functions, ()).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// let (quotient, remainder): (u64, u64) = remote.call_n("divide", (17, 5)).wait()?;
    /// assert_eq!((quotient, remainder), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_n<A: Serialize, R: DeserializeOwned + Results>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> RemoteCall<R> {
        self.call_untyped(id.into(), &arguments)
    }

    /// Calls a function in go mode. The returned call ends when the request is queued for sending, and does not learn
    /// what becomes of it.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// remote.go(ADD, 5).wait()?;
    /// assert_eq!(remote.call(ADD, 0).wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn go<A: Serialize>(&self, id: impl Takes<A>, arguments: A) -> RemoteCall<()> {
        RemoteCall::new(self.endpoint(), request(id.into_function_id(), &arguments, Mode::Go), decode)
    }

    /// Calls a function with parameters in JSON, and waits for its result in JSON.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// # use chanrpc::message::RawJson;
    /// let params = RawJson::of(&[5])?;
    /// assert_eq!(remote.call_raw("add", Some(params)).wait()?.get(), "5");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_raw(
        &self,
        method: impl Into<String>,
        params: Option<RawJson<'_>>,
    ) -> RemoteCall<RawJson<'static>> {
        let params = params.map(RawJson::into_owned);
        RemoteCall::new(
            self.endpoint(),
            Ok(Request { method: Cow::Owned(method.into()), params, mode: Mode::Call }),
            Ok,
        )
    }

    /// Calls a function in go mode with parameters in JSON. See [`go`](Self::go).
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # use chanrpc::message::RawJson;
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// remote.go_raw("add", Some(RawJson::of(&[5])?)).wait()?;
    /// assert_eq!(remote.call(ADD, 0).wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn go_raw(&self, method: impl Into<String>, params: Option<RawJson<'_>>) -> RemoteCall<()> {
        let params = params.map(RawJson::into_owned);
        RemoteCall::new(
            self.endpoint(),
            Ok(Request { method: Cow::Owned(method.into()), params, mode: Mode::Go }),
            decode,
        )
    }

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
        self.call_untyped("rpc.publish".into(), &(topic, data))
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

    fn call_untyped<R: DeserializeOwned>(&self, id: FunctionId, arguments: &impl Serialize) -> RemoteCall<R> {
        RemoteCall::new(self.endpoint(), request(id, arguments, Mode::Call), decode)
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
        let _ = self.0.withdrawn.set(Instant::now());
    }

    /// Closes the connections if nobody calls any longer. Returns `false` while calls are in flight.
    pub(crate) fn retire(&self) -> bool {
        // A thread that has found the function before may still call.
        let Some(withdrawn) = self.0.withdrawn.get() else { return true };
        withdrawn.elapsed() >= LAST_CALLS && self.0.pool.close_unused()
    }

    fn endpoint(&self) -> Arc<dyn Endpoint> {
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

impl Inner {
    /// Calls a function by its name, or a subject.
    #[cfg(feature = "nats")]
    async fn call(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        let Some(client) = &self.pool.target().nats else {
            return self.exchange(method, params, deadline, hops, mode).await;
        };
        if method == LIST {
            let survey = self.survey(client, params.as_ref(), deadline).await?;
            if let Some(lacks) = survey.lacks {
                log::warn!(target: PEER, "{}: {lacks}", client.address());
            }
            return Ok(survey.functions);
        }
        let Some(naming) = client.naming() else {
            return self.exchange(method, params, deadline, hops, mode).await;
        };
        if method == PING {
            // Answered when the server has taken everything that was sent before.
            self.exchange(FLUSH.into(), None, deadline, hops, mode).await?;
            return Ok(RawJson::checked("\"pong\""));
        }
        if method.starts_with("rpc.") {
            let message =
                format!("servers of NATS have no {method}; they have functions, rpc.list and rpc.ping");
            return Err(RemoteError::Fault(Fault::new(code::UNKNOWN_FUNCTION, message)));
        }
        let subject = naming.subject(&method).map_err(RemoteError::Fault)?;
        match self.exchange(subject.into(), params, deadline, hops, mode).await {
            Err(RemoteError::Fault(fault)) => naming.result(Err(fault)).map_err(RemoteError::Fault),
            answer => answer,
        }
    }

    /// Asks the services of NATS for their functions.
    #[cfg(feature = "nats")]
    async fn survey(
        &self,
        client: &nats::NatsClient,
        params: Option<&RawJson<'_>>,
        deadline: Instant,
    ) -> Result<Survey, RemoteError> {
        let lease = self.pool.lease()?;
        let timeout = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        let peer = lease.connection().connected().or(timeout).await?;
        client.survey(&peer, params, self.pool.target().limits.message, deadline).await
    }

    #[cfg(not(feature = "nats"))]
    async fn call(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        self.exchange(method, params, deadline, hops, mode).await
    }

    async fn exchange(
        &self,
        method: Cow<'static, str>,
        params: Option<RawJson<'static>>,
        deadline: Instant,
        hops: u32,
        mode: Mode,
    ) -> Result<RawJson<'static>, RemoteError> {
        let lease = self.pool.lease()?;
        let call = async {
            let connection = lease.connection();
            let peer = connection.connected().await?;
            let (reply, replied) = async_channel::bounded(1);
            let id = peer.reserve();
            // A call in go mode is sent even if nobody waits for that.
            let call = (mode == Mode::Call).then_some(id);
            let mut cancel = CancelOnDrop { peer: &peer, call };
            let (is_notification, deadline) = match mode {
                Mode::Call => (false, Some(deadline)),
                Mode::Go => (true, None),
            };
            peer.call(id, method, params, deadline, hops, is_notification, move |result| {
                let _ = reply.try_send(result);
            });
            let result = replied.recv().await;
            cancel.call = None;
            let dropped = |_| Err(PeerError::Lost("the client was dropped".into()));
            result.unwrap_or_else(dropped).map_err(|error| connection.error(error))
        };
        // The connection's own deadline needs an executor that runs.
        let timeout = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        call.or(timeout).await
    }
}

impl Endpoint for Inner {
    fn address(&self) -> String {
        self.pool.target().address.clone()
    }

    fn default_timeout(&self) -> Duration {
        self.pool.target().limits.deadline
    }

    fn executor(&self) -> Result<Arc<Executor<'static>>, RemoteError> {
        self.pool.executor()
    }

    fn send(
        self: Arc<Self>,
        Request { method, params, mode }: Request,
        deadline: Instant,
        hops: u32,
    ) -> BoxFuture<'static, Result<RawJson<'static>, RemoteError>> {
        Box::pin(async move { self.call(method, params, deadline, hops, mode).await })
    }
}

/// Cancels a call at the other node when dropped before its reply.
struct CancelOnDrop<'a> {
    peer: &'a Peer,
    /// `None` after the reply.
    call: Option<CallId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.peer.cancel(call);
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.address()).finish_non_exhaustive()
    }
}
