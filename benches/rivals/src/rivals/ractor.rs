//! ractor: an actor with one message type. Its mailboxes are unbounded.

use std::time::Duration;

use ractor::concurrency::{JoinHandle, oneshot};
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};
use smol::future::yield_now;

use super::version;
use crate::contest::{Contestant, Entrant, Posts, Timers, collect};
use crate::platform;
use crate::server::{Message, Port, State};

#[derive(Clone)]
pub(crate) struct Ractor(ActorRef<Message<Reply>>);

pub(crate) struct Reply;

impl Port for Reply {
    type To<T: Send + 'static> = RpcReplyPort<T>;

    fn send<T: Send + 'static>(to: RpcReplyPort<T>, answer: T) {
        let _ = to.send(answer);
    }
}

struct Owner;

impl Actor for Owner {
    type Msg = Message<Reply>;
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        message.run(state);
        Ok(())
    }
}

impl Ractor {
    async fn ask<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> Message<Reply> + Send,
    ) -> T {
        let Ok(answer) = self.0.call(message, None).await else { panic!("the server runs") };
        answer.expect("it is answered")
    }
}

impl Entrant for Ractor {
    type Platform = platform::Tokio;

    fn name() -> String {
        format!("ractor {}", version("ractor"))
    }

    async fn start(_: &platform::Tokio, state: State) -> Self {
        let (server, _) = Actor::spawn(None, Owner, state).await.expect("the server starts");
        Self(server)
    }
}

impl Contestant for Ractor {
    async fn call0(&self, n: u64) {
        self.ask(|to| Message::Nothing(n, to)).await;
    }

    async fn call1(&self, n: u64) -> u64 {
        self.ask(|to| Message::Echo(n, to)).await
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.ask(|to| Message::Twice(n, to)).await
    }

    fn go(&self, n: u64) {
        assert!(self.0.cast(Message::Note(n)).is_ok(), "the server runs");
    }

    async fn bursts(&self, bursts: u32, in_flight: u32) -> u64 {
        collect(bursts, in_flight, |n| {
            let (to, answer) = oneshot();
            assert!(self.0.cast(Message::Echo(n, to.into())).is_ok(), "the server runs");
            async { answer.await.expect("it is answered") }
        })
        .await
    }
}

impl Posts for Ractor {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.ask(|to| Message::job(job, to)).await
    }
}

impl Timers for Ractor {
    type Armed = Vec<JoinHandle<Result<(), MessagingErr<Message<Reply>>>>>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Self::Armed {
        let armed = (0..timers).map(|_| self.0.send_after(after, || Message::Note(0))).collect();
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
