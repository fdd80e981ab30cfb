//! The body of a request over HTTP/2, within what all bodies of its connection may take.

use std::error::Error;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use hyper::body::Bytes;
use hyper::header::HeaderMap;

use super::load::Load;
use crate::transport::http::BodySource;

/// The body of one request. Its memory counts until this is dropped.
#[derive(Debug)]
pub(super) struct Http2Body {
    stream: RecvStream,
    load: Load,
    number: u64,
    /// The maximum size of a body, in bytes.
    max: usize,
    is_held_back: bool,
    /// It is read as a stream, whose reader bounds what it keeps.
    is_stream: bool,
}

impl Http2Body {
    pub(super) fn new(stream: RecvStream, load: &Load, max: usize) -> Self {
        Self {
            stream,
            load: load.clone(),
            number: load.add_body(),
            max,
            is_held_back: false,
            is_stream: false,
        }
    }
}

impl Http2Body {
    /// Returns the trailers, after the data.
    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        self.stream.trailers().await
    }
}

impl BodySource for Http2Body {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn Error + Send + Sync>>>> {
        if !self.is_stream && !self.stream.is_end_stream() {
            self.is_held_back = !self.load.may_read(self.number, self.max, cx);
            if self.is_held_back {
                return Poll::Pending;
            }
        }
        let data = match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => data,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                self.load.complete_body(self.number);
                return Poll::Ready(None);
            }
        };
        // Now that it counts here, the peer may send as much again.
        let released = self.stream.flow_control().release_capacity(data.len());
        if !self.is_stream {
            self.load.add_bytes(self.number, data.len());
        }
        Poll::Ready(Some(released.map(|()| data).map_err(Into::into)))
    }

    fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn is_held_back(&self) -> bool {
        self.is_held_back
    }

    fn make_stream(&mut self) {
        self.is_stream = true;
        self.load.remove_body(self.number);
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        self.load.remove_body(self.number);
    }
}
