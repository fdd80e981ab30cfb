//! The future of a sync call.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::budget;
use super::deadline::Deadline;
use super::error::{CallError, Failure};
use super::functions::Found;
use super::panic;
use super::queue::Queue;
use super::reply::{ReplyTo, Responder, Slot};
use super::shared::{BlockedSender, NotQueued, Place, Shared};
use super::sync::Mutex;
use super::typed_queue::{GoCall, QueueItem as _, QueuedCall};
use super::wait_graph::{self, Wait};

/// A sync call: a future to await, or to block on with [`wait`](Self::wait).
///
/// The first poll makes the call. If its server has nothing else to do, a plain function runs at once, on this thread,
/// unless the call has a deadline, which could not end it while it blocks this thread. Otherwise the call enters the
/// server's queue, waiting there for room if the queue is full.
///
/// Dropping it cancels the call; a function that has not begun by then never will. A call in go mode
/// ([`Client::go_when_room`](super::Client::go_when_room)) is over once it is queued, and runs.
///
/// # Panics
/// If it is polled after it has completed.
#[must_use = "a call does nothing unless it is awaited or waited for"]
pub struct Call<'c, A, R> {
    shared: &'c Shared,
    state: State<'c, A, R>,
    deadline: Deadline,
    full: WhenFull,
    in_place: InPlace,
    /// Set while the call waits.
    wait: Option<Wait>,
}

enum State<'c, A, R> {
    /// The call itself is wrong. Boxed, since the space of a state is moved by every call.
    Invalid(Box<CallError>),
    Unsent {
        mode: Mode<'c, A, R>,
        arguments: A,
    },
    /// Waiting for room in the queue.
    Blocked {
        sender: Arc<CallSender<A, R>>,
        place: Place,
    },
    Queued {
        slot: Arc<Slot<R>>,
    },
    /// Run in place, and the result is returned after other tasks have run.
    Answered {
        result: Result<R, Failure>,
        yielded: bool,
    },
    Done,
}

enum Mode<'c, A, R> {
    Call(Found<'c, A, R>),
    /// Go mode, with the result to return once the call is queued.
    Go(usize, R),
}

/// Whether the function may run on this thread.
#[derive(Clone, Copy)]
enum InPlace {
    Always,
    /// Within the thread's budget.
    WithinBudget,
    Never,
}

#[derive(Clone, Copy)]
enum WhenFull {
    Wait,
    Fail,
}

impl<'c, A: Send + 'static, R: Send + 'static> Call<'c, A, R> {
    pub(super) fn new(
        shared: &'c Shared,
        found: Result<Found<'c, A, R>, Box<CallError>>,
        arguments: A,
    ) -> Self {
        let state = match found {
            Ok(found) => State::Unsent { mode: Mode::Call(found), arguments },
            Err(error) => State::Invalid(error),
        };
        Self::with(shared, state)
    }

    fn with(shared: &'c Shared, state: State<'c, A, R>) -> Self {
        Self {
            shared,
            state,
            deadline: Deadline::default(),
            full: WhenFull::Wait,
            in_place: InPlace::WithinBudget,
            wait: None,
        }
    }

    /// Runs the function on the server's own loop, for callers whose thread must not block.
    pub(crate) fn on_loop(mut self) -> Self {
        self.in_place = InPlace::Never;
        self
    }

    /// Ends the call with [`CallError::Deadline`] unless it is answered by `at`. The function runs on the server's own
    /// loop, never on this thread.
    ///
    /// A function that has not begun when the call ends never will. One that has begun runs to its end.
    ///
    /// ```
    /// # use std::time::Instant;
    /// # use chanrpc::{CallError, Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// // Nothing runs the server.
    /// let call = client.call(ADD, 5).deadline(Instant::now());
    /// assert_eq!(call.wait(), Err(CallError::Deadline));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Deadline::at(at);
        self
    }

    /// Ends the call with [`CallError::Deadline`] unless it is answered within this time from now. See
    /// [`deadline`](Self::deadline).
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # use std::time::Duration;
    /// # use chanrpc::CallError;
    /// // Nothing runs the server.
    /// let call = client.call(ADD, 5).timeout(Duration::from_millis(1));
    /// assert_eq!(call.wait(), Err(CallError::Deadline));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(mut self, time: Duration) -> Self {
        self.deadline = Deadline::after(time);
        self
    }

    /// Ends the call with [`CallError::Full`] instead of waiting for room in the queue.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # use chanrpc::{CallError, ServerSettings};
    /// let server = Server::with_settings(0, functions, ServerSettings::default().capacity(1));
    /// let client = server.client();
    /// client.go(ADD, 1)?;
    /// assert_eq!(client.call(ADD, 1).unless_full().wait(), Err(CallError::Full));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unless_full(mut self) -> Self {
        self.full = WhenFull::Fail;
        self
    }

    /// Creates a call in go mode, which ends with `queued` when it is queued.
    pub(super) fn go(
        shared: &'c Shared,
        found: Result<usize, Box<CallError>>,
        arguments: A,
        queued: R,
    ) -> Self {
        let state = match found {
            Ok(function) => State::Unsent { mode: Mode::Go(function, queued), arguments },
            Err(error) => State::Invalid(error),
        };
        Self::with(shared, state)
    }

    /// Blocks this thread until the call is answered. For plain threads; tasks `.await` the call instead.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::new();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let server = Server::new(0, functions);
    /// # let client = server.client();
    /// # std::thread::spawn(|| smol::block_on(server.run()));
    /// assert_eq!(client.call(ADD, 5).wait()?, 5);
    /// assert!(client.call1::<i64, i64>("subtract", 5).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`]; in particular `WouldDeadlock` from inside a function whose server the called one waits
    /// for.
    pub fn wait(mut self) -> Result<R, CallError> {
        // No other task waits for this thread.
        if let InPlace::WithinBudget = self.in_place {
            self.in_place = InPlace::Always;
        }
        wait_graph::block_on(self)
    }

    /// Runs the function on this thread if that is possible. Returns the result unless other tasks are to run first.
    fn run_in_place(&mut self) -> Option<Result<R, Failure>> {
        // A deadline could not end a function on this thread.
        let budgeted = match self.in_place {
            _ if !self.deadline.is_never() => return None,
            InPlace::Always => false,
            InPlace::WithinBudget => true,
            InPlace::Never => return None,
        };
        let (found, arguments) = match mem::replace(&mut self.state, State::Done) {
            State::Unsent { mode: Mode::Call(found), arguments } => (found, arguments),
            other => {
                self.state = other;
                return None;
            }
        };
        let began = if budgeted { budget::begin_in_place() } else { None };
        match self.shared.run_in_place(&found, arguments) {
            Ok(result) if budgeted && budget::end_in_place(began) => {
                // The call has run in its order; only its result is delayed.
                self.state = State::Answered { result, yielded: false };
                None
            }
            Ok(result) => Some(result),
            Err(arguments) => {
                self.state = State::Unsent { mode: Mode::Call(found), arguments };
                None
            }
        }
    }

    /// Makes the call through the queue. Returns its result if that is ready immediately.
    fn start(&mut self, cx: &Context<'_>) -> Option<Result<R, CallError>> {
        let (mode, arguments) = match mem::replace(&mut self.state, State::Done) {
            State::Unsent { mode, arguments } => (mode, arguments),
            State::Invalid(error) => return Some(Err(*error)),
            _ => panic!("the call was polled after its end"),
        };
        if self.deadline.has_passed() {
            panic::drop_quietly(arguments);
            return Some(self.failed(CallError::Deadline));
        }
        match mode {
            Mode::Call(found) => {
                let number = found.number;
                if let Err(error) = self.begin_wait(cx) {
                    panic::drop_quietly(arguments);
                    return Some(Err(error));
                }
                let slot = Arc::new(Slot::new());
                let responder = Responder::new(ReplyTo::Slot(slot.clone()));
                match self.shared.enqueue_call(number, QueuedCall { arguments, responder }) {
                    Ok(()) => {
                        self.state = State::Queued { slot };
                        None
                    }
                    Err(refused) => self.refused(cx, refused, |call| CallSender {
                        function: number,
                        go: false,
                        slot,
                        item: Mutex::new(Some(SendItem::Call(call))),
                    }),
                }
            }
            Mode::Go(function, queued) => match self.shared.enqueue_go(function, GoCall(arguments)) {
                Ok(()) => Some(Ok(queued)),
                Err(refused) => self.refused(cx, refused, |call| CallSender {
                    function,
                    go: true,
                    slot: Arc::new(Slot::new()),
                    item: Mutex::new(Some(SendItem::Go(call, queued))),
                }),
            },
        }
    }

    /// Waits for room in a full queue, unless the call is to fail.
    fn refused<T>(
        &mut self,
        cx: &Context<'_>,
        refused: NotQueued<T>,
        sender: impl FnOnce(T) -> CallSender<A, R>,
    ) -> Option<Result<R, CallError>> {
        match (refused, self.full) {
            (NotQueued::Full(item), WhenFull::Wait) => {
                if let Err(error) = self.begin_wait(cx) {
                    panic::drop_quietly(item);
                    return Some(Err(error));
                }
                let sender = Arc::new(sender(item));
                match self.shared.wait_for_room(sender.clone()) {
                    Ok(place) => self.state = State::Blocked { sender, place },
                    Err(error) => {
                        sender.cancel();
                        return Some(Err(error));
                    }
                }
                None
            }
            (refused, _) => {
                let (error, item) = self.shared.refuse(refused);
                panic::drop_quietly(item);
                Some(Err(error))
            }
        }
    }

    /// Records once that the current function, if any, waits for the server.
    fn begin_wait(&mut self, cx: &Context<'_>) -> Result<(), CallError> {
        if self.wait.is_none() {
            self.wait = Some(Wait::begin(&self.shared.waiter, cx)?);
        }
        Ok(())
    }
}

impl<A, R> Unpin for Call<'_, A, R> {}

impl<A: Send + 'static, R: Send + 'static> Future for Call<'_, A, R> {
    type Output = Result<R, CallError>;

    // Inlined, so that the result of a call in place is not moved through the space of a `CallError`.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Unsent { .. } = self.state
            && let Some(result) = self.run_in_place()
        {
            return Poll::Ready(result.map_err(CallError::from));
        }
        self.poll_queued(cx)
    }
}

impl<A: Send + 'static, R: Send + 'static> Call<'_, A, R> {
    /// Polls a call that does not run in place.
    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<Result<R, CallError>> {
        if let State::Invalid(_) | State::Unsent { .. } | State::Done = self.state
            && let Some(result) = self.start(cx)
        {
            return Poll::Ready(result);
        }
        let this = self;
        let slot = match &mut this.state {
            State::Blocked { sender, .. } => &sender.slot,
            State::Queued { slot } => slot,
            State::Answered { yielded: yielded @ false, .. } => {
                *yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            state => match mem::replace(state, State::Done) {
                State::Answered { result, .. } => return Poll::Ready(result.map_err(CallError::from)),
                _ => unreachable!("a call that has begun waits or is answered"),
            },
        };
        if let Poll::Ready(result) = slot.poll(cx) {
            this.wait = None;
            this.state = State::Done;
            return Poll::Ready(result);
        }
        if let Some(wait) = &mut this.wait
            && let Poll::Ready(error) = wait.poll_deadlock(&this.shared.waiter, cx)
        {
            return this.end(error);
        }
        if this.deadline.poll(cx).is_ready() {
            return this.expire();
        }
        Poll::Pending
    }
}

impl<A, R> Call<'_, A, R> {
    /// Ends a call whose deadline has passed. An answer, or room in the queue, that came meanwhile takes precedence.
    pub(super) fn expire(&mut self) -> Poll<Result<R, CallError>> {
        self.end(CallError::Deadline)
    }

    /// Ends the call with an error unless it has ended.
    fn end(&mut self, error: CallError) -> Poll<Result<R, CallError>> {
        let result = match self.cancel() {
            Cancelled::Yes => self.failed(error),
            Cancelled::Answered(result) => result,
            Cancelled::TooLate => return Poll::Pending,
        };
        self.wait = None;
        self.state = State::Done;
        Poll::Ready(result)
    }

    /// Cancels a call that is dropped.
    #[cold]
    fn abandon(&self) {
        if let Cancelled::Answered(result) = self.cancel() {
            panic::drop_quietly(result);
        }
    }

    fn failed(&self, error: CallError) -> Result<R, CallError> {
        if let CallError::Deadline = error {
            self.shared.counters.timed_out();
        }
        Err(error)
    }

    /// Cancels the call unless it has ended.
    fn cancel(&self) -> Cancelled<R> {
        let slot = match &self.state {
            State::Blocked { sender, place } => match sender.cancel() {
                Taken::SendItem => {
                    self.shared.cancel_wait(*place);
                    return Cancelled::Yes;
                }
                Taken::Queued(result) => return Cancelled::Answered(Ok(result)),
                // Another thread has queued or refused it, and is about to answer.
                Taken::Nothing if sender.go => {
                    return sender.slot.take().map_or(Cancelled::TooLate, Cancelled::Answered);
                }
                Taken::Nothing => &sender.slot,
            },
            State::Queued { slot } => slot,
            State::Invalid(_) | State::Unsent { .. } | State::Answered { .. } | State::Done => {
                return Cancelled::Yes;
            }
        };
        slot.abandon().map_or(Cancelled::Yes, Cancelled::Answered)
    }
}

/// The outcome of cancelling a call.
enum Cancelled<R> {
    /// Cancelled. If its function has not begun, it never will.
    Yes,
    /// The call had ended with this result.
    Answered(Result<R, CallError>),
    /// The answer is about to arrive.
    TooLate,
}

impl<A, R> Drop for Call<'_, A, R> {
    fn drop(&mut self) {
        if let State::Blocked { .. } | State::Queued { .. } = self.state {
            self.abandon();
        }
    }
}

impl<A, R> fmt::Debug for Call<'_, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Invalid(error) => return f.debug_tuple("Call").field(error).finish(),
            State::Unsent { .. } => "fresh",
            State::Blocked { .. } => "waiting for room",
            State::Queued { .. } => "waiting for the answer",
            State::Answered { .. } => "answered",
            State::Done => "done",
        };
        f.debug_struct("Call").field("state", &state).finish_non_exhaustive()
    }
}

/// A call that waits for room in the queue.
struct CallSender<A, R> {
    function: usize,
    /// Go mode: the call is answered once it is queued.
    go: bool,
    slot: Arc<Slot<R>>,
    /// Taken when the queue has room, or when the call is cancelled.
    item: Mutex<Option<SendItem<A, R>>>,
}

enum SendItem<A, R> {
    Call(QueuedCall<A, R>),
    Go(GoCall<A>, R),
    /// A call in go mode that was queued, with its answer.
    Queued(R),
}

/// The content that a caller found when it cancelled its call.
enum Taken<R> {
    /// The call, which is dropped.
    SendItem,
    /// The answer to a call in go mode that was queued.
    Queued(R),
    Nothing,
}

impl<A, R> CallSender<A, R> {
    fn cancel(&self) -> Taken<R> {
        let item = self.item.lock().take();
        match item {
            Some(SendItem::Queued(queued)) => Taken::Queued(queued),
            None => Taken::Nothing,
            item => {
                panic::drop_quietly(item);
                Taken::SendItem
            }
        }
    }
}

impl<A: Send + 'static, R: Send + 'static> BlockedSender for CallSender<A, R> {
    fn enqueue(&self, queue: &mut Queue) {
        let mut item = self.item.lock();
        match item.take() {
            Some(SendItem::Call(call)) => queue.push_call(self.function, call),
            Some(SendItem::Go(call, queued)) => {
                queue.push_go(self.function, call);
                *item = Some(SendItem::Queued(queued));
            }
            None | Some(SendItem::Queued(_)) => {}
        }
    }

    fn on_enqueued(&self) {
        let mut item = self.item.lock();
        if let Some(SendItem::Queued(queued)) = item.take_if(|item| matches!(item, SendItem::Queued(_))) {
            drop(item);
            self.slot.answer(Ok(queued));
        }
    }

    fn fail(&self, error: &CallError) {
        let item = self.item.lock().take();
        match item {
            Some(SendItem::Call(call)) => call.fail(error),
            Some(SendItem::Go(call, _)) => {
                self.slot.answer(Err(error.clone()));
                call.fail(error);
            }
            Some(SendItem::Queued(_)) | None => {}
        }
    }
}
