//! Why a call has no result, and why a registration was refused.

use std::fmt;
use std::sync::Arc;

use super::id::FunctionId;
use super::kind::Kind;
use super::panic::Panic;

/// Says why a call has no result.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The server has no function of this id. The call was not queued.
    Unknown(FunctionId),
    /// The function gives another number of results than the call asked for. The call was not queued.
    KindMismatch {
        /// The function called.
        function: FunctionId,
        /// What it gives.
        registered: Kind,
        /// What the call asked for.
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
    /// The server's queue has no room and the call was told not to wait for any.
    Full,
    /// The server was closed, or is gone, before the function began.
    Closed,
    /// The function panicked. The server lives on.
    Panicked(Panic),
    /// The function's [`Responder`](super::Responder) was dropped without an answer.
    Unanswered,
    /// The call's deadline passed. If the function had not begun when the call ended, it never will; if it had, it
    /// runs to its end, and its result is dropped.
    Deadline,
    /// To wait for this call would be to wait for ever: the servers in the chain each wait for the next,
    /// and the last for the first.
    WouldDeadlock {
        /// Names of the servers, beginning with the one that would wait; the last name is the first again.
        chain: Vec<Arc<str>>,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(function) => {
                write!(f, "no function {function:?} is registered", function = function.to_string())
            }
            Self::KindMismatch { function, registered, called } => {
                write!(f, "function {function} gives {registered}, the call asks for {called}")
            }
            Self::TypeMismatch { function, part, registered, called } => {
                write!(f, "function {function} is registered with {part} {registered}, the call has {called}")
            }
            Self::Full => f.write_str("the server's queue is full"),
            Self::Closed => f.write_str("the server is closed"),
            Self::Panicked(panic) => write!(f, "the function panicked: {}", panic.message()),
            Self::Unanswered => f.write_str("the function dropped its responder without an answer"),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::WouldDeadlock { chain } => write!(f, "waiting would deadlock: {}", chain.join(" -> ")),
        }
    }
}

impl std::error::Error for CallError {}

/// Says why a function was not registered. The table is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// A function of this id is there already.
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

impl std::error::Error for RegisterError {}
