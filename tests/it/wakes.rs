//! Tasks that wait for a transport are woken and do not starve others, over a stream that accepts bytes irregularly.

use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use chanrpc::internals::transport::http::{self, HttpRequest, HttpResponse, HttpService, RequestLimits};
use chanrpc::internals::transport::{Pipe, Received, Rewind, WebSocket};
use smol::block_on;
use smol::io::{AsyncRead, AsyncWrite};

use crate::support::Woken;

const LONG: Duration = Duration::from_secs(3600);

/// What a [`Fitful`] has received, and its wakers.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    waiting: Option<Waker>,
}

/// A stream on which the first of every two writes is pending. As with a socket, the waker of a pending write is lost once
/// the next write has found room.
struct Fitful {
    input: Vec<u8>,
    taken: Arc<Mutex<Taken>>,
}

impl Fitful {
    fn new(input: impl Into<Vec<u8>>) -> (Self, Arc<Mutex<Taken>>) {
        let taken = Arc::default();
        (Self { input: input.into(), taken: Arc::clone(&taken) }, taken)
    }
}

impl AsyncRead for Fitful {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            return Poll::Pending;
        }
        let count = into.len().min(self.input.len());
        into[..count].copy_from_slice(&self.input[..count]);
        self.input.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Fitful {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = self.taken.lock().unwrap();
        if taken.waiting.take().is_none() {
            taken.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        taken.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Replies to every request with a number of bytes, after a delay.
struct Answers {
    bytes: usize,
    time: Duration,
    given: AtomicUsize,
}

impl Answers {
    fn new(bytes: usize, time: Duration) -> Self {
        Self { bytes, time, given: AtomicUsize::new(0) }
    }
}

impl HttpService for Answers {
    async fn respond(&self, _: &mut HttpRequest) -> HttpResponse {
        // Work that blocks the thread.
        thread::sleep(self.time);
        self.given.fetch_add(1, Ordering::Relaxed);
        HttpResponse::text(200, vec![b'x'; self.bytes])
    }
}

const BOUNDS: RequestLimits = RequestLimits { body: 1024, head_timeout: LONG, stall_timeout: LONG };
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Returns `true` if the task will be polled again: it is woken, or will be by what it waits for.
fn is_woken(woken: &Woken, taken: &Mutex<Taken>) -> bool {
    if woken.take() {
        return true;
    }
    // Not for completed waits.
    let waiting = taken.lock().unwrap().waiting.clone();
    waiting.inspect(Waker::wake_by_ref).is_some()
}

#[test]
fn large_http_response_waits_only_for_the_peer() {
    const LARGE: usize = 200_000;
    let (stream, taken) = Fitful::new(GET);
    let service = Answers::new(LARGE, Duration::ZERO);
    let mut served = pin!(http::serve(Rewind::new(stream), &service, BOUNDS, pending()));
    let woken = Arc::<Woken>::default();
    let waker = woken.clone().into();
    let mut cx = Context::from_waker(&waker);
    while taken.lock().unwrap().bytes.len() < LARGE {
        assert!(served.as_mut().poll(&mut cx).is_pending());
        // So slow that an idle connection would release its buffers long before the end.
        thread::sleep(Duration::from_millis(50));
        let out = taken.lock().unwrap().bytes.len();
        assert!(is_woken(&woken, &taken) || out > LARGE, "nobody sees to the rest after {out} bytes");
    }
}

#[test]
fn pending_websocket_send_is_woken() {
    let (stream, taken) = Fitful::new([0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    let mut pipe = block_on(WebSocket::accept(stream, Vec::new(), 1024, Duration::ZERO, LONG));
    let woken = Arc::<Woken>::default();
    let waker = woken.clone().into();
    let mut cx = Context::from_waker(&waker);
    let mut message = Vec::new();
    let Poll::Ready(Ok(Received::Data)) = pipe.poll_receive(&mut cx, &mut message) else { panic!() };
    let large = vec![b'x'; 20_000];
    let Poll::Ready(Ok(_)) = pipe.poll_send(&mut cx, &large) else { panic!() };
    assert!(pipe.poll_send(&mut cx, &large).is_pending(), "there is room for two");
    // Flushing before it reads makes room for the second.
    assert!(pipe.poll_receive(&mut cx, &mut message).is_pending());
    assert!(taken.lock().unwrap().bytes.len() > large.len());
    assert!(woken.take(), "nobody sends the second");
    let Poll::Ready(Ok(_)) = pipe.poll_send(&mut cx, &large) else { panic!() };
}

#[test]
fn slow_http_requests_do_not_starve_others() {
    const REQUESTS: usize = 64;
    let (stream, _) = Fitful::new(GET.repeat(REQUESTS));
    let service = Answers::new(1, Duration::from_millis(1));
    let mut served = pin!(http::serve(Rewind::new(stream), &service, BOUNDS, pending()));
    let woken = Arc::<Woken>::default();
    let waker = woken.clone().into();
    let mut cx = Context::from_waker(&waker);
    assert!(served.as_mut().poll(&mut cx).is_pending());
    let given = service.given.load(Ordering::Relaxed);
    assert!((1..REQUESTS / 2).contains(&given), "{given} answers in one turn");
    assert!(woken.take());
}
