//! A timer for a deadline that changes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use smol::Timer;

/// The timer for the next deadline of a connection. Set anew only when that changes.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<(Instant, Timer)>);

impl Alarm {
    /// Waits for `deadline`, if there is one.
    pub(crate) fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        match deadline {
            None => self.0 = None,
            Some(deadline) if self.0.as_ref().is_some_and(|(at, _)| *at == deadline) => {}
            Some(deadline) => self.0 = Some((deadline, Timer::at(deadline))),
        }
        let Some((_, timer)) = &mut self.0 else { return Poll::Pending };
        std::task::ready!(Pin::new(timer).poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}
