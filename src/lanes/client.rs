//! What a lane's client is, and how a job gets it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::chan::{CallError, Client};

/// What a lane has to know of its client. [`Client`] and `Remote` are such clients.
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
    /// Why a call has failed, or why there is no client.
    type Error: Send + Sync + 'static;

    /// Tells whether a call that ended with this error shows that its client is of no use any more. Then the
    /// lane drops the client, and dials before its next call.
    fn is_fatal(error: &Self::Error) -> bool;

    /// Tells, before each call, whether the client is known to be of no use any more; `false` by default, which
    /// leaves it to the call to find out.
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

/// What a job gets: the lane's client, for as long as the job has its turn, and the call's deadline.
pub struct Lease<C> {
    pub(super) client: Arc<C>,
    pub(super) deadline: Instant,
}

impl<C> Lease<C> {
    /// Returns when the job will be dropped if it has not ended. For calls that take their deadline along.
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
