//! xtra: the state is an actor with a bounded mailbox.

use futures_util::FutureExt;
use xtra::{Actor, Address, Context, Handler, Mailbox, Receiver};

use super::version;
use crate::contest::{Contestant, Entrant, Posts, collect};
use crate::platform;
use crate::server::{Ask, CAPACITY, Echo, Note, Nothing, Run, State, Twice};

#[derive(Clone)]
pub(crate) struct Xtra(Address<State>);

impl Actor for State {
    type Stop = ();

    async fn stopped(self) {}
}

impl<A: Ask> Handler<A> for State {
    type Return = A::Answer;

    async fn handle(&mut self, ask: A, _: &mut Context<Self>) -> A::Answer {
        ask.run(self)
    }
}

impl Xtra {
    async fn ask<A: Ask>(&self, ask: A) -> A::Answer {
        self.0.send(ask).await.expect("it is answered")
    }

    /// Sends a message without awaiting, because the mailbox has room.
    fn begin<A: Ask>(&self, ask: A) -> Receiver<A::Answer> {
        let sent = self.0.send(ask).detach().now_or_never();
        sent.expect("there is room").expect("the server runs")
    }
}

impl Entrant for Xtra {
    type Platform = platform::Tokio;

    fn name() -> String {
        format!("xtra {}", version("xtra"))
    }

    async fn start(_: &platform::Tokio, state: State) -> Self {
        let (address, mailbox) = Mailbox::bounded(CAPACITY);
        tokio::spawn(xtra::run(mailbox, state));
        Self(address)
    }
}

impl Contestant for Xtra {
    async fn call0(&self, n: u64) {
        self.ask(Nothing(n)).await;
    }

    async fn call1(&self, n: u64) -> u64 {
        self.ask(Echo(n)).await
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.ask(Twice(n)).await
    }

    fn go(&self, n: u64) {
        drop(self.begin(Note(n)));
    }

    async fn bursts(&self, bursts: u32, in_flight: u32) -> u64 {
        collect(bursts, in_flight, |n| {
            let answer = self.begin(Echo(n));
            async { answer.await.expect("it is answered") }
        })
        .await
    }
}

impl Posts for Xtra {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.ask(Run(job)).await
    }
}
