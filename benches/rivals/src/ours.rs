//! chanrpc. All that knows its interface is here.
//!
//! `Posts` and `Timers` come with its scheduler, and then a `waterfall` of its own; their workloads say so.

use std::future::Future;

use chanrpc::chan::{Callbacks, Client, Functions, Server, Settings};

use crate::contest::{Contestant, Entrant};
use crate::platform::Smol;
use crate::rivals::version;
use crate::server::{CAPACITY, State};

#[derive(Clone)]
pub(crate) struct Ours(Client);

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
        let settings = Settings { capacity: CAPACITY, ..Settings::default() };
        let server = Server::with_settings(state, functions(), settings);
        let client = server.client();
        on.spawn(server.run());
        Self(client)
    }
}

impl Contestant for Ours {
    async fn call0(&self, n: u64) {
        self.0.call0("nothing", n).await.expect("it is answered");
    }

    async fn call1(&self, n: u64) -> u64 {
        self.0.call1("echo", n).await.expect("it is answered")
    }

    async fn call_n(&self, n: u64) -> (u64, u64) {
        self.0.call_n("twice", n).await.expect("it is answered")
    }

    fn wait1(&self, n: u64) -> u64 {
        self.0.call1("echo", n).wait().expect("it is answered")
    }

    fn go(&self, n: u64) {
        self.0.go("note", n).expect("there is room");
    }

    // Callbacks on the caller's own loop, which is this task.
    fn bursts(&self, bursts: u32, in_flight: u32) -> impl Future<Output = u64> + Send {
        let mut callbacks = Callbacks::new(in_flight as usize);
        let mut sum = 0;
        async move {
            for _ in 0..bursts {
                for n in 0..in_flight {
                    let add = |sum: &mut u64, n: Result<u64, _>| *sum += n.expect("it is answered");
                    callbacks.call1(&self.0, "echo", u64::from(n), add).expect("there is room");
                }
                while callbacks.pending() > 0 {
                    callbacks.next().await.run(&mut sum);
                }
            }
            sum
        }
    }
}
