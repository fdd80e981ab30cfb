//! The signal to stop, and word of the connections that have ended.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender};
use futures_lite::Stream;

/// A future that is ready once the node is to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(Pin<Box<Receiver<()>>>);

impl Future for Stop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent: the channel's end is the signal.
        self.0.as_mut().poll_next(cx).map(|_| ())
    }
}

/// Gives the signal, and hears of connections that end.
#[derive(Debug)]
pub(super) struct Stopper {
    stop: Sender<()>,
    stopped: Receiver<()>,
    ended: (Sender<()>, Receiver<()>),
}

impl Stopper {
    pub(super) fn new() -> Self {
        let (stop, stopped) = async_channel::bounded(1);
        Self { stop, stopped, ended: async_channel::bounded(1) }
    }

    /// Returns the signal.
    pub(super) fn signal(&self) -> Stop {
        Stop(Box::pin(self.stopped.clone()))
    }

    /// Gives the signal.
    pub(super) fn stop(&self) {
        self.stop.close();
    }

    /// Says that a connection has ended.
    pub(super) fn connection_ended(&self) {
        // One word that waits to be heard is as good as many.
        let _ = self.ended.0.try_send(());
    }

    /// Waits for a connection to end. Word of one that ended before may still be there.
    pub(super) async fn a_connection_ended(&self) {
        let _ = self.ended.1.recv().await;
    }
}
