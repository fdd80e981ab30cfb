//! The network client: calls the functions of another node over connections that all callers share.

mod dial;
mod lanes;
mod link;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use smol::future::FutureExt;
use smol::{Executor, Task, Timer};

use crate::config::Limits;
use crate::message::{Fault, RawJson};
use crate::transport::tls::Connector;
use link::{Chosen, GivenUp, Link};

/// Connections to one node at most.
const LINKS: usize = 4;

/// A client of another node.
///
/// One connection carries all calls, side by side. It is made at once, and made again, with growing pauses,
/// whenever it is lost. While there is none, calls fail at once with [`RemoteError::Unreachable`]; only
/// during the attempt itself do they wait. Dropping the client drops the connection and fails its calls.
///
/// A node reads no more of a connection with [`Limits::in_flight`] calls in flight. So that slow calls do not
/// hold up all others, calls beyond that number go over further connections, which end when they are lost.
/// Calls on one connection arrive in their order.
#[derive(Debug)]
pub struct Remote {
    executor: Arc<Executor<'static>>,
    target: Arc<Target>,
    links: Mutex<Vec<Kept>>,
}

/// Where connections lead, and what is said there first.
#[derive(Debug)]
struct Target {
    address: String,
    limits: Limits,
    token: Option<Secret>,
    tls: Option<Connector>,
}

/// A token, which no log shows.
#[derive(Clone)]
struct Secret(Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A connection, and the task that keeps it for as long as this is there.
#[derive(Debug)]
struct Kept {
    link: Arc<Link>,
    task: Task<()>,
    /// Made again when it is lost.
    lasting: bool,
}

impl Kept {
    fn start(executor: &Executor<'static>, target: &Arc<Target>, lasting: bool) -> Self {
        let (link, task) = Link::start(executor, target.clone(), lasting);
        Self { link, task, lasting }
    }
}

/// Says why a call to another node has no result.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RemoteError {
    /// There is no connection. No byte of the call was sent, so it may be made again.
    Unreachable {
        /// Where to.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The connection was lost while the call was on its way; it may or may not have run, and is not made again.
    Lost {
        /// Where to.
        address: String,
        /// How.
        reason: String,
    },
    /// Too much waits for that node already. The call was not sent, so it may be made again.
    Busy {
        /// Which node.
        address: String,
    },
    /// The call's deadline passed; the other node was told to give it up.
    Deadline,
    /// The other node answered with a fault.
    Fault(Fault),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, reason } => write!(f, "no connection to {address}: {reason}"),
            Self::Lost { address, reason } => write!(
                f,
                "the connection to {address} was lost with the call under way, which may have run: {reason}"
            ),
            Self::Busy { address } => write!(f, "too many calls wait for {address} already"),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for RemoteError {}

impl Remote {
    /// Starts to connect to `address`, a `host:port`.
    pub fn new(executor: &Arc<Executor<'static>>, address: impl Into<String>, limits: Limits) -> Self {
        Self::with_token(executor, address, limits, None)
    }

    /// Starts to connect to `address`, and presents `token`, if there is one, on each connection before anything
    /// else. If it is refused, calls fail with the fault that says so.
    pub fn with_token(
        executor: &Arc<Executor<'static>>,
        address: impl Into<String>,
        limits: Limits,
        token: Option<String>,
    ) -> Self {
        Self::over_tls(executor, address, limits, token, None)
    }

    /// [`with_token`](Self::with_token), and speaks TLS if there is a `tls`: the other node has to show a certificate
    /// for the host of `address` that it trusts.
    pub fn over_tls(
        executor: &Arc<Executor<'static>>,
        address: impl Into<String>,
        limits: Limits,
        token: Option<String>,
        tls: Option<Connector>,
    ) -> Self {
        let (executor, address) = (executor.clone(), address.into());
        let token = token.map(|token| Secret(token.into()));
        let target = Arc::new(Target { address, limits, token, tls });
        let first = Kept::start(&executor, &target, true);
        Self { executor, target, links: Mutex::new(vec![first]) }
    }

    /// Returns the other node's address, as it was given.
    pub fn address(&self) -> &str {
        &self.target.address
    }

    /// Waits while the connection is being made. Calls do so by themselves.
    ///
    /// # Errors
    /// [`RemoteError::Unreachable`] if there is none now.
    pub async fn connected(&self) -> Result<(), RemoteError> {
        let chosen = self.choose();
        chosen.0.up().await
    }

    /// Tells whether the first connection is there.
    fn is_connected(&self) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.first().is_some_and(|kept| kept.link.is_up())
    }

    /// Chooses the first connection that has room for a call, a new one if need be.
    fn choose(&self) -> Chosen {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|kept| !kept.task.is_finished() && (kept.lasting || !kept.link.is_down()));
        let has_room =
            |kept: &&Kept| kept.link.calls() < self.target.limits.in_flight && !kept.link.is_down();
        if let Some(kept) = links.iter().find(has_room) {
            return kept.link.choose();
        }
        // If the first one is down, so would be a further one.
        if links.len() < LINKS && !links.iter().any(|kept| kept.link.is_down()) {
            links.push(Kept::start(&self.executor, &self.target, false));
        }
        match links.iter().min_by_key(|kept| (kept.link.is_down(), kept.link.calls())) {
            Some(kept) => kept.link.choose(),
            None => unreachable!("the first connection is kept for as long as the client lives"),
        }
    }

    /// Calls a function and waits for its result until `deadline`. The other node gets to know how much time
    /// is left, and how many nodes have passed the call on.
    ///
    /// Dropping the future gives the call up, here and there.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn call(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) -> Result<RawJson<'static>, RemoteError> {
        self.pass_on(method, params.map(RawJson::from), deadline, hops).await
    }

    /// [`call`](Self::call), with parameters as they came from elsewhere.
    pub(crate) async fn pass_on(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        deadline: Instant,
        hops: u32,
    ) -> Result<RawJson<'static>, RemoteError> {
        let chosen = self.choose();
        let link = &chosen.0;
        let call = async {
            link.up().await?;
            let (answer, answered) = async_channel::bounded(1);
            let id = link.send(method, params, Some(answer), Some(deadline), hops)?;
            let mut given_up = GivenUp { link, id };
            let result = answered.recv().await.unwrap_or_else(|_| Err(link.lost_now()));
            given_up.id = None;
            result
        };
        let late = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        call.or(late).await
    }

    /// Calls a function in go mode: returns when the call is on its way, and never learns what became of it.
    ///
    /// # Errors
    /// [`RemoteError`], if it could not be sent.
    pub async fn go(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) -> Result<(), RemoteError> {
        self.pass_on_go(method, params.map(RawJson::from), deadline, hops).await
    }

    /// [`go`](Self::go), with parameters as they came from elsewhere.
    pub(crate) async fn pass_on_go(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        deadline: Instant,
        hops: u32,
    ) -> Result<(), RemoteError> {
        let chosen = self.choose();
        let go = async {
            chosen.0.up().await?;
            chosen.0.send(method, params, None, None, hops).map(drop)
        };
        let late = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        go.or(late).await
    }
}

impl Remote {
    /// Waits until everything is written, or no more than `patience`, and drops the connection.
    ///
    /// What was given up last is then given up at the other node too.
    pub async fn close(self, patience: Duration) {
        let links = self.links.into_inner().unwrap_or_else(PoisonError::into_inner);
        let closed = async {
            for Kept { link, task, .. } in links {
                if link.is_up() {
                    link.close();
                    task.await;
                }
            }
        };
        let late = async {
            Timer::after(patience).await;
        };
        closed.or(late).await;
    }
}
