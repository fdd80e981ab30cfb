//! actix: the state is an actor in the system's arbiter.

use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, MessageResult, SpawnHandle};

use super::version;
use crate::contest::{Contestant, Entrant, Posts, Timers, collect};
use crate::platform;
use crate::server::{Ask, CAPACITY, Echo, Note, Nothing, Run, State, Twice};

#[derive(Clone)]
pub(crate) struct Actix(Addr<State>);

impl Actor for State {
    type Context = Context<Self>;
}

struct Asked<A>(A);

impl<A: Ask> actix::Message for Asked<A> {
    type Result = A::Answer;
}

impl<A: Ask> Handler<Asked<A>> for State {
    type Result = MessageResult<Asked<A>>;

    fn handle(&mut self, Asked(ask): Asked<A>, _: &mut Context<Self>) -> Self::Result {
        MessageResult(ask.run(self))
    }
}

impl Actix {
    async fn ask<A: Ask>(&self, ask: A) -> A::Answer {
        self.0.send(Asked(ask)).await.expect("it is answered")
    }
}

impl Entrant for Actix {
    type Platform = platform::Actix;

    fn name() -> String {
        format!("actix {}", version("actix"))
    }

    async fn start(_: &platform::Actix, state: State) -> Self {
        Self(State::create(|context| {
            context.set_mailbox_capacity(CAPACITY);
            state
        }))
    }
}

impl Contestant for Actix {
    async fn call0(&self, n: u64) {
        self.ask(Nothing(n)).await;
    }

    async fn call1(&self, n: u64) -> u64 {
        self.ask(Echo(n)).await
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.ask(Twice(n)).await
    }

    // Unlike `do_send` it respects the bound, and it was not slower.
    fn go(&self, n: u64) {
        assert!(self.0.try_send(Asked(Note(n))).is_ok(), "there is room");
    }

    async fn bursts(&self, bursts: u32, in_flight: u32) -> u64 {
        collect(bursts, in_flight, |n| {
            let answer = self.0.send(Asked(Echo(n)));
            async { answer.await.expect("it is answered") }
        })
        .await
    }
}

impl Posts for Actix {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.ask(Run(job)).await
    }
}

struct Arm(u32, Duration);

impl actix::Message for Arm {
    type Result = Vec<SpawnHandle>;
}

impl Handler<Arm> for State {
    type Result = MessageResult<Arm>;

    fn handle(&mut self, Arm(timers, after): Arm, context: &mut Context<Self>) -> Self::Result {
        let arm = |_| context.run_later(after, |state, _| state.note(0));
        MessageResult((0..timers).map(arm).collect())
    }
}

struct Cancel(Vec<SpawnHandle>);

impl actix::Message for Cancel {
    type Result = ();
}

impl Handler<Cancel> for State {
    type Result = ();

    fn handle(&mut self, Cancel(armed): Cancel, context: &mut Context<Self>) {
        for timer in armed {
            context.cancel_future(timer);
        }
    }
}

impl Timers for Actix {
    type Armed = Vec<SpawnHandle>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Self::Armed {
        self.0.send(Arm(timers, after)).await.expect("it is answered")
    }

    async fn cancel(&mut self, armed: Self::Armed) {
        self.0.send(Cancel(armed)).await.expect("it is answered");
    }

    async fn fire(&mut self, _: Self::Armed, after: Duration) {
        tokio::time::sleep(after).await;
    }
}
