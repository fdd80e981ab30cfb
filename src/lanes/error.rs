//! The errors of calls in a lane.

use std::fmt;
use std::sync::Arc;

use crate::chan::Panic;

/// The reason why a call has no result. `E` is its client's error.
#[derive(Clone, Debug)]
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

/// A call in go mode that was not queued.
pub struct LaneGoError<J, E> {
    /// The reason: [`LaneError::Full`] or [`LaneError::Closed`].
    pub error: LaneError<E>,
    /// The job, for another attempt.
    pub job: J,
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
