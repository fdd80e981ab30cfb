//! Has servers take turns at every load.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use chanrpc::load::Load;

use crate::child::{Pin, Server};
use crate::loads::{self, Point};
use crate::options::Options;
use crate::servers::{Drive, Entrant, Start};

/// What one server did at one load, in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Calls a second.
    pub(crate) rate: f64,
    /// In microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Processor time of the server for one call, in microseconds.
    pub(crate) cpu: f64,
    /// Answers on the slowest connection against those on the median one.
    pub(crate) fairness: f64,
}

/// What a client of a rival's own measures.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) calls: Vec<u64>,
    pub(crate) elapsed: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// What a server takes in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// In bytes.
    pub(crate) idle: f64,
    pub(crate) connection: f64,
}

/// All samples of one server: of each load, one a round; none where it could not be pinned.
pub(crate) struct Results {
    pub(crate) memory: Memory,
    pub(crate) loads: [Vec<Sample>; loads::ALL.len()],
}

/// Measures all servers. They take turns, so that the noise of a shared machine is about the same for all in a round.
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

/// Makes the calls.
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

/// Which calls to make; a rival's own client knows no rate.
#[derive(Clone, Copy)]
struct How {
    connections: usize,
    in_flight: usize,
    rate: Option<f64>,
    duration: Duration,
}

fn sample(entrant: &Entrant, server: &Server, point: Point, options: &Options) -> Sample {
    let Point { connections, in_flight, .. } = point;
    // On a thread of its own, which inherits the core that this one is pinned to.
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

/// The load that is the same for all.
fn raw(load: &Load, address: &str) -> Measured {
    let (_running, stop) = async_channel::bounded(1);
    let report = load.run(address, &stop).unwrap_or_else(|error| panic!("{load:?}: {error}"));
    let first = report.first_error().map(String::from_utf8_lossy).or(report.first_loss().map(Into::into));
    assert!(report.errors() == 0 && report.lost() == 0, "{load:?}: {first:?}");
    let quantile = |share| report.quantile(share).expect("calls were answered");
    Measured {
        calls: report.calls_by_connection().to_vec(),
        elapsed: report.elapsed(),
        p50: quantile(0.5),
        p99: quantile(0.99),
    }
}

/// Memory when idle, and what each connection adds that has made a call and waits for its next. Those of a rival's
/// own client do not wait.
fn memory(entrant: &Entrant, server: &Server, options: &Options) -> Memory {
    let idle = server.memory();
    // The first connection also wakes code that was not in memory yet.
    let once = How { connections: 1, in_flight: 1, rate: None, duration: options.warm_up };
    drive(entrant, server, once);
    let one = server.memory();
    // Each connection makes a call in the time that is waited for.
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
