//! One request over HTTP/2: its answer, and the frames of its response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::header;
use hyper::{Method, StatusCode};
use smol::Timer;

use super::Http2Limits;
use super::body::Http2Body;
use super::load::Load;
use crate::transport::http::{BodySource, Http2Content, HttpRequest, HttpResponse, HttpService, RequestBody};

/// Answers one request, unless its peer cancels it.
pub(super) async fn respond(
    service: &impl HttpService,
    request: hyper::Request<RecvStream>,
    mut sender: SendResponse<Bytes>,
    load: &Load,
    limits: Http2Limits,
) {
    let is_head = *request.method() == Method::HEAD;
    if request.headers().get(header::EXPECT).is_some_and(|value| value.as_bytes() == b"100-continue") {
        let mut proceed = hyper::Response::new(());
        *proceed.status_mut() = StatusCode::CONTINUE;
        let _ = sender.send_informational(proceed);
    }
    let request = request.map(|body| {
        let source: Box<dyn BodySource> = Box::new(Http2Body::new(body, load, limits.request.body));
        RequestBody::Http2(source)
    });
    let mut request = HttpRequest::new(request, limits.request);
    let response = {
        let mut answered = pin!(service.respond(&mut request));
        poll_fn(|cx| {
            if let Poll::Ready(response) = answered.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            sender.poll_reset(cx).map(|_| None)
        })
        .await
    };
    if let Some(function) = request.take_running() {
        load.add_abandoned(function);
    }
    drop(request);
    let Some(response) = response else { return };
    let sent = Box::pin(send(response, is_head, &mut sender, load, limits.request.stall_timeout)).await;
    if let Err(SendError::Stalled) = sent {
        sender.send_reset(Reason::CANCEL);
        load.add_stalled();
        service.record_stalled();
    }
}

/// Why a response was not sent.
pub(super) enum SendError {
    /// The peer gave no room for it in time.
    Stalled,
    /// The peer cancelled the request, or is gone.
    Reset,
}

impl From<h2::Error> for SendError {
    fn from(_: h2::Error) -> Self {
        Self::Reset
    }
}

async fn send(
    response: HttpResponse,
    is_head: bool,
    sender: &mut SendResponse<Bytes>,
    load: &Load,
    stall_timeout: Duration,
) -> Result<(), SendError> {
    let (head, Http2Content { body, stream, trailers }) = response.into_http2();
    if is_head || (body.is_empty() && stream.is_none() && trailers.is_none()) {
        sender.send_response(head, true)?;
        return Ok(());
    }
    let mut frames = Frames { stream: sender.send_response(head, false)?, load, stall_timeout };
    if let Some(mut parts) = stream {
        let _guard = load.add_stream();
        while let Some(part) = frames.next_part(&mut *parts).await? {
            frames.send(part, false).await?;
        }
        match parts.trailers() {
            Some(trailers) => frames.stream.send_trailers(trailers)?,
            None => frames.stream.send_data(Bytes::new(), true)?,
        }
        return Ok(());
    }
    frames.send(body, trailers.is_none()).await?;
    if let Some(trailers) = trailers {
        frames.stream.send_trailers(*trailers)?;
    }
    Ok(())
}

/// Sends the body of one response, or of one request.
pub(super) struct Frames<'a> {
    pub(super) stream: SendStream<Bytes>,
    pub(super) load: &'a Load,
    pub(super) stall_timeout: Duration,
}

impl Frames<'_> {
    /// Returns the next part of a body, unless the peer cancels the request.
    async fn next_part(
        &mut self,
        parts: &mut dyn crate::transport::http::BodyStream,
    ) -> Result<Option<Vec<u8>>, SendError> {
        poll_fn(|cx| match parts.poll_next(cx) {
            Poll::Ready(part) => Poll::Ready(Ok(part)),
            Poll::Pending => self.stream.poll_reset(cx).map(|_| Err(SendError::Reset)),
        })
        .await
    }

    /// Sends a part as the peer gives room for it: h2 would queue any amount.
    pub(super) async fn send(&mut self, part: Vec<u8>, is_last: bool) -> Result<(), SendError> {
        let mut part = Bytes::from(part);
        let mut output = self.load.add_output(part.len());
        while !part.is_empty() {
            self.stream.reserve_capacity(part.len());
            let mut timer = None;
            let room = poll_fn(|cx| self.poll_room(cx, &mut timer)).await?;
            let piece = part.split_to(room.min(part.len()));
            output.sent(piece.len());
            self.stream.send_data(piece, is_last && part.is_empty())?;
        }
        Ok(())
    }

    /// Waits for room. A peer that gives none within the timeout is stalled.
    fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Option<Timer>,
    ) -> Poll<Result<usize, SendError>> {
        if self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(room)) => return Poll::Ready(Ok(room?)),
                Poll::Ready(None) => return Poll::Ready(Err(SendError::Reset)),
                Poll::Pending => {
                    if self.stream.poll_reset(cx).is_ready() {
                        return Poll::Ready(Err(SendError::Reset));
                    }
                    let timer = timer.get_or_insert_with(|| Timer::after(self.stall_timeout));
                    ready!(Pin::new(timer).poll(cx));
                    return Poll::Ready(Err(SendError::Stalled));
                }
            }
        }
        Poll::Ready(Ok(self.stream.capacity()))
    }
}
