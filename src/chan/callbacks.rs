//! Async calls: the caller goes on, and a callback comes back on the caller's own loop.

use std::fmt;

use async_channel::{Receiver, Sender};

use super::client::Client;
use super::error::CallError;
use super::id::FunctionId;
use super::kind::{Kind, Results};

/// The async calls of one loop, whose callbacks get that loop's state `C`.
///
/// Starting a call never blocks and never runs a callback: whatever becomes of the call, also if the queue is
/// full or the function unknown, its callback waits here until the loop takes it with [`next`](Self::next)
/// and runs it. How many calls may be pending at a time is bounded.
///
/// A callback that makes a *sync* call to a server which its own loop drives would wait for itself; it makes an
/// async call instead.
///
/// ```
/// use chanrpc::chan::{Callbacks, Functions, Server};
///
/// let mut functions = Functions::new();
/// functions.register1("double", |_: &mut (), n: u32| n * 2)?;
/// let mut server = Server::new((), functions);
/// let client = server.client();
///
/// struct Player { score: u32 }
/// let mut player = Player { score: 0 };
/// let mut callbacks = Callbacks::new(8);
/// callbacks.call1(&client, "double", 21_u32, |player: &mut Player, score| player.score = score.unwrap())?;
///
/// // Here one thread plays both loops; usually each has its own.
/// let call = server.try_next().unwrap();
/// server.exec(call);
/// let callback = callbacks.try_next().unwrap();
/// callback.run(&mut player);
/// assert_eq!(player.score, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Callbacks<C> {
    ready: Receiver<Callback<C>>,
    answers: Sender<Callback<C>>,
    pending: usize,
    limit: usize,
}

/// A callback whose answer is there, for its loop to [`run`](Self::run). Dropped, it is never run.
#[must_use = "the callback has not run yet"]
pub struct Callback<C>(Box<dyn FnOnce(&mut C) + Send>);

impl<C> Callback<C> {
    /// Runs the callback.
    pub fn run(self, state: &mut C) {
        (self.0)(state);
    }
}

impl<C> fmt::Debug for Callback<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// The call was not made, since as many as allowed are pending. Run some callbacks first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyPending<A> {
    /// The arguments, to try again.
    pub arguments: A,
    /// How many may be pending.
    pub limit: usize,
}

impl<A> fmt::Display for TooManyPending<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} async calls are pending already, which is the limit given to Callbacks::new",
            self.limit
        )
    }
}

impl<A: fmt::Debug> std::error::Error for TooManyPending<A> {}

impl<C: 'static> Callbacks<C> {
    /// Creates a place for up to `limit` pending calls. 0 is taken as 1.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        let (answers, ready) = async_channel::bounded(limit);
        Self { ready, answers, pending: 0, limit }
    }

    /// Calls a function of no result; `callback` gets to know when it has run.
    ///
    /// # Errors
    /// [`TooManyPending`] if the limit is reached. Everything else goes to the callback.
    pub fn call0<A: Send + 'static>(
        &mut self,
        client: &Client,
        id: impl Into<FunctionId>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<(), CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::Zero, arguments, callback)
    }

    /// Calls a function of one result; `callback` gets it.
    ///
    /// # Errors
    /// As [`call0`](Self::call0).
    pub fn call1<A: Send + 'static, R: Send + 'static>(
        &mut self,
        client: &Client,
        id: impl Into<FunctionId>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::One, arguments, callback)
    }

    /// Calls a function of several results; `callback` gets them.
    ///
    /// # Errors
    /// As [`call0`](Self::call0).
    pub fn call_n<A: Send + 'static, R: Results>(
        &mut self,
        client: &Client,
        id: impl Into<FunctionId>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::Many, arguments, callback)
    }

    /// Waits for the next callback to run, in the order in which the answers came.
    ///
    /// Waits for ever if nothing is pending; a loop selects it against its other sources. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Callback<C> {
        match self.ready.recv().await {
            Ok(callback) => {
                self.pending -= 1;
                callback
            }
            Err(_) => unreachable!("this end keeps a sender"),
        }
    }

    /// Takes the next callback if one is there.
    pub fn try_next(&mut self) -> Option<Callback<C>> {
        let callback = self.ready.try_recv().ok()?;
        self.pending -= 1;
        Some(callback)
    }

    /// Returns how many calls are pending: their callbacks have not been taken yet.
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn call<A: Send + 'static, R: Send + 'static>(
        &mut self,
        client: &Client,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        if self.pending == self.limit {
            return Err(TooManyPending { arguments, limit: self.limit });
        }
        self.pending += 1;
        let answers = self.answers.clone();
        client.submit(id, kind, arguments, move |result| {
            // There is room for every pending call. Nobody takes it if the loop is gone.
            let _ = answers.try_send(Callback(Box::new(move |state| callback(state, result))));
        });
        Ok(())
    }
}

impl<C> fmt::Debug for Callbacks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("pending", &self.pending).field("limit", &self.limit).finish()
    }
}
