//! chanrpc. Only this file depends on its interface.

use std::future::Future;
use std::time::Duration;

use chanrpc::chan::{CallError, Callbacks, Client, Functions, Server, ServerSettings};
use chanrpc::sched::{self, Handle, Scheduler, TimerId};
use smol::Timer;

use crate::contest::{Contestant, Entrant, Posts, Timers};
use crate::platform::Smol;
use crate::rivals::version;
use crate::server::{CAPACITY, State};

/// A server, and the loop of a scheduler that calls it.
#[derive(Clone)]
pub(crate) struct Ours {
    client: Client,
    caller: Handle<()>,
}

fn functions() -> Functions<State> {
    let mut functions = Functions::new();
    functions
        .register0("nothing", State::nothing)
        .and_then(|functions| functions.register1("echo", State::echo))
        .and_then(|functions| functions.register_n("twice", State::twice))
        .and_then(|functions| functions.register0("note", State::note))
        .expect("no id is taken twice");
    functions
}

impl Entrant for Ours {
    type Platform = Smol;

    fn name() -> String {
        format!("chanrpc {}", version("chanrpc"))
    }

    async fn start(on: &Smol, state: State) -> Self {
        let settings = ServerSettings::default().capacity(CAPACITY);
        let server = Server::with_settings(state, functions(), settings);
        let client = server.client();
        on.spawn(server.run());
        let caller = Scheduler::new(on.executor(), Functions::new(), |_| ());
        let handle = caller.handle();
        on.spawn(caller.run());
        Self { client, caller: handle }
    }
}

impl Contestant for Ours {
    async fn call0(&self, n: u64) {
        self.client.call0("nothing", n).await.expect("it is answered");
    }

    async fn call1(&self, n: u64) -> u64 {
        self.client.call1("echo", n).await.expect("it is answered")
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.client.call_n("twice", n).await.expect("it is answered")
    }

    fn wait1(&self, n: u64) -> u64 {
        self.client.call1("echo", n).wait().expect("it is answered")
    }

    fn go(&self, n: u64) {
        self.client.go("note", n).expect("there is room");
    }

    // The callbacks run on the caller's own loop, which is this task.
    fn bursts(&self, bursts: u32, in_flight: u32) -> impl Future<Output = u64> + Send {
        let mut callbacks = Callbacks::new(in_flight as usize);
        let mut sum = 0;
        async move {
            for _ in 0..bursts {
                for n in 0..in_flight {
                    let add = |sum: &mut u64, n: Result<u64, _>| *sum += n.expect("it is answered");
                    callbacks.call1(&self.client, "echo", u64::from(n)).then(add).expect("there is room");
                }
                while callbacks.pending() > 0 {
                    callbacks.next().await.run(&mut sum);
                }
            }
            sum
        }
    }

    // The scheduler's own waterfall: no task waits, because its loop continues from step to step.
    async fn waterfall(steps: &[Self; 3], n: u64) -> u64 {
        let [a, b, c] = steps;
        let (sender, answer) = oneshot::channel();
        a.caller
            .waterfall::<CallError>()
            .step(move |(), ()| Ok(n))
            .call1::<u64>(&a.client, "echo")
            .call1::<u64>(&b.client, "echo")
            .call1::<u64>(&c.client, "echo")
            .finish(|(), n| sender.send(n).expect("it is awaited"))
            .expect("there is room");
        answer.await.expect("it ends").expect("it ends well")
    }
}

/// A scheduler's loop.
pub(crate) struct Loop(Handle<State>);

impl Entrant for Loop {
    type Platform = Smol;

    fn name() -> String {
        format!("chanrpc {} scheduler", version("chanrpc"))
    }

    async fn start(on: &Smol, state: State) -> Self {
        let settings = sched::SchedulerSettings::default().timers(10_000);
        let service = Scheduler::with_settings(on.executor(), Functions::new(), settings, |_| state);
        let handle = service.handle();
        on.spawn(service.run());
        Self(handle)
    }
}

impl Posts for Loop {
    async fn post(&self, job: impl FnOnce(&mut State) -> u64 + Send + 'static) -> u64 {
        self.0.post(job).expect("there is room").await.expect("it runs")
    }
}

impl Timers for Loop {
    type Armed = Vec<TimerId>;

    async fn arm(&mut self, timers: u32, after: Duration) -> Self::Armed {
        let arm = |_| self.0.after(after, |state| state.note(0)).expect("there is room");
        (0..timers).map(arm).collect()
    }

    async fn cancel(&mut self, armed: Self::Armed) {
        for timer in armed {
            assert!(self.0.cancel(timer), "it has not fired");
        }
    }

    async fn fire(&mut self, _: Self::Armed, after: Duration) {
        Timer::after(after).await;
    }
}
