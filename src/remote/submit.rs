//! Clients as the target of loops, waterfalls and lanes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::{RemoteCall, decode, request};
use super::endpoint::{Endpoint, Mode};
use super::{Balanced, Remote};
use crate::chan::{BoxFuture, CallError, FunctionId, Kind, Sink, Submit, Target, panic};

/// Implements [`Target`] for a client that has an [`Endpoint`].
macro_rules! target {
    ($client:ty) => {
        impl<A: Serialize + Send + 'static, R: DeserializeOwned + Send + 'static> Target<A, R> for $client {}

        impl<A: Serialize + Send + 'static, R: DeserializeOwned + Send + 'static> Submit<A, R> for $client {
            fn try_submit<K: Sink<R> + 'static>(
                &self,
                id: &FunctionId,
                _: Kind,
                arguments: A,
                deadline: Option<Instant>,
                sink: K,
            ) -> Result<(), (A, K)> {
                submit(self.endpoint(), id, arguments, deadline, sink);
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
                submit(self.endpoint(), id, arguments, deadline, sink);
            }

            fn request(
                self,
                id: FunctionId,
                _: Kind,
                arguments: A,
                deadline: Option<Instant>,
                _: bool,
            ) -> BoxFuture<'static, Result<R, CallError>> {
                let call = RemoteCall::new(self.endpoint(), request(id, &arguments, Mode::Call), decode::<R>);
                match deadline {
                    Some(deadline) => Box::pin(call.deadline(deadline)),
                    None => Box::pin(call),
                }
            }
        }
    };
}

target!(Remote);
target!(Balanced);

fn submit<A: Serialize, R: DeserializeOwned + Send + 'static, K: Sink<R> + 'static>(
    endpoint: Arc<dyn Endpoint>,
    id: &FunctionId,
    arguments: A,
    deadline: Option<Instant>,
    sink: K,
) {
    // Encoding runs code of the user's, whose panic must not keep `sink` from its answer.
    let encoded = panic::catch(|| request(id.clone(), &arguments, Mode::Call));
    let encoded = encoded.unwrap_or_else(|panic| Err(CallError::Panicked(panic)));
    panic::drop_quietly(arguments);
    let mut call = RemoteCall::new(endpoint.clone(), encoded, decode::<R>);
    if let Some(deadline) = deadline {
        call = call.deadline(deadline);
    }
    let executor = endpoint.executor();
    let submitted = Submitted { endpoint, call, sink: Some(Box::new(sink)) };
    match executor {
        Ok(executor) => executor.spawn(submitted).detach(),
        // Dropping the call answers it.
        Err(_) => drop(submitted),
    }
}

/// A call whose result goes to a sink. It is cancelled if the sink is abandoned, and lost if its executor is
/// dropped.
struct Submitted<R, K: Sink<R>> {
    endpoint: Arc<dyn Endpoint>,
    call: RemoteCall<R>,
    sink: Option<Box<K>>,
}

impl<R, K: Sink<R>> Unpin for Submitted<R, K> {}

impl<R, K: Sink<R>> Drop for Submitted<R, K> {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            let address = self.endpoint.address();
            sink.answer(Err(CallError::Lost { address, reason: "the client's executor was dropped".into() }));
        }
    }
}

impl<R: Send + 'static, K: Sink<R> + 'static> Future for Submitted<R, K> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { call, sink, .. } = &mut *self;
        if sink.as_ref().is_none_or(|sink| sink.poll_abandoned(cx).is_ready()) {
            *sink = None;
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
