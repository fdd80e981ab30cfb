//! The client side of a connection: sends requests and collects their responses. One future drives everything, as on the
//! other side.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, Reason};
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use smol::Timer;
use smol::future::FutureExt;

use super::body::Http2Body;
use super::io::{Progress, TokioStream};
use super::load::Load;
use super::respond::{Frames, SendError};
use super::{Http2Error, MAX_HEAD, STREAM_WINDOW, connection_window};
use crate::transport::http::BodySource;
use crate::transport::pipe::Stream;
use crate::transport::stream::keepalive_error;

/// Pings that are sent before the server has sent something else. gRPC servers end connections with more of them, unless
/// they are [`RARELY`] apart.
const MAX_PINGS: u32 = 2;
const RARELY: Duration = Duration::from_secs(5 * 60);

/// Limits of one connection to a server.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// How long the server may take for its first frame.
    pub handshake: Duration,
    /// Maximum size of a response, in bytes. All that are being read take up to three times as much together.
    pub response: usize,
    /// Requests that are sent at once.
    pub in_flight: usize,
    /// How long the server may give no room for a request.
    pub stall_timeout: Duration,
    /// How long the server may be silent with requests to answer before it is pinged, and a fifth of that until it is
    /// given up; 0 never pings.
    pub silence: Duration,
}

/// A connection to a server.
pub struct Client<S: Stream> {
    connection: Connection<TokioStream<S>, Bytes>,
    requests: Requests,
    progress: Progress,
    pings: Option<PingPong>,
    silence: Silence,
}

/// Sends requests over a connection.
#[derive(Clone, Debug)]
pub struct Requests {
    sender: SendRequest<Bytes>,
    load: Load,
    limits: ClientLimits,
}

/// A response: its head, body and trailers.
#[derive(Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers, if there are any.
    pub trailers: Option<HeaderMap>,
}

/// Why a request has no response.
#[derive(Debug)]
pub enum RequestError {
    /// The server has not handled it.
    Unsent(String),
    /// The connection was lost, so that it may have been handled.
    Lost(String),
    /// The server has reset it.
    Reset(Reason),
    /// The response is longer than the maximum.
    TooLong,
}

impl<S: Stream> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl<S: Stream> Client<S> {
    /// Performs the handshake, and waits for the server's first frame: only then it is known to speak HTTP/2.
    ///
    /// # Errors
    /// If it does not, or not in time.
    pub async fn connect(stream: S, limits: ClientLimits) -> io::Result<Self> {
        let progress = Progress::of_client();
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(limits.in_flight))
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(STREAM_WINDOW as usize);
        let connect = async {
            let stream = TokioStream::new(stream, &progress);
            let (sender, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(failed)?;
            poll_fn(|cx| match pin!(&mut connection).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Err(no_http2(ended.err()))),
                Poll::Pending if progress.has_begun() => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            })
            .await?;
            let pings = connection.ping_pong();
            let requests = Requests { sender, load: Load::default(), limits };
            Ok((connection, requests, pings))
        };
        let late = async {
            Timer::after(limits.handshake).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "no frame of HTTP/2 arrived in time"))
        };
        let (connection, requests, pings) = connect.or(late).await?;
        let silence = Silence::new(limits.silence);
        Ok(Self { connection, requests, progress, pings, silence })
    }

    /// Returns what sends requests.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Returns the number of requests that the connection takes at once.
    pub fn capacity(&self) -> usize {
        self.requests.sender.current_max_send_streams().min(self.requests.limits.in_flight)
    }

    /// Returns why no further request is taken, if the server has said so.
    pub fn refusal(&mut self, cx: &mut Context<'_>) -> Option<String> {
        match self.requests.sender.poll_ready(cx) {
            Poll::Ready(Err(error)) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Receives and sends frames. Ends with the connection. While it `is_awaited`, a silent server is pinged.
    pub fn poll(&mut self, cx: &mut Context<'_>, is_awaited: bool) -> Poll<io::Result<()>> {
        if let Poll::Ready(ended) = pin!(&mut self.connection).poll(cx) {
            return Poll::Ready(ended.map_err(failed));
        }
        let has_answered = self.pings.as_mut().is_some_and(|pings| pings.poll_pong(cx).is_ready());
        let due = self.silence.poll(
            self.progress.bytes(),
            self.progress.answers(),
            has_answered,
            is_awaited,
            Instant::now(),
        );
        match due {
            Due::Ping => {
                if let Some(pings) = &mut self.pings {
                    let _ = pings.send_ping(Ping::opaque());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Due::GiveUp => Poll::Ready(Err(keepalive_error())),
            Due::Nothing => Poll::Pending,
        }
    }

    /// Returns when [`poll`](Self::poll) is to be called again though nothing has arrived.
    pub fn next_check(&self) -> Option<Instant> {
        self.silence.next
    }
}

fn failed(error: h2::Error) -> io::Error {
    match Http2Error::from(error) {
        Http2Error::Stream(error) => error,
        error => io::Error::other(error),
    }
}

/// Returns the error of a server that sends no frame of HTTP/2.
fn no_http2(error: Option<h2::Error>) -> io::Error {
    match error.map(Http2Error::from) {
        Some(Http2Error::Stream(error)) => error,
        Some(error) => io::Error::other(format!("the server does not speak HTTP/2: {error}")),
        None => io::Error::other("the server closed the connection before its first frame of HTTP/2"),
    }
}

impl Requests {
    /// Sends a request and collects its response. Dropped before, it resets the request.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn send(mut self, request: Request<()>, body: Vec<u8>) -> Result<Answer, RequestError> {
        let unsent = |error: h2::Error| RequestError::Unsent(error.to_string());
        let (response, stream) = self.sender.send_request(request, false).map_err(unsent)?;
        // A response may come before all of the body has been sent, which ends the request.
        let send = async {
            let mut frames = Frames { stream, load: &self.load, stall_timeout: self.limits.stall_timeout };
            let sent = frames.send(body, true).await;
            match sent {
                Err(SendError::Stalled) => Err(RequestError::Lost("the server takes no data".into())),
                // The response says why.
                Ok(()) | Err(SendError::Reset) => std::future::pending().await,
            }
        };
        let receive = async {
            let (head, stream) = response.await.map_err(|error| of_stream(&error))?.into_parts();
            let max = self.limits.response;
            let mut body = Http2Body::new(stream, &self.load, max);
            let mut bytes = Vec::new();
            while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
                let data = data.map_err(|error| match error.downcast_ref::<h2::Error>() {
                    Some(error) => of_stream(error),
                    None => RequestError::Lost(error.to_string()),
                })?;
                if bytes.len() + data.len() > max {
                    return Err(RequestError::TooLong);
                }
                bytes.extend_from_slice(&data);
            }
            let trailers = body.trailers().await.map_err(|error| of_stream(&error))?;
            Ok(Answer { status: head.status, headers: head.headers, body: bytes, trailers })
        };
        receive.or(send).await
    }
}

/// Returns what the error of a stream means for its request.
fn of_stream(error: &h2::Error) -> RequestError {
    match error.reason() {
        // Of those that the server had taken, it says nothing when it leaves.
        _ if error.is_go_away() && error.is_remote() => RequestError::Unsent(error.to_string()),
        Some(Reason::REFUSED_STREAM) if error.is_remote() => RequestError::Unsent(error.to_string()),
        Some(reason) if error.is_reset() && error.is_remote() => RequestError::Reset(reason),
        _ => RequestError::Lost(error.to_string()),
    }
}

/// Whether a server with requests to answer still lives.
#[derive(Debug)]
struct Silence {
    /// How long it may last; 0 for ever.
    max: Duration,
    /// What had been received when it began.
    bytes: u64,
    /// The frames of responses among it.
    answers: u64,
    since: Option<Instant>,
    /// When the ping was sent that is not answered yet.
    pinged: Option<Instant>,
    /// Pings since the last frame of a response.
    pings: u32,
    next: Option<Instant>,
}

enum Due {
    Nothing,
    Ping,
    GiveUp,
}

impl Silence {
    fn new(max: Duration) -> Self {
        Self { max, bytes: 0, answers: 0, since: None, pinged: None, pings: 0, next: None }
    }

    fn poll(&mut self, bytes: u64, answers: u64, has_answered: bool, is_awaited: bool, now: Instant) -> Due {
        self.next = None;
        if !is_awaited || self.max.is_zero() {
            (self.since, self.pinged) = (None, None);
            return Due::Nothing;
        }
        if bytes != self.bytes || has_answered || self.since.is_none() {
            (self.bytes, self.since, self.pinged) = (bytes, Some(now), None);
        }
        if answers != self.answers {
            (self.answers, self.pings) = (answers, 0);
        }
        let since = self.since.unwrap_or(now);
        if let Some(pinged) = self.pinged {
            let end = pinged + self.max / 5;
            self.next = Some(end);
            return if end <= now { Due::GiveUp } else { Due::Nothing };
        }
        let at = since + if self.pings < MAX_PINGS { self.max } else { RARELY.max(self.max) };
        self.next = Some(at);
        if at > now {
            return Due::Nothing;
        }
        self.pinged = Some(now);
        self.pings += 1;
        self.next = Some(now + self.max / 5);
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_pinged_seldom_and_given_up_when_they_do_not_answer() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut silence = Silence::new(5 * second);
        let mut at = |seconds: u32, bytes, answers, has_answered| match silence.poll(
            bytes,
            answers,
            has_answered,
            true,
            start + seconds * second,
        ) {
            Due::Nothing => '.',
            Due::Ping => 'P',
            Due::GiveUp => 'X',
        };
        assert_eq!([at(0, 0, 0, false), at(4, 0, 0, false), at(5, 0, 0, false)], ['.', '.', 'P']);
        // Answered, pinged once more, and then seldom.
        assert_eq!([at(5, 17, 0, true), at(10, 17, 0, false), at(10, 34, 0, true)], ['.', 'P', '.']);
        assert_eq!([at(15, 34, 0, false), at(300, 34, 0, false), at(310, 34, 0, false)], ['.', '.', 'P']);
        assert_eq!(at(310, 51, 0, true), '.');
        // A response allows pings again.
        assert_eq!([at(311, 60, 1, false), at(316, 60, 1, false), at(317, 60, 1, false)], ['.', 'P', 'X']);
        let mut silence = Silence::new(Duration::ZERO);
        assert!(matches!(silence.poll(0, 0, false, true, start + 600 * second), Due::Nothing));
    }
}
