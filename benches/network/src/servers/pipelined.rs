//! A client for protocols with replies in order: it sends the same request again and again, and compares replies with
//! the expected one. As with the shared client, all requests for the replies of one read are sent at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::pending;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::LocalExecutor;
use smol::future::{FutureExt, yield_now};
use smol::io::{AsyncReadExt, AsyncWriteExt};

use crate::measured::{How, Measured, Recorder};

const BUFFER: usize = 16 * 1024;
/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is sent and received on one connection.
#[derive(Clone, Debug)]
pub(super) struct Protocol {
    /// Sent first.
    pub(super) hello: String,
    /// The end of the answer to it.
    pub(super) ready: &'static str,
    pub(super) request: String,
    pub(super) reply: String,
    /// What the server may also send, between replies.
    pub(super) probe: &'static str,
}

/// Keeps calls in flight on each connection. `protocol` receives the connection's number.
pub(super) fn drive(protocol: &dyn Fn(usize) -> Protocol, address: &str, how: How) -> Measured {
    let How { connections, in_flight, duration, spin, .. } = how;
    let connections: Vec<_> = (0..connections)
        .map(|number| Connection::open(protocol(number), address, number, in_flight))
        .collect();
    let mut recorder = Recorder::new(connections.len());
    let end = Instant::now() + duration;
    match <[_; 1]>::try_from(connections) {
        Ok([(mut only, stream)]) => only.run_alone(stream, end, spin, &mut recorder),
        Err(connections) => {
            let shared = Rc::new(RefCell::new(recorder));
            let executor = LocalExecutor::new();
            let run = |(connection, stream): (Connection, _)| connection.run(stream, end, shared.clone());
            let tasks: Vec<_> = connections.into_iter().map(|one| executor.spawn(run(one))).collect();
            let done = async {
                for task in tasks {
                    task.await;
                }
            };
            let awake = async {
                if spin {
                    loop {
                        yield_now().await;
                    }
                }
                pending::<()>().await;
            };
            smol::block_on(executor.run(done.or(awake)));
            recorder = Rc::into_inner(shared).expect("the tasks have ended").into_inner();
        }
    }
    recorder.finish()
}

struct Connection {
    number: usize,
    /// The requests for all calls in flight.
    requests: String,
    request_len: usize,
    reply: String,
    probe: &'static str,
    /// When the calls in flight were sent, and how many then.
    sent: VecDeque<(Instant, usize)>,
    /// Bytes of the current reply that have arrived.
    arrived: usize,
}

impl Connection {
    fn open(protocol: Protocol, address: &str, number: usize, in_flight: usize) -> (Self, TcpStream) {
        let Protocol { hello, ready, request, reply, probe } = protocol;
        let mut stream = TcpStream::connect(address).expect("the server is there");
        stream.set_nodelay(true).expect("TCP has no delay");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.write_all(hello.as_bytes()).expect("the server reads");
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(ready.as_bytes()) {
            let count = stream.read(&mut buffer).expect("the server answers");
            assert!(count > 0, "the server closed the connection: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..count]);
        }
        let connection = Self {
            number,
            request_len: request.len(),
            requests: request.repeat(in_flight),
            reply,
            probe,
            sent: VecDeque::new(),
            arrived: 0,
        };
        (connection, stream)
    }

    /// Returns the requests for some calls, and remembers when they are sent.
    fn requests(&mut self, calls: usize, now: Instant) -> &[u8] {
        self.sent.push_back((now, calls));
        &self.requests.as_bytes()[..calls * self.request_len]
    }

    /// Returns the number of replies that end within received bytes.
    fn received(&mut self, mut bytes: &[u8], now: Instant, recorder: &mut Recorder) -> usize {
        let mut replies = 0;
        while !bytes.is_empty() {
            if self.arrived == 0 && !self.probe.is_empty() && bytes.starts_with(self.probe.as_bytes()) {
                bytes = &bytes[self.probe.len()..];
                continue;
            }
            let expected = &self.reply.as_bytes()[self.arrived..];
            let (these, rest) = bytes.split_at(expected.len().min(bytes.len()));
            assert_eq!(these, &expected[..these.len()], "a reply differs");
            bytes = rest;
            self.arrived = (self.arrived + these.len()) % self.reply.len();
            replies += usize::from(self.arrived == 0);
        }
        let mut left = replies;
        while let Some((at, calls)) = self.sent.front_mut().filter(|_| left > 0) {
            let of_these = left.min(*calls);
            recorder.record(self.number, now - *at, of_these as u64);
            left -= of_these;
            *calls -= of_these;
            if *calls == 0 {
                self.sent.pop_front();
            }
        }
        replies
    }

    fn in_flight(&self) -> usize {
        self.requests.len() / self.request_len
    }

    /// Runs with blocking I/O, or without ever sleeping.
    fn run_alone(&mut self, mut stream: TcpStream, end: Instant, spin: bool, recorder: &mut Recorder) {
        stream.set_nonblocking(spin).expect("a mode of the socket");
        let mut buffer = vec![0; BUFFER];
        let mut now = Instant::now();
        let mut free = self.in_flight();
        while now < end || !self.sent.is_empty() {
            if now < end && free > 0 {
                // Requests in flight fit into the socket's buffer.
                stream.write_all(self.requests(free, now)).expect("the server reads");
                free = 0;
            }
            match stream.read(&mut buffer) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(count) => {
                    now = Instant::now();
                    free += self.received(&buffer[..count], now, recorder);
                }
                Err(error) if spin && error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the server does not answer: {error}"),
            }
        }
    }

    async fn run(mut self, stream: TcpStream, end: Instant, recorder: Rc<RefCell<Recorder>>) {
        let mut stream = smol::net::TcpStream::try_from(stream).expect("a mode of the socket");
        let mut buffer = vec![0; BUFFER];
        let mut now = Instant::now();
        let mut free = self.in_flight();
        while now < end || !self.sent.is_empty() {
            if now < end && free > 0 {
                stream.write_all(self.requests(free, now)).await.expect("the server reads");
                free = 0;
            }
            let count = stream.read(&mut buffer).await.expect("the server answers");
            assert!(count > 0, "the server closed the connection");
            now = Instant::now();
            free += self.received(&buffer[..count], now, &mut recorder.borrow_mut());
        }
    }
}
