//! Load generator: calls one function many times over the network and measures latencies.
//!
//! Requests are encoded in advance, and of a reply only the framing, the id and whether it is an error are parsed, so
//! that the measurement shows the server rather than the client. In a closed loop, each connection keeps `in_flight`
//! calls in flight: after reading n replies it writes n requests at once. In an open loop, calls are due at a fixed
//! rate whatever the server does, and latency counts from when a call was due. A stall therefore shows in every call
//! that it delayed (no coordinated omission).

mod connection;
mod connector;
mod dialect;
mod driver;
mod msgpack;
mod reply;
mod report;
mod request;
mod stats;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use serde_json::value::RawValue;
use smol::Executor;
use smol::future::{FutureExt, yield_now};
use smol::io::{AsyncRead, AsyncWrite};

use crate::address::Address;
use crate::threads;
use connection::{Connection, Plan};
use connector::{Connector, Opened};
use driver::{ConnectionTask, Shared};
use request::Template;
use stats::Stats;

pub use dialect::Dialect;
pub use report::Report;

/// The maximum number of calls in flight over all connections.
const MAX_IN_FLIGHT: usize = 1_000_000;
/// The maximum size of the requests in flight, in bytes.
const MAX_IN_FLIGHT_BYTES: usize = 256 * 1024 * 1024;
/// The maximum duration of the warm-up and of the measurement.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// The maximum size of the requests in flight, in bytes, for which a thread with one connection uses blocking I/O. They
/// fit into the socket buffers, so that client and server cannot both block on a write.
const MAX_BLOCKING_BYTES: usize = 16 * 1024;

/// The load to generate.
#[derive(Clone, Debug)]
pub struct Load {
    /// The wire protocol.
    pub dialect: Dialect,
    /// The function to call.
    pub function: String,
    /// Its parameters: an array or an object.
    pub params: Option<Box<RawValue>>,
    /// The token to present.
    pub token: Option<String>,
    /// The number of connections.
    pub connections: usize,
    /// The number of calls in flight on each connection: constant in a closed loop, the maximum in an open loop.
    pub in_flight: usize,
    /// Calls due per second over all connections; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long to measure.
    pub duration: Duration,
    /// How long to generate load before measuring.
    pub warm_up: Duration,
    /// The number of threads that share the connections.
    pub threads: usize,
    /// The threads never sleep, so that the server does not have to wake them.
    pub spin: bool,
    /// The timeout for connecting, and for each step of a handshake.
    pub timeout: Duration,
    /// Encrypts the connections.
    pub secure: Option<Secure>,
}

/// A connection.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// The client side of TLS, which is not part of the load generator.
#[derive(Clone)]
pub struct Secure(pub Arc<dyn Fn(smol::net::TcpStream) -> Handshake + Send + Sync>);

/// A handshake of TLS.
pub type Handshake = Pin<Box<dyn Future<Output = io::Result<Box<dyn Socket>>>>>;

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secure")
    }
}

/// One connection with one call in flight, for a second.
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
            spin: false,
            timeout: Duration::from_secs(5),
            secure: None,
        }
    }
}

/// Why no load was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// A setting is out of range.
    Invalid(&'static str),
    /// The server cannot be reached.
    Unreachable {
        /// The server's address.
        address: String,
        /// Why the connection failed.
        reason: String,
    },
    /// The server does not speak the requested dialect.
    Refused {
        /// The server's address.
        address: String,
        /// What the server replied.
        reply: String,
    },
    /// The server rejected the token, or requires one.
    Denied {
        /// The server's address.
        address: String,
        /// What the server replied.
        reply: String,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) => f.write_str(reason),
            Self::Unreachable { address, reason } => write!(f, "cannot connect to {address}: {reason}"),
            Self::Refused { address, reply } => write!(f, "{address} does not speak this dialect: {reply}"),
            Self::Denied { address, reply } => write!(f, "{address} denied access: {reply}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Load {
    /// Generates the load on the server at `address`. Blocks until the time is over, no connection is left, or `stop`
    /// receives a message or is closed.
    ///
    /// After the last call, waits up to a second for outstanding replies.
    ///
    /// # Errors
    /// Fails if a setting is out of range or a connection cannot be established. The report counts connections that are
    /// lost later.
    ///
    /// # Panics
    /// Panics if a thread cannot be started.
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
        let connector = Connector {
            address: self.resolve(address)?,
            host: address,
            dialect: self.dialect,
            token: self.token.as_deref(),
            timeout: self.timeout,
            secure: self.secure.as_ref(),
        };
        let streams = connector.open(self.connections, &is_stopped)?;
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
        let stats = Mutex::new(Stats::new(0));
        // Connections that are adjacent in the schedule are on different threads.
        let mut shares: Vec<Vec<(usize, Opened)>> = Vec::new();
        shares.resize_with(self.threads.min(self.connections), Vec::new);
        let count = shares.len();
        for (number, stream) in streams.into_iter().enumerate() {
            shares[number % count].push((number, stream));
        }
        let run = |share: Vec<_>| -> Box<dyn FnOnce() + Send + '_> {
            let (plan, stats) = (&plan, &stats);
            Box::new(move || {
                let of_thread = run_thread(plan, share, start, stop, self.spin);
                lock(stats).merge(of_thread);
            })
        };
        threads::run_all(shares.into_iter().map(run).collect());
        let stats = stats.into_inner().unwrap_or_else(PoisonError::into_inner);
        let elapsed = start.elapsed().min(plan.end).saturating_sub(plan.begin);
        Ok(Report { elapsed, rate: self.rate, stats, interrupted: is_stopped() })
    }

    /// Resolves a name; of several addresses, returns the first that accepts a connection.
    fn resolve(&self, address: &str) -> Result<SocketAddr, LoadError> {
        let unreachable = |reason: String| LoadError::Unreachable { address: address.to_owned(), reason };
        let parsed: Address =
            address.parse().map_err(|error| unreachable(format!("an address is {error}")))?;
        let found = smol::block_on(parsed.resolve()).map_err(|error| unreachable(error.to_string()))?;
        let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, self.timeout).is_ok();
        let accepting = if found.len() > 1 { found.iter().find(accepts) } else { None };
        // If none does, the connection attempt reports the error.
        accepting.or(found.first()).copied().ok_or_else(|| unreachable("the name has no address".to_owned()))
    }

    fn check(&self, request: &Template) -> Result<(), LoadError> {
        let in_flight = self.connections.saturating_mul(self.in_flight);
        let checks = [
            (self.connections > 0, "connections must be at least 1"),
            (self.in_flight > 0, "calls in flight must be at least 1"),
            (self.threads > 0, "threads must be from 1 to 1024"),
            (in_flight <= MAX_IN_FLIGHT, "calls in flight over all connections must be at most 1,000,000"),
            (
                in_flight.saturating_mul(request.len()) <= MAX_IN_FLIGHT_BYTES,
                "the requests in flight over all connections must take at most 256 MiB",
            ),
            (
                !self.duration.is_zero() && self.duration <= MAX_DURATION,
                "the duration must be from 1 ns to a day",
            ),
            (self.warm_up <= MAX_DURATION, "the warm-up must be at most a day"),
            (!self.timeout.is_zero(), "the timeout must be more than 0"),
            (self.threads <= 1024, "threads must be from 1 to 1024"),
            (
                self.rate.is_none_or(|rate| (1e-3..=1e9).contains(&rate)),
                "the rate must be from 0.001 to 1,000,000,000 calls per second",
            ),
            (
                self.token.as_ref().is_none_or(|token| token.bytes().all(|byte| byte.is_ascii_graphic())),
                "the token must consist of visible ASCII characters",
            ),
        ];
        match checks.into_iter().find(|(is_valid, _)| !is_valid) {
            Some((_, reason)) => Err(LoadError::Invalid(reason)),
            None => Ok(()),
        }
    }
}

/// Drives the connections of one thread.
fn run_thread(
    plan: &Arc<Plan>,
    share: Vec<(usize, Opened)>,
    start: Instant,
    stop: &Receiver<()>,
    spin: bool,
) -> Stats {
    let mut shared = Shared::new(share.len());
    let bytes = plan.in_flight * plan.request.len();
    let may_block = share.len() == 1 && plan.rate.is_none() && bytes <= MAX_BLOCKING_BYTES;
    if may_block && matches!(share[0].1, Opened::Plain(_)) {
        for (number, stream) in share {
            let Opened::Plain(stream) = stream else { continue };
            let connection = Connection::new(plan, number, 0);
            let is_stopped = || stop.is_closed() || !stop.is_empty();
            if let Err(error) = driver::run_alone(connection, stream, start, &mut shared, is_stopped, spin) {
                shared.stats.record_lost(error.to_string());
            }
        }
        return shared.stats;
    }

    let shared = Arc::new(Mutex::new(shared));
    let executor = Executor::new();
    let mut tasks = Vec::with_capacity(share.len());
    for (index, (number, stream)) in share.into_iter().enumerate() {
        let connection = Connection::new(plan, number, index);
        match stream.into_socket() {
            Ok(stream) => {
                let shared = shared.clone();
                let task = ConnectionTask { connection, stream, start, shared, timer: None, finished: false };
                tasks.push(executor.spawn(task));
            }
            Err(error) => lock(&shared).stats.record_lost(error.to_string()),
        }
    }
    let done = async {
        for task in tasks {
            task.await;
        }
    };
    // Only one thread receives the message; closing the channel stops all.
    let stopped = async {
        while spin && !stop.is_closed() && stop.is_empty() {
            yield_now().await;
        }
        let _ = stop.recv().await;
        stop.close();
    };
    smol::block_on(executor.run(pin!(done.or(stopped))));
    drop(executor);
    lock(&shared).stats.clone()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
