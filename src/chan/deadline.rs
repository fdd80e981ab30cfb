//! The deadline of a wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;

/// The deadline of a wait. Creates a timer only when it is polled.
#[derive(Default)]
pub(super) enum Deadline {
    #[default]
    Never,
    At(Instant),
    Running(Timer),
}

impl Deadline {
    pub(super) fn at(at: Instant) -> Self {
        Self::At(at)
    }

    /// Creates a deadline `time` from now, or none if an `Instant` cannot represent that.
    pub(super) fn after(time: Duration) -> Self {
        Instant::now().checked_add(time).map_or(Self::Never, Self::At)
    }

    pub(super) fn is_never(&self) -> bool {
        matches!(self, Self::Never)
    }

    /// Returns `true` if it has passed. Only valid before the first poll.
    pub(super) fn has_passed(&self) -> bool {
        matches!(self, Self::At(at) if *at <= Instant::now())
    }

    /// Waits until it has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::At(at) = *self {
            *self = Self::Running(Timer::at(at));
        }
        match self {
            Self::Running(timer) => Pin::new(timer).poll(cx).map(drop),
            Self::Never | Self::At(_) => Poll::Pending,
        }
    }
}
