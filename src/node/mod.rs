//! A node: accepts connections, tells their dialects, bounds them, and ends them when it stops.

mod connection;
mod endpoints;
mod listener;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Executor, Task, Timer};

use crate::codec::{Decoded, Detected, Dialect, detect, jsonrpc};
use crate::config::{Limits, host_key};
use crate::message::{Fault, Id, code};
use crate::metrics::Metrics;
use crate::route::{Grants, PEER, PeerName, Registry, Shutdown};
use crate::session::Session;
use crate::transport::tls::Acceptor;
use crate::transport::{self, Rewind, StallTimeout, Stream, StreamPipe, WebSocket, http};
use endpoints::Endpoints;
use listener::Entrance;
pub use listener::Listener;

/// How long peers may take to read that their calls are given up.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// What a peer is told that does not shake hands first.
const ONLY_TLS: &str = "this port speaks TLS: a client needs the certificate of its authority (--ca FILE, or tls under \
                        [[function]] of a node)";
/// Between looks at whether notifications are done, while the node stops.
const POLL: Duration = Duration::from_millis(5);
/// Connections accepted in a row before those that are there have their turn.
const ACCEPTED: u32 = 16;
/// Waits between attempts to accept, while accepting fails.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// One running node. Cheap to clone; all clones are the same node.
///
/// It gets its executor, its bound listeners and the signal to stop from whoever runs it.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    executor: Arc<Executor<'static>>,
    registry: Arc<Registry>,
    limits: Arc<Limits>,
    shutdown: Shutdown,
    connections: Mutex<Connections>,
}

/// The tasks of open connections. Dropping them would close these.
#[derive(Debug, Default)]
struct Connections {
    next: u64,
    tasks: HashMap<u64, Task<()>>,
    /// How many there are of each host.
    hosts: HashMap<IpAddr, usize>,
}

impl Connections {
    fn remove(&mut self, key: u64, host: IpAddr) -> Option<Task<()>> {
        if let Entry::Occupied(mut count) = self.hosts.entry(host) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.tasks.remove(&key)
    }
}

impl Node {
    /// Creates a node whose connections run on `executor` and call the functions of `registry`.
    pub fn new(executor: Arc<Executor<'static>>, registry: Arc<Registry>, limits: Limits) -> Self {
        let (shutdown, connections) = (Shutdown::new(), Mutex::default());
        Self {
            shared: Arc::new(Shared { executor, registry, limits: Arc::new(limits), shutdown, connections }),
        }
    }

    /// Returns what the node calls.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// Accepts connections until `shutdown` is there, then drains: calls in flight are answered, idle
    /// connections closed; what is not done within [`Limits::drain`] is cut off.
    pub async fn serve(&self, listeners: Vec<impl Into<Listener>>, shutdown: impl Future<Output = ()>) {
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| self.shared.executor.spawn(accept(self.shared.clone(), listener.into())))
            .collect();
        shutdown.await;
        for task in accepting {
            task.cancel().await;
        }
        self.shared.shutdown.begin();
        let drained = async {
            while self.shared.metrics().connections.get() > 0 {
                self.shared.shutdown.wait_ended().await;
            }
            // Notifications outlive the connections that they came by.
            while self.shared.registry.in_flight() > 0 {
                Timer::after(POLL).await;
            }
            true
        };
        let late = async {
            Timer::after(self.shared.limits.drain).await;
            false
        };
        if !drained.or(late).await {
            // Who still waits is told so, as far as it reads.
            self.shared.shutdown.force();
            let told = async {
                while self.shared.metrics().connections.get() > 0 {
                    self.shared.shutdown.wait_ended().await;
                }
            };
            let late = async {
                Timer::after(LAST_WORDS).await;
            };
            told.or(late).await;
            let tasks = std::mem::take(&mut self.shared.connections().tasks);
            log::warn!("not all calls ended in time (limits.drain); {} connections are cut off", tasks.len());
        }
        self.shared.registry.stop().await;
    }

    /// Accepts connections of one more listener until the node stops: for an address that comes only while it serves.
    pub async fn accept(&self, listener: impl Into<Listener>) {
        accept(self.shared.clone(), listener.into()).or(self.shared.shutdown.signal()).await;
    }

    /// Serves one connection over any stream of bytes, an in-memory one for example, until it ends. It is not among
    /// those that the node counts, bounds and waits for, and may call everything.
    pub async fn connect(&self, stream: impl Stream) {
        serve(&self.shared, &Arc::default(), None, guarded(&self.shared, stream)).await;
    }
}

impl Shared {
    fn metrics(&self) -> &Metrics {
        self.registry.metrics()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why there is no room for one more connection of a host, if so.
    fn is_full_for(&self, host: IpAddr) -> Option<String> {
        let limit = self.limits.connections;
        if self.metrics().connections.get() >= limit as u64 {
            return Some(format!("{limit} are open (limits.connections)"));
        }
        let limit = self.limits.per_host_limit(host);
        let open = self.connections().hosts.get(&host).copied().unwrap_or(0);
        (open >= limit).then(|| format!("it has {open} (limits.per_host)"))
    }

    /// Returns the code for a first line that begins with no bracket: a text or a number is JSON, and no request.
    fn code_of(&self, first: &[u8]) -> i64 {
        let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let bounds = jsonrpc::DecodeLimits { depth: self.limits.depth, batch: self.limits.batch };
        match jsonrpc::decode(line, bounds) {
            Decoded::Single(Err(refused)) => refused.fault.code,
            _ => code::PARSE,
        }
    }

    fn session(&self, dialect: Dialect, pass: Grants) -> Session {
        Session::new(self.registry.clone(), self.limits.clone(), dialect, pass, Instant::now())
    }
}

async fn accept(node: Arc<Shared>, listener: Listener) {
    let (mut back_off, mut accepted) = (BACK_OFF[0], 0_u32);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                back_off = BACK_OFF[0];
                accepted = accepted.wrapping_add(1);
                if accepted % ACCEPTED == 0 {
                    smol::future::yield_now().await;
                }
                node.metrics().accepted.add();
                let host = host_key(peer.ip());
                if let Some(why) = node.is_full_for(host) {
                    node.metrics().turned_away.add();
                    log::warn!(target: PEER, "a connection of {} was turned away: {why}", PeerName(Some(peer)));
                    continue;
                }
                // Replies are written in batches; to hold back small ones would only delay them.
                let _ = stream.set_nodelay(true);
                let _ = transport::set_keepalive(&stream, node.limits.keepalive);
                keep(&node, &listener.entrance, host, peer, stream);
            }
            Err(error) => {
                node.metrics().accept_errors.add();
                log::warn!(target: PEER, "accepting a connection failed: {error}");
                Timer::after(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF[1]);
            }
        }
    }
}

/// Spawns a connection and keeps its task until it ends.
fn keep(node: &Arc<Shared>, entrance: &Arc<Entrance>, host: IpAddr, peer: SocketAddr, stream: impl Stream) {
    let mut connections = node.connections();
    connections.next += 1;
    let key = connections.next;
    // Counted here and not in the task, which may begin late.
    *connections.hosts.entry(host).or_default() += 1;
    let present = Present::new(node, key, host);
    let stream = guarded(node, stream);
    let task = node.executor.spawn({
        let (node, entrance) = (node.clone(), entrance.clone());
        async move {
            let _present = present;
            serve(&node, &entrance, Some(peer), stream).await;
        }
    });
    connections.tasks.insert(key, task);
}

/// Counts a connection as open, and forgets its task in the end, however it ends.
struct Present {
    node: Arc<Shared>,
    key: u64,
    host: IpAddr,
}

impl Present {
    fn new(node: &Arc<Shared>, key: u64, host: IpAddr) -> Self {
        node.metrics().connections.add();
        Self { node: node.clone(), key, host }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let task = self.node.connections().remove(self.key, self.host);
        if let Some(task) = task {
            task.detach();
        }
        self.node.metrics().connections.sub(1);
        self.node.shutdown.notify_ended();
    }
}

/// A connection's stream. Boxed, since futures hold what they are given more than once, and of whatever type, since what
/// serves it would else be there once a type.
type Peer = Rewind<Box<dyn Stream>>;

fn guarded(node: &Shared, stream: impl Stream) -> Peer {
    Rewind::new(Box::new(StallTimeout::new(stream, node.limits.stall_timeout)))
}

/// Each state of a connection is boxed: in one future each would take as much memory as the largest, and those of
/// HTTP are large.
async fn serve(node: &Arc<Shared>, entrance: &Arc<Entrance>, peer: Option<SocketAddr>, mut stream: Peer) {
    if let Some(tls) = &entrance.tls {
        match Box::pin(secured(node, tls, peer, stream)).await {
            Some(secured) => stream = secured,
            None => return,
        }
    }
    let told = match entrance.leaf {
        Some(leaf) if leaf.length_prefixed => Ok(Some((Detected::Dialect(Dialect::Leaf(leaf)), stream))),
        _ => Box::pin(dialect(node, stream)).await,
    };
    let ended = match told {
        Ok(Some((Detected::Dialect(dialect), _))) if entrance.speaks_only_websocket() => {
            node.metrics().foreign.add();
            Err(format!("a peer speaks {dialect:?} where only WebSocket is spoken").into())
        }
        Ok(Some((Detected::Dialect(dialect), stream))) => {
            serve_stream(node, entrance.pass_of(peer), stream, dialect).await.map_err(Into::into)
        }
        Ok(Some((Detected::Http, stream))) => Box::pin(serve_http(node, entrance, peer, stream)).await,
        Ok(Some((foreign, stream))) => {
            node.metrics().foreign.add();
            Box::pin(refuse(node, stream, foreign, entrance)).await;
            Err(format!("a peer speaks {}", foreign_name(foreign)).into())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = ended {
        if transport::is_stall_timeout(&*error) {
            node.metrics().slow_readers.add();
        } else if is_slow_head(&*error) {
            node.metrics().slow_heads.add();
        } else if transport::is_keepalive_timeout(&*error) {
            node.metrics().vanished.add();
        } else if transport::is_message_timeout(&*error) {
            node.metrics().slow_messages.add();
        }
        let cut_short = transport::is_unexpected_eof(&*error);
        let level = if cut_short { log::Level::Debug } else { log::Level::Info };
        log::log!(target: PEER, level, "a connection of {} ended: {error}", PeerName(peer));
    }
}

/// Shakes hands with a peer, which is to begin with it. `None` if that fails, which is counted and told.
async fn secured(node: &Shared, tls: &Acceptor, peer: Option<SocketAddr>, stream: Peer) -> Option<Peer> {
    let failed = match dialect(node, stream).await {
        Ok(None) => return None,
        Ok(Some((Detected::Tls, stream))) => {
            let shaken = async { Some(tls.accept(stream).await) };
            match in_time(node, shaken).await {
                None => return None,
                Some(Ok(stream)) => return Some(Rewind::new(stream)),
                Some(Err(error)) => error.to_string(),
            }
        }
        Ok(Some((plain, mut stream))) => {
            match plain {
                Detected::Http | Detected::Http2 => {
                    http::send_bad_request(&mut stream, "this port speaks TLS: use https:// or wss://\n")
                        .await;
                }
                // A client in another dialect could not read it.
                Detected::Dialect(Dialect::JsonLines) | Detected::Foreign(_) => {
                    tell_error(&mut stream, &Fault::not_sent(ONLY_TLS)).await;
                }
                _ => {}
            }
            "the peer speaks without TLS, which this port does not".to_owned()
        }
        Err(error) => error.to_string(),
    };
    node.metrics().tls_failed.add();
    log::info!(target: PEER, "a TLS handshake of {} failed: {failed}", PeerName(peer));
    None
}

/// Tells a peer what is spoken here, in the form that it most likely understands, and ends the stream.
async fn refuse(node: &Shared, stream: Peer, foreign: Detected, entrance: &Entrance) {
    let (first, mut stream) = stream.into_parts();
    match foreign {
        Detected::Tls => {
            http::send_bad_request(&mut stream, "this port does not speak TLS: use http:// or ws://\n").await;
        }
        Detected::Http2 => {
            http::send_bad_request(&mut stream, "HTTP/2 is not spoken here: use HTTP/1.1\n").await;
        }
        _ if entrance.speaks_only_websocket() => {}
        _ => {
            let name = foreign_name(foreign);
            let text =
                format!("this is {name}: a line begins with {{ or [ here, or is a request of HTTP/1.1");
            tell_error(&mut stream, &Fault::new(node.code_of(&first), text)).await;
        }
    }
}

/// Writes a line with an error for nobody's request, and ends the stream.
async fn tell_error(stream: &mut impl Stream, fault: &Fault) {
    let mut line = Vec::new();
    jsonrpc::encode_reply(&mut line, &Id::null(), Err(fault));
    line.push(b'\n');
    // Whoever does not take it has gone.
    let _ = transport::send_and_close(stream, &line).await;
}

fn foreign_name(foreign: Detected) -> &'static str {
    match foreign {
        Detected::Foreign(name) => name,
        Detected::Tls => "TLS, which this port does not (tls under [[listen]])",
        Detected::Http2 => "HTTP/2, which this port does not",
        Detected::Http | Detected::Dialect(_) => "another dialect",
    }
}

/// Waits until a peer has said enough to tell what it speaks. `None` if it does not, or the node stops.
async fn dialect(node: &Shared, mut stream: Peer) -> io::Result<Option<(Detected, Peer)>> {
    let told = async {
        let mut seen = 0;
        loop {
            let first = match stream.peek().await {
                Ok(first) => first,
                Err(error) => return Some(Err(error)),
            };
            match detect(first) {
                Some(dialect) => return Some(Ok(dialect)),
                // It says no more.
                None if first.len() == seen => {
                    let blank = first.trim_ascii().is_empty();
                    return (!blank).then_some(Ok(Detected::Foreign("neither JSON nor HTTP")));
                }
                None => seen = first.len(),
            }
        }
    };
    let told = in_time(node, told).await.transpose()?;
    Ok(told.map(|dialect| (dialect, stream)))
}

/// Waits for what comes first on a connection. `None` if it takes too long, or the node stops.
async fn in_time<T>(node: &Shared, first: impl Future<Output = Option<T>>) -> Option<T> {
    let late = async {
        Timer::after(node.limits.head_timeout).await;
        node.metrics().slow_heads.add();
        None
    };
    let stopped = async {
        node.shutdown.signal().await;
        None
    };
    first.or(late).or(stopped).await
}

fn serve_stream(
    node: &Shared,
    pass: Grants,
    stream: Peer,
    dialect: Dialect,
) -> smol::future::Boxed<io::Result<()>> {
    let (first, stream) = stream.into_parts();
    let mut session = node.session(dialect, pass);
    session.input().extend_from_slice(&first);
    session.received(Instant::now());
    let (pipe, stop) = (Box::new(StreamPipe::new(stream)), Some(node.shutdown.signal()));
    connection::drive(session, pipe, stop, node.shutdown.force_signal()).boxed()
}

async fn serve_http(
    node: &Arc<Shared>,
    entrance: &Arc<Entrance>,
    peer: Option<SocketAddr>,
    stream: Peer,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let limits = &node.limits;
    let bounds = http::RequestLimits {
        body: limits.message,
        head_timeout: limits.head_timeout,
        stall_timeout: limits.stall_timeout,
    };
    let endpoints = Endpoints::new(node.clone(), entrance.clone(), peer);
    let served = Box::pin(http::serve(stream, endpoints.clone(), bounds, node.shutdown.signal())).await;
    if endpoints.was_asked() && matches!(served, Err(http::ServeError::SlowHead)) {
        return Ok(());
    }
    if let Some(http::Upgraded { stream, grants: pass }) = served? {
        let (first, stream) = stream.into_parts();
        let (keepalive, stall) = (limits.keepalive, limits.stall_timeout);
        let (dialect, pipe) = match entrance.leaf {
            None => (
                Dialect::DetectPerFrame,
                WebSocket::accept(stream, first, limits.message, keepalive, stall).await,
            ),
            Some(leaf) => {
                let pipe = WebSocket::accept(stream, first, leaf.max as usize, keepalive, stall).await;
                (Dialect::Leaf(leaf), pipe.always_binary().with_limit_name("listen.leaf.max"))
            }
        };
        let (pipe, stop) = (Box::new(pipe), Some(node.shutdown.signal()));
        let session = node.session(dialect, pass);
        connection::drive(session, pipe, stop, node.shutdown.force_signal()).await?;
    }
    Ok(())
}

fn is_slow_head(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(http::ServeError::SlowHead))
}
