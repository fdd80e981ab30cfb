//! One connection to another node: who made a call on it gets the answer.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_channel::Sender;
use event_listener::Event;
use smol::future::FutureExt;
use smol::net::TcpStream;
use smol::{Executor, Task, Timer};

use super::{RemoteError, Secret};
use crate::codec::jsonrpc::{self, Bounds};
use crate::codec::{Lines, Next, Read};
use crate::config::Limits;
use crate::message::{Fault, Id, Message, Meta, Outcome, RawJson, Request, code};
use crate::transport::{Bytes, Guarded, Pipe, Received};

/// Waits between attempts to connect: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Sent first: a blank line says which dialect is spoken, and so keeps a connection that has nothing to say yet.
const GREETING: &[u8] = b"\n";
/// The id of the request that presents the token; calls have higher ones.
const AUTH: u64 = 0;
/// Calls that may wait for an answer on one connection.
const PENDING: usize = 4096;

/// What callers share with the task that keeps the connection.
#[derive(Debug)]
pub(super) struct Link {
    address: String,
    limits: Limits,
    token: Option<Secret>,
    state: Mutex<State>,
    changed: Event,
    /// Calls that have chosen this connection and are not answered.
    calls: AtomicUsize,
}

/// The choice of a connection for one call.
pub(super) struct Chosen(pub(super) Arc<Link>);

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    next_id: u64,
    /// Why the other node did not take the token.
    refused: Option<Fault>,
    /// Requests to be written.
    output: Vec<u8>,
    pending: HashMap<Id<'static>, Sender<Result<RawJson<'static>, RemoteError>>>,
    /// The task that writes, if all that there was is written.
    writer: Option<Waker>,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    Up,
    Down(String),
}

/// Tells the other node, when dropped, that nobody waits for the answer any more.
pub(super) struct GivenUp<'a> {
    pub(super) link: &'a Link,
    /// `None` once there is an answer.
    pub(super) id: Option<Id<'static>>,
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
    /// Starts to connect, on the returned task, which gives up when the connection is lost unless the link is
    /// `lasting`.
    pub(super) fn start(
        executor: &Executor<'static>,
        address: &str,
        limits: &Limits,
        token: Option<&Secret>,
        lasting: bool,
    ) -> (Arc<Self>, Task<()>) {
        let state = State {
            phase: Phase::Connecting,
            next_id: AUTH,
            refused: None,
            output: Vec::new(),
            pending: HashMap::new(),
            writer: None,
        };
        let link = Arc::new(Self {
            address: address.to_owned(),
            limits: limits.clone(),
            token: token.cloned(),
            state: Mutex::new(state),
            changed: Event::new(),
            calls: AtomicUsize::new(0),
        });
        let task = executor.spawn(keep(link.clone(), lasting));
        (link, task)
    }

    /// Counts one call more, until the returned value is dropped.
    pub(super) fn choose(self: &Arc<Self>) -> Chosen {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Chosen(self.clone())
    }

    /// Returns how many calls have chosen this connection and are not answered.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing waits to be written, or never will be.
    pub(super) async fn written(&self) {
        loop {
            let changed = self.changed.listen();
            if self.is_written() {
                return;
            }
            changed.await;
        }
    }

    fn unreachable(&self, reason: &str) -> RemoteError {
        RemoteError::Unreachable { address: self.address.clone(), reason: reason.to_owned() }
    }

    /// The error of a call that was on its way when the connection ended.
    pub(super) fn lost_now(&self) -> RemoteError {
        RemoteError::Lost { address: self.address.clone(), reason: "the client has ended".to_owned() }
    }

    /// Tells whether it is lost and not being made again at this moment.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.lock().phase, Phase::Down(_))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.lock().phase, Phase::Up)
    }

    fn is_written(&self) -> bool {
        let state = self.lock();
        !matches!(state.phase, Phase::Up) || state.writer.is_some()
    }

    /// Waits while the connection is being made.
    pub(super) async fn up(&self) -> Result<(), RemoteError> {
        loop {
            let changed = self.changed.listen();
            match &self.lock().phase {
                Phase::Up => return Ok(()),
                Phase::Connecting => {}
                Phase::Down(reason) => return Err(self.unreachable(reason)),
            }
            changed.await;
        }
    }

    pub(super) fn send(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        answer: Option<Sender<Result<RawJson<'static>, RemoteError>>>,
        deadline: Option<Instant>,
        hops: u32,
    ) -> Result<Option<Id<'static>>, RemoteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        // It may have been lost since it was up.
        if let Phase::Down(reason) = &state.phase {
            return Err(self.unreachable(reason));
        }
        if let Some(fault) = &state.refused {
            return Err(RemoteError::Fault(fault.clone()));
        }
        if state.pending.len() >= PENDING || state.output.len() >= self.limits.output {
            return Err(RemoteError::Busy { address: self.address.clone() });
        }
        let id = answer.is_some().then(|| {
            state.next_id += 1;
            Id::from(state.next_id)
        });
        let deadline = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let meta = Meta { deadline, hops };
        let start = state.output.len();
        let request = Request { id: id.clone(), method: method.into(), params, meta };
        jsonrpc::encode_request(&mut state.output, &request);
        let size = state.output.len() - start;
        if size > self.limits.message {
            state.output.truncate(start);
            let message =
                format!("a request of {size} bytes; the limit is {} (limits.message)", self.limits.message);
            return Err(RemoteError::Fault(Fault::new(code::REQUEST_TOO_LARGE, message)));
        }
        state.output.push(b'\n');
        if let (Some(id), Some(answer)) = (&id, answer) {
            state.pending.insert(id.clone(), answer);
        }
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
        state.refused = None;
        state.output = Vec::new();
        let pending = mem::take(&mut state.pending);
        drop(state);
        self.changed.notify(usize::MAX);
        for answer in pending.into_values() {
            let (address, reason) = (self.address.clone(), reason.to_owned());
            let _ = answer.try_send(Err(RemoteError::Lost { address, reason }));
        }
    }

    /// What is sent first on each connection.
    fn greeting(&self) -> Vec<u8> {
        let mut greeting = GREETING.to_vec();
        if let Some(Secret(token)) = &self.token {
            let params = RawJson::of(&[&**token]).ok();
            let (id, method) = (Some(Id::from(AUTH)), "rpc.auth".into());
            let request = Request { id, method, params, meta: Meta::default() };
            jsonrpc::encode_request(&mut greeting, &request);
            greeting.push(b'\n');
        }
        greeting
    }

    /// Fails the calls that wait, and those that come, until there is another connection.
    fn refused(&self, fault: &Fault) {
        log::warn!("{} refuses the token: {fault}", self.address);
        let mut state = self.lock();
        let pending = mem::take(&mut state.pending);
        state.refused = Some(fault.clone());
        drop(state);
        for answer in pending.into_values() {
            let _ = answer.try_send(Err(RemoteError::Fault(fault.clone())));
        }
    }

    fn answer(&self, id: Id<'_>, outcome: Outcome) {
        let outcome = match outcome {
            Err(fault) if self.token.is_some() && id == Id::from(AUTH) => return self.refused(&fault),
            outcome => outcome,
        };
        // It is not there if the call was given up.
        if let Some(answer) = self.lock().pending.remove(&id.into_owned()) {
            let _ = answer.try_send(outcome.map_err(RemoteError::Fault));
        }
    }
}

/// Keeps a connection: until it is lost, or if it is `lasting` for as long as the client lives.
async fn keep(link: Arc<Link>, lasting: bool) {
    let mut back_off = BACK_OFF.0;
    let mut told = false;
    loop {
        link.enter(Phase::Connecting);
        let reason = match dial(&link).await {
            Ok(stream) => {
                back_off = BACK_OFF.0;
                link.enter(Phase::Up);
                if told {
                    log::info!("connected to {} again", link.address);
                    told = false;
                }
                let pipe = Bytes::new(Guarded::new(stream, link.limits.stall_timeout));
                match exchange(&link, pipe).await {
                    Ok(()) => "closed by the other node".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        link.lost(&reason);
        // Told once, and not at each attempt.
        let level = if told { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "no connection to {}: {reason}", link.address);
        told = true;
        if !lasting {
            return;
        }
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
    let (mut output, mut sent) = (link.greeting(), 0);
    let (mut input, mut lines) = (Vec::new(), Lines::new(reply_limit(&link.limits)));
    poll_fn(|cx| {
        poll_write(link, &mut pipe, &mut output, &mut sent, cx)?;
        let Poll::Ready(received) = pipe.poll_receive(cx, &mut input)? else { return Poll::Pending };
        read(link, &mut lines, &mut input)?;
        if received == Received::End {
            return Poll::Ready(Ok(()));
        }
        // More may be there, but other tasks, and the clock, have their turn first.
        cx.waker().wake_by_ref();
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
                drop(state);
                link.changed.notify(usize::MAX);
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
            Next::Frame(line, cut) => {
                if let Read::Single(Ok(Message::Reply(id, outcome))) =
                    jsonrpc::decode(&input[at + line.start..at + line.end], bounds)
                {
                    link.answer(id, outcome);
                }
                at += cut;
            }
            Next::TooLong(cut) => {
                let limit = link.limits.message;
                let message = format!("a reply of more than {limit} bytes (limits.message)");
                let Some(id) = jsonrpc::id_at_front(&input[at..at + cut]) else {
                    return Err(io::Error::other(message));
                };
                link.answer(id, Err(Fault::new(code::REPLY_TOO_LARGE, message)));
                at += cut;
            }
            Next::Broken(why) => return Err(io::Error::other(why)),
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
