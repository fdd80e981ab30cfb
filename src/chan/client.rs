//! A caller's handle to a server.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};
use std::time::Instant;

#[cfg(feature = "node")]
use super::blocked::{BlockedCall, BlockedGo, Queued};
use super::call::Call;
use super::error::CallError;
use super::functions::BoxFuture;
#[cfg(feature = "node")]
use super::functions::ResolvedId;
use super::id::{FunctionId, Id, Takes};
use super::kind::{Kind, KindMarker, Results};
use super::panic;
use super::reply::Sink;
#[cfg(feature = "node")]
use super::reply::{ReplyTo, Responder};
#[cfg(feature = "node")]
use super::shared::Origin;
use super::shared::{NotQueued, Shared};
use super::stats::Stats;
use super::target::{Counter, Submit, Target};
use super::typed_queue::GoCall;
#[cfg(feature = "node")]
use super::typed_queue::QueuedCall;

/// Calls the functions of one server. Cheap to clone, and safe to share between threads.
///
/// Calls enter the server's queue, and run, in the order in which they are made. Calls that wait for room in the queue
/// keep that order.
///
/// A process that forks has no server loop in the child, so a call made there never ends. Create servers after the
/// fork.
///
/// ```
/// # use chanrpc::{Functions, Id1, Server, ServerSettings};
/// # const ADD: Id1<i64, i64> = Id1::new("add");
/// # let mut functions = Functions::new();
/// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
/// # let server = Server::with_settings(0, functions, ServerSettings::default().name("totals"));
/// let client = server.client();
/// std::thread::spawn(|| smol::block_on(server.run()));
///
/// let other = client.clone();
/// std::thread::spawn(move || other.call(ADD, 5).wait()).join().unwrap()?;
/// assert_eq!(client.call(ADD, 2).wait()?, 7);
/// assert_eq!(client.server_name(), "totals");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client(Arc<ClientGuard>);

// No code of the user's runs under a lock of the server, so a panic leaves the shared data consistent.
impl UnwindSafe for Client {}
impl RefUnwindSafe for Client {}

/// Shared by all clients of a server, which ends with the last of them.
pub(super) struct ClientGuard(pub(super) Arc<Shared>);

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.0.drain();
    }
}

impl Client {
    pub(super) fn new(guard: Arc<ClientGuard>) -> Self {
        Self(guard)
    }

    /// Calls the function of a typed id and waits for its result.
    ///
    /// Nothing happens before the returned [`Call`] is polled, or blocked on by [`Call::wait`].
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// // A plain thread waits; a task awaits.
    /// assert_eq!(client.call(ADD, 5).wait()?, 5);
    /// assert_eq!(smol::block_on(async { client.call(ADD, 2).await })?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call<K, A, R>(&self, id: Id<K, A, R>, arguments: A) -> Call<'_, A, R>
    where
        K: KindMarker<R>,
        A: Send + 'static,
        R: Send + 'static,
    {
        self.call_untyped(&id.into_untyped(), K::KIND, arguments)
    }

    /// Calls a function without a result by its text, number or type, and waits until it has run. See
    /// [`call`](Self::call).
    ///
    /// ```
    /// # use chanrpc::{Functions, Server};
    /// # let mut functions = Functions::new();
    /// functions
    ///     .register0("reset", |total: &mut i64, ()| *total = 0)?
    ///     .register1("total", |total: &mut i64, ()| *total)?;
    /// # let server = Server::new(5, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// client.call0("reset", ()).wait()?;
    /// assert_eq!(client.call1::<_, i64>("total", ()).wait()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call0<A: Send + 'static>(&self, id: impl Into<FunctionId>, arguments: A) -> Call<'_, A, ()> {
        self.call_untyped(&id.into(), Kind::Zero, arguments)
    }

    /// Calls a function with one result by its text, number or type. See [`call`](Self::call).
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// assert_eq!(client.call1::<i64, i64>("add", 5).wait()?, 5);
    /// assert!(client.call1::<i64, i64>("subtract", 5).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call1<A: Send + 'static, R: Send + 'static>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> Call<'_, A, R> {
        self.call_untyped(&id.into(), Kind::One, arguments)
    }

    /// Calls a function with several results by its text, number or type. See [`call`](Self::call).
    ///
    /// ```
    /// # use chanrpc::{Functions, Server};
    /// # let mut functions = Functions::new();
    /// functions.register_n("divide", |_: &mut (), (a, b): (u64, u64)| (a / b, a % b))?;
    /// # let server = Server::new((), functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// let (quotient, remainder): (u64, u64) = client.call_n("divide", (17_u64, 5_u64)).wait()?;
    /// assert_eq!((quotient, remainder), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_n<A: Send + 'static, R: Results>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> Call<'_, A, R> {
        self.call_untyped(&id.into(), Kind::Many, arguments)
    }

    /// Calls a function of any kind in go mode: it runs, and its result is dropped. Never waits.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// client.go(ADD, 5)?;
    /// assert_eq!(client.call(ADD, 0).wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GoError`] with the arguments if the function is unknown, takes other arguments, or the queue is full or
    /// closed.
    pub fn go<A: Send + 'static>(&self, id: impl Takes<A>, arguments: A) -> Result<(), GoError<A>> {
        let shared = self.shared();
        let function = match shared.table.find_to_go::<A>(&id.into_function_id()) {
            Ok(function) => function,
            Err(error) => return Err(GoError { error: *error, arguments }),
        };
        shared.enqueue_go(function, GoCall(arguments)).map_err(|refused| {
            let (error, GoCall(arguments)) = shared.refuse(refused);
            GoError { error, arguments }
        })
    }

    /// Calls a function in go mode, and waits for room if the queue is full. [`Call::timeout`] limits the wait.
    ///
    /// Once the call is queued it will run, even if the returned [`Call`] is dropped. One that ends with
    /// [`CallError::Deadline`] was not queued and never runs.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// for n in 1..=4000 {
    ///     client.go_when_room(ADD, n).wait()?; // more than the queue takes
    /// }
    /// assert_eq!(client.call(ADD, 0).wait()?, 8_002_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn go_when_room<A: Send + 'static>(&self, id: impl Takes<A>, arguments: A) -> Call<'_, A, ()> {
        let found = self.shared().table.find_to_go::<A>(&id.into_function_id());
        Call::go(self.shared(), found, arguments, ())
    }

    /// Calls a function in go mode, in its turn even if the queue is full: the call then waits for room, and nothing
    /// withdraws it. Returns what to wait for in that case. The caller bounds the number of such calls.
    #[cfg(feature = "node")]
    pub(crate) fn go_in_turn<A: Send + 'static>(&self, id: &FunctionId, arguments: A) -> Option<Queued> {
        let shared = self.shared();
        let Ok(function) = shared.table.find_to_go::<A>(id) else { return None };
        match shared.enqueue_go(function, GoCall(arguments)) {
            Ok(()) => None,
            Err(NotQueued::Full(call)) => Some(BlockedGo::wait(shared, function, call)),
            Err(NotQueued::Closed(GoCall(arguments))) => {
                panic::drop_quietly(arguments);
                None
            }
        }
    }

    /// Checks that a function takes these arguments.
    ///
    /// # Errors
    /// As [`go`](Self::go).
    #[cfg(feature = "node")]
    pub(crate) fn check<A: 'static>(&self, id: &FunctionId) -> Result<(), CallError> {
        self.shared().table.find_to_go::<A>(id).map(|_| ()).map_err(|error| *error)
    }

    /// Finds a function once, for the calls that name it.
    #[cfg(feature = "node")]
    pub(crate) fn resolve(&self, id: &FunctionId, kind: Kind) -> ResolvedId {
        self.shared().table.resolve(id, kind)
    }

    /// Calls a function without waiting. `sink` receives the answer or the error on the thread that produces it, which
    /// may be this one. If the queue is full, the call waits for room until `sink` is abandoned.
    #[cfg(feature = "node")]
    pub(crate) fn submit_when_room<A: Send + 'static, R: Send + 'static>(
        &self,
        function: &ResolvedId,
        arguments: A,
        sink: impl Sink<R> + 'static,
    ) {
        let shared = self.shared();
        let function = match shared.table.find_resolved::<A, R>(function) {
            Ok(found) => found.number,
            Err(error) => return Box::new(sink).answer(Err(*error)),
        };
        match shared.enqueue_with_sink(function, arguments, sink) {
            Ok(()) => {}
            Err(NotQueued::Full((arguments, sink))) => {
                let responder = Responder::new(ReplyTo::Sink(Box::new(sink)));
                BlockedCall::wait(shared, function, QueuedCall { arguments, responder });
            }
            Err(NotQueued::Closed((arguments, sink))) => {
                Box::new(sink).answer(Err(CallError::Closed));
                panic::drop_quietly(arguments);
            }
        }
    }

    /// Runs a plain function on this thread if its server is idle. Otherwise returns the arguments.
    #[cfg(feature = "node")]
    pub(crate) fn run_in_place<A: Send + 'static, R: Send + 'static>(
        &self,
        function: &ResolvedId,
        arguments: A,
    ) -> Result<Result<R, CallError>, A> {
        let shared = self.shared();
        match shared.table.find_resolved::<A, R>(function) {
            Ok(found) => shared.run_in_place(&found, arguments).map(|result| result.map_err(CallError::from)),
            Err(error) => {
                panic::drop_quietly(arguments);
                Ok(Err(*error))
            }
        }
    }

    /// Runs code of the user's beside a call. The log names it `what` if it panics.
    #[cfg(feature = "node")]
    pub(crate) fn catch_panic<T>(&self, what: &'static str, f: impl FnOnce() -> T) -> Result<T, CallError> {
        self.shared().catch_panic(Origin::Task(what), f)
    }

    /// Returns the server's name.
    pub fn server_name(&self) -> &str {
        self.shared().waiter.name()
    }

    /// Returns the counters of the server.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// client.call(ADD, 5).wait()?;
    /// let stats = client.stats();
    /// assert_eq!((stats.executed, stats.queued), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// Returns `true` if the server accepts no more calls.
    ///
    /// ```
    /// # use chanrpc::{Functions, Server};
    /// let server = Server::new((), Functions::new());
    /// let client = server.client();
    /// server.close();
    /// assert!(client.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.shared().is_closed()
    }

    /// Returns `true` if both clients call the same server.
    pub fn same_server(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns a client that does not keep the server alive.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// let weak = client.downgrade();
    /// assert!(weak.upgrade().is_some_and(|again| again.same_server(&client)));
    /// drop(client);
    /// smol::block_on(server.run()); // ends, as no client is left
    /// assert!(weak.upgrade().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.0))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    pub(crate) fn call_untyped<A: Send + 'static, R: Send + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
    ) -> Call<'_, A, R> {
        let shared = self.shared();
        Call::new(shared, shared.table.find(id, kind), arguments)
    }
}

impl<A: Send + 'static, R: Send + 'static> Target<A, R> for Client {}

impl<A: Send + 'static, R: Send + 'static> Submit<A, R> for Client {
    fn counter(&self) -> Option<Counter> {
        Some(Counter(self.shared().clone()))
    }

    fn try_submit<K: Sink<R> + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        _: Option<Instant>,
        sink: K,
    ) -> Result<(), (A, K)> {
        let shared = self.shared();
        let function = match shared.table.find::<A, R>(id, kind) {
            Ok(found) => found.number,
            Err(error) => {
                Box::new(sink).answer(Err(*error));
                panic::drop_quietly(arguments);
                return Ok(());
            }
        };
        match shared.enqueue_with_sink(function, arguments, sink) {
            Ok(()) => Ok(()),
            Err(NotQueued::Full(back)) => Err(back),
            Err(NotQueued::Closed((arguments, sink))) => {
                Box::new(sink).answer(Err(CallError::Closed));
                panic::drop_quietly(arguments);
                Ok(())
            }
        }
    }

    fn submit<K: Sink<R> + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        deadline: Option<Instant>,
        sink: K,
    ) {
        if let Err((arguments, sink)) = self.try_submit(id, kind, arguments, deadline, sink) {
            self.shared().counters.refused();
            Box::new(sink).answer(Err(CallError::Full));
            panic::drop_quietly(arguments);
        }
    }

    fn request(
        self,
        id: FunctionId,
        kind: Kind,
        arguments: A,
        _: Option<Instant>,
        in_place: bool,
    ) -> BoxFuture<'static, Result<R, CallError>> {
        Box::pin(async move {
            let call = self.call_untyped(&id, kind, arguments);
            if in_place { call.await } else { call.on_loop().await }
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server_name()).field("stats", &self.stats()).finish()
    }
}

/// A client that does not keep its server alive: [`Server::run`](super::Server::run) ends once the last [`Client`] is
/// gone, however many weak ones there are.
///
/// A state that needs a client of its own server holds a weak one, because a [`Client`] would keep the server running for
/// ever.
///
/// ```
/// use chanrpc::chan::{Functions, Id1, Server, WeakClient};
///
/// const COUNT_DOWN: Id1<u32, ()> = Id1::new("count down");
///
/// struct Countdown { me: Option<WeakClient>, steps: u32 }
///
/// let mut functions = Functions::new();
/// functions.register(COUNT_DOWN, |state: &mut Countdown, n| {
///     state.steps += 1;
///     if let (Some(me), 1..) = (state.me.as_ref().and_then(WeakClient::upgrade), n) {
///         let _ = me.go(COUNT_DOWN, n - 1);
///     }
/// })?;
///
/// let mut server = Server::new(Countdown { me: None, steps: 0 }, functions);
/// let client = server.client();
/// server.state_mut().me = Some(client.downgrade());
/// let owner = std::thread::spawn(|| smol::block_on(server.run()));
///
/// client.call(COUNT_DOWN, 0).wait()?;
/// drop(client);
/// assert_eq!(owner.join().unwrap().steps, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WeakClient(Weak<ClientGuard>);

impl WeakClient {
    /// Returns a client of the server, or `None` if its last client is gone.
    pub fn upgrade(&self) -> Option<Client> {
        self.0.upgrade().map(Client)
    }
}

impl fmt::Debug for WeakClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakClient")
    }
}

/// A call in go mode that was not queued.
#[derive(Clone, PartialEq)]
pub struct GoError<A> {
    error: CallError,
    arguments: A,
}

impl<A> GoError<A> {
    /// Returns the reason.
    pub fn error(&self) -> &CallError {
        &self.error
    }

    /// Returns the reason, without the arguments.
    pub fn into_error(self) -> CallError {
        self.error
    }

    /// Returns the arguments, for another attempt.
    pub fn into_inner(self) -> A {
        self.arguments
    }

    /// Returns `true` if the queue is full.
    pub fn is_full(&self) -> bool {
        self.error.is_full()
    }

    /// Returns `true` if the server is closed.
    pub fn is_closed(&self) -> bool {
        self.error.is_closed()
    }
}

impl<A> fmt::Display for GoError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

// Not derived, so that `?` and `unwrap` work for arguments of all types.
impl<A> fmt::Debug for GoError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<A> std::error::Error for GoError<A> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
