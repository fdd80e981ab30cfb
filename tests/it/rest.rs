//! An HTTP connection is idle while it waits for its next request: it has no buffers, and resumes where it was.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use chanrpc::internals::transport::Rewind;
use chanrpc::internals::transport::http::{
    self, HttpRequest, HttpResponse, HttpService, RequestLimits, ServeError,
};
use chanrpc::internals::transport::memory::{self, Memory};
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::{Timer, block_on};

use crate::support::LIMIT;

const LONG: Duration = Duration::from_secs(3600);
/// A reader that waits with a smaller buffer than this is idle.
const SMALL: usize = 1024;
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A stream that records how large a buffer its reader waits with, and that can be broken.
struct Watched {
    inner: Memory,
    room: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        if self.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.room.store(if read.is_pending() { into.len() } else { usize::MAX }, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Echoes the body of every request, and reads none at `/unread`.
struct Echo;

impl HttpService for Echo {
    async fn respond(&self, request: &mut HttpRequest) -> HttpResponse {
        if request.uri().path() == "/unread" {
            return HttpResponse::text(200, "unread");
        }
        HttpResponse::text(200, request.read_body().await.unwrap())
    }
}

/// The client's end of a served connection.
struct Peer {
    stream: Memory,
    room: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl Peer {
    async fn break_off(&mut self) {
        self.room.store(usize::MAX, Ordering::Relaxed);
        self.broken.store(true, Ordering::Relaxed);
        // Wakes the other end, unless its timer did so and it has ended.
        let _ = self.stream.write_all(b"x").await;
    }

    async fn say(&mut self, bytes: &str) {
        self.room.store(usize::MAX, Ordering::Relaxed);
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Waits until the served end is idle.
    async fn await_rest(&self) {
        while self.room.load(Ordering::Relaxed) > SMALL {
            Timer::after(Duration::from_millis(5)).await;
        }
    }

    /// Reads a response that ends with `end`.
    async fn expect(&mut self, end: &str) {
        let mut said = Vec::new();
        while !said.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).await.unwrap();
            said.push(byte[0]);
        }
        assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&said));
    }
}

/// Serves a peer until both have ended, and returns how.
fn served<F: Future<Output = ()>>(
    head_timeout: Duration,
    stop: impl Future<Output = ()> + Send,
    deed: impl FnOnce(Peer) -> F,
) -> Result<(), ServeError> {
    let (stream, inner) = memory::pair(64 * 1024);
    let room = Arc::new(AtomicUsize::new(usize::MAX));
    let broken = Arc::<AtomicBool>::default();
    let peer = Peer { stream, room: room.clone(), broken: broken.clone() };
    let bounds = RequestLimits { body: 64 * 1024, head_timeout, stall_timeout: LONG };
    let served = http::serve(Rewind::new(Watched { inner, room, broken }), &Echo, bounds, stop);
    let late = async {
        Timer::after(LIMIT).await;
        panic!("no reply within the limit")
    };
    block_on(smol::future::zip(served, deed(peer)).or(late)).0.map(|upgraded| assert!(upgraded.is_none()))
}

#[test]
fn requests_before_after_and_during_idling() {
    let post = |text: &str| {
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{text}", text.len())
    };
    let done = served(LONG, pending(), |mut peer| async move {
        peer.say(GET).await;
        peer.expect("\r\n\r\n").await;
        peer.await_rest().await;
        // More than an idle connection reads at once.
        let large = "x".repeat(10_000) + "!";
        peer.say(&post(&large)).await;
        peer.expect("!").await;
        peer.await_rest().await;
        let (before, after) = GET.split_at(10);
        peer.say(before).await;
        peer.await_rest().await;
        peer.say(after).await;
        peer.expect("\r\n\r\n").await;
        // Two pipelined requests.
        peer.await_rest().await;
        peer.say(&(post("one") + &post("two"))).await;
        peer.expect("one").await;
        peer.expect("two").await;
    });
    // The peer has closed the connection.
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn peer_closing_while_idle() {
    let done = served(LONG, pending(), |mut peer| async move {
        peer.say(GET).await;
        peer.expect("\r\n\r\n").await;
        peer.await_rest().await;
    });
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn peer_resetting_while_idle() {
    for (part, is_orderly) in [("", true), ("GET / HTTP/1.1\r\n", false)] {
        let done = served(LONG, pending(), |mut peer| async move {
            peer.say(GET).await;
            peer.expect("\r\n\r\n").await;
            peer.await_rest().await;
            if !part.is_empty() {
                peer.say(part).await;
                peer.await_rest().await;
            }
            peer.break_off().await;
        });
        assert_eq!(done.is_ok(), is_orderly, "{part:?}: {done:?}");
        assert!(is_orderly || matches!(done, Err(ServeError::Stream(_))), "{done:?}");
    }
}

#[test]
fn stop_during_the_first_head() {
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let stopped = async move { assert!(stopped.recv().await.is_err()) };
    let done = served(LONG, stopped, |mut peer| async move {
        peer.say("GET / HTTP/1.1\r\n").await;
        // The head has been read, and the connection is not idle yet.
        while peer.room.load(Ordering::Relaxed) == usize::MAX {
            Timer::after(Duration::from_millis(1)).await;
        }
        stop.close();
        assert_eq!(peer.stream.read(&mut [0]).await.unwrap(), 0, "the connection goes on");
    });
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn stop_while_idle() {
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let stopped = async move { assert!(stopped.recv().await.is_err()) };
    let done = served(LONG, stopped, |mut peer| async move {
        peer.say(GET).await;
        peer.expect("\r\n\r\n").await;
        peer.await_rest().await;
        stop.close();
        assert_eq!(peer.stream.read(&mut [0]).await.unwrap(), 0, "the connection goes on");
    });
    assert!(done.is_ok(), "{done:?}");
}

#[test]
fn head_started_while_idle_times_out() {
    let limit = Duration::from_secs(2);
    let done = served(limit, pending(), |mut peer| async move {
        peer.say(GET).await;
        peer.expect("\r\n\r\n").await;
        peer.await_rest().await;
        peer.say("GET / HTTP/1.1\r\n").await;
        while peer.stream.write_all(b"x: y\r\n").await.is_ok() {
            Timer::after(Duration::from_millis(20)).await;
        }
    });
    assert!(matches!(done, Err(ServeError::SlowHead)), "{done:?}");
}

#[test]
fn body_left_unread_ends_the_connection() {
    for (length, is_last) in [(0, false), (1, true)] {
        let done = served(LONG, pending(), |mut peer| async move {
            peer.say(&format!(
                "POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await;
            peer.expect(if is_last { "connection: close\r\n" } else { "unread" }).await;
            if is_last {
                peer.stream.read_to_end(&mut Vec::new()).await.unwrap();
            } else {
                peer.say(GET).await;
                peer.expect("\r\n\r\n").await;
            }
        });
        assert!(done.is_ok(), "{done:?}");
    }
}
