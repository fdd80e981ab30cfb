//! Serves one connection: pumps requests while they arrive, and waits without buffers between them.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use hyper::body::{Body, Incoming};
use hyper::header;
use smol::Timer;

use super::bearer::bearer_token;
use super::error::ServeError;
use super::idle::{IdleOutcome, IdleTimer};
use super::pump::{ConnState, pump};
use super::request::{HeadAction, check_head, respond};
use super::service::{HttpService, RequestLimits, Upgraded};
use crate::transport::pipe::Stream;
use crate::transport::stream::{Rewind, close_stream};

/// Serves one connection until it ends, or until `stop` completes and the request in progress is answered.
///
/// Returns the stream if the peer upgrades it to WebSocket. Between requests the connection holds buffers only for a
/// moment.
///
/// # Errors
/// [`ServeError`] if the stream fails, or if a request head is invalid or not received in time.
pub async fn serve<T: Stream, S: HttpService>(
    mut stream: Rewind<T>,
    service: S,
    limits: RequestLimits,
    stop: impl Future<Output = ()> + Send,
) -> Result<Option<Upgraded<T, S::Grants>>, ServeError> {
    let upgraded = Mutex::new(None);
    let state = ConnState::default();
    let handler = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        let (service, upgraded, state) = (service.clone(), &upgraded, &state);
        let guard = state.requests.start();
        async move {
            let _guard = guard;
            let (head, body) = request.into_parts();
            let origin = head.headers.get(header::ORIGIN).cloned();
            if let Some(delay) = bearer_token(&head.headers).and_then(|token| service.token_delay(token)) {
                Timer::after(delay).await;
            }
            let (mut response, close) = match check_head(&head, &service) {
                Ok(HeadAction::Handle(grants)) => {
                    let (response, close) = respond(&head, body, &service, grants, limits).await;
                    (response.into_hyper(close), close)
                }
                Ok(HeadAction::Upgrade(response, grants)) => {
                    *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(grants);
                    (response, false)
                }
                Ok(HeadAction::Preflight(response)) => {
                    let close = !body.is_end_stream();
                    (response.into_hyper(close), close)
                }
                Err(response) => (response.into_hyper(true), true),
            };
            service.host_policy().add_cors_headers(origin.as_ref(), response.headers_mut());
            if close || state.stopping.load(Ordering::Relaxed) {
                state.unread.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
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
    if let Some(grants) = upgraded.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Ok(Some(Upgraded { stream, grants }));
    }
    close_stream(&mut stream, result.is_err() || state.unread.into_inner()).await;
    result.map(|()| None)
}
