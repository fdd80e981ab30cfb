//! Async calls: the caller goes on, and a callback comes back on the caller's own loop.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smol::Timer;

use super::client::Client;
use super::error::CallError;
use super::id::{FunctionId, Names};
use super::kind::{Kind, Many, One, Results, Zero};
use super::panic;
use super::pending::{Answers, Callback, Expiry, GiveUp, Prepared};

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
/// smol::block_on(server.exec());
/// let callback = callbacks.try_next().unwrap();
/// callback.run(&mut player);
/// assert_eq!(player.score, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Callbacks<C> {
    answers: Arc<Answers<C>>,
    /// Callbacks that were taken from there all at once.
    ready: VecDeque<Callback<C>>,
    pending: usize,
    limit: usize,
    /// For the next call.
    time: Option<Duration>,
    /// The pending calls that have a deadline.
    deadlines: BTreeMap<Expiry, Weak<dyn GiveUp<C>>>,
    serial: u64,
    timer: Timer,
}

/// The call was not made, since as many as allowed are pending. Run some callbacks first.
#[derive(Clone, PartialEq, Eq)]
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

impl<A> fmt::Debug for TooManyPending<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TooManyPending").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<A> std::error::Error for TooManyPending<A> {}

impl<C: 'static> Callbacks<C> {
    /// Creates a place for up to `limit` pending calls. 0 is taken as 1.
    pub fn new(limit: usize) -> Self {
        Self {
            answers: Arc::default(),
            ready: VecDeque::new(),
            pending: 0,
            limit: limit.max(1),
            time: None,
            deadlines: BTreeMap::new(),
            serial: 0,
            timer: Timer::never(),
        }
    }

    /// Creates one whose loop is gone: nothing comes back.
    pub(crate) fn closed(limit: usize) -> Self {
        let callbacks = Self::new(limit);
        callbacks.answers.close();
        callbacks
    }

    /// Ends the next call, and no further one, with [`CallError::Deadline`] unless it is answered within this time
    /// from when it is made: `callbacks.within(second).call1(…)`.
    pub fn within(&mut self, time: Duration) -> &mut Self {
        self.time = Some(time);
        self
    }

    /// Calls a function of no result; `callback` gets to know when it has run.
    ///
    /// # Errors
    /// [`TooManyPending`] if the limit is reached. Everything else goes to the callback.
    pub fn call0<A: Send + 'static>(
        &mut self,
        client: &Client,
        id: impl Names<Zero, A, ()>,
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
        id: impl Names<One, A, R>,
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
        id: impl Names<Many, A, R>,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        self.call(client, &id.into(), Kind::Many, arguments, callback)
    }

    /// Waits for the next callback to run, in the order in which the answers came and deadlines passed.
    ///
    /// Waits for ever if nothing is pending; a loop selects it against its other sources. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Callback<C> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Takes the next callback if one is there.
    pub fn try_next(&mut self) -> Option<Callback<C>> {
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(callback) => Some(callback),
            Poll::Pending => None,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many calls are pending: their callbacks have not been taken yet.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Like [`next`](Self::next), for a loop that polls its sources itself.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Callback<C>> {
        if self.ready.is_empty() {
            self.answers.take(cx, &mut self.ready);
            // However many answers come, those that are late are found.
            while let Some(callback) = self.expired(cx) {
                self.ready.push_back(callback);
            }
        }
        let Some(callback) = self.ready.pop_front() else { return Poll::Pending };
        if let Some(expiry) = callback.expiry {
            self.deadlines.remove(&expiry);
        }
        self.pending -= 1;
        Poll::Ready(callback)
    }

    /// The callback of a call whose deadline has passed.
    fn expired(&mut self, cx: &mut Context<'_>) -> Option<Callback<C>> {
        loop {
            let entry = self.deadlines.first_entry()?;
            let (at, _) = *entry.key();
            if Instant::now() < at {
                self.timer.set_at(at);
                if Pin::new(&mut self.timer).poll(cx).is_pending() {
                    return None;
                }
                continue;
            }
            // An answer that came in this moment is on its way to the others.
            if let Some(callback) =
                entry.remove().upgrade().and_then(|call| call.give_up(CallError::Deadline))
            {
                return Some(callback);
            }
        }
    }

    fn call<A: Send + 'static, R: Send + 'static>(
        &mut self,
        client: &Client,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        callback: impl FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
    ) -> Result<(), TooManyPending<A>> {
        let time = self.time.take();
        match self.prepare(client, time, callback) {
            Ok(prepared) => prepared.submit(client, id, kind, arguments),
            Err(_callback) => return Err(TooManyPending { arguments, limit: self.limit }),
        }
        Ok(())
    }

    /// Forgets a call that could not be made.
    pub(crate) fn take_back(&mut self) {
        // The loop may have been closed meanwhile, which leaves none pending.
        self.pending = self.pending.saturating_sub(1);
    }

    /// Makes room for a call. The second half of it, which may drop values of the user's, needs no access to this.
    ///
    /// # Errors
    /// The callback, if the limit is reached.
    pub(crate) fn prepare<F, R>(
        &mut self,
        client: &Client,
        time: Option<Duration>,
        callback: F,
    ) -> Result<Prepared<C, F, R>, F>
    where
        F: FnOnce(&mut C, Result<R, CallError>) + Send + 'static,
        R: Send + 'static,
    {
        if self.pending == self.limit {
            return Err(callback);
        }
        self.pending += 1;
        let answers = self.answers.clone();
        let Some(at) = time.and_then(|time| Instant::now().checked_add(time)) else {
            return Ok(Prepared::plain(answers, callback));
        };
        if self.deadlines.len() > 2 * self.limit {
            // Those of calls that were taken back.
            self.deadlines.retain(|_, call| call.strong_count() > 0);
        }
        self.serial += 1;
        let expiry = (at, self.serial);
        let (prepared, call) = Prepared::timed(answers, client.shared().clone(), expiry, callback);
        self.deadlines.insert(expiry, call);
        self.answers.rouse();
        Ok(prepared)
    }
}

impl<C> Drop for Callbacks<C> {
    fn drop(&mut self) {
        self.answers.close();
        mem::take(&mut self.ready).into_iter().for_each(panic::drop_quietly);
        for call in mem::take(&mut self.deadlines).into_values() {
            panic::drop_quietly(call.upgrade().and_then(|call| call.give_up(CallError::Unanswered)));
        }
    }
}

impl<C> fmt::Debug for Callbacks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("pending", &self.pending).field("limit", &self.limit).finish()
    }
}
