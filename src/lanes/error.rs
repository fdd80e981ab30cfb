//! The errors of calls in a lane.

use std::fmt;
use std::sync::Arc;

use crate::chan::Panic;

/// The reason why a call has no result. `E` is its client's error.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LaneError<E> {
    /// The lane's queue is full, and the call does not wait for room.
    Full {
        /// The maximum number of queued calls: [`LaneSettings::queue`](super::LaneSettings::queue).
        limit: usize,
    },
    /// The lanes were closed or dropped before the job began.
    Closed,
    /// The deadline of the call passed: in the queue, while the lane dialled, or in the job, which was then dropped.
    Deadline,
    /// The deadline of the call passed, or would pass before the next attempt to dial, and the latest attempt failed
    /// with this error. The job never began.
    Unreachable(Arc<E>),
    /// The job, or the attempt to dial, panicked. The lane continues.
    Panicked(Panic),
    /// The wait would never end: the lanes and servers of the chain wait for one another in a circle.
    WouldDeadlock {
        /// Their names, from the one that would wait. The last name is the first again.
        chain: Vec<Arc<str>>,
    },
    /// The job ended with this error.
    Failed(E),
}

impl<E> LaneError<E> {
    /// Returns `true` if the lane's queue is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Returns `true` if the lanes were closed or dropped before the job began.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Returns `true` if the deadline of the call passed.
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline | Self::Unreachable(_))
    }
}

impl<E: fmt::Display> fmt::Display for LaneError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { limit } => {
                write!(f, "{limit} calls wait in the lane already (LaneSettings::queue)")
            }
            Self::Closed => f.write_str("the lanes are closed"),
            Self::Deadline => f.write_str("the deadline passed (LaneSettings::timeout, or the call's own)"),
            Self::Unreachable(error) => write!(f, "the lane has no client: {error}"),
            Self::Panicked(panic) => write!(f, "the job panicked: {}", panic.message()),
            Self::WouldDeadlock { chain } => write!(f, "waiting would deadlock: {}", chain.join(" -> ")),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LaneError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable(error) => Some(&**error),
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// A job in go mode that was not queued. Holds the job, and the reason: [`LaneError::Full`] or [`LaneError::Closed`].
#[derive(Clone)]
pub struct LaneGoError<J, E> {
    pub(super) error: LaneError<E>,
    pub(super) job: J,
}

impl<J, E> LaneGoError<J, E> {
    /// Returns the reason.
    pub fn error(&self) -> &LaneError<E> {
        &self.error
    }

    /// Returns the reason, without the job.
    pub fn into_error(self) -> LaneError<E> {
        self.error
    }

    /// Returns the job, for another attempt.
    pub fn into_inner(self) -> J {
        self.job
    }

    /// Returns `true` if the lane's queue is full.
    pub fn is_full(&self) -> bool {
        self.error.is_full()
    }

    /// Returns `true` if the lanes are closed.
    pub fn is_closed(&self) -> bool {
        self.error.is_closed()
    }
}

impl<J, E: fmt::Debug> fmt::Debug for LaneGoError<J, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneGoError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<J, E: fmt::Display> fmt::Display for LaneGoError<J, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<J, E: std::error::Error + 'static> std::error::Error for LaneGoError<J, E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
