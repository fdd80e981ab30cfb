//! The network client: calls the functions of another node over one connection that all callers share.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_channel::Sender;
use event_listener::Event;
use serde_json::value::RawValue;
use smol::future::FutureExt;
use smol::net::TcpStream;
use smol::{Executor, Task, Timer};

use crate::codec::jsonrpc::{self, Bounds, Text};
use crate::codec::{Lines, Next};
use crate::config::Limits;
use crate::message::{Fault, Id, Message, Meta, Outcome, Request};
use crate::transport::{Bytes, Guarded, Pipe, Received};

/// Waits between attempts to connect: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Calls that may wait for an answer on one connection.
const PENDING: usize = 4096;

/// A client of another node.
///
/// One connection carries all calls, side by side. It is made at once, and made again, with growing pauses,
/// whenever it is lost. While there is none, calls fail at once with [`RemoteError::Unreachable`]; only
/// during the attempt itself do they wait. Dropping the client drops the connection and fails its calls.
#[derive(Debug)]
pub struct Remote {
    link: Arc<Link>,
    _task: Task<()>,
}

/// Says why a call to another node has no result.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RemoteError {
    /// There is no connection. The call was not sent.
    Unreachable {
        /// Where to.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The connection was lost while the call was on its way; it may or may not have been run.
    Lost {
        /// Where to.
        address: String,
        /// How.
        reason: String,
    },
    /// Too much waits for that node already. The call was not sent.
    Busy {
        /// Which node.
        address: String,
    },
    /// The call's deadline passed; the other node was told to give it up.
    Deadline,
    /// The other node answered with a fault.
    Fault(Fault),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, reason } => write!(f, "no connection to {address}: {reason}"),
            Self::Lost { address, reason } => write!(f, "the connection to {address} was lost: {reason}"),
            Self::Busy { address } => write!(f, "too many calls wait for {address} already"),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for RemoteError {}

/// What callers share with the task that keeps the connection.
#[derive(Debug)]
struct Link {
    address: String,
    limits: Limits,
    state: Mutex<State>,
    changed: Event,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    next_id: u64,
    /// Requests to be written.
    output: Vec<u8>,
    pending: HashMap<Id, Sender<Result<Box<RawValue>, RemoteError>>>,
    /// The task that writes.
    writer: Option<Waker>,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    Up,
    Down(String),
}

impl Remote {
    /// Starts to connect to `address`, a `host:port`.
    pub fn new(executor: &Executor<'static>, address: impl Into<String>, limits: Limits) -> Self {
        let state = State {
            phase: Phase::Connecting,
            next_id: 0,
            output: Vec::new(),
            pending: HashMap::new(),
            writer: None,
        };
        let link = Arc::new(Link {
            address: address.into(),
            limits,
            state: Mutex::new(state),
            changed: Event::new(),
        });
        let task = executor.spawn(keep(link.clone()));
        Self { link, _task: task }
    }

    /// Returns the other node's address, as it was given.
    pub fn address(&self) -> &str {
        &self.link.address
    }

    /// Calls a function and waits for its result until `deadline`. The other node gets to know how much time
    /// is left, and how many nodes have passed the call on.
    ///
    /// Dropping the future gives the call up, here and there.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn call(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) -> Result<Box<RawValue>, RemoteError> {
        let call = async {
            self.link.up().await?;
            let (answer, answered) = async_channel::bounded(1);
            let id = self.link.send(method, params, Some(answer), Some(deadline), hops)?;
            let mut given_up = GivenUp { link: &self.link, id };
            let result = answered.recv().await.unwrap_or(Err(RemoteError::Deadline));
            given_up.id = None;
            result
        };
        let late = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        call.or(late).await
    }

    /// Calls a function in go mode: returns when the call is on its way, and never learns what became of it.
    ///
    /// # Errors
    /// [`RemoteError`], if it could not be sent.
    pub async fn go(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Instant,
        hops: u32,
    ) -> Result<(), RemoteError> {
        let go = async {
            self.link.up().await?;
            self.link.send(method, params, None, None, hops).map(drop)
        };
        let late = async {
            Timer::at(deadline).await;
            Err(RemoteError::Deadline)
        };
        go.or(late).await
    }
}

/// Tells the other node, when dropped, that nobody waits for the answer any more.
struct GivenUp<'a> {
    link: &'a Link,
    /// `None` once there is an answer.
    id: Option<Id>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            let mut state = self.link.lock();
            if state.pending.remove(id).is_some() {
                jsonrpc::encode_cancel(&mut state.output, id);
                state.output.push(b'\n');
                state.wake_writer();
            }
        }
    }
}

impl State {
    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the connection is being made.
    async fn up(&self) -> Result<(), RemoteError> {
        loop {
            let changed = self.changed.listen();
            match &self.lock().phase {
                Phase::Up => return Ok(()),
                Phase::Connecting => {}
                Phase::Down(reason) => {
                    let (address, reason) = (self.address.clone(), reason.clone());
                    return Err(RemoteError::Unreachable { address, reason });
                }
            }
            changed.await;
        }
    }

    fn send(
        &self,
        method: &str,
        params: Option<&RawValue>,
        answer: Option<Sender<Result<Box<RawValue>, RemoteError>>>,
        deadline: Option<Instant>,
        hops: u32,
    ) -> Result<Option<Id>, RemoteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.pending.len() >= PENDING || state.output.len() >= self.limits.output {
            return Err(RemoteError::Busy { address: self.address.clone() });
        }
        let id = answer.map(|answer| {
            state.next_id += 1;
            let id = Id::from(state.next_id);
            state.pending.insert(id.clone(), answer);
            id
        });
        let deadline = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let meta = Meta { deadline, hops };
        jsonrpc::encode_request(
            &mut state.output,
            &Request { id: id.clone(), method: method.into(), params, meta },
        );
        state.output.push(b'\n');
        state.wake_writer();
        Ok(id)
    }

    fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify(usize::MAX);
    }

    fn lost(&self, reason: &str) {
        let mut state = self.lock();
        state.phase = Phase::Down(reason.to_owned());
        state.output = Vec::new();
        let pending = mem::take(&mut state.pending);
        drop(state);
        self.changed.notify(usize::MAX);
        for answer in pending.into_values() {
            let (address, reason) = (self.address.clone(), reason.to_owned());
            let _ = answer.try_send(Err(RemoteError::Lost { address, reason }));
        }
    }

    fn answer(&self, id: &Id, outcome: Outcome) {
        // It is not there if the call was given up.
        if let Some(answer) = self.lock().pending.remove(id) {
            let _ = answer.try_send(outcome.map_err(RemoteError::Fault));
        }
    }
}

/// Keeps the connection for as long as the client lives.
async fn keep(link: Arc<Link>) {
    let mut back_off = BACK_OFF.0;
    loop {
        link.enter(Phase::Connecting);
        let reason = match dial(&link).await {
            Ok(stream) => {
                back_off = BACK_OFF.0;
                link.enter(Phase::Up);
                let pipe = Bytes::new(Guarded::new(stream, link.limits.stall_timeout));
                match exchange(&link, pipe).await {
                    Ok(()) => "closed by the other node".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        link.lost(&reason);
        log::info!("no connection to {}: {reason}", link.address);
        // So that many clients of one node do not all come back in the same moment.
        Timer::after(back_off.mul_f64(0.5 + fastrand::f64())).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

async fn dial(link: &Link) -> io::Result<TcpStream> {
    let late = async {
        Timer::after(link.limits.connect_timeout).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time (limits.connect_timeout)"))
    };
    let stream = TcpStream::connect(link.address.as_str()).or(late).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes requests and reads replies until the connection ends.
async fn exchange(link: &Link, mut pipe: impl Pipe) -> io::Result<()> {
    let (mut output, mut sent) = (Vec::new(), 0);
    let (mut input, mut lines) = (Vec::new(), Lines::new(reply_limit(&link.limits)));
    poll_fn(|cx| {
        poll_write(link, &mut pipe, &mut output, &mut sent, cx)?;
        while let Poll::Ready(received) = pipe.poll_receive(cx, &mut input)? {
            read(link, &mut lines, &mut input)?;
            if received == Received::End {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    })
    .await
}

fn poll_write(
    link: &Link,
    pipe: &mut impl Pipe,
    output: &mut Vec<u8>,
    sent: &mut usize,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    loop {
        if *sent == output.len() {
            output.clear();
            *sent = 0;
            let mut state = link.lock();
            if state.output.is_empty() {
                state.writer = Some(cx.waker().clone());
                return Ok(());
            }
            mem::swap(output, &mut state.output);
        }
        match pipe.poll_send(cx, &output[*sent..])? {
            Poll::Ready(count) => *sent += count,
            Poll::Pending => return Ok(()),
        }
    }
}

fn read(link: &Link, lines: &mut Lines, input: &mut Vec<u8>) -> io::Result<()> {
    let bounds = Bounds { depth: link.limits.depth, batch: 0 };
    let mut at = 0;
    loop {
        match lines.next(&input[at..]) {
            Next::Line(line, cut) => {
                if let Text::Single(Ok(Message::Reply(id, outcome))) =
                    jsonrpc::decode(&input[at + line.start..at + line.end], bounds)
                {
                    link.answer(&id, outcome);
                }
                at += cut;
            }
            Next::TooLong(_) => return Err(io::Error::other("a reply over the size limit (limits.message)")),
            Next::Incomplete(cut) => {
                input.drain(..at + cut);
                return Ok(());
            }
        }
    }
}

/// A reply is a result, which the other node bounds by its own limit, and what stands around it.
fn reply_limit(limits: &Limits) -> usize {
    limits.message + 64 * 1024
}
