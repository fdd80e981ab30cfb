//! Measures the servers in turn at every load.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use chanrpc::internals::load::Load;

use crate::child::{Pin, Server};
use crate::loads::{self, Point};
use crate::measured::Measured;
use crate::options::Options;
use crate::servers::{Drive, Entrant, Start};

/// The result of one server at one load in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Calls per second.
    pub(crate) rate: f64,
    /// In microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Processor time of the server per call, in microseconds.
    pub(crate) cpu: f64,
    /// Replies on the slowest connection divided by those on the median one.
    pub(crate) fairness: f64,
}

/// The memory of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// In bytes.
    pub(crate) idle: f64,
    pub(crate) connection: f64,
}

/// All samples of one server: per load, one per round; none if it could not be pinned.
pub(crate) struct Results {
    pub(crate) memory: Memory,
    pub(crate) loads: [Vec<Sample>; loads::ALL.len()],
}

/// Measures all servers in turn, so that the noise of a shared machine affects all servers of a round about equally.
pub(crate) fn contest(entrants: &[Entrant], options: &Options) -> Vec<Results> {
    let mut results: Vec<_> = entrants
        .iter()
        .map(|entrant| Results {
            memory: memory(entrant, &start(entrant, options.binary.as_deref()), options),
            loads: Default::default(),
        })
        .collect();
    for round in 1..=options.rounds {
        for (entrant, results) in entrants.iter().zip(&mut results) {
            eprintln!("round {round} of {}: {}", options.rounds, entrant.name);
            let server = start(entrant, options.binary.as_deref());
            for (point, samples) in loads::ALL.iter().zip(&mut results.loads) {
                let pin = if point.pinned { Pin::to_one_core(&server) } else { None };
                if point.pinned && pin.is_none() {
                    continue;
                }
                samples.push(sample(entrant, &server, *point, options));
            }
        }
    }
    results
}

fn start(entrant: &Entrant, binary: Option<&Path>) -> Server {
    let command = match (&entrant.start, binary) {
        (Start::Binary, Some(binary)) => {
            let mut command = Command::new(binary);
            command.args(["serve", "--listen", "127.0.0.1:0", "--log", "off"]);
            command
        }
        _ => {
            let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
            command.args(["--serve", entrant.name]);
            command
        }
    };
    Server::start(command)
}

/// Generates the load.
fn drive(entrant: &Entrant, server: &Server, how: How) -> Measured {
    let How { connections, in_flight, rate, duration } = how;
    match &entrant.drive {
        Drive::Load { dialect, function } => raw(
            &Load {
                dialect: *dialect,
                function: (*function).to_owned(),
                params: Some(serde_json::value::to_raw_value(&[12, 30]).expect("numbers serialize")),
                connections,
                in_flight,
                rate,
                duration,
                ..Load::default()
            },
            &server.address,
        ),
        #[cfg(feature = "rivals")]
        Drive::Own(client) => client(&server.address, connections, in_flight, duration),
    }
}

/// The load to generate; rivals' own clients ignore the rate.
#[derive(Clone, Copy)]
struct How {
    connections: usize,
    in_flight: usize,
    rate: Option<f64>,
    duration: Duration,
}

fn sample(entrant: &Entrant, server: &Server, point: Point, options: &Options) -> Sample {
    let Point { connections, in_flight, .. } = point;
    // In a new thread, which inherits the pinning of this one.
    let run = |duration| {
        let how = How { connections, in_flight, rate: None, duration };
        thread::scope(|scope| scope.spawn(move || drive(entrant, server, how)).join().expect("the load runs"))
    };
    run(options.warm_up);
    let before = server.cpu();
    let Measured { calls, elapsed, p50, p99 } = run(options.duration);
    let cpu = server.cpu().saturating_sub(before);
    let total: u64 = calls.iter().sum();
    let mut sorted = calls;
    sorted.sort_unstable();
    Sample {
        rate: total as f64 / elapsed.as_secs_f64(),
        p50: p50.as_nanos() as f64 / 1e3,
        p99: p99.as_nanos() as f64 / 1e3,
        cpu: cpu.as_secs_f64() * 1e6 / total as f64,
        fairness: sorted[0] as f64 / sorted[sorted.len() / 2] as f64,
    }
}

/// Generates the load that is the same for all servers.
fn raw(load: &Load, address: &str) -> Measured {
    let (_running, stop) = async_channel::bounded(1);
    let report = load.run(address, &stop).unwrap_or_else(|error| panic!("{load:?}: {error}"));
    let first = report.first_error().map(String::from_utf8_lossy).or(report.first_loss().map(Into::into));
    assert!(report.errors() == 0 && report.lost_connections() == 0, "{load:?}: {first:?}");
    let quantile = |share| report.quantile(share).expect("calls were answered");
    Measured {
        calls: report.calls_by_connection().to_vec(),
        elapsed: report.elapsed(),
        p50: quantile(0.5),
        p99: quantile(0.99),
    }
}

/// Measures the idle memory, and the memory added by each connection that has made a call and waits for the next.
/// Connections of a rival's own client do not wait.
fn memory(entrant: &Entrant, server: &Server, options: &Options) -> Memory {
    let idle = server.memory();
    // The first connection also faults in code that was not in memory yet.
    let once = How { connections: 1, in_flight: 1, rate: None, duration: options.warm_up };
    drive(entrant, server, once);
    let one = server.memory();
    // Each connection makes one call during the wait.
    let (connections, wait) = (options.idle, options.wait);
    let rate = Some(connections as f64 / wait.as_secs_f64());
    let all = How { connections, in_flight: 1, rate, duration: wait * 2 };
    let with = thread::scope(|scope| {
        scope.spawn(move || drive(entrant, server, all));
        thread::sleep(wait + wait / 2);
        server.memory()
    });
    Memory { idle, connection: (with - one).max(0.0) / connections as f64 }
}
