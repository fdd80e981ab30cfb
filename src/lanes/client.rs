//! The clients of lanes, and their lease to jobs.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::chan::{CallError, Client};

/// A client that a lane can use, such as [`Client`] and `Remote`.
///
/// ```
/// use std::io;
/// use chanrpc::lanes::LaneClient;
///
/// struct Printer(/* a connection, say */);
///
/// impl LaneClient for Printer {
///     type Error = io::Error;
///
///     fn is_fatal(error: &io::Error) -> bool {
///         error.kind() != io::ErrorKind::InvalidInput
///     }
/// }
/// ```
pub trait LaneClient: Send + Sync + 'static {
    /// The error of a call, or of dialling.
    type Error: Send + Sync + 'static;

    /// Returns `true` if a call that ended with this error shows that its client is unusable. The lane then drops the
    /// client, and dials before its next call.
    fn is_fatal(error: &Self::Error) -> bool;

    /// Returns `true` if the client is known to be unusable. Checked before each call; `false` by default, so that the
    /// call itself finds out.
    fn is_dead(&self) -> bool {
        false
    }
}

/// Dead once its server is closed.
impl LaneClient for Client {
    type Error = CallError;

    fn is_fatal(error: &CallError) -> bool {
        matches!(error, CallError::Closed)
    }

    fn is_dead(&self) -> bool {
        self.is_closed()
    }
}

/// The lane's client while a job runs, and the call's deadline.
pub struct Lease<C> {
    pub(super) client: Arc<C>,
    pub(super) deadline: Instant,
}

impl<C> Lease<C> {
    /// Returns the time at which the job is dropped if it has not ended, for use as the deadline of its calls.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl<C> Deref for Lease<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<C: fmt::Debug> fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("client", &self.client).field("deadline", &self.deadline).finish()
    }
}
