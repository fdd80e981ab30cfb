//! One function: its signature and how it runs.

use std::any::{Any, TypeId, type_name};
use std::future::Future;
use std::pin::Pin;

use super::error::{CallError, FunctionError};
use super::id::FunctionId;
use super::kind::Kind;
use super::panic;
use super::reply::{ReplyTo, Responder};
use super::typed_queue::{GoCall, QueuedCall, TypedQueue};

/// The future of an async function that has begun. It borrows the state until it ends.
pub(super) type RunningFuture<'s> = Pin<Box<dyn Future<Output = ()> + Send + 's>>;

/// A function with its types of arguments and result, but without the type of its state.
pub(super) struct Function<A, R> {
    pub(super) body: Body<A, R>,
}

/// The handler of a function. Panics if the state is not of the table's type.
pub(super) enum Body<A, R> {
    /// Returns the result.
    Now(Box<Now<A, R>>),
    /// Sends the result through a responder, now or later.
    Deferred(Box<Deferred<A, R>>),
    /// Returns a future of the result, which borrows the state.
    Async(Box<Begin<A, R>>),
}

// A `CallError` would be larger, and each call moves the result several times.
type Now<A, R> = dyn Fn(&mut dyn Any, A) -> Result<R, FunctionError> + Send + Sync;
type Deferred<A, R> = dyn Fn(&mut dyn Any, A, Responder<R>) + Send + Sync;
type Begin<A, R> = dyn for<'s> Fn(&'s mut dyn Any, A, Responder<R>) -> RunningFuture<'s> + Send + Sync;

/// A function of any types. `run_*` is for plain and deferred functions, `begin_*` for async ones.
pub(super) trait AnyFunction: Any + Send + Sync {
    fn is_async(&self) -> bool;
    /// Runs the oldest call that waits for an answer. Returns `false` if it was cancelled and thus not run. Unwinds if
    /// the function does.
    fn run_call(&self, calls: &mut dyn TypedQueue, state: &mut dyn Any) -> bool;
    /// Runs the oldest call in go mode. Unwinds if the function does.
    fn run_go(&self, posts: &mut dyn TypedQueue, state: &mut dyn Any);
    /// Begins the oldest call that waits for an answer, unless it was cancelled.
    fn begin_call<'s>(&self, calls: &mut dyn TypedQueue, state: &'s mut dyn Any)
    -> Option<RunningFuture<'s>>;
    /// Begins the oldest call in go mode.
    fn begin_go<'s>(&self, posts: &mut dyn TypedQueue, state: &'s mut dyn Any) -> Option<RunningFuture<'s>>;
}

impl<A: Send + 'static, R: Send + 'static> AnyFunction for Function<A, R> {
    fn is_async(&self) -> bool {
        matches!(self.body, Body::Async(_))
    }

    fn run_call(&self, calls: &mut dyn TypedQueue, state: &mut dyn Any) -> bool {
        let Some(QueuedCall { arguments, responder }) = wanted::<A, R>(calls) else { return false };
        match &self.body {
            Body::Now(function) => {
                responder.finish(function(state, arguments).map_err(CallError::Failed));
            }
            Body::Deferred(function) => function(state, arguments, responder),
            Body::Async(_) => unreachable!("async functions are begun"),
        }
        true
    }

    fn run_go(&self, posts: &mut dyn TypedQueue, state: &mut dyn Any) {
        let Some(GoCall(arguments)) = posts.pop::<GoCall<A>>() else { return };
        match &self.body {
            Body::Now(function) => drop(function(state, arguments)),
            Body::Deferred(function) => function(state, arguments, Responder::new(ReplyTo::Nobody)),
            Body::Async(_) => unreachable!("async functions are begun"),
        }
    }

    fn begin_call<'s>(
        &self,
        calls: &mut dyn TypedQueue,
        state: &'s mut dyn Any,
    ) -> Option<RunningFuture<'s>> {
        let QueuedCall { arguments, responder } = wanted::<A, R>(calls)?;
        self.begin(state, arguments, responder)
    }

    fn begin_go<'s>(&self, posts: &mut dyn TypedQueue, state: &'s mut dyn Any) -> Option<RunningFuture<'s>> {
        let GoCall(arguments) = posts.pop::<GoCall<A>>()?;
        self.begin(state, arguments, Responder::new(ReplyTo::Nobody))
    }
}

impl<A, R> Function<A, R> {
    fn begin<'s>(
        &self,
        state: &'s mut dyn Any,
        arguments: A,
        responder: Responder<R>,
    ) -> Option<RunningFuture<'s>> {
        match &self.body {
            Body::Async(function) => Some(function(state, arguments, responder)),
            Body::Now(_) | Body::Deferred(_) => unreachable!("other functions are run"),
        }
    }
}

/// Takes the oldest call, unless it was cancelled.
fn wanted<A: Send + 'static, R: Send + 'static>(calls: &mut dyn TypedQueue) -> Option<QueuedCall<A, R>> {
    let call = calls.pop::<QueuedCall<A, R>>()?;
    if call.responder.is_cancelled() {
        discard(Box::new(call));
        return None;
    }
    Some(call)
}

/// Drops a cancelled call, whose destructors may panic. Not generic, so that it is compiled once.
#[cold]
fn discard(call: Box<dyn Any + Send>) {
    panic::drop_quietly(call);
}

/// The types that a call must have.
#[derive(Clone, Copy)]
pub(super) struct Signature {
    pub(super) kind: Kind,
    pub(super) arguments: Type,
    pub(super) result: Type,
}

/// A type, and its name for messages.
#[derive(Clone, Copy)]
pub(super) struct Type {
    id: TypeId,
    name: &'static str,
}

impl Type {
    pub(super) fn of<T: 'static>() -> Self {
        Self { id: TypeId::of::<T>(), name: type_name::<T>() }
    }

    pub(super) fn is<T: 'static>(&self) -> bool {
        self.id == TypeId::of::<T>()
    }
}

impl Signature {
    /// Returns the error for a call with another kind, if that matters, or other types. Not generic, so that it is
    /// compiled once.
    #[cold]
    pub(super) fn mismatch(
        &self,
        function: &FunctionId,
        kind: Option<Kind>,
        arguments: Type,
        result: Type,
    ) -> Box<CallError> {
        let function = function.clone();
        if let Some(called) = kind
            && called != self.kind
        {
            return Box::new(CallError::KindMismatch { function, registered: self.kind, called });
        }
        let (part, registered, called) = match self.arguments.id == arguments.id {
            true => ("result", self.result.name, result.name),
            false => ("arguments", self.arguments.name, arguments.name),
        };
        Box::new(CallError::TypeMismatch { function, part, registered, called })
    }
}
