//! The usual hand-written server: a task that owns the state behind a bounded mpsc channel, with a oneshot channel for
//! each reply.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use smol::future::poll_once;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use super::version;
use crate::contest::{Contestant, Entrant, Posts, Timers, collect};
use crate::platform;
use crate::server::{CAPACITY, Message, Port, State};

#[derive(Clone)]
pub(crate) struct Tokio(mpsc::Sender<Message<Oneshot>>);

pub(crate) struct Oneshot;

impl Port for Oneshot {
    type To<T: Send + 'static> = oneshot::Sender<T>;

    fn send<T: Send + 'static>(to: oneshot::Sender<T>, answer: T) {
        let _ = to.send(answer);
    }
}

impl Tokio {
    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message<Oneshot>) -> T {
        let (to, answer) = oneshot::channel();
        assert!(self.0.send(message(to)).await.is_ok(), "the server runs");
        answer.await.expect("it is answered")
    }
}

impl Entrant for Tokio {
    type Platform = platform::Tokio;

    fn name() -> String {
        format!("tokio {} mpsc + oneshot", version("tokio"))
    }

    async fn start(_: &platform::Tokio, mut state: State) -> Self {
        let (sender, mut messages) = mpsc::channel::<Message<Oneshot>>(CAPACITY);
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                message.run(&mut state);
            }
        });
        Self(sender)
    }
}

impl Contestant for Tokio {
    async fn call0(&self, n: u64) {
        self.ask(|to| Message::Nothing(n, to)).await;
    }

    async fn call1(&self, n: u64) -> u64 {
        self.ask(|to| Message::Echo(n, to)).await
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.ask(|to| Message::Twice(n, to)).await
    }

    fn wait1(&self, n: u64) -> u64 {
        let (to, answer) = oneshot::channel();
        assert!(self.0.blocking_send(Message::Echo(n, to)).is_ok(), "the server runs");
        answer.blocking_recv().expect("it is answered")
    }

    fn go(&self, n: u64) {
        assert!(self.0.try_send(Message::Note(n)).is_ok(), "there is room");
    }

    async fn bursts(&self, bursts: u32, in_flight: u32) -> u64 {
        collect(bursts, in_flight, |n| {
            let (to, answer) = oneshot::channel();
            assert!(self.0.try_send(Message::Echo(n, to)).is_ok(), "there is room");
            async { answer.await.expect("it is answered") }
        })
        .await
    }
}

impl Posts for Tokio {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.ask(|to| Message::job(job, to)).await
    }
}

/// A hand-written loop around tokio's `DelayQueue`.
pub(crate) struct Delays {
    queue: DelayQueue<()>,
    state: State,
}

impl Entrant for Delays {
    type Platform = platform::Tokio;

    fn name() -> String {
        format!("tokio-util {} DelayQueue", version("tokio-util"))
    }

    async fn start(_: &platform::Tokio, state: State) -> Self {
        Self { queue: DelayQueue::new(), state }
    }
}

impl Timers for Delays {
    type Armed = Vec<Key>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Vec<Key> {
        let armed = (0..timers).map(|_| self.queue.insert((), after)).collect();
        // The queue's own sleep is not armed until it is polled.
        assert!(poll_once(self.queue.next()).await.is_none(), "none is due");
        armed
    }

    async fn cancel(&mut self, armed: Vec<Key>) {
        for timer in armed {
            self.queue.remove(&timer);
        }
    }

    async fn fire(&mut self, _: Vec<Key>, _: Duration) {
        while self.queue.next().await.is_some() {
            self.state.note(0);
        }
    }
}

/// Only tokio's clock: the cost of sleeps awaited in the order in which they end.
pub(crate) struct Sleeps(State);

impl Entrant for Sleeps {
    type Platform = platform::Tokio;

    fn name() -> String {
        format!("tokio {} sleep", version("tokio"))
    }

    async fn start(_: &platform::Tokio, state: State) -> Self {
        Self(state)
    }
}

impl Timers for Sleeps {
    type Armed = Vec<Pin<Box<Sleep>>>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Self::Armed {
        let mut armed: Vec<_> = (0..timers).map(|_| Box::pin(sleep(after))).collect();
        for timer in &mut armed {
            // A sleep is not armed until it is polled.
            assert!(poll_once(timer).await.is_none(), "it is not due");
        }
        armed
    }

    async fn cancel(&mut self, armed: Self::Armed) {
        drop(armed);
    }

    async fn fire(&mut self, armed: Self::Armed, _: Duration) {
        for timer in armed {
            timer.await;
            self.0.note(0);
        }
    }
}
