//! Load: many calls of one function over the network, and how long they take.
//!
//! Requests are encoded beforehand, and answers are told apart by their framing and their ids only, so that what
//! is measured is the server. In a closed loop every connection keeps so many calls in flight: what reads n
//! answers writes n requests at once. In an open loop calls are due at a fixed rate, whatever the server does, and
//! latency counts from when a call was due, so that a server that stands still for a while cannot hide it.

mod answer;
mod connect;
mod dialect;
mod drive;
mod exchange;
mod msgpack;
mod report;
mod request;
mod tally;

use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use async_channel::Receiver;
use serde_json::value::RawValue;
use smol::Executor;
use smol::future::FutureExt;

use crate::address::Address;
use connect::{Opening, PATIENCE};
use drive::{Common, Driven};
use exchange::{Exchange, Plan};
use request::Template;
use tally::Tally;

pub use dialect::Dialect;
pub use report::{Report, Schedule};

/// The most calls that may be in flight, over all connections.
const MOST_IN_FLIGHT: usize = 1_000_000;
/// The most bytes that these may take.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// The longest that anything may last.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A thread's only connection waits in the system while requests in flight are not more than this: both ends could
/// not be stuck writing.
const BLOCKING: usize = 16 * 1024;

/// What load to make.
#[derive(Clone, Debug)]
pub struct Load {
    /// How requests travel.
    pub dialect: Dialect,
    /// The function to call.
    pub function: String,
    /// Its parameters: an array or an object.
    pub params: Option<Box<RawValue>>,
    /// What a node that asks for one is shown.
    pub token: Option<String>,
    /// Connections.
    pub connections: usize,
    /// Calls in flight on each connection: always in a closed loop, at most in an open one.
    pub in_flight: usize,
    /// Calls due each second, over all connections; `None` for a closed loop.
    pub rate: Option<f64>,
    /// For how long is measured.
    pub duration: Duration,
    /// What comes before.
    pub warm_up: Duration,
    /// The threads that connections are spread over.
    pub threads: usize,
}

/// A load on one connection with one call in flight, for a second.
impl Default for Load {
    fn default() -> Self {
        Self {
            dialect: Dialect::Lines,
            function: "rpc.ping".to_owned(),
            params: None,
            token: None,
            connections: 1,
            in_flight: 1,
            rate: None,
            duration: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            threads: 1,
        }
    }
}

/// Why there was no load.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// A setting is out of bounds.
    Invalid(&'static str),
    /// Nobody can be connected to.
    Unreachable {
        /// Who was asked for.
        address: String,
        /// What stood against it.
        reason: String,
    },
    /// Somebody is there who does not speak what was asked for.
    Refused {
        /// Who was asked for.
        address: String,
        /// What it said.
        answer: String,
    },
    /// The server lets in only who shows another token.
    Denied {
        /// Who was asked for.
        address: String,
        /// What it said.
        answer: String,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::Unreachable { address, reason } => write!(f, "cannot connect to {address}: {reason}"),
            Self::Refused { address, answer } => write!(f, "{address} speaks something else: {answer}"),
            Self::Denied { address, answer } => write!(f, "{address} does not let us in: {answer}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Load {
    /// Makes the load on the server at `address`, and blocks until it is done: at the end of the time, or when no
    /// connection is left, or when `stop` gets a message or is closed.
    ///
    /// In the end, answers to what was sent are waited for up to a second.
    ///
    /// # Errors
    /// If a setting is out of bounds, or not all connections can be made. What happens to them later is in the
    /// report.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn run(&self, address: &str, stop: &Receiver<()>) -> Result<Report, LoadError> {
        let request = Template::new(
            self.dialect,
            address,
            self.token.as_deref(),
            &self.function,
            self.params.as_deref(),
        );
        self.check(&request)?;
        let is_stopped = || stop.is_closed() || !stop.is_empty();
        let opening = Opening {
            address: resolve(address)?,
            host: address,
            dialect: self.dialect,
            token: self.token.as_deref(),
        };
        let streams = opening.open(self.connections, &is_stopped)?;
        let plan = Arc::new(Plan {
            dialect: self.dialect,
            request,
            connections: self.connections,
            in_flight: self.in_flight,
            rate: self.rate,
            begin: self.warm_up,
            end: self.warm_up + self.duration,
        });

        let start = Instant::now();
        let mut tally = Tally::new(0);
        thread::scope(|scope| {
            // Neighbours in the schedule are on different threads.
            let mut shares: Vec<Vec<(usize, TcpStream)>> = Vec::new();
            shares.resize_with(self.threads.min(self.connections), Vec::new);
            let threads = shares.len();
            for (number, stream) in streams.into_iter().enumerate() {
                shares[number % threads].push((number, stream));
            }
            let runs: Vec<_> = shares
                .into_iter()
                .map(|share| {
                    let plan = &plan;
                    scope.spawn(move || run_share(plan, share, start, stop))
                })
                .collect();
            for run in runs {
                tally.add(run.join().expect("load does not panic"));
            }
        });
        let elapsed = start.elapsed().min(plan.end).saturating_sub(plan.begin);
        Ok(Report { elapsed, rate: self.rate, tally, interrupted: is_stopped() })
    }

    fn check(&self, request: &Template) -> Result<(), LoadError> {
        let in_flight = self.connections.saturating_mul(self.in_flight);
        let sound = [
            (self.connections > 0, "no connections: at least 1"),
            (self.in_flight > 0, "no calls in flight: at least 1"),
            (self.threads > 0, "no threads: at least 1"),
            (in_flight <= MOST_IN_FLIGHT, "more than 1,000,000 calls in flight over all connections"),
            (
                in_flight.saturating_mul(request.len()) <= MOST_BYTES,
                "the calls in flight over all connections take more than 256 MiB",
            ),
            (!self.duration.is_zero() && self.duration <= LONGEST, "a duration is from 1 ns to a day"),
            (self.warm_up <= LONGEST, "a warm-up is at most a day"),
            (self.threads <= 1024, "more than 1024 threads"),
            (
                self.rate.is_none_or(|rate| (1e-3..=1e9).contains(&rate)),
                "a rate is from 0.001 to 1,000,000,000 calls a second",
            ),
            (
                self.token.as_ref().is_none_or(|token| token.bytes().all(|byte| byte.is_ascii_graphic())),
                "a token is made of visible ASCII",
            ),
        ];
        match sound.into_iter().find(|(sound, _)| !sound) {
            Some((_, why)) => Err(LoadError::Invalid(why)),
            None => Ok(()),
        }
    }
}

/// Finds the address that a name stands for; of several, the first that takes a connection.
fn resolve(address: &str) -> Result<SocketAddr, LoadError> {
    let unreachable = |reason: String| LoadError::Unreachable { address: address.to_owned(), reason };
    let parsed: Address = address.parse().map_err(|error| unreachable(format!("an address is {error}")))?;
    let found = smol::block_on(parsed.resolve()).map_err(|error| unreachable(error.to_string()))?;
    let takes = |address: &&SocketAddr| TcpStream::connect_timeout(address, PATIENCE).is_ok();
    let taking = if found.len() > 1 { found.iter().find(takes) } else { None };
    // If none does, that is told when it is tried.
    taking.or(found.first()).copied().ok_or_else(|| unreachable("the name has no address".to_owned()))
}

/// Drives the connections of one thread.
fn run_share(plan: &Arc<Plan>, share: Vec<(usize, TcpStream)>, start: Instant, stop: &Receiver<()>) -> Tally {
    let mut common = Common::new(share.len());
    let bytes = plan.in_flight * plan.request.len();
    if share.len() == 1 && plan.rate.is_none() && bytes <= BLOCKING {
        for (number, stream) in share {
            let exchange = Exchange::new(plan, number, 0);
            let is_stopped = || stop.is_closed() || !stop.is_empty();
            if let Err(error) = drive::block(exchange, stream, start, &mut common, is_stopped) {
                common.tally.lose(error.to_string());
            }
        }
        return common.tally;
    }

    let common = Arc::new(Mutex::new(common));
    let executor = Executor::new();
    let mut tasks = Vec::with_capacity(share.len());
    for (index, (number, stream)) in share.into_iter().enumerate() {
        let exchange = Exchange::new(plan, number, index);
        match smol::net::TcpStream::try_from(stream) {
            Ok(stream) => {
                let common = common.clone();
                let driven = Driven { exchange, stream, start, common, timer: None, finished: false };
                tasks.push(executor.spawn(driven));
            }
            Err(error) => lock(&common).tally.lose(error.to_string()),
        }
    }
    let done = async {
        for task in tasks {
            task.await;
        }
    };
    // The message is for one thread; that the channel is closed, for all.
    let stopped = async {
        let _ = stop.recv().await;
        stop.close();
    };
    smol::block_on(executor.run(pin!(done.or(stopped))));
    drop(executor);
    lock(&common).tally.clone()
}

fn lock(common: &Mutex<Common>) -> std::sync::MutexGuard<'_, Common> {
    common.lock().unwrap_or_else(PoisonError::into_inner)
}
