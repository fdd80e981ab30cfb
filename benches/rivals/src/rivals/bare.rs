//! A hand-written server on smol: a bounded async-channel, and the `oneshot` crate for replies, which is faster than an
//! async-channel of capacity one.

use std::time::Duration;

use async_channel::Sender;
use smol::Timer;
use smol::future::poll_once;

use super::version;
use crate::contest::{Contestant, Entrant, Posts, Timers, collect};
use crate::platform::Smol;
use crate::server::{CAPACITY, Message, Port, State};

#[derive(Clone)]
pub(crate) struct Bare(Sender<Message<Oneshot>>);

pub(crate) struct Oneshot;

impl Port for Oneshot {
    type To<T: Send + 'static> = oneshot::Sender<T>;

    fn send<T: Send + 'static>(to: oneshot::Sender<T>, answer: T) {
        let _ = to.send(answer);
    }
}

impl Bare {
    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message<Oneshot>) -> T {
        let (to, answer) = oneshot::async_channel();
        assert!(self.0.send(message(to)).await.is_ok(), "the server runs");
        answer.await.expect("it is answered")
    }
}

impl Entrant for Bare {
    type Platform = Smol;

    fn name() -> String {
        format!("async-channel {} + oneshot {}", version("async-channel"), version("oneshot"))
    }

    async fn start(on: &Smol, mut state: State) -> Self {
        let (sender, messages) = async_channel::bounded::<Message<Oneshot>>(CAPACITY);
        on.spawn(async move {
            while let Ok(message) = messages.recv().await {
                message.run(&mut state);
            }
        });
        Self(sender)
    }
}

impl Contestant for Bare {
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
        assert!(self.0.send_blocking(Message::Echo(n, to)).is_ok(), "the server runs");
        answer.recv().expect("it is answered")
    }

    fn go(&self, n: u64) {
        assert!(self.0.try_send(Message::Note(n)).is_ok(), "there is room");
    }

    async fn bursts(&self, bursts: u32, in_flight: u32) -> u64 {
        collect(bursts, in_flight, |n| {
            let (to, answer) = oneshot::async_channel();
            assert!(self.0.try_send(Message::Echo(n, to)).is_ok(), "there is room");
            async { answer.await.expect("it is answered") }
        })
        .await
    }
}

impl Posts for Bare {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.ask(|to| Message::job(job, to)).await
    }
}

/// Only smol's clock, as [`Sleeps`](super::Sleeps) is only tokio's.
pub(crate) struct SmolTimers(State);

impl Entrant for SmolTimers {
    type Platform = Smol;

    fn name() -> String {
        format!("smol {} Timer", version("smol"))
    }

    async fn start(_: &Smol, state: State) -> Self {
        Self(state)
    }
}

impl Timers for SmolTimers {
    type Armed = Vec<Timer>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Vec<Timer> {
        let mut armed: Vec<_> = (0..timers).map(|_| Timer::after(after)).collect();
        for timer in &mut armed {
            // A timer is not armed until it is polled.
            assert!(poll_once(timer).await.is_none(), "it is not due");
        }
        armed
    }

    async fn cancel(&mut self, armed: Vec<Timer>) {
        drop(armed);
    }

    async fn fire(&mut self, armed: Vec<Timer>, _: Duration) {
        for timer in armed {
            timer.await;
            self.0.note(0);
        }
    }
}
