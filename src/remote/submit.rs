//! A remote as the target of loops, waterfalls and lanes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Remote;
use super::call::{Mode, RemoteCall, decode, request};
use crate::chan::{BoxFuture, CallError, FunctionId, Kind, Sink, Submit, Target, panic};

impl<A: Serialize + Send + 'static, R: DeserializeOwned + Send + 'static> Target<A, R> for Remote {}

impl<A: Serialize + Send + 'static, R: DeserializeOwned + Send + 'static> Submit<A, R> for Remote {
    fn try_submit<K: Sink<R> + 'static>(
        &self,
        id: &FunctionId,
        kind: Kind,
        arguments: A,
        deadline: Option<Instant>,
        sink: K,
    ) -> Result<(), (A, K)> {
        self.submit(id, kind, arguments, deadline, sink);
        Ok(())
    }

    fn submit<K: Sink<R> + 'static>(
        &self,
        id: &FunctionId,
        _: Kind,
        arguments: A,
        deadline: Option<Instant>,
        sink: K,
    ) {
        let mut call = RemoteCall::new(self, request(id.clone(), &arguments, Mode::Call), decode::<R>);
        if let Some(deadline) = deadline {
            call = call.deadline(deadline);
        }
        self.executor().spawn(Submitted { call, sink: Some(Box::new(sink)) }).detach();
    }

    fn request(
        self,
        id: FunctionId,
        _: Kind,
        arguments: A,
        deadline: Option<Instant>,
        _: bool,
    ) -> BoxFuture<'static, Result<R, CallError>> {
        let call = RemoteCall::new(&self, request(id, &arguments, Mode::Call), decode::<R>);
        match deadline {
            Some(deadline) => Box::pin(call.deadline(deadline)),
            None => Box::pin(call),
        }
    }
}

/// A call whose result goes to a sink. It is cancelled if the sink is abandoned.
struct Submitted<R, K> {
    call: RemoteCall<R>,
    sink: Option<Box<K>>,
}

impl<R, K> Unpin for Submitted<R, K> {}

impl<R: Send + 'static, K: Sink<R> + 'static> Future for Submitted<R, K> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { call, sink } = &mut *self;
        if sink.as_ref().is_none_or(|sink| sink.poll_abandoned(cx).is_ready()) {
            return Poll::Ready(());
        }
        // Decoding the result runs code of the user's.
        let result = match panic::catch(|| Pin::new(call).poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(panic) => Err(CallError::Panicked(panic)),
        };
        if let Some(sink) = sink.take() {
            sink.answer(result);
        }
        Poll::Ready(())
    }
}
