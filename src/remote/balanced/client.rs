//! Several nodes as one client.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::Executor;

use super::{BalancedRequest, Balancer, BalancerSettings, key_of};
use crate::chan::{BoxFuture, FunctionId};
use crate::config::Balance;
use crate::message::RawJson;
use crate::remote::calling::{self, calling_methods};
use crate::remote::endpoint::{Endpoint, Request};
use crate::remote::io_thread::IoThread;
use crate::remote::{Remote, RemoteBuilder, RemoteCall, RemoteError};

/// A client of several nodes that have the same functions. Cheap to clone, and safe to share between threads.
///
/// It is used like a [`Remote`], also by [schedulers](crate::Handle), [waterfalls](crate::sched::Waterfall) and
/// [lanes](crate::Lanes); and does what a node does that forwards a function to several nodes. Each call goes to one
/// node, which the [`Policy`] chooses of those that are connected. A call that has not run is sent to another one: if
/// its node is gone, is stopping, or has no place for it. Such calls are at most a fifth of all, and ten at once, so that
/// a fleet in trouble is not asked twice as much. A call that may have run ends with [`CallError::Lost`](crate::CallError::Lost), unless the
/// policy says that calls may run twice.
///
/// A node may also be a gRPC server, at an address such as `grpc://board-a:50051`, or servers of NATS, at
/// `nats://10.0.0.1:4222`. A node that is silent for
/// [`Limits::forward_silence`](crate::config::Limits::forward_silence) while it has calls to answer is asked for a sign of
/// life; one that gives none is frozen, and its calls end with [`CallError::Lost`](crate::CallError::Lost).
///
/// ```
/// use chanrpc::remote::{Balanced, Policy};
/// use chanrpc::{Functions, Id1, Node, Remote};
///
/// const SQUARE: Id1<i64, i64> = Id1::new("square");
///
/// let mut nodes = Vec::new();
/// for name in ["board-a", "board-b"] {
///     let mut functions = Functions::exported();
///     functions.register(SQUARE, |_: &mut (), number| number * number)?;
///     nodes.push(Node::builder(name).serve(functions, ()).listen("127.0.0.1:0").start()?);
/// }
///
/// let remotes = nodes.iter().map(|node| Remote::builder(node.addresses()[0].to_string()));
/// let boards = Balanced::connect(remotes, Policy::default());
/// assert_eq!(boards.call(SQUARE, 3).wait()?, 9);
///
/// // One of them is enough.
/// nodes.pop();
/// assert_eq!(boards.call(SQUARE, 4).wait()?, 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a client does nothing by itself"]
pub struct Balanced(Arc<Inner>);

struct Inner {
    balancer: Balancer,
    policy: Policy,
    _thread: Option<IoThread>,
}

/// Which of several nodes gets a call, and what may be done twice.
///
/// ```
/// # use std::time::Duration;
/// # use chanrpc::config::Balance;
/// # use chanrpc::remote::Policy;
/// let in_order = Policy::default().balance(Balance::First);
/// let by_player = Policy::default().key("player");
/// let quick = Policy::default().hedged(Duration::from_millis(50));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it is for a `Balanced`"]
pub struct Policy {
    balance: Balance,
    key: Option<Cow<'static, str>>,
    repeatable: bool,
    hedge: Option<Duration>,
}

impl Policy {
    /// Chooses the node with the fewest calls in flight (the default), the first one that is connected, or one after the
    /// other.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Sends calls with the same value of a parameter to the same node while it is connected. The parameter is a member of
    /// the arguments, or a position such as `0`.
    pub fn key(mut self, parameter: impl Into<Cow<'static, str>>) -> Self {
        self.key = Some(parameter.into());
        self
    }

    /// Lets calls run twice: one whose connection is lost is sent to another node.
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Asks a second node when the first has not answered after `delay`; the first answer counts, and the other call is
    /// cancelled. Calls may run twice, as with [`repeatable`](Self::repeatable). A key is not considered.
    pub fn hedged(mut self, delay: Duration) -> Self {
        self.hedge = Some(delay);
        self.repeatable()
    }
}

impl Balanced {
    /// Starts to connect to nodes. The connections of those without an executor share a thread.
    ///
    /// # Panics
    /// If there are no nodes, or the system cannot start a thread.
    pub fn connect(nodes: impl IntoIterator<Item = RemoteBuilder>, policy: Policy) -> Self {
        let mut own = None;
        let remotes = nodes.into_iter().map(|node| {
            let node = node.watched();
            if node.has_executor() {
                return node.connect();
            }
            let (executor, _) =
                own.get_or_insert_with(|| IoThread::start().expect("the system starts a thread"));
            node.executor(executor).connect()
        });
        let Policy { balance, repeatable, .. } = policy;
        let settings = BalancerSettings { balance, repeatable, ..BalancerSettings::default() };
        let balancer = Balancer::new(remotes, settings);
        assert!(balancer.count() > 0, "a balanced client needs one node at least");
        Self(Arc::new(Inner { balancer, policy, _thread: own.map(|(_, thread)| thread) }))
    }

    calling_methods! {
        "# let client = Balanced::connect([Remote::builder(node.addresses()[0].to_string())], Policy::default());"
    }

    pub(in crate::remote) fn endpoint(&self) -> Arc<dyn Endpoint> {
        self.0.clone()
    }
}

impl Endpoint for Inner {
    fn address(&self) -> String {
        self.balancer.remotes().map(Remote::address).collect::<Vec<_>>().join(" ")
    }

    fn default_timeout(&self) -> Duration {
        self.balancer.remote(0).endpoint().default_timeout()
    }

    fn executor(&self) -> Result<Arc<Executor<'static>>, RemoteError> {
        self.balancer.remote(0).endpoint().executor()
    }

    fn send(
        self: Arc<Self>,
        Request { method, params, mode }: Request,
        deadline: Instant,
        hops: u32,
    ) -> BoxFuture<'static, Result<RawJson<'static>, RemoteError>> {
        let Policy { key, hedge, .. } = &self.policy;
        let key = key.as_ref().zip(params.as_ref()).and_then(|(key, params)| key_of(key, params.get()));
        let (hedge, request) = (*hedge, BalancedRequest { method, params, deadline, hops });
        self.balancer.note_first();
        Box::pin(async move { self.balancer.ask(&request, key, mode, hedge).await })
    }
}

impl fmt::Debug for Balanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Balanced").field(&self.0.address()).finish()
    }
}
