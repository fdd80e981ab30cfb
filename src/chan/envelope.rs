//! A call on its way through a queue.

use std::any::Any;

use super::error::CallError;
use super::panic;
use super::reply::{ReplyTo, Responder};

/// A call on its way: its arguments, and where its answer goes, with their types hidden.
pub(super) trait Envelope: Send {
    /// Tells whether the caller waited once and has given up.
    fn is_cancelled(&self) -> bool;
    /// Answers the call with an error.
    fn fail(self: Box<Self>, error: CallError);
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// The envelope of a call that wants an answer.
pub(super) struct Parcel<A, R> {
    pub(super) arguments: A,
    pub(super) responder: Responder<R>,
}

impl<A: Send + 'static, R: Send + 'static> Envelope for Parcel<A, R> {
    fn is_cancelled(&self) -> bool {
        self.responder.is_cancelled()
    }

    fn fail(self: Box<Self>, error: CallError) {
        let Self { arguments, responder } = *self;
        responder.finish(Err(error));
        panic::drop_quietly(arguments);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// The envelope of a call in go mode, whose sender need not know the result's type.
pub(super) struct Posted<A>(pub(super) A);

impl<A: Send + 'static> Envelope for Posted<A> {
    fn is_cancelled(&self) -> bool {
        false
    }

    fn fail(self: Box<Self>, _: CallError) {
        panic::drop_quietly(self.0);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// Takes a call out of its envelope.
pub(super) fn open<A: 'static, R: 'static>(envelope: Box<dyn Envelope>) -> (A, Responder<R>) {
    let envelope = match envelope.into_any().downcast::<Parcel<A, R>>() {
        Ok(parcel) => return (parcel.arguments, parcel.responder),
        Err(envelope) => envelope,
    };
    match envelope.downcast::<Posted<A>>() {
        Ok(posted) => (posted.0, Responder::new(ReplyTo::Nobody)),
        Err(_) => unreachable!("the directory compared the types before the call was queued"),
    }
}
