//! The signal to stop, and word of what has ended since.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender};
use futures_lite::Stream;

/// A future that is ready once the signal to stop is given.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Pin<Box<Receiver<()>>>);

impl Future for Stop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing is ever sent: the channel's end is the signal.
        self.0.as_mut().poll_next(cx).map(|_| ())
    }
}

/// Gives the signal, and hears of connections or runs that end.
#[derive(Debug)]
pub(crate) struct Stopper {
    stop: Sender<()>,
    stopped: Receiver<()>,
    /// The last call: what is not done by now is given up.
    last: Sender<()>,
    lasted: Receiver<()>,
    ended: (Sender<()>, Receiver<()>),
}

impl Stopper {
    pub(crate) fn new() -> Self {
        let (stop, stopped) = async_channel::bounded(1);
        let (last, lasted) = async_channel::bounded(1);
        Self { stop, stopped, last, lasted, ended: async_channel::bounded(1) }
    }

    /// Returns the signal.
    pub(crate) fn signal(&self) -> Stop {
        Stop(Box::pin(self.stopped.clone()))
    }

    /// Gives the signal.
    pub(crate) fn stop(&self) {
        self.stop.close();
    }

    /// Returns the last call: ready when what is not done is to be given up.
    pub(crate) fn last_call(&self) -> Stop {
        Stop(Box::pin(self.lasted.clone()))
    }

    /// Has what is not done given up.
    pub(crate) fn give_up(&self) {
        self.last.close();
    }

    /// Says that one has ended.
    pub(crate) fn one_ended(&self) {
        // One word that waits to be heard is as good as many.
        let _ = self.ended.0.try_send(());
    }

    /// Waits for one to end. Word of one that ended before may still be there.
    pub(crate) async fn next_end(&self) {
        let _ = self.ended.1.recv().await;
    }
}
