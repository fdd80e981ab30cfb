//! Calls to another node.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoint::{Endpoint, Mode, Request};
use super::error::RemoteError;
use crate::chan::{BoxFuture, CallError, FunctionError, FunctionId, wait_graph};
use crate::message::{Fault, RawJson, code};

/// The maximum timeout. A longer one is as good as none.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A call to another node: a future to await, or to block on with [`wait`](Self::wait).
///
/// The first poll sends the call. Without a [`timeout`](Self::timeout) or [`deadline`](Self::deadline) it ends after
/// [`Limits::deadline`](crate::config::Limits::deadline), 30 s by default. The other node receives the remaining time, and
/// applies its own limit too. Dropping the call cancels it, also on the other node.
///
/// # Panics
/// If it is polled after it has completed.
#[must_use = "a call does nothing unless it is awaited or waited for"]
pub struct RemoteCall<R> {
    state: State,
    deadline: Option<Instant>,
    hops: u32,
    decode: fn(RawJson<'static>) -> Result<R, CallError>,
}

enum State {
    Unsent(Arc<dyn Endpoint>, Request),
    /// The call itself is wrong.
    Invalid(CallError),
    Sent(BoxFuture<'static, Result<RawJson<'static>, RemoteError>>),
    Done,
}

impl<R> RemoteCall<R> {
    pub(super) fn new(
        endpoint: Arc<dyn Endpoint>,
        request: Result<Request, CallError>,
        decode: fn(RawJson<'static>) -> Result<R, CallError>,
    ) -> Self {
        let state = match request {
            Ok(request) => State::Unsent(endpoint, request),
            Err(error) => State::Invalid(error),
        };
        Self { state, deadline: None, hops: 0, decode }
    }

    /// Ends the call with [`CallError::Deadline`] unless it is answered within `timeout` from now. More than a year is
    /// taken as a year.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use chanrpc::{Functions, Id0, Node, Remote, Responder};
    /// # const SLEEP: Id0<()> = Id0::new("sleep");
    /// # let mut functions = Functions::exported();
    /// # let sleep = |waiting: &mut Vec<Responder<()>>, (), responder| waiting.push(responder);
    /// # functions.register_deferred(SLEEP, sleep)?;
    /// # let node = Node::builder("example").serve(functions, Vec::new()).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// # smol::block_on(remote.connected())?;
    /// let call = remote.call(SLEEP, ()).timeout(Duration::from_millis(1));
    /// assert!(call.wait().is_err_and(|error| error.is_deadline()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(self, timeout: Duration) -> Self {
        self.deadline(Instant::now() + timeout.min(MAX_TIMEOUT))
    }

    /// Ends the call with [`CallError::Deadline`] unless it is answered by `deadline`.
    ///
    /// ```
    /// # use std::time::Instant;
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// let call = remote.call(ADD, 5).deadline(Instant::now());
    /// assert!(call.wait().is_err_and(|error| error.is_deadline()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the number of nodes that have forwarded the call already, for a [`Provider`](crate::route::Provider) that
    /// forwards calls.
    #[doc(hidden)]
    pub fn hops(mut self, hops: u32) -> Self {
        self.hops = hops;
        self
    }

    /// Blocks this thread until the call is answered. For plain threads; tasks `.await` the call instead.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// # let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.call(ADD, 5).wait()?, 5);
    /// assert!(remote.call1::<_, i64>("subtract", 5).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`].
    pub fn wait(self) -> Result<R, CallError> {
        wait_graph::block_on(self)
    }
}

impl<R> Unpin for RemoteCall<R> {}

impl<R> Future for RemoteCall<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !matches!(self.state, State::Sent(_)) {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Unsent(endpoint, request) => {
                    let deadline = self
                        .deadline
                        .unwrap_or_else(|| Instant::now() + endpoint.default_timeout().min(MAX_TIMEOUT));
                    self.state = State::Sent(endpoint.send(request, deadline, self.hops));
                }
                State::Invalid(error) => return Poll::Ready(Err(error)),
                State::Sent(_) | State::Done => panic!("the call was polled after its end"),
            }
        }
        let State::Sent(sent) = &mut self.state else { unreachable!("it was sent above") };
        let Poll::Ready(result) = sent.as_mut().poll(cx) else { return Poll::Pending };
        self.state = State::Done;
        Poll::Ready(result.map_err(CallError::from).and_then(self.decode))
    }
}

impl<R> fmt::Debug for RemoteCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Unsent(..) => "unsent",
            State::Invalid(error) => return f.debug_tuple("RemoteCall").field(error).finish(),
            State::Sent(_) => "sent",
            State::Done => "done",
        };
        f.debug_struct("RemoteCall").field("state", &state).finish_non_exhaustive()
    }
}

/// Encodes a call with typed arguments.
///
/// # Errors
/// [`CallError::Unknown`] for an id that is not a text, [`CallError::Failed`] if the arguments have no JSON form.
pub(super) fn request(id: FunctionId, arguments: &impl Serialize, mode: Mode) -> Result<Request, CallError> {
    match id {
        FunctionId::Text(method) => Ok(Request { method, params: encode(arguments)?, mode }),
        id => Err(CallError::Unknown(id)),
    }
}

/// Encodes arguments as JSON-RPC parameters: an array, an object, or none. Another value becomes an array of one.
fn encode(arguments: &impl Serialize) -> Result<Option<RawJson<'static>>, CallError> {
    let json = RawJson::of(arguments).map_err(|error| {
        let message = format!("the arguments have no JSON form: {error}");
        CallError::Failed(FunctionError::new(Fault::invalid_params(message)))
    })?;
    Ok(match json.get().as_bytes() {
        b"null" => None,
        [b'[' | b'{', ..] => Some(json),
        _ => Some(RawJson::checked(format!("[{}]", json.get()))),
    })
}

/// Decodes the result of a call.
#[allow(clippy::needless_pass_by_value, reason = "the decoder of a raw call returns it")]
pub(super) fn decode<R: DeserializeOwned>(json: RawJson<'static>) -> Result<R, CallError> {
    serde_json::from_str(json.get()).map_err(|error| {
        let message = format!("the result does not fit the type that the call expects: {error}");
        CallError::Failed(FunctionError::new(Fault::new(code::INVALID_PARAMS, message)))
    })
}
