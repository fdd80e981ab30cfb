//! The owner of a state, and the loop that runs functions on it.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_channel::{Receiver, Sender};

use super::client::Client;
use super::error::CallError;
use super::functions::Functions;
use super::panic;
use super::shared::{Counters, QueuedCall, Shared, Stats};
use super::waits::{self, Node};

/// Calls that [`Server::run`] executes before it lets other tasks of its executor have a turn.
const TURN: u32 = 64;
/// What functions panic with is logged under this target, which a log can limit.
const PANIC: &str = "chanrpc::panic";

/// Owns a state, a table of functions and one bounded queue of calls.
///
/// The functions run one at a time, in the order in which their calls entered the queue, on whatever thread
/// drives the server: [`run`](Self::run) does it alone; [`next`](Self::next) and [`exec`](Self::exec) let a
/// loop of your own do it among other things. Dropping a server closes it.
pub struct Server<S> {
    state: S,
    functions: Arc<Functions<S>>,
    incoming: Incoming,
    /// Mints clients. Given up by [`run`](Self::run), so that the queue ends when the last client is gone.
    outgoing: Sender<QueuedCall>,
    shared: Arc<Shared>,
}

/// What a server may be told besides its state and its functions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in messages. By default the name of the state's type.
    pub name: Option<Cow<'static, str>>,
    /// How many calls may wait in the queue; 256 by default. 0 is taken as 1.
    pub capacity: usize,
    /// How many bytes of a panic's backtrace are kept; 4096 by default, 0 for none.
    pub backtrace_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { name: None, capacity: 256, backtrace_limit: 4096 }
    }
}

impl Shared {
    fn exec<S: 'static>(&self, state: &mut S, functions: &Functions<S>, call: QueuedCall) {
        let QueuedCall { server, function, envelope } = call;
        assert_eq!(server, self.node.id(), "the call belongs to another server");
        if envelope.is_cancelled() {
            self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
            return envelope.fail(CallError::Unanswered);
        }
        self.counters.executed.fetch_add(1, Ordering::Relaxed);
        let run = || waits::running(&self.node, || functions.handler(function)(state, envelope));
        if let Err(panic) = panic::catch(self.backtrace_limit, run) {
            self.counters.panicked.fetch_add(1, Ordering::Relaxed);
            let function = functions.ids().nth(function).map(ToString::to_string).unwrap_or_default();
            log::error!(target: PANIC, "{}: function {function} panicked: {}", self.node.name(), panic.message());
            log::debug!(target: PANIC, "{}", panic.backtrace());
        }
    }
}

impl<S: 'static> Server<S> {
    /// Creates a server with the default [`Settings`].
    pub fn new(state: S, functions: impl Into<Arc<Functions<S>>>) -> Self {
        Self::with_settings(state, functions, Settings::default())
    }

    /// Creates a server.
    pub fn with_settings(state: S, functions: impl Into<Arc<Functions<S>>>, settings: Settings) -> Self {
        let functions = functions.into();
        let (outgoing, incoming) = async_channel::bounded(settings.capacity.max(1));
        let name = settings.name.unwrap_or_else(|| Cow::Borrowed(short_name(type_name::<S>())));
        let shared = Arc::new(Shared {
            node: Node::new(Arc::from(name)),
            directory: functions.directory().clone(),
            counters: Counters::default(),
            backtrace_limit: settings.backtrace_limit,
        });
        Self { state, functions, incoming: Incoming(incoming), outgoing, shared }
    }

    /// Returns a client of this server.
    pub fn client(&self) -> Client {
        Client::new(self.shared.clone(), self.outgoing.clone())
    }

    /// Returns a handle that closes this server from elsewhere.
    pub fn closer(&self) -> Closer {
        Closer(self.incoming.0.clone())
    }

    /// Closes the server: calls in the queue, callers that wait for room in it and all later calls get
    /// [`CallError::Closed`]. A function that is running runs to its end. Closing again does nothing.
    pub fn close(&self) {
        close(&self.incoming.0);
    }

    /// Waits for the next call. `None` once the server is closed.
    ///
    /// Dropping the future loses no call.
    pub async fn next(&self) -> Option<QueuedCall> {
        self.incoming.0.recv().await.ok()
    }

    /// Takes the next call if one is there.
    pub fn try_next(&self) -> Option<QueuedCall> {
        self.incoming.0.try_recv().ok()
    }

    /// Runs a call on this thread, to its end.
    ///
    /// A panic in the function becomes its caller's [`CallError::Panicked`] and a line in the log. A call
    /// whose caller has given up is dropped without being run.
    ///
    /// A sync call from inside the function that would wait for this server is refused. One from the loop around
    /// `exec` is not known to be such, and would wait for ever unless it has a deadline.
    ///
    /// # Panics
    /// If the call was taken from another server.
    pub fn exec(&mut self, call: QueuedCall) {
        self.shared.exec(&mut self.state, &self.functions, call);
    }

    /// Runs calls until the server is closed or its last client is gone, and returns the state.
    ///
    /// Now and then it lets other tasks of its executor have a turn. Dropping the future drops the server.
    pub async fn run(self) -> S {
        let Self { mut state, functions, incoming, outgoing, shared } = self;
        drop(outgoing);
        let mut turn = 0;
        while let Ok(call) = incoming.0.recv().await {
            shared.exec(&mut state, &functions, call);
            turn += 1;
            if turn == TURN {
                turn = 0;
                smol::future::yield_now().await;
            }
        }
        state
    }

    /// Returns the state.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Returns the state, to be changed between calls.
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// Returns what the server has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats(self.incoming.0.len(), self.incoming.0.capacity())
    }
}

impl<S: fmt::Debug> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", self.shared.node.name())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Closes a server from anywhere. See [`Server::close`].
#[derive(Clone)]
pub struct Closer(Receiver<QueuedCall>);

impl Closer {
    /// Closes the server. See [`Server::close`].
    pub fn close(&self) {
        close(&self.0);
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").field("closed", &self.0.is_closed()).finish()
    }
}

/// The queue's end at the server. However a server ends, its queue is closed and answered.
struct Incoming(Receiver<QueuedCall>);

impl Drop for Incoming {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(queue: &Receiver<QueuedCall>) {
    // Nothing enters a closed queue, so what is taken out here is all there is.
    queue.close();
    while let Ok(call) = queue.try_recv() {
        call.envelope.fail(CallError::Closed);
    }
}

/// `some::path::Name<T>` → `Name`.
fn short_name(name: &'static str) -> &'static str {
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}
