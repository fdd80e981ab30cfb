//! The error of a call to another node.

use std::fmt;

use crate::chan::{CallError, FunctionError, Meaning};
use crate::message::{Fault, code};

/// The reason for which a call to another node has no result.
#[derive(Clone, Debug)]
pub(crate) enum RemoteError {
    /// No connection is available. No byte of the call was sent, so that it is safe to repeat.
    Unreachable {
        /// The address of the other node.
        address: String,
        /// The cause.
        reason: String,
    },
    /// The connection was lost during the call, which may or may not have run. The client does not repeat it.
    Lost {
        /// The address of the other node.
        address: String,
        /// The cause.
        reason: String,
    },
    /// Too many calls or bytes are waiting for the other node. The call was not sent, so that it is safe to repeat.
    Busy {
        /// The address of the other node.
        address: String,
    },
    /// The call's deadline passed. The call was cancelled at the other node.
    Deadline,
    /// The other node answered with an error.
    Fault(Fault),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, reason } => write!(f, "no connection to {address}: {reason}"),
            Self::Lost { address, reason } => {
                write!(
                    f,
                    "the connection to {address} was lost during the call, which may have run: {reason}"
                )
            }
            Self::Busy { address } => write!(f, "too many calls are waiting for {address}"),
            Self::Deadline => f.write_str("the deadline passed"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl RemoteError {
    /// Returns `true` if the call has not run, and another node may be asked: it was not sent, or the other node says so. A
    /// code alone does not: functions and other servers choose theirs.
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => true,
            Self::Lost { .. } | Self::Deadline => false,
            Self::Fault(fault) => {
                matches!(fault.code, code::NO_PROVIDER | code::BUSY | code::CLOSED) && fault.is_unsent()
            }
        }
    }
}

impl std::error::Error for RemoteError {}

impl From<RemoteError> for CallError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Unreachable { address, reason } => Self::Unreachable { address, reason },
            RemoteError::Lost { address, reason } => Self::Lost { address, reason },
            RemoteError::Busy { address } => Self::Busy { address },
            RemoteError::Deadline => Self::Deadline,
            RemoteError::Fault(fault) => {
                let meaning = match fault.code {
                    code::BUSY => Some(Meaning::Full),
                    code::CLOSED => Some(Meaning::Closed),
                    code::DEADLINE => Some(Meaning::Deadline),
                    _ => None,
                };
                Self::Failed(FunctionError::with_meaning(fault, meaning))
            }
        }
    }
}

impl CallError {
    /// Returns the error with which another node, or a function that chose a code, answered.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Failed(error) => error.downcast_ref(),
            _ => None,
        }
    }
}
