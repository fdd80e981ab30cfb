//! Serves one connection: pumps requests while they arrive, and waits without buffers between them.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;

use super::error::ServeError;
use super::idle::{IdleOutcome, IdleTimer};
use super::pump::{ConnState, pump};
use super::request::{HttpRequest, RequestLimits};
use super::service::HttpService;
use crate::transport::pipe::Stream;
use crate::transport::stream::{Rewind, close_stream};

/// Serves one connection until it ends, or until `stop` completes and the request in progress is answered.
///
/// Returns the stream, with any bytes already read after the request head, if the service has accepted an upgrade to
/// WebSocket. Between requests the connection holds buffers only for a moment.
///
/// # Errors
/// [`ServeError`] if the stream fails, or if a request head is invalid or not received in time.
pub async fn serve<T: Stream>(
    mut stream: Rewind<T>,
    service: &impl HttpService,
    limits: RequestLimits,
    stop: impl Future<Output = ()> + Send,
) -> Result<Option<Rewind<T>>, ServeError> {
    let state = ConnState::default();
    let handler = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let (state, guard) = (&state, state.requests.start());
        async move {
            let _guard = guard;
            let mut request = HttpRequest::new(request, limits);
            let mut response = service.respond(&mut request).await;
            if response.is_upgrade() {
                state.upgraded.store(true, Ordering::Relaxed);
            } else if response.is_stream() {
                state.streaming.store(true, Ordering::Relaxed);
            } else if !request.is_body_read() {
                response = response.and_close();
            }
            if response.is_last() || state.stopping.load(Ordering::Relaxed) {
                state.unread.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response.into_hyper())
        }
    });
    let mut stop = std::pin::pin!(stop);
    let mut idle = IdleTimer::new(limits.head_timeout);
    let result = loop {
        // Boxed, so that its memory is released while the connection is idle.
        let pumped = Box::pin(pump(stream, &handler, &state, &mut idle, stop.as_mut())).await?;
        stream = pumped.stream;
        if let Some(result) = pumped.ended {
            break result;
        }
        if state.stopping.load(Ordering::Relaxed) {
            break Ok(());
        }
        match idle.wait(&mut stream, stop.as_mut()).await.map_err(ServeError::Stream)? {
            IdleOutcome::Readable => {}
            IdleOutcome::HeadTimeout => return Err(ServeError::SlowHead),
            IdleOutcome::Ended => break Ok(()),
        }
    };
    if state.upgraded.into_inner() {
        return Ok(Some(stream));
    }
    close_stream(&mut stream, result.is_err() || state.unread.into_inner()).await;
    result.map(|()| None)
}
