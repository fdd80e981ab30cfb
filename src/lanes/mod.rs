//! An ordered pool of calls: calls of one key run in order, calls of different keys concurrently.

mod call;
mod client;
mod error;
mod lane;

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Sender;
use smol::Executor;

use crate::chan::{CallError, FunctionId, Id, Kind, KindMarker, Results, Target, panic};
use crate::setters::setters;
pub use call::LaneCall;
pub use client::{LaneClient, Lease};
pub use error::{LaneError, LaneGoError};
use lane::{Dial, Lane, PoolShared, ReplySender, WhenFull};

/// The maximum timeout. A longer one is as good as none.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// What lanes may be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LaneSettings {
    /// The name in messages, which a lane's number follows; `lane` by default.
    pub name: Cow<'static, str>,
    /// How many lanes there are, and so how many clients and how many calls at once; 16 by default. 0 is taken
    /// as 1.
    pub lanes: usize,
    /// How many calls may wait in one lane behind the one that runs; 64 by default, and 0 lets none wait.
    pub queue: usize,
    /// How long a call may take, from when it was made and all waiting included; 30 s by default. More than a
    /// year is taken as a year.
    pub timeout: Duration,
    /// The pause after a first failed attempt to dial; 50 ms by default. It doubles with each further one, up to
    /// [`longest_pause`](Self::longest_pause), and each pause is varied by up to a half, so that lanes do not all
    /// come at once. Less than 1 ms is taken as 1 ms.
    pub pause: Duration,
    /// The longest pause between failed attempts to dial; 2 s by default.
    pub longest_pause: Duration,
    /// How many bytes of a panic's backtrace are kept; 4096 by default, 0 for none.
    pub backtrace_limit: usize,
}

setters!(LaneSettings {
    lanes: usize,
    queue: usize,
    timeout: Duration,
    pause: Duration,
    longest_pause: Duration,
    backtrace_limit: usize
});

impl LaneSettings {
    /// Sets [`name`](Self#structfield.name).
    #[must_use]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            name: Cow::Borrowed("lane"),
            lanes: 16,
            queue: 64,
            timeout: Duration::from_secs(30),
            pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            backtrace_limit: 4096,
        }
    }
}

/// Counters of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "node", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LaneStats {
    /// Queued calls.
    pub queued: usize,
    /// Calls that run, or for which the lane dials.
    pub running: usize,
    /// Calls refused because a queue was full.
    pub refused: u64,
    /// Dialled clients.
    pub dialled: u64,
    /// Failed attempts to dial.
    pub dial_failures: u64,
    /// Panics in jobs and in attempts to dial.
    pub panicked: u64,
}

/// An ordered pool of calls over clients of any sort: a [`Client`](crate::chan::Client) of a server in this process, a
/// `Remote` of another node, or anything else that is a [`LaneClient`].
///
/// A key selects a lane, always the same one for the life of the pool. A lane has its own client, runs one call at a
/// time and keeps the others in a bounded queue; the next call begins when the previous one has ended: answered,
/// failed, cancelled or past its deadline. So calls of one key begin and end in order, and calls in different lanes run
/// concurrently. A hash that differs from pool to pool distributes keys over a fixed number of lanes; two keys may
/// share a lane, which is less likely with more lanes.
///
/// A lane dials for its first call, and again once its client is dead. Its calls wait meanwhile, each until its
/// deadline. The pauses between failed attempts grow. An attempt belongs to the first call of the lane, and ends when
/// that call is cancelled.
///
/// A job that waits for a call in its own lane, which other keys may share, would wait for itself. Such a call is
/// refused with [`LaneError::WouldDeadlock`], and so is a call that leads back to a waiting lane through other lanes or
/// servers. A wait in another task of the job is not detected, and ends at a deadline.
///
/// Lanes run on tasks of the executor, one for each lane with calls. Handles are cheap to clone. Dropping the last
/// handle closes the pool.
///
/// ```
/// use std::sync::Arc;
///
/// use chanrpc::chan::{Functions, Id1, Server};
/// use chanrpc::lanes::{LaneSettings, Lanes};
///
/// const ADD: Id1<i64, i64> = Id1::new("add");
///
/// let executor = Arc::new(smol::Executor::new());
/// smol::block_on(executor.run(async {
///     let mut functions = Functions::new();
///     functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
///     let server = Server::new(0, functions);
///     let client = server.client();
///     let _owner = executor.spawn(server.run());
///
///     // A client is all that a lane needs; here each lane gets one of the same server.
///     let lanes = Lanes::new(&executor, LaneSettings::default(), move |_lane| {
///         let client = client.clone();
///         async move { Ok(client) }
///     });
///     // The key is the function, or whatever must keep its order.
///     assert_eq!(lanes.call(ADD, 5).await?, 5);
///     assert_eq!(lanes.keyed("player 7").call(ADD, 6).await?, 11);
///     // Any job will do.
///     let sum = lanes.run("player 7", |client| async move {
///         Ok(client.call(ADD, 1).await? + client.call(ADD, 1).await?)
///     });
///     assert_eq!(sum.await?, 12 + 13);
///     Ok::<(), Box<dyn std::error::Error>>(())
/// }))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lanes<C: LaneClient> {
    pool: Arc<Pool<C>>,
}

/// Shared by all handles.
struct Pool<C: LaneClient> {
    executor: Arc<Executor<'static>>,
    hasher: RandomState,
    lanes: Box<[Arc<Lane<C>>]>,
    /// Closed with the pool.
    open: Sender<()>,
}

impl<C: LaneClient> Drop for Pool<C> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C: LaneClient> Pool<C> {
    fn close(&self) {
        self.open.close();
        // All lanes are closed before values of the user's are dropped, which may panic.
        let left: Vec<_> = self.lanes.iter().map(|lane| lane.close()).collect();
        for (calls, client) in left {
            calls.for_each(panic::drop_quietly);
            panic::drop_quietly(client);
        }
    }
}

impl<C: LaneClient> Lanes<C> {
    /// Creates a pool whose lanes get their clients from `dial`, which gets the number of the lane, from 0.
    ///
    /// Lanes dial when a call needs it. An attempt may take until the deadline of that call.
    pub fn new<D, F>(executor: &Arc<Executor<'static>>, settings: LaneSettings, dial: D) -> Self
    where
        D: Fn(usize) -> F + Send + Sync + 'static,
        F: Future<Output = Result<C, C::Error>> + Send + 'static,
    {
        let (open, closing) = async_channel::bounded(1);
        let dial: Dial<C> = Box::new(move |lane| Box::pin(dial(lane)));
        let count = settings.lanes.max(1);
        let shared = Arc::new(PoolShared { settings, dial, closing });
        let lanes = (0..count).map(|number| Arc::new(Lane::new(number, shared.clone()))).collect();
        Self { pool: Arc::new(Pool { executor: executor.clone(), hasher: RandomState::new(), lanes, open }) }
    }

    /// Returns a handle to the lane of a key.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Id1, LaneSettings, Lanes, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let _server = executor.spawn(server.run());
    /// # let lanes = Lanes::new(&executor, LaneSettings::default(), move |_| {
    /// #     let client = client.clone();
    /// #     async move { Ok(client) }
    /// # });
    /// // Ann's calls keep their order; Ben's run beside them.
    /// let (ann, ben) = (lanes.keyed("Ann").call(ADD, 5), lanes.keyed("Ben").call(ADD, 5));
    /// let (ann, ben) = smol::block_on(executor.run(smol::future::zip(ann, ben)));
    /// assert_eq!(ann?.max(ben?), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keyed<K: Hash + ?Sized>(&self, key: &K) -> Keyed<'_, C> {
        let number = self.lane_of(key);
        let lane = &self.pool.lanes[number];
        Keyed { executor: &self.pool.executor, lane, timeout: lane.shared.settings.timeout }
    }

    /// Runs a job in the lane of a key and waits for its result. See [`Keyed::run`].
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Id1, LaneSettings, Lanes, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let _server = executor.spawn(server.run());
    /// # let lanes = Lanes::new(&executor, LaneSettings::default(), move |_| {
    /// #     let client = client.clone();
    /// #     async move { Ok(client) }
    /// # });
    /// // No other call of the key comes between these two.
    /// let both = lanes.run("Ann", |client| async move {
    ///     Ok((client.call(ADD, 1).await?, client.call(ADD, 1).await?))
    /// });
    /// assert_eq!(smol::block_on(executor.run(both))?, (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run<K, J, F, R>(&self, key: &K, job: J) -> LaneCall<C, R>
    where
        K: Hash + ?Sized,
        J: FnOnce(Lease<C>) -> F + Send + 'static,
        F: Future<Output = Result<R, C::Error>> + Send + 'static,
        R: Send + 'static,
    {
        self.keyed(key).run(job)
    }

    /// Queues a job in the lane of a key and drops its result. Never waits. See [`Keyed::go`].
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Id1, LaneSettings, Lanes, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let _server = executor.spawn(server.run());
    /// # let lanes = Lanes::new(&executor, LaneSettings::default(), move |_| {
    /// #     let client = client.clone();
    /// #     async move { Ok(client) }
    /// # });
    /// lanes.go("Ann", |client| async move { client.call(ADD, 5).await })?;
    /// assert_eq!(smol::block_on(executor.run(lanes.keyed("Ann").call(ADD, 0)))?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LaneGoError`] with the job if the queue is full or the lanes are closed.
    pub fn go<K, J, F, R>(&self, key: &K, job: J) -> Result<(), LaneGoError<J, C::Error>>
    where
        K: Hash + ?Sized,
        J: FnOnce(Lease<C>) -> F + Send + 'static,
        F: Future<Output = Result<R, C::Error>> + Send + 'static,
        R: Send + 'static,
    {
        self.keyed(key).go(job)
    }

    /// Returns the number of the lane that a key chooses.
    pub fn lane_of<K: Hash + ?Sized>(&self, key: &K) -> usize {
        let lanes = self.pool.lanes.len();
        // Less than the number of lanes, so the cast is lossless.
        (self.pool.hasher.hash_one(key) % lanes as u64) as usize
    }

    /// Closes the pool: calls that wait, calls for which a lane dials, and all later calls get [`LaneError::Closed`].
    /// Jobs that have begun run until they end or their deadlines pass. Closing again does nothing.
    ///
    /// A lane drops its client when its last job has ended.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Returns `true` if the pool is closed.
    pub fn is_closed(&self) -> bool {
        self.pool.open.is_closed()
    }

    /// Returns the counters of all lanes together.
    pub fn stats(&self) -> LaneStats {
        self.pool.lanes.iter().fold(LaneStats::default(), |sum, lane| {
            let stats = lane.stats();
            LaneStats {
                queued: sum.queued + stats.queued,
                running: sum.running + stats.running,
                refused: sum.refused + stats.refused,
                dialled: sum.dialled + stats.dialled,
                dial_failures: sum.dial_failures + stats.dial_failures,
                panicked: sum.panicked + stats.panicked,
            }
        })
    }
}

/// Calls of functions, each in the lane of its id. The id of a text has the same lane as that text as a key.
impl<C: LaneClient<Error = CallError>> Lanes<C> {
    /// Calls the function of a typed id in the function's lane and waits for its result.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Functions, Id1, LaneSettings, Lanes, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let _server = executor.spawn(server.run());
    /// # let lanes = Lanes::new(&executor, LaneSettings::default(), move |_| {
    /// #     let client = client.clone();
    /// #     async move { Ok(client) }
    /// # });
    /// assert_eq!(smol::block_on(executor.run(lanes.call(ADD, 5)))?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call<K, A, R>(&self, id: Id<K, A, R>, arguments: A) -> LaneCall<C, R>
    where
        C: Target<A, R>,
        K: KindMarker<R>,
        A: Send + 'static,
        R: Send + 'static,
    {
        self.keyed_by(id.untyped()).call(id, arguments)
    }

    /// Calls a function without a result by its text, number or type, in the function's lane.
    pub fn call0<A: Send + 'static>(&self, id: impl Into<FunctionId>, arguments: A) -> LaneCall<C, ()>
    where
        C: Target<A, ()>,
    {
        let id = id.into();
        self.keyed_by(&id).call0(id, arguments)
    }

    /// Calls a function with one result by its text, number or type, in the function's lane.
    pub fn call1<A: Send + 'static, R: Send + 'static>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> LaneCall<C, R>
    where
        C: Target<A, R>,
    {
        let id = id.into();
        self.keyed_by(&id).call1(id, arguments)
    }

    /// Calls a function with several results by its text, number or type, in the function's lane.
    pub fn call_n<A: Send + 'static, R: Results>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> LaneCall<C, R>
    where
        C: Target<A, R>,
    {
        let id = id.into();
        self.keyed_by(&id).call_n(id, arguments)
    }

    fn keyed_by(&self, id: &FunctionId) -> Keyed<'_, C> {
        match id {
            FunctionId::Text(text) => self.keyed(&**text),
            FunctionId::Number(number) => self.keyed(number),
            FunctionId::Type { id, .. } => self.keyed(id),
        }
    }
}

impl<C: LaneClient> Clone for Lanes<C> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone() }
    }
}

impl<C: LaneClient> fmt::Debug for Lanes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("lanes", &self.pool.lanes.len())
            .field("closed", &self.is_closed())
            .field("stats", &self.stats())
            .finish()
    }
}

/// A handle to one lane, created by [`Lanes::keyed`].
pub struct Keyed<'a, C: LaneClient> {
    executor: &'a Arc<Executor<'static>>,
    lane: &'a Arc<Lane<C>>,
    timeout: Duration,
}

impl<C: LaneClient> Keyed<'_, C> {
    /// Sets the timeout of calls through this handle, in place of [`LaneSettings::timeout`]: a call ends with
    /// [`LaneError::Deadline`] unless it is answered within `time` from its creation. More than a year is taken as a
    /// year.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Runs a job and waits for its result.
    ///
    /// Nothing happens before the returned [`LaneCall`] is polled, or blocked on by [`LaneCall::wait`]. The job gets
    /// the lane's client. It is a future on the executor and must not block; while it waits, later calls of its lane
    /// wait too.
    pub fn run<J, F, R>(&self, job: J) -> LaneCall<C, R>
    where
        J: FnOnce(Lease<C>) -> F + Send + 'static,
        F: Future<Output = Result<R, C::Error>> + Send + 'static,
        R: Send + 'static,
    {
        let (answer, answered) = async_channel::bounded(1);
        let work = lane::work(job, ReplySender(Some(answer)));
        LaneCall::new(self.executor, self.lane, work, answered, self.deadline())
    }

    /// Queues a job and drops its result. Never waits.
    ///
    /// Its outcome is not reported. It has a deadline like any other call.
    ///
    /// # Errors
    /// [`LaneGoError`] with the job if the queue is full or the lanes are closed.
    pub fn go<J, F, R>(&self, job: J) -> Result<(), LaneGoError<J, C::Error>>
    where
        J: FnOnce(Lease<C>) -> F + Send + 'static,
        F: Future<Output = Result<R, C::Error>> + Send + 'static,
        R: Send + 'static,
    {
        match self.lane.reserve(WhenFull::Fail) {
            Ok(state) => {
                self.lane.enqueue(self.executor, state, self.deadline(), lane::work(job, ReplySender(None)));
                Ok(())
            }
            Err(error) => Err(LaneGoError { error, job }),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout.min(MAX_TIMEOUT)
    }
}

impl<C: LaneClient<Error = CallError>> Keyed<'_, C> {
    /// Calls the function of a typed id and waits for its result.
    pub fn call<K, A, R>(&self, id: Id<K, A, R>, arguments: A) -> LaneCall<C, R>
    where
        C: Target<A, R>,
        K: KindMarker<R>,
        A: Send + 'static,
        R: Send + 'static,
    {
        self.call_untyped(id.into_untyped(), K::KIND, arguments)
    }

    /// Calls a function without a result by its text, number or type, and waits until it has run.
    pub fn call0<A: Send + 'static>(&self, id: impl Into<FunctionId>, arguments: A) -> LaneCall<C, ()>
    where
        C: Target<A, ()>,
    {
        self.call_untyped(id.into(), Kind::Zero, arguments)
    }

    /// Calls a function with one result by its text, number or type, and waits for it.
    pub fn call1<A: Send + 'static, R: Send + 'static>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> LaneCall<C, R>
    where
        C: Target<A, R>,
    {
        self.call_untyped(id.into(), Kind::One, arguments)
    }

    /// Calls a function with several results by its text, number or type, and waits for them.
    pub fn call_n<A: Send + 'static, R: Results>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> LaneCall<C, R>
    where
        C: Target<A, R>,
    {
        self.call_untyped(id.into(), Kind::Many, arguments)
    }

    fn call_untyped<A: Send + 'static, R: Send + 'static>(
        &self,
        id: FunctionId,
        kind: Kind,
        arguments: A,
    ) -> LaneCall<C, R>
    where
        C: Target<A, R>,
    {
        self.run(move |lease| {
            let deadline = Some(lease.deadline());
            C::clone(&lease).request(id, kind, arguments, deadline, true)
        })
    }
}

impl<C: LaneClient> fmt::Debug for Keyed<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("lane", &self.lane.number)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
