//! The body of a request, of either version of HTTP.

#[cfg(not(feature = "grpc"))]
pub(in crate::transport) use hyper::body::Incoming as RequestBody;

#[cfg(feature = "grpc")]
pub use either::IncomingData;
#[cfg(feature = "grpc")]
pub(in crate::transport) use either::{BodySource, RequestBody};

#[cfg(feature = "grpc")]
mod either {
    use std::error::Error;
    use std::fmt::Debug;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

    type BodyError = Box<dyn Error + Send + Sync>;

    /// A body of HTTP/1 or HTTP/2.
    #[derive(Debug)]
    pub(in crate::transport) enum RequestBody {
        Http1(Incoming),
        Http2(Box<dyn BodySource>),
        /// It was taken from its request.
        Taken,
    }

    /// Where the data of a body over HTTP/2 comes from.
    pub(in crate::transport) trait BodySource: Debug + Send + Sync {
        /// Returns the next data, or `None` at the end.
        fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;

        /// Returns `true` if all data was returned.
        fn is_end(&self) -> bool;

        /// Returns `true` if data is not taken from the peer since other requests of the connection have too much.
        fn is_held_back(&self) -> bool;

        /// Has it read as a stream, whose data is not kept. What other requests have does not hold it back.
        fn make_stream(&mut self);
    }

    impl RequestBody {
        pub(in crate::transport) fn is_held_back(&self) -> bool {
            matches!(self, Self::Http2(source) if source.is_held_back())
        }
    }

    impl From<Incoming> for RequestBody {
        fn from(body: Incoming) -> Self {
            Self::Http1(body)
        }
    }

    impl Body for RequestBody {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.get_mut() {
                Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
                Self::Http2(source) => {
                    source.poll_data(cx).map(|data| data.map(|data| data.map(Frame::data)))
                }
                Self::Taken => Poll::Ready(None),
            }
        }

        fn is_end_stream(&self) -> bool {
            match self {
                Self::Http1(body) => body.is_end_stream(),
                Self::Http2(source) => source.is_end(),
                Self::Taken => true,
            }
        }

        fn size_hint(&self) -> SizeHint {
            match self {
                Self::Http1(body) => body.size_hint(),
                _ => SizeHint::default(),
            }
        }
    }

    /// The data of a body that is read while its response is sent.
    #[derive(Debug)]
    pub struct IncomingData(pub(in crate::transport) RequestBody);

    impl IncomingData {
        /// Returns the next data, or `None` at the end.
        pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            let frame = Pin::new(&mut self.0).poll_frame(cx);
            frame.map(|frame| Some(frame?.map(|frame| frame.into_data().unwrap_or_default())))
        }
    }
}
