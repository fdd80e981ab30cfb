//! Responses with any number of messages.

use std::fmt;
use std::task::{Context, Poll};

use hyper::header::HeaderMap;

use super::trailers;
use crate::codec::grpc::Status;
use crate::transport::http::{BodyStream, HttpResponse};

/// The messages of a response, as they become available.
pub(super) trait Messages: Send + 'static {
    /// Returns the next messages, each with its prefix; at the end, `None` or why it ends with an error.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Status>>;
}

/// Returns the response with these messages.
pub(super) fn streamed(messages: impl Messages) -> HttpResponse {
    HttpResponse::stream("application/grpc", MessageStream { messages, status: None })
}

struct MessageStream<M> {
    messages: M,
    status: Option<Status>,
}

impl<M> fmt::Debug for MessageStream<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageStream")
    }
}

impl<M: Messages> BodyStream for MessageStream<M> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
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
