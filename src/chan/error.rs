//! The errors of calls and registrations.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::id::FunctionId;
use super::kind::Kind;
use super::panic_info::Panic;

/// The reason why a call has no result.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CallError {
    /// The server has no function of this id. The call was not queued.
    Unknown(FunctionId),
    /// The function has another kind than the call expects. The call was not queued.
    KindMismatch {
        /// The function called.
        function: FunctionId,
        /// The kind of the function.
        registered: Kind,
        /// The kind that the call expects.
        called: Kind,
    },
    /// The arguments or the result have another type than the function's. The call was not queued.
    TypeMismatch {
        /// The function called.
        function: FunctionId,
        /// `"arguments"` or `"result"`.
        part: &'static str,
        /// The type in the function's registration.
        registered: &'static str,
        /// The type in the call.
        called: &'static str,
    },
    /// The function returned this error.
    Failed(FunctionError),
    /// The server's queue is full, and the call does not wait for room.
    Full,
    /// The other node has no capacity for the call, which was not sent and can be repeated.
    Busy {
        /// The address of the other node.
        address: String,
    },
    /// No connection to the other node is available. No byte of the call was sent, so it can be repeated.
    Unreachable {
        /// The address of the other node.
        address: String,
        /// The cause.
        reason: String,
    },
    /// The connection to the other node was lost during the call, which may or may not have run.
    Lost {
        /// The address of the other node.
        address: String,
        /// The cause.
        reason: String,
    },
    /// The server was closed or dropped before the function began.
    Closed,
    /// The function panicked. The server continues.
    Panicked(Panic),
    /// The function's [`Responder`](super::Responder) was dropped without an answer.
    Unanswered,
    /// The deadline of the call passed. A function that had not begun by then never will; one that had runs to its end,
    /// and its result is dropped.
    Deadline,
    /// The wait would never end: the servers of the chain wait for one another in a circle.
    WouldDeadlock {
        /// Names of the servers, from the one that would wait. The last name is the first again.
        chain: Vec<Arc<str>>,
    },
}

impl CallError {
    /// Returns `true` if a bound was reached, here or at another node. The function has not begun.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full | Self::Busy { .. }) || self.is_fault_of(Meaning::Full)
    }

    /// Returns `true` if the server, or another node, was closed before the function began.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed) || self.is_fault_of(Meaning::Closed)
    }

    /// Returns `true` if the deadline of the call passed, here or at another node.
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline) || self.is_fault_of(Meaning::Deadline)
    }

    fn is_fault_of(&self, meaning: Meaning) -> bool {
        matches!(self, Self::Failed(error) if error.0.meaning == Some(meaning))
    }
}

/// The reason why a function that has run has no result. Smaller than a [`CallError`], because a call in place moves the
/// space for one several times.
pub(super) enum Failure {
    Failed(FunctionError),
    Panicked(Panic),
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Failed(error) => Self::Failed(error),
            Failure::Panicked(panic) => Self::Panicked(panic),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(function) => {
                write!(f, "no function {function:?} is registered", function = function.to_string())
            }
            Self::KindMismatch { function, registered, called } => {
                write!(f, "function {function} has {registered}, the call expects {called}")
            }
            Self::TypeMismatch { function, part, registered, called } => {
                write!(f, "function {function} is registered with {part} {registered}, the call has {called}")
            }
            Self::Failed(error) => error.fmt(f),
            Self::Full => f.write_str("the server's queue is full"),
            Self::Busy { address } => write!(f, "too many calls are waiting for {address}"),
            Self::Unreachable { address, reason } => write!(f, "no connection to {address}: {reason}"),
            Self::Lost { address, reason } => {
                write!(
                    f,
                    "the connection to {address} was lost during the call, which may have run: {reason}"
                )
            }
            Self::Closed => f.write_str("the server is closed"),
            Self::Panicked(panic) => write!(f, "the function panicked: {}", panic.message()),
            Self::Unanswered => f.write_str("the function dropped its responder without an answer"),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::WouldDeadlock { chain } => write!(f, "waiting would deadlock: {}", chain.join(" -> ")),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Panicked(panic) => Some(panic),
            _ => None,
        }
    }
}

/// The error that a function returned. Cheap to clone, and small: each call moves the space for one several times.
#[derive(Clone)]
pub struct FunctionError(Arc<FailedWith>);

struct FailedWith {
    error: Box<dyn Error + Send + Sync>,
    meaning: Option<Meaning>,
}

/// What an error of another node has in common with a [`CallError`] of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Full,
    Closed,
    Deadline,
}

impl FunctionError {
    /// Wraps any error, a `String` or a `&str`.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::new(FailedWith { error: error.into(), meaning: None }))
    }

    /// Wraps an error of another node that has this meaning.
    #[cfg(feature = "node")]
    pub(crate) fn with_meaning(
        error: impl Into<Box<dyn Error + Send + Sync>>,
        meaning: Option<Meaning>,
    ) -> Self {
        Self(Arc::new(FailedWith { error: error.into(), meaning }))
    }

    /// Returns the error if it has the type `E`.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.error.downcast_ref()
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl fmt::Debug for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl Error for FunctionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.error.source()
    }
}

impl PartialEq for FunctionError {
    /// Errors are equal if they are the same or have the same text.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.to_string() == other.to_string()
    }
}

/// The reason why a function was not registered. The table is unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// The table has a function of this id.
    Duplicate(FunctionId),
    /// The id is an empty text.
    EmptyId,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(function) => write!(f, "function {function} is already registered"),
            Self::EmptyId => f.write_str("a function's id must not be empty"),
        }
    }
}

impl Error for RegisterError {}
