//! One connection to another node: who made a call on it gets the answer.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use async_channel::Sender;
use event_listener::Event;
use smol::future::yield_now;
use smol::{Executor, Task, Timer};

use super::dial::dial;
use super::{RemoteError, Secret, Target};
use crate::codec::jsonrpc::{self, ReceivedReply, ReplyId};
use crate::codec::{FrameResult, LineFramer};
use crate::config::Limits;
use crate::message::{Fault, Id, Meta, Outcome, RawJson, Request, code};
use crate::transport::{CloseReason, Heartbeat, PeerIdle, Pipe, Received, StreamPipe, keepalive_error};

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
    target: Arc<Target>,
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
    /// Bytes of requests that were put into the output of this connection.
    queued: u64,
    /// Notifications were sent on this connection, which some servers answer all the same, under no id.
    notified: bool,
    /// Why the other node did not take the token.
    refused: Option<Fault>,
    /// Requests to be written.
    output: Vec<u8>,
    pending: HashMap<u64, Pending>,
    /// Ends when all is written.
    closing: bool,
    /// The task that writes, if all that there was is written.
    writer: Option<Waker>,
}

/// A call that waits for its answer.
#[derive(Debug)]
struct Pending {
    answer: Sender<Result<RawJson<'static>, RemoteError>>,
    /// Where its request begins among the bytes that were queued.
    at: u64,
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
    pub(super) id: Option<u64>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut state = self.link.lock();
            if state.pending.remove(&id).is_some() {
                state.notified = true;
                state.put(|out| jsonrpc::encode_cancel(out, &Id::from(id)));
            }
        }
    }
}

impl State {
    /// Has one message written.
    fn put(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.output.len();
        encode(&mut self.output);
        self.output.push(b'\n');
        self.queued += (self.output.len() - start) as u64;
        self.wake_writer();
    }

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
        target: Arc<Target>,
        lasting: bool,
    ) -> (Arc<Self>, Task<()>) {
        let state = State {
            phase: Phase::Connecting,
            next_id: AUTH,
            queued: 0,
            notified: false,
            refused: None,
            output: Vec::new(),
            pending: HashMap::new(),
            closing: false,
            writer: None,
        };
        let link = Arc::new(Self {
            target,
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

    /// Has the connection end, and the other node told so, once everything is written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.wake_writer();
    }

    fn unreachable(&self, reason: &str) -> RemoteError {
        RemoteError::Unreachable { address: self.target.address.clone(), reason: reason.to_owned() }
    }

    /// The error of a call that was on its way when the connection ended.
    pub(super) fn lost_now(&self) -> RemoteError {
        RemoteError::Lost { address: self.target.address.clone(), reason: "the client has ended".to_owned() }
    }

    /// Tells whether it is lost and not being made again at this moment.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.lock().phase, Phase::Down(_))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.lock().phase, Phase::Up)
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
    ) -> Result<Option<u64>, RemoteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        // It may have been lost since it was up.
        if let Phase::Down(reason) = &state.phase {
            return Err(self.unreachable(reason));
        }
        if let Some(fault) = &state.refused {
            return Err(RemoteError::Fault(fault.clone()));
        }
        if state.pending.len() >= PENDING || state.output.len() >= self.target.limits.output {
            return Err(RemoteError::Busy { address: self.target.address.clone() });
        }
        let id = answer.is_some().then(|| {
            state.next_id += 1;
            state.next_id
        });
        let deadline = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let meta = Meta { deadline, hops };
        let (start, at) = (state.output.len(), state.queued);
        let request = Request { id: id.map(Id::from), method: method.into(), params, meta };
        jsonrpc::encode_request(&mut state.output, &request);
        let size = state.output.len() - start;
        if size > self.target.limits.message {
            state.output.truncate(start);
            let message = format!(
                "a request of {size} bytes; the limit is {} (limits.message)",
                self.target.limits.message
            );
            return Err(RemoteError::Fault(Fault::new(code::REQUEST_TOO_LARGE, message)));
        }
        state.output.push(b'\n');
        state.queued += size as u64 + 1;
        match (id, answer) {
            (Some(id), Some(answer)) => drop(state.pending.insert(id, Pending { answer, at })),
            _ => state.notified = true,
        }
        state.wake_writer();
        Ok(id)
    }

    /// Tells whether the other node may read no further before it has answered something.
    fn is_full(&self) -> bool {
        self.lock().pending.len() >= self.target.limits.in_flight
    }

    /// Asks for a sign of life. Whatever comes is one, so nobody waits for the answer.
    fn ping(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.next_id += 1;
        let (id, method) = (Some(Id::from(state.next_id)), "rpc.ping".into());
        let request = Request { id, method, params: None, meta: Meta::default() };
        state.put(|out| jsonrpc::encode_request(out, &request));
    }

    fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify(usize::MAX);
    }

    /// Fails the calls that wait, since the connection is lost. `kept` bytes had been taken out of the output, and were
    /// never written.
    fn lost(&self, reason: &str, kept: usize) {
        let mut state = self.lock();
        state.phase = Phase::Down(reason.to_owned());
        state.refused = None;
        state.notified = false;
        let unsent = (mem::take(&mut state.output).len() + kept) as u64;
        let sent = mem::take(&mut state.queued).saturating_sub(unsent);
        let pending = mem::take(&mut state.pending);
        drop(state);
        self.changed.notify(usize::MAX);
        for Pending { answer, at } in pending.into_values() {
            let (address, reason) = (self.target.address.clone(), reason.to_owned());
            // Where the first byte has gone, all may have, and the call have run.
            let error = if at < sent {
                RemoteError::Lost { address, reason }
            } else {
                RemoteError::Unreachable { address, reason }
            };
            let _ = answer.try_send(Err(error));
        }
    }

    /// What is sent first on each connection.
    fn greeting(&self) -> Vec<u8> {
        // Calls that wait say the same, and a server that knows no blank lines has nothing to complain of.
        let mut greeting = if self.lock().output.is_empty() { GREETING.to_vec() } else { Vec::new() };
        if let Some(Secret(token)) = &self.target.token {
            let params = RawJson::of(&[&**token]).ok();
            let (id, method) = (Some(Id::from(AUTH)), "rpc.auth".into());
            let request = Request { id, method, params, meta: Meta::default() };
            jsonrpc::encode_request(&mut greeting, &request);
            greeting.push(b'\n');
        }
        greeting
    }

    /// Fails the calls that wait, and those that come until there is another connection.
    fn refused(&self, fault: &Fault) {
        log::warn!("{} refuses the token: {fault}", self.target.address);
        let mut state = self.lock();
        let pending = mem::take(&mut state.pending);
        state.refused = Some(fault.clone());
        drop(state);
        for Pending { answer, .. } in pending.into_values() {
            let _ = answer.try_send(Err(RemoteError::Fault(fault.clone())));
        }
    }

    /// Takes an answer to whoever made the call.
    ///
    /// # Errors
    /// If nobody knows who that is: some of the calls under way will never be answered, and none can be told apart.
    fn answer(&self, ReceivedReply { id: whose, outcome }: ReceivedReply) -> io::Result<()> {
        let mut state = self.lock();
        let id = match whose {
            ReplyId::Number(AUTH) if self.target.token.is_some() => {
                drop(state);
                if let Err(fault) = outcome {
                    self.refused(&fault);
                }
                return Ok(());
            }
            // It is not there if the call was given up.
            ReplyId::Number(id) if id <= state.next_id => id,
            ReplyId::Null if state.notified && !is_about_reading(&outcome) => return Ok(()),
            _ => {
                let mut calls = state.pending.keys();
                match (calls.next().copied(), calls.next()) {
                    (None, _) => return Ok(()),
                    // There is only one that it can be for.
                    (Some(id), None) => id,
                    _ => return Err(io::Error::other("it gave an answer without the id of any call")),
                }
            }
        };
        let Some(Pending { answer, .. }) = state.pending.remove(&id) else { return Ok(()) };
        drop(state);
        let outcome = match (whose, outcome) {
            // What it says may be another's.
            (ReplyId::Number(_) | ReplyId::Foreign, Ok(_)) if whose != ReplyId::Number(id) => {
                let message =
                    format!("{} gave an answer with another id than the call's", self.target.address);
                Err(Fault::new(code::INTERNAL, message))
            }
            (ReplyId::Null, Ok(_)) => {
                let message = format!("{} gave an answer without the call's id", self.target.address);
                Err(Fault::new(code::INTERNAL, message))
            }
            (_, outcome) => outcome,
        };
        let _ = answer.try_send(outcome.map_err(RemoteError::Fault));
        Ok(())
    }
}

/// Tells whether an outcome says that a request could not be read, so that its id is not known.
fn is_about_reading(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|fault| matches!(fault.code, code::PARSE | code::INVALID_REQUEST))
}

/// Keeps a connection: until it is lost, or if it is `lasting` for as long as the client lives.
async fn keep(link: Arc<Link>, lasting: bool) {
    let mut back_off = BACK_OFF.0;
    let mut told = false;
    loop {
        link.enter(Phase::Connecting);
        let (reason, kept) = match dial(&link.target).await {
            Ok(stream) => {
                back_off = BACK_OFF.0;
                link.enter(Phase::Up);
                // Calls that have waited for it come before the greeting, which is then not needed.
                yield_now().await;
                if told {
                    log::info!("connected to {} again", link.target.address);
                    told = false;
                }
                let mut writing = Writing { bytes: link.greeting(), sent: 0 };
                let reason = match exchange(&link, StreamPipe::new(stream), &mut writing).await {
                    Ok(()) => "closed by the other node".to_owned(),
                    Err(error) => error.to_string(),
                };
                (reason, writing.left())
            }
            Err(error) => (error.to_string(), 0),
        };
        link.lost(&reason, kept);
        // Told once, and not at each attempt.
        let level = if told { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "no connection to {}: {reason}", link.target.address);
        told = true;
        if !lasting || link.lock().closing {
            return;
        }
        // So that many clients of one node do not all come back in the same moment.
        Timer::after(back_off.mul_f64(0.5 + fastrand::f64())).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

/// What was taken out of a link's output to be written.
struct Writing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Writing {
    /// How many bytes have not been written, for sure.
    fn left(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

/// Writes requests and reads replies until the connection ends.
async fn exchange(link: &Link, mut pipe: impl Pipe, writing: &mut Writing) -> io::Result<()> {
    let (mut input, mut lines) = (Vec::new(), LineFramer::new(reply_limit(&link.target.limits)));
    let mut pulse = Heartbeat::new(link.target.limits.keepalive);
    // What the other node says of no call of ours is most likely why it ends the connection.
    let mut said: Option<Fault> = None;
    poll_fn(|cx| {
        if poll_write(link, &mut pipe, writing, cx)? {
            return pipe.poll_close(cx, CloseReason::Done);
        }
        let Poll::Ready(received) = pipe.poll_receive(cx, &mut input)? else {
            // With a ping to be written, this is polled once more.
            return pulse.as_mut().map_or(Poll::Pending, |pulse| poll_pulse(link, pulse, cx));
        };
        if let Some(pulse) = &mut pulse {
            pulse.record_activity();
        }
        read(link, &mut lines, &mut input, &mut said)?;
        if received == Received::Eof {
            let reason = said.take().map(|fault| format!("closed by the other node: {}", fault.message));
            return Poll::Ready(reason.map_or(Ok(()), |reason| Err(io::Error::other(reason))));
        }
        // More may be there, but other tasks, and the clock, have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Pings a node that has been silent for long. `Ready` if it has given no sign of life since.
fn poll_pulse(link: &Link, pulse: &mut Heartbeat, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        let silence = ready!(pulse.poll(cx));
        if link.is_full() {
            // It reads no further before it has answered something, so that its silence says nothing.
            pulse.record_activity();
        } else if silence == PeerIdle::Dead {
            return Poll::Ready(Err(keepalive_error()));
        } else {
            link.ping();
        }
    }
}

fn poll_write(
    link: &Link,
    pipe: &mut impl Pipe,
    writing: &mut Writing,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    loop {
        let Writing { bytes, sent } = &mut *writing;
        if *sent == bytes.len() {
            bytes.clear();
            *sent = 0;
            let mut state = link.lock();
            if state.output.is_empty() {
                state.writer = Some(cx.waker().clone());
                let closing = state.closing;
                drop(state);
                link.changed.notify(usize::MAX);
                // TLS may hold back what a socket has no room for.
                let _ = pipe.poll_flush(cx)?;
                return Ok(closing);
            }
            mem::swap(bytes, &mut state.output);
        }
        match pipe.poll_send(cx, &bytes[*sent..]) {
            Poll::Ready(Ok(count)) => *sent += count,
            Poll::Ready(Err(error)) => {
                // A socket that fails has taken nothing of it. TLS may have, and sent some.
                if link.target.tls.is_some() {
                    *sent = bytes.len();
                }
                return Err(error);
            }
            Poll::Pending => return Ok(false),
        }
    }
}

fn read(
    link: &Link,
    lines: &mut LineFramer,
    input: &mut Vec<u8>,
    said: &mut Option<Fault>,
) -> io::Result<()> {
    // An alert, or the beginning of a handshake.
    if let [0x15 | 0x16, 3, ..] = input[..] {
        return Err(io::Error::other(
            "the node speaks TLS at this port: use --ca FILE, or tls under [[function]]",
        ));
    }
    let mut at = 0;
    loop {
        match lines.next_frame(&input[at..]) {
            FrameResult::Frame(line, cut) => {
                let line = &input[at + line.start..at + line.end];
                for answered in jsonrpc::decode_replies(line, link.target.limits.depth) {
                    if let ReceivedReply { id: ReplyId::Null, outcome: Err(fault) } = &answered {
                        *said = Some(fault.clone());
                    }
                    link.answer(answered)?;
                }
                at += cut;
            }
            FrameResult::TooLong(cut) => {
                let limit = link.target.limits.message;
                let message = format!("a reply of more than {limit} bytes (limits.message)");
                let Some(whose) = jsonrpc::reply_id_in_prefix(&input[at..at + cut]) else {
                    return Err(io::Error::other(message));
                };
                link.answer(ReceivedReply {
                    id: whose,
                    outcome: Err(Fault::new(code::REPLY_TOO_LARGE, message)),
                })?;
                at += cut;
            }
            FrameResult::Invalid(why) => return Err(io::Error::other(why)),
            FrameResult::Incomplete(cut) => {
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
