//! Responses with any number of messages.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::header::HeaderMap;
use smol::Timer;

use super::{Head, trailers};
use crate::codec::grpc::Status;
use crate::message::code;
use crate::transport::http::{BodyStream, HttpResponse};

/// The messages of a response, as they become available.
pub(super) trait Messages: Send + 'static {
    /// Returns the next messages, each with its prefix; at the end, `None` or why it ends with an error.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Status>>;
}

/// Returns the response with these messages, until the deadline of its call.
pub(super) fn streamed(messages: impl Messages, head: &Head) -> HttpResponse {
    let deadline = head.deadline.map(|(deadline, _)| Timer::at(deadline));
    HttpResponse::stream("application/grpc", MessageStream { messages, deadline, status: None })
}

struct MessageStream<M> {
    messages: M,
    deadline: Option<Timer>,
    status: Option<Status>,
}

impl<M> fmt::Debug for MessageStream<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageStream")
    }
}

impl<M: Messages> BodyStream for MessageStream<M> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        if let Some(deadline) = &mut self.deadline
            && Pin::new(deadline).poll(cx).is_ready()
        {
            self.deadline = None;
            self.status = Some(Status::of_code(code::DEADLINE, "the deadline of the stream has passed"));
            return Poll::Ready(None);
        }
        self.messages.poll_next(cx).map(|next| match next {
            Ok(next) => next,
            Err(status) => {
                self.status = Some(status);
                None
            }
        })
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        Some(trailers(self.status.as_ref()))
    }
}
