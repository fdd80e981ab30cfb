//! Until when something is waited for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;

/// Until when something is waited for. A timer is made only when there is something to wait for.
#[derive(Default)]
pub(super) enum Deadline {
    /// For ever.
    #[default]
    Never,
    At(Instant),
    Running(Timer),
}

impl Deadline {
    pub(super) fn at(at: Instant) -> Self {
        Self::At(at)
    }

    /// After this time from now; never if that is beyond all time.
    pub(super) fn after(time: Duration) -> Self {
        Instant::now().checked_add(time).map_or(Self::Never, Self::At)
    }

    pub(super) fn is_never(&self) -> bool {
        matches!(self, Self::Never)
    }

    /// Tells whether it has passed, if nobody has polled it yet.
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
