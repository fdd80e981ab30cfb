//! What a call over TCP costs: calls a second with 1 and with 64 in flight, beside a bare smol echo of the same
//! bytes in the same run. Server and client share this process; each has a thread of its own.
//!
//! `cargo bench --bench tcp`; `CHANRPC_BENCH_QUICK=1` only shows that it runs.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::chan::Settings;
use chanrpc::config::Limits;
use chanrpc::node::Node;
use chanrpc::route::{Native, Registry};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Executor, net::TcpListener};

const REQUEST: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":123456,\"method\":\"add\",\"params\":[12,30]}\n";
/// Pairs of echo and node, of which the median is shown.
const ROUNDS: usize = 5;

fn main() {
    let quick = std::env::var_os("CHANRPC_BENCH_QUICK").is_some();
    let time = if quick { Duration::from_millis(20) } else { Duration::from_secs(1) };
    let servers = [("bare smol echo", start(echo)), ("chanrpc, native function", start(node))];
    println!("{:<28} {:>9} {:>12} {:>10} {:>7}", "server", "in flight", "calls/s", "µs a call", "ratio");
    for in_flight in [1, 64] {
        let mut rounds: Vec<[f64; 2]> =
            (0..ROUNDS).map(|_| servers.map(|(_, address)| rate(address, in_flight, time))).collect();
        let ratio = median(rounds.iter().map(|[echo, node]| node / echo).collect());
        let rates = [0, 1].map(|at| median(rounds.iter_mut().map(|round| round[at]).collect()));
        for (at, (name, _)) in servers.iter().enumerate() {
            let ratio = if at == 0 { 1.0 } else { ratio };
            println!("{name:<28} {in_flight:>9} {:>12.0} {:>10.2} {ratio:>7.2}", rates[at], 1e6 / rates[at]);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a server on a thread of its own, for as long as the program runs.
fn start<F: Future<Output = ()>>(
    serve: impl FnOnce(Arc<Executor<'static>>, TcpListener) -> F + Send + 'static,
) -> SocketAddr {
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        let executor = Arc::new(Executor::new());
        smol::block_on(executor.run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            serve(executor.clone(), listener).await;
        }));
    });
    address.recv().unwrap()
}

async fn echo(executor: Arc<Executor<'static>>, listener: TcpListener) {
    executor
        .spawn({
            let executor = executor.clone();
            async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    let echo = async move {
                        let mut bytes = vec![0; 16 * 1024];
                        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                            if stream.write_all(&bytes[..count]).await.is_err() {
                                break;
                            }
                        }
                    };
                    executor.spawn(echo).detach();
                }
            }
        })
        .await;
}

async fn node(executor: Arc<Executor<'static>>, listener: TcpListener) {
    let mut functions = Native::new();
    functions.register1("add", |_: &mut (), (a, b): (i64, i64)| a + b).unwrap();
    let mut registry = Registry::builder("bench");
    let server = functions.into_server((), Settings::default(), &mut registry).unwrap();
    let _owner = executor.spawn(server.run());
    let node = Node::new(executor.clone(), registry.build(), Limits::default());
    node.serve(vec![listener], std::future::pending()).await;
}

/// Calls a second on one connection, with so many always in flight.
fn rate(address: SocketAddr, in_flight: usize, time: Duration) -> f64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let requests = REQUEST.repeat(in_flight);
    let mut answers = vec![0; 64 * 1024];
    let began = Instant::now();
    let mut answered = 0;
    stream.write_all(&requests).unwrap();
    while began.elapsed() < time {
        let count = stream.read(&mut answers).unwrap();
        assert_ne!(count, 0, "the server has closed the connection");
        let lines = answers[..count].iter().filter(|&&byte| byte == b'\n').count();
        answered += lines;
        stream.write_all(&requests[..lines * REQUEST.len()]).unwrap();
    }
    answered as f64 / began.elapsed().as_secs_f64()
}
