//! A caller's handle to a server, and the future of a sync call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_channel::{SendError, Sender, TrySendError};
use smol::Timer;

use super::envelope::{Envelope, Parcel, Posted};
use super::error::CallError;
use super::id::FunctionId;
use super::kind::{Kind, Results};
use super::reply::{ReplyTo, Responder, Sink, Slot};
use super::shared::{QueuedCall, Shared, Stats};
use super::waits::Edge;

/// Calls the functions of one server. Cheap to clone, and safe to share between threads.
///
/// Calls that a caller makes one after the other enter the server's queue, and are run, in that order. Of several
/// calls that are awaited at once while the queue is full, any may find room first.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    queue: Sender<QueuedCall>,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, queue: Sender<QueuedCall>) -> Self {
        Self { shared, queue }
    }

    /// Calls a function of no result and waits until it has run.
    ///
    /// Nothing happens before the returned [`Call`] is awaited, or waited for by [`Call::wait`].
    pub fn call0<A: Send + 'static>(&self, id: impl Into<FunctionId>, arguments: A) -> Call<()> {
        self.call(&id.into(), Kind::Zero, arguments)
    }

    /// Calls a function of one result and waits for it. See [`call0`](Self::call0).
    pub fn call1<A: Send + 'static, R: Send + 'static>(
        &self,
        id: impl Into<FunctionId>,
        arguments: A,
    ) -> Call<R> {
        self.call(&id.into(), Kind::One, arguments)
    }

    /// Calls a function of several results and waits for them. See [`call0`](Self::call0).
    pub fn call_n<A: Send + 'static, R: Results>(&self, id: impl Into<FunctionId>, arguments: A) -> Call<R> {
        self.call(&id.into(), Kind::Many, arguments)
    }

    /// Calls a function of any kind in go mode: it will run, its result is dropped. Never waits.
    ///
    /// # Errors
    /// [`Refused`], with the arguments: unknown function, wrong arguments, queue full, server closed.
    pub fn go<A: Send + 'static>(&self, id: impl Into<FunctionId>, arguments: A) -> Result<(), Refused<A>> {
        let function = match self.shared.directory.find_to_go::<A>(&id.into()) {
            Ok(function) => function,
            Err(error) => return Err(Refused { error, arguments }),
        };
        self.queue.try_send(self.queued(function, Posted(arguments))).map_err(|refused| {
            let (error, call) = self.refusal(refused);
            match call.envelope.into_any().downcast::<Posted<A>>() {
                Ok(posted) => Refused { error, arguments: posted.0 },
                Err(_) => unreachable!("the queue gave back another call than it was given"),
            }
        })
    }

    /// Calls a function without waiting; the answer, or what stood against the call, goes to `sink`, on
    /// whichever thread finds it, this one included.
    pub(crate) fn submit<A: Send + 'static, R: Send + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        sink: impl Sink<R> + 'static,
    ) {
        let responder = Responder::new(ReplyTo::Sink(Box::new(sink)));
        match self.shared.directory.find::<A, R>(id, kind) {
            Ok(function) => {
                let call = self.queued(function, Parcel { arguments, responder });
                if let Err(refused) = self.queue.try_send(call) {
                    let (error, call) = self.refusal(refused);
                    call.envelope.fail(error);
                }
            }
            Err(error) => responder.finish(Err(error)),
        }
    }

    /// Returns the server's name.
    pub fn server_name(&self) -> &str {
        self.shared.node.name()
    }

    /// Returns what the server has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats(self.queue.len(), self.queue.capacity())
    }

    /// Tells whether the server is closed.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    fn call<A: Send + 'static, R: Send + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
    ) -> Call<R> {
        let state = match self.shared.directory.find::<A, R>(id, kind) {
            Ok(function) => {
                let slot = Arc::new(Slot::new());
                let responder = Responder::new(ReplyTo::Slot(slot.clone()));
                State::Fresh { call: self.queued(function, Parcel { arguments, responder }), slot }
            }
            Err(error) => State::Refused(error),
        };
        Call { client: self.clone(), state, deadline: Deadline::None, full: WhenFull::Wait, edge: None }
    }

    fn queued(&self, function: usize, envelope: impl Envelope + 'static) -> QueuedCall {
        QueuedCall { server: self.shared.node.id(), function, envelope: Box::new(envelope) }
    }

    fn refusal(&self, refused: TrySendError<QueuedCall>) -> (CallError, QueuedCall) {
        match refused {
            TrySendError::Full(call) => {
                self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                (CallError::Full, call)
            }
            TrySendError::Closed(call) => (CallError::Closed, call),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", self.shared.node.name())
            .field("stats", &self.stats())
            .finish()
    }
}

/// A call in go mode that was not queued.
#[derive(Clone, Debug)]
pub struct Refused<A> {
    /// Why not.
    pub error: CallError,
    /// The arguments, to try again.
    pub arguments: A,
}

impl<A> fmt::Display for Refused<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<A: fmt::Debug> std::error::Error for Refused<A> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A sync call: a future to be awaited, or to be waited for by a thread with [`wait`](Self::wait).
///
/// It enters the server's queue when first polled, waiting there for room if the queue is full. Dropping it
/// gives the call up; a function that has not begun by then never will.
#[must_use = "a call does nothing unless it is awaited or waited for"]
pub struct Call<R> {
    client: Client,
    state: State<R>,
    deadline: Deadline,
    full: WhenFull,
    /// Held while a function waits for this call.
    edge: Option<Edge>,
}

enum State<R> {
    /// Something was wrong with the call itself.
    Refused(CallError),
    Fresh {
        call: QueuedCall,
        slot: Arc<Slot<R>>,
    },
    /// Waiting for room in the queue.
    Queueing {
        send: Pin<Box<dyn Future<Output = Result<(), SendError<QueuedCall>>> + Send>>,
        slot: Arc<Slot<R>>,
    },
    Waiting {
        slot: Arc<Slot<R>>,
    },
    Done,
}

enum Deadline {
    None,
    At(Instant),
    /// The timer is made when there is something to wait for.
    Running(Timer),
}

#[derive(Clone, Copy)]
enum WhenFull {
    Wait,
    Fail,
}

impl<R: Send + 'static> Call<R> {
    /// Ends the call with [`CallError::Deadline`] unless it is answered by then.
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Deadline::At(at);
        self
    }

    /// Ends the call with [`CallError::Deadline`] unless it is answered within this time from now.
    pub fn timeout(self, time: Duration) -> Self {
        match Instant::now().checked_add(time) {
            Some(at) => self.deadline(at),
            None => self,
        }
    }

    /// Ends the call with [`CallError::Full`] instead of waiting for room in the queue.
    pub fn unless_full(mut self) -> Self {
        self.full = WhenFull::Fail;
        self
    }

    /// Blocks this thread until the call is answered. For plain threads; tasks `.await` the call instead.
    ///
    /// # Errors
    /// [`CallError`]; in particular `WouldDeadlock` from inside a function whose server the called one waits
    /// for.
    pub fn wait(self) -> Result<R, CallError> {
        smol::future::block_on(self)
    }

    fn finish(&mut self, result: Result<R, CallError>) -> Poll<Result<R, CallError>> {
        if let State::Queueing { slot, .. } | State::Waiting { slot } =
            std::mem::replace(&mut self.state, State::Done)
        {
            slot.abandon();
        }
        self.edge = None;
        Poll::Ready(result)
    }
}

impl<R> Unpin for Call<R> {}

impl<R: Send + 'static> Future for Call<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Refused(_) | State::Fresh { .. } => {
                    let (call, slot) = match std::mem::replace(&mut this.state, State::Done) {
                        State::Fresh { call, slot } => (call, slot),
                        State::Refused(error) => return Poll::Ready(Err(error)),
                        _ => unreachable!("the state was looked at above"),
                    };
                    match Edge::enter(&this.client.shared.node) {
                        Ok(edge) => this.edge = edge,
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                    this.state = match this.client.queue.try_send(call) {
                        Ok(()) => State::Waiting { slot },
                        Err(TrySendError::Full(call)) if matches!(this.full, WhenFull::Wait) => {
                            let queue = this.client.queue.clone();
                            State::Queueing { send: Box::pin(async move { queue.send(call).await }), slot }
                        }
                        Err(refused) => {
                            let (error, _call) = this.client.refusal(refused);
                            return this.finish(Err(error));
                        }
                    };
                }
                State::Queueing { send, slot } => match send.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => this.state = State::Waiting { slot: slot.clone() },
                    Poll::Ready(Err(_)) => return this.finish(Err(CallError::Closed)),
                    Poll::Pending => break,
                },
                State::Waiting { slot } => match slot.poll(cx) {
                    Poll::Ready(result) => return this.finish(result),
                    Poll::Pending => break,
                },
                State::Done => return Poll::Pending,
            }
        }
        if let Deadline::At(at) = this.deadline {
            this.deadline = Deadline::Running(Timer::at(at));
        }
        if let Deadline::Running(timer) = &mut this.deadline
            && Pin::new(timer).poll(cx).is_ready()
        {
            return this.finish(Err(CallError::Deadline));
        }
        Poll::Pending
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if let State::Queueing { slot, .. } | State::Waiting { slot } = &self.state {
            slot.abandon();
        }
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused(error) => return f.debug_tuple("Call").field(error).finish(),
            State::Fresh { .. } => "fresh",
            State::Queueing { .. } => "waiting for room",
            State::Waiting { .. } => "waiting for the answer",
            State::Done => "done",
        };
        f.debug_struct("Call").field("state", &state).finish_non_exhaustive()
    }
}
