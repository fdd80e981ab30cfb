//! kameo: the state is an actor with a bounded mailbox.

use std::convert::Infallible;
use std::time::Duration;

use kameo::actor::{Actor, ActorRef, Spawn};
use kameo::error::SendError;
use kameo::message::{Context, Message};
use kameo::{Reply, mailbox};
use smol::future::yield_now;
use tokio::task::JoinHandle;

use super::version;
use crate::contest::{Contestant, Entrant, Posts, Timers, collect};
use crate::platform;
use crate::server::{Ask, CAPACITY, Echo, Note, Nothing, Run, State, Twice};

#[derive(Clone)]
pub(crate) struct Kameo(ActorRef<State>);

impl Actor for State {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(state: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(state)
    }
}

impl<A: Ask<Answer: Reply>> Message<A> for State {
    type Reply = A::Answer;

    async fn handle(&mut self, ask: A, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        ask.run(self)
    }
}

impl Kameo {
    async fn ask<A: Ask<Answer: Reply<Ok = A::Answer>>>(&self, ask: A) -> A::Answer {
        let Ok(answer) = self.0.ask(ask).await else { panic!("it is answered") };
        answer
    }
}

impl Entrant for Kameo {
    type Platform = platform::Tokio;

    fn name() -> String {
        format!("kameo {}", version("kameo"))
    }

    async fn start(_: &platform::Tokio, state: State) -> Self {
        Self(State::spawn_with_mailbox(state, mailbox::bounded(CAPACITY)))
    }
}

impl Contestant for Kameo {
    async fn call0(&self, n: u64) {
        self.ask(Nothing(n)).await;
    }

    async fn call1(&self, n: u64) -> u64 {
        self.ask(Echo(n)).await
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.ask(Twice(n)).await
    }

    fn wait1(&self, n: u64) -> u64 {
        let Ok(answer) = self.0.ask(Echo(n)).blocking_send() else { panic!("it is answered") };
        answer
    }

    fn go(&self, n: u64) {
        assert!(self.0.tell(Note(n)).try_send().is_ok(), "there is room");
    }

    async fn bursts(&self, bursts: u32, in_flight: u32) -> u64 {
        collect(bursts, in_flight, |n| {
            let Ok(answer) = self.0.ask(Echo(n)).try_enqueue() else { panic!("there is room") };
            async { answer.await.unwrap_or_else(|_| panic!("it is answered")) }
        })
        .await
    }
}

impl Posts for Kameo {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.ask(Run(job)).await
    }
}

impl Timers for Kameo {
    type Armed = Vec<JoinHandle<Result<(), SendError<Note>>>>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Self::Armed {
        let armed = (0..timers).map(|_| self.0.tell(Note(0)).send_after(after)).collect();
        // Each timer is a task, which arms it.
        yield_now().await;
        armed
    }

    async fn cancel(&mut self, armed: Self::Armed) {
        armed.into_iter().for_each(|timer| timer.abort());
        yield_now().await;
    }

    async fn fire(&mut self, _: Self::Armed, after: Duration) {
        tokio::time::sleep(after).await;
    }
}
