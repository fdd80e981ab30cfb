//! What the in-process modes cost: nanoseconds a call, beside a bare async-channel in the same run.
//!
//! `cargo bench --bench chan`; `CHANRPC_BENCH_QUICK=1` only shows that it runs.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::hint::black_box;
use std::time::{Duration, Instant};

use chanrpc::chan::{Callbacks, Client, Functions, Server, Settings};
use smol::LocalExecutor;

/// Rounds of each measurement, of which the median is shown.
const ROUNDS: usize = 7;

fn main() {
    let quick = std::env::var_os("CHANRPC_BENCH_QUICK").is_some();
    let calls: u32 = if quick { 1_000 } else { 200_000 };
    println!("{:<44} {:>9} {:>7}", "one call, server and caller on one thread", "ns", "ratio");
    let bare = bare(calls);
    show("bare async-channel(64) + reply channel", bare, bare);
    show("call0", server(calls, |client, n| async move { client.call0("nothing", n).await.unwrap() }), bare);
    show(
        "call1",
        server(calls, |client, n| async move {
            black_box(client.call1::<_, u64>("echo", n).await.unwrap());
        }),
        bare,
    );
    show(
        "call_n",
        server(calls, |client, n| async move {
            black_box(client.call_n::<_, (u64, u64)>("twice", n).await.unwrap());
        }),
        bare,
    );
    show("go", go(calls), bare);
    for in_flight in [1, 100] {
        show(&format!("async with callback, {in_flight} in flight"), callbacks(calls, in_flight), bare);
    }
    println!("\n{:<44} {:>9} {:>7}", "one call, server on a thread of its own", "ns", "ratio");
    let (bare, ours) = (bare_across(calls / 4), across(calls / 4));
    show("bare async-channel(64) + reply channel", bare, bare);
    show("call1(..).wait()", ours, bare);
}

fn show(name: &str, ns: f64, bare: f64) {
    println!("{name:<44} {ns:>9.0} {:>7.2}", ns / bare);
}

/// The median time of one of `calls` calls that `round` makes.
fn median(calls: u32, mut round: impl FnMut() -> Duration) -> f64 {
    round();
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort();
    rounds[ROUNDS / 2].as_nanos() as f64 / f64::from(calls)
}

fn new_server() -> Server<u64> {
    let mut functions = Functions::new();
    functions
        .register0("nothing", |state: &mut u64, n: u64| *state = n)
        .unwrap()
        .register1("echo", |_, n: u64| n)
        .unwrap()
        .register_n("twice", |_, n: u64| (n, n))
        .unwrap();
    Server::with_settings(0, functions, Settings { capacity: 128, ..Settings::default() })
}

fn server<F: Future<Output = ()>>(calls: u32, call: impl Fn(Client, u64) -> F) -> f64 {
    median(calls, || {
        let executor = LocalExecutor::new();
        let server = new_server();
        let client = server.client();
        let owner = executor.spawn(server.run());
        let began = Instant::now();
        smol::block_on(executor.run(async {
            for n in 0..calls {
                call(client.clone(), u64::from(n)).await;
            }
        }));
        let time = began.elapsed();
        drop(client);
        smol::block_on(executor.run(owner));
        time
    })
}

fn go(calls: u32) -> f64 {
    median(calls, || {
        let mut server = new_server();
        let client = server.client();
        let began = Instant::now();
        for n in 0..calls {
            client.go("nothing", u64::from(n)).unwrap();
            if n % 64 == 63 {
                while smol::future::block_on(server.exec()) {}
            }
        }
        began.elapsed()
    })
}

fn callbacks(calls: u32, in_flight: u32) -> f64 {
    median(calls, || {
        let mut server = new_server();
        let client = server.client();
        let mut callbacks = Callbacks::new(in_flight as usize);
        let mut sum = 0_u64;
        let began = Instant::now();
        for _ in 0..calls / in_flight {
            for n in 0..in_flight {
                let add = |sum: &mut u64, n: Result<u64, _>| *sum += n.unwrap_or_default();
                callbacks.call1(&client, "echo", u64::from(n), add).unwrap();
            }
            while smol::future::block_on(server.exec()) {}
            while let Some(callback) = callbacks.try_next() {
                callback.run(&mut sum);
            }
        }
        black_box(sum);
        began.elapsed()
    })
}

fn across(calls: u32) -> f64 {
    median(calls, || {
        let server = new_server();
        let client = server.client();
        let owner = std::thread::spawn(|| smol::block_on(server.run()));
        let began = Instant::now();
        for n in 0..calls {
            black_box(client.call1::<_, u64>("echo", u64::from(n)).wait().unwrap());
        }
        let time = began.elapsed();
        drop(client);
        owner.join().unwrap();
        time
    })
}

type Asked = (u64, async_channel::Sender<u64>);

async fn answer(questions: async_channel::Receiver<Asked>) {
    while let Ok((n, reply)) = questions.recv().await {
        let _ = reply.try_send(n);
    }
}

async fn ask(questions: &async_channel::Sender<Asked>, n: u64) -> u64 {
    let (reply, replied) = async_channel::bounded(1);
    questions.send((n, reply)).await.unwrap();
    replied.recv().await.unwrap()
}

fn bare(calls: u32) -> f64 {
    median(calls, || {
        let executor = LocalExecutor::new();
        let (questions, asked) = async_channel::bounded(64);
        let owner = executor.spawn(answer(asked));
        let began = Instant::now();
        smol::block_on(executor.run(async {
            for n in 0..calls {
                black_box(ask(&questions, u64::from(n)).await);
            }
        }));
        let time = began.elapsed();
        drop(questions);
        smol::block_on(executor.run(owner));
        time
    })
}

fn bare_across(calls: u32) -> f64 {
    median(calls, || {
        let (questions, asked) = async_channel::bounded(64);
        let owner = std::thread::spawn(|| smol::block_on(answer(asked)));
        let began = Instant::now();
        for n in 0..calls {
            black_box(smol::future::block_on(ask(&questions, u64::from(n))));
        }
        let time = began.elapsed();
        drop(questions);
        owner.join().unwrap();
        time
    })
}
