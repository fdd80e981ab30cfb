//! The state of one connection to another node: queued requests, and the calls that wait for a reply.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use async_channel::Sender;
use event_listener::Event;

use super::error::RemoteError;
use super::target::{Secret, Target};
use crate::codec::jsonrpc::{self, ReceivedReply, ReplyId};
use crate::message::{Fault, Id, Meta, Outcome, RawJson, Request, code};

/// Sent first: a blank line selects the JSON-RPC dialect, so that the node does not close an idle connection for lack
/// of a first byte.
const PREFACE: &[u8] = b"\n";
/// The id of the request that presents the token. Calls have higher ids.
const AUTH_ID: u64 = 0;
/// The maximum number of calls that wait for a reply on one connection.
const MAX_PENDING: usize = 4096;

/// Where the result of a call is sent.
type ReplySender = Sender<Result<RawJson<'static>, RemoteError>>;

/// The state that callers share with the task that drives the connection.
#[derive(Debug)]
pub(super) struct Connection {
    target: Arc<Target>,
    state: Mutex<State>,
    /// Notified when the status changes.
    changed: Event,
    /// Calls that use this connection.
    leases: AtomicUsize,
}

/// The use of a connection by one call.
pub(super) struct ConnectionLease(Arc<Connection>);

impl ConnectionLease {
    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State {
    status: Status,
    last_id: u64,
    /// Bytes queued in `output` since the connection was established.
    queued: u64,
    /// A notification was sent. Some servers answer it, with a null id.
    notified: bool,
    /// The error with which the other node rejected the token.
    auth_error: Option<Fault>,
    /// Encoded requests that are not written yet.
    output: Vec<u8>,
    pending: HashMap<u64, PendingCall>,
    /// The connection closes when the output is written.
    closing: bool,
    /// Wakes the driver, if it waits for output.
    writer: Option<Waker>,
}

/// A call that waits for its reply.
#[derive(Debug)]
struct PendingCall {
    reply: ReplySender,
    /// The offset of its request in all bytes queued.
    offset: u64,
}

#[derive(Debug)]
enum Status {
    Connecting,
    Connected,
    /// Not connected, with the reason. No attempt to connect is under way.
    Disconnected(String),
}

/// The result of [`Connection::take_output`].
pub(super) enum NextOutput {
    /// Bytes to write.
    Some,
    /// Nothing to write. The task is woken when there is, unless the connection is `closing`.
    None { closing: bool },
}

/// Cancels a call at the other node when dropped before its reply.
pub(super) struct CancelOnDrop<'a> {
    pub(super) connection: &'a Connection,
    /// `None` after the reply.
    pub(super) id: Option<u64>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut state = self.connection.lock();
            if state.pending.remove(&id).is_some() {
                state.notified = true;
                state.queue(|out| jsonrpc::encode_cancel(out, &Id::from(id)));
            }
        }
    }
}

impl State {
    /// Queues one message for writing.
    fn queue(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
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

impl Connection {
    /// Creates the state of a connection that is about to be established.
    pub(super) fn new(target: Arc<Target>) -> Arc<Self> {
        let state = State {
            status: Status::Connecting,
            last_id: AUTH_ID,
            queued: 0,
            notified: false,
            auth_error: None,
            output: Vec::new(),
            pending: HashMap::new(),
            closing: false,
            writer: None,
        };
        let (state, changed, leases) = (Mutex::new(state), Event::new(), AtomicUsize::new(0));
        Arc::new(Self { target, state, changed, leases })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Counts one more call until the lease is dropped.
    pub(super) fn lease(self: &Arc<Self>) -> ConnectionLease {
        self.leases.fetch_add(1, Ordering::Relaxed);
        ConnectionLease(self.clone())
    }

    /// Returns the number of calls that use this connection.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection after everything queued is written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.wake_writer();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    fn unreachable(&self, reason: &str) -> RemoteError {
        RemoteError::Unreachable { address: self.target.address.clone(), reason: reason.to_owned() }
    }

    /// Returns the error of a call in flight when the client is dropped.
    pub(super) fn client_dropped(&self) -> RemoteError {
        let reason = "the client was dropped".to_owned();
        RemoteError::Lost { address: self.target.address.clone(), reason }
    }

    /// Returns `true` if the connection is not established, and no attempt to connect is under way.
    pub(super) fn is_disconnected(&self) -> bool {
        matches!(self.lock().status, Status::Disconnected(_))
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.lock().status, Status::Connected)
    }

    /// Waits for an attempt to connect that is under way.
    pub(super) async fn wait_connected(&self) -> Result<(), RemoteError> {
        loop {
            let changed = self.changed.listen();
            match &self.lock().status {
                Status::Connected => return Ok(()),
                Status::Connecting => {}
                Status::Disconnected(reason) => return Err(self.unreachable(reason)),
            }
            changed.await;
        }
    }

    /// Queues a request, or a notification if there is no `reply`. Returns the id of a request.
    pub(super) fn send(
        &self,
        method: &str,
        params: Option<RawJson<'_>>,
        reply: Option<ReplySender>,
        deadline: Option<Instant>,
        hops: u32,
    ) -> Result<Option<u64>, RemoteError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        // The connection may have been lost since the caller waited for it.
        if let Status::Disconnected(reason) = &state.status {
            return Err(self.unreachable(reason));
        }
        if let Some(fault) = &state.auth_error {
            return Err(RemoteError::Fault(fault.clone()));
        }
        if state.pending.len() >= MAX_PENDING || state.output.len() >= self.target.limits.output {
            return Err(RemoteError::Busy { address: self.target.address.clone() });
        }
        let id = reply.is_some().then(|| {
            state.last_id += 1;
            state.last_id
        });
        let deadline = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let meta = Meta { deadline, hops };
        let (start, offset) = (state.output.len(), state.queued);
        let request = Request { id: id.map(Id::from), method: method.into(), params, meta };
        jsonrpc::encode_request(&mut state.output, &request);
        let (size, limit) = (state.output.len() - start, self.target.limits.message);
        if size > limit {
            state.output.truncate(start);
            let message =
                format!("a request of {size} bytes exceeds the limit of {limit} bytes (limits.message)");
            return Err(RemoteError::Fault(Fault::new(code::REQUEST_TOO_LARGE, message)));
        }
        state.output.push(b'\n');
        state.queued += size as u64 + 1;
        match (id, reply) {
            (Some(id), Some(reply)) => drop(state.pending.insert(id, PendingCall { reply, offset })),
            _ => state.notified = true,
        }
        state.wake_writer();
        Ok(id)
    }

    /// Returns `true` if the other node may have stopped reading until it answers a call.
    pub(super) fn is_full(&self) -> bool {
        self.lock().pending.len() >= self.target.limits.in_flight
    }

    /// Queues a ping. Any input shows that the peer is alive, so that the reply needs no handling.
    pub(super) fn ping(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.last_id += 1;
        let (id, method) = (Some(Id::from(state.last_id)), "rpc.ping".into());
        let request = Request { id, method, params: None, meta: Meta::default() };
        state.queue(|out| jsonrpc::encode_request(out, &request));
    }

    pub(super) fn set_connecting(&self) {
        self.set_status(Status::Connecting);
    }

    pub(super) fn set_connected(&self) {
        self.set_status(Status::Connected);
    }

    fn set_status(&self, status: Status) {
        self.lock().status = status;
        self.changed.notify(usize::MAX);
    }

    /// Records that the other node has processed nothing of what was sent.
    pub(super) fn set_unprocessed(&self) {
        self.lock().queued = 0;
    }

    /// Fails all pending calls, since the connection is lost. `unwritten` bytes were taken out of the output and not
    /// written.
    pub(super) fn set_disconnected(&self, reason: &str, unwritten: usize) {
        let mut state = self.lock();
        state.status = Status::Disconnected(reason.to_owned());
        state.auth_error = None;
        state.notified = false;
        let unsent = (mem::take(&mut state.output).len() + unwritten) as u64;
        let sent = mem::take(&mut state.queued).saturating_sub(unsent);
        let pending = mem::take(&mut state.pending);
        drop(state);
        self.changed.notify(usize::MAX);
        for PendingCall { reply, offset } in pending.into_values() {
            let (address, reason) = (self.target.address.clone(), reason.to_owned());
            // Once the first byte is sent, the whole request may have been, and the call may have run.
            let error = if offset < sent {
                RemoteError::Lost { address, reason }
            } else {
                RemoteError::Unreachable { address, reason }
            };
            let _ = reply.try_send(Err(error));
        }
    }

    /// Returns the bytes to send first on each connection.
    pub(super) fn preface(&self) -> Vec<u8> {
        // Queued calls select the dialect as well, and a server that does not know blank lines then sees none.
        let mut preface = if self.lock().output.is_empty() { PREFACE.to_vec() } else { Vec::new() };
        if let Some(Secret(token)) = &self.target.token {
            let params = RawJson::of(&[&**token]).ok();
            let (id, method) = (Some(Id::from(AUTH_ID)), "rpc.auth".into());
            let request = Request { id, method, params, meta: Meta::default() };
            jsonrpc::encode_request(&mut preface, &request);
            preface.push(b'\n');
        }
        preface
    }

    /// Swaps the queued output into `bytes`, which is empty. If there is none, registers the task to be woken.
    pub(super) fn take_output(&self, bytes: &mut Vec<u8>, cx: &Context<'_>) -> NextOutput {
        let mut state = self.lock();
        if state.output.is_empty() {
            state.writer = Some(cx.waker().clone());
            let closing = state.closing;
            drop(state);
            self.changed.notify(usize::MAX);
            return NextOutput::None { closing };
        }
        mem::swap(bytes, &mut state.output);
        NextOutput::Some
    }

    /// Fails all pending calls, and those sent until the connection is re-established.
    fn token_rejected(&self, fault: &Fault) {
        log::warn!("{} rejected the token: {fault}", self.target.address);
        let mut state = self.lock();
        let pending = mem::take(&mut state.pending);
        state.auth_error = Some(fault.clone());
        drop(state);
        for PendingCall { reply, .. } in pending.into_values() {
            let _ = reply.try_send(Err(RemoteError::Fault(fault.clone())));
        }
    }

    /// Completes the call that a reply belongs to.
    ///
    /// # Errors
    /// Returns an error if the reply matches no call: one of several pending calls will never be answered, and it is
    /// unknown which.
    pub(super) fn complete(&self, ReceivedReply { id: received, outcome }: ReceivedReply) -> io::Result<()> {
        let mut state = self.lock();
        let id = match received {
            ReplyId::Number(AUTH_ID) if self.target.token.is_some() => {
                drop(state);
                if let Err(fault) = outcome {
                    self.token_rejected(&fault);
                }
                return Ok(());
            }
            // Not pending if the call was cancelled.
            ReplyId::Number(id) if id <= state.last_id => id,
            ReplyId::Null if state.notified && !is_decode_error(&outcome) => return Ok(()),
            _ => {
                let mut calls = state.pending.keys();
                match (calls.next().copied(), calls.next()) {
                    (None, _) => return Ok(()),
                    // It can only belong to this call.
                    (Some(id), None) => id,
                    _ => return Err(io::Error::other("the other node sent a reply that matches no call")),
                }
            }
        };
        let Some(PendingCall { reply, .. }) = state.pending.remove(&id) else { return Ok(()) };
        drop(state);
        let outcome = match (received, outcome) {
            // The result may belong to another client's call.
            (ReplyId::Number(_) | ReplyId::Foreign, Ok(_)) if received != ReplyId::Number(id) => {
                let message = format!("{} replied with an id that is not the call's", self.target.address);
                Err(Fault::new(code::INTERNAL, message))
            }
            (ReplyId::Null, Ok(_)) => {
                let message = format!("{} replied with a null id", self.target.address);
                Err(Fault::new(code::INTERNAL, message))
            }
            (_, outcome) => outcome,
        };
        let _ = reply.try_send(outcome.map_err(RemoteError::Fault));
        Ok(())
    }
}

/// Returns `true` if an outcome means that a request could not be read, so that its id is unknown.
fn is_decode_error(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|fault| matches!(fault.code, code::PARSE | code::INVALID_REQUEST))
}
