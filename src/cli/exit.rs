//! Exit codes.

use std::process::ExitCode;

use crate::message::code;
use crate::remote::RemoteError;

/// How the program ends. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The call was answered, or the node stopped as requested.
    Success = 0,
    /// The function answered with an error.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No connection, no such function, no provider, or the connection broke during the call.
    Unavailable = 3,
    /// The deadline passed.
    Deadline = 4,
    /// Not allowed.
    Denied = 5,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&RemoteError> for Exit {
    fn from(error: &RemoteError) -> Self {
        match error {
            RemoteError::Unreachable { .. } | RemoteError::Lost { .. } => Self::Unavailable,
            RemoteError::Busy { .. } => Self::Failed,
            RemoteError::Deadline => Self::Deadline,
            RemoteError::Fault(fault) => match fault.code {
                code::UNKNOWN_FUNCTION | code::NO_PROVIDER | code::LOST | code::CLOSED => Self::Unavailable,
                code::DENIED => Self::Denied,
                code::DEADLINE => Self::Deadline,
                _ => Self::Failed,
            },
        }
    }
}
