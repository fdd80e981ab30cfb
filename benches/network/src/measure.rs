//! Measures the servers in turn at every load.

use std::path::Path;
use std::thread;

use chanrpc::internals::load::Load;

use crate::child::{Cores, Server, pin_client};
use crate::loads::{self, Placement, Point};
use crate::measured::{How, Measured};
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

/// All samples of one server: per load and placement, one per round.
pub(crate) struct Results {
    pub(crate) memory: Memory,
    samples: [[Vec<Sample>; Placement::ALL.len()]; loads::ALL.len()],
}

impl Results {
    pub(crate) fn of(&self, load: usize, placement: Placement) -> &[Sample] {
        &self.samples[load][placement as usize]
    }
}

/// Measures the servers in turn at each load, one soon after the other, so that the noise of a shared machine affects
/// all about equally. Each round starts them anew, and begins with another one.
pub(crate) fn contest(entrants: &[Entrant], options: &Options, cores: Cores) -> Vec<Results> {
    let start = |entrant| start(entrant, options.binary.as_deref(), cores.server);
    let mut results: Vec<_> = entrants
        .iter()
        .map(|entrant| Results {
            memory: memory(entrant, &start(entrant), options),
            samples: Default::default(),
        })
        .collect();
    for round in 0..options.rounds {
        let servers: Vec<_> = entrants.iter().map(start).collect();
        for (load, point) in loads::ALL.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, options.rounds, point.name);
            for placement in Placement::ALL {
                let core = match placement {
                    Placement::Together => Some(cores.server),
                    Placement::Apart => cores.other,
                };
                let Some(core) = core else { continue };
                pin_client(core);
                for at in (0..entrants.len()).map(|at| (at + round) % entrants.len()) {
                    let sample = sample(&entrants[at], &servers[at], *point, placement, options);
                    results[at].samples[load][placement as usize].push(sample);
                }
            }
        }
    }
    results
}

fn start(entrant: &Entrant, binary: Option<&Path>, core: u32) -> Server {
    match (&entrant.start, binary) {
        (Start::Binary, Some(binary)) => {
            Server::start(binary, &["serve", "--listen", "127.0.0.1:0", "--log", "off"], core)
        }
        (Start::Installed { program, arguments }, _) => Server::start_at_port(program, *arguments, core),
        _ => {
            let this = std::env::current_exe().expect("this program has a path");
            Server::start(&this, &["--serve", entrant.name], core)
        }
    }
}

/// Generates the load.
fn drive(entrant: &Entrant, server: &Server, how: How) -> Measured {
    let How { connections, in_flight, rate, duration, spin } = how;
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
                spin,
                ..Load::default()
            },
            &server.address,
        ),
        Drive::Own(client) => client(&server.address, how),
    }
}

fn sample(
    entrant: &Entrant,
    server: &Server,
    point: Point,
    placement: Placement,
    options: &Options,
) -> Sample {
    let Point { connections, in_flight, .. } = point;
    // In a new thread, which inherits the pinning of this one.
    let run = |duration| {
        let how = How { connections, in_flight, rate: None, duration, spin: placement == Placement::Apart };
        thread::scope(|scope| scope.spawn(move || drive(entrant, server, how)).join())
            .unwrap_or_else(|_| panic!("{} did not finish this load", entrant.name))
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
    // A short warm-up may end before the first answer.
    let quantile = |share| report.quantile(share).unwrap_or_default();
    Measured {
        calls: report.calls_by_connection().to_vec(),
        elapsed: report.elapsed(),
        p50: quantile(0.5),
        p99: quantile(0.99),
    }
}

/// Measures the idle memory, and the memory added by each connection that has made a call and waits for the next.
fn memory(entrant: &Entrant, server: &Server, options: &Options) -> Memory {
    let idle = server.memory();
    // The first connection also faults in code that was not in memory yet.
    let once = How { connections: 1, in_flight: 1, rate: None, duration: options.warm_up, spin: false };
    drive(entrant, server, once);
    let one = server.memory();
    // Each connection makes one call during the wait.
    let (connections, wait) = (options.idle, options.wait);
    let rate = Some(connections as f64 / wait.as_secs_f64());
    let all = How { connections, in_flight: 1, rate, duration: wait * 2, spin: false };
    let with = thread::scope(|scope| {
        scope.spawn(move || drive(entrant, server, all));
        thread::sleep(wait + wait / 2);
        server.memory()
    });
    Memory { idle, connection: (with - one).max(0.0) / connections as f64 }
}
