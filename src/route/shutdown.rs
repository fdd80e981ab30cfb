//! Shutdown signalling: a signal to stop, a second one to abort, and notification when a connection or run has ended.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender};
use futures_lite::Stream;

/// A future that completes once the signal is given.
#[derive(Clone, Debug)]
pub(crate) struct ShutdownSignal(Pin<Box<Receiver<()>>>);

impl ShutdownSignal {
    /// Returns `true` once the signal is given.
    pub(crate) fn is_given(&self) -> bool {
        self.0.is_closed()
    }
}

impl Future for ShutdownSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent: closing the channel is the signal.
        self.0.as_mut().poll_next(cx).map(|_| ())
    }
}

/// Gives the signals, and receives notifications of connections or runs that have ended.
#[derive(Debug)]
pub(crate) struct Shutdown {
    signal: (Sender<()>, Receiver<()>),
    force_signal: (Sender<()>, Receiver<()>),
    ended: (Sender<()>, Receiver<()>),
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        let channel = || async_channel::bounded(1);
        Self { signal: channel(), force_signal: channel(), ended: channel() }
    }

    /// Returns a future of the signal to stop gracefully.
    pub(crate) fn signal(&self) -> ShutdownSignal {
        ShutdownSignal(Box::pin(self.signal.1.clone()))
    }

    /// Gives the signal to stop gracefully.
    pub(crate) fn begin(&self) {
        self.signal.0.close();
    }

    /// Returns a future of the signal to abort whatever has not finished.
    pub(crate) fn force_signal(&self) -> ShutdownSignal {
        ShutdownSignal(Box::pin(self.force_signal.1.clone()))
    }

    /// Gives the signal to abort whatever has not finished.
    pub(crate) fn force(&self) {
        self.force_signal.0.close();
    }

    /// Notifies [`wait_ended`](Self::wait_ended) that a connection or run has ended.
    pub(crate) fn notify_ended(&self) {
        // A pending notification covers this one.
        let _ = self.ended.0.try_send(());
    }

    /// Waits until a connection or run ends. May return early because of an earlier end, so callers check in a loop.
    pub(crate) async fn wait_ended(&self) {
        let _ = self.ended.1.recv().await;
    }
}
