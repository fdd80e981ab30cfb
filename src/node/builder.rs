//! A node with its own listeners, for programs that have no executor of theirs.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use smol::{Async, Executor, Task};

use super::Node;
use crate::address::Address;
use crate::chan::{Client, Server};
use crate::config::Limits;
use crate::route::{Exports, Registry, RegistryBuilder, RegistryError};

/// Builds a node that serves tables of functions. Created by [`Node::builder`].
///
/// ```
/// use chanrpc::chan::{Functions, Id1};
/// use chanrpc::node::Node;
/// use chanrpc::remote::Remote;
///
/// const ADD: Id1<i64, i64> = Id1::new("add");
///
/// let mut functions = Functions::exported();
/// functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
///
/// let node = Node::builder("counter").serve(functions, 0).listen("127.0.0.1:0").start()?;
///
/// let remote = Remote::connect(node.addresses()[0].to_string());
/// assert_eq!(remote.call(ADD, 5).wait()?, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is served before `start`"]
pub struct NodeBuilder {
    registry: RegistryBuilder,
    limits: Limits,
    addresses: Vec<String>,
    executor: Option<Arc<Executor<'static>>>,
    servers: Vec<Spawn>,
    rejected: Option<RegistryError>,
}

/// Spawns the loop of a server.
type Spawn = Box<dyn FnOnce(&Executor<'static>) -> Task<()>>;

impl Node {
    /// Returns a builder of a node with this name.
    pub fn builder(name: &str) -> NodeBuilder {
        NodeBuilder {
            registry: Registry::builder(name),
            limits: Limits::default(),
            addresses: Vec::new(),
            executor: None,
            servers: Vec::new(),
            rejected: None,
        }
    }
}

impl NodeBuilder {
    /// Serves the functions of a table by a server that owns `state`.
    pub fn serve<S: Send + 'static>(mut self, functions: Exports<S>, state: S) -> Self {
        let functions = Arc::new(functions);
        let server = Server::new(state, functions.clone());
        let client = server.client();
        self.servers.push(Box::new(move |executor| {
            executor.spawn(async move {
                server.run().await;
            })
        }));
        self.export(&functions, &client)
    }

    /// Serves the functions of a table by a server or scheduler that runs already, of which `client` is a client.
    pub fn export<S: 'static>(mut self, functions: &Exports<S>, client: &Client) -> Self {
        if let Err(error) = self.registry.export(functions, client) {
            self.rejected.get_or_insert(error);
        }
        self
    }

    /// Listens on a `host:port`; port 0 takes a free one. A name is listened on at each of its addresses. Every caller
    /// may call every function.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Sets the limits of connections and calls.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.registry = self.registry.max_hops(limits.hops);
        self.limits = limits;
        self
    }

    /// Runs the node on an executor. By default it runs on a thread of its own.
    pub fn executor(mut self, executor: &Arc<Executor<'static>>) -> Self {
        self.executor = Some(executor.clone());
        self
    }

    /// Binds the addresses, and starts the node.
    ///
    /// # Errors
    /// [`NodeError`] if a function cannot be registered, an address cannot be bound, or the thread cannot be started.
    pub fn start(self) -> Result<RunningNode, NodeError> {
        let Self { registry, limits, addresses, executor, servers, rejected } = self;
        if let Some(error) = rejected {
            return Err(NodeError::Register(error));
        }
        let (mut listeners, mut bound) = (Vec::new(), Vec::new());
        for address in addresses {
            let of_address = bind(&address).map_err(|source| NodeError::Bind { address, source })?;
            for (listener, local) in of_address {
                listeners.push(listener);
                bound.push(local);
            }
        }
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let own = executor.is_none();
        let executor = executor.unwrap_or_default();
        let node = Node::new(executor.clone(), registry.build(), limits);
        let servers: Vec<_> = servers.into_iter().map(|spawn| spawn(&executor)).collect();
        let serve = serve(node.clone(), listeners, stopped, servers);
        let running = if own {
            let thread = thread::Builder::new().name("chanrpc node".into());
            let run = move || smol::block_on(executor.run(serve));
            Running::Thread(thread.spawn(run).map_err(NodeError::Thread)?)
        } else {
            Running::Task(executor.spawn(serve))
        };
        Ok(RunningNode { node, addresses: bound, stop, running: Some(running) })
    }
}

/// Binds every address of a `host:port`, all to the same port.
fn bind(address: &str) -> io::Result<Vec<(smol::net::TcpListener, SocketAddr)>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("an address is {error}"));
    let address: Address = address.parse().map_err(invalid)?;
    let mut port = address.port();
    let mut bound = Vec::new();
    for mut resolved in smol::block_on(address.resolve())? {
        resolved.set_port(port);
        match TcpListener::bind(resolved) {
            Ok(listener) => {
                let local = listener.local_addr()?;
                port = local.port();
                bound.push((Async::new(listener)?.into(), local));
            }
            // For example ::1 on a machine without IPv6.
            Err(error) if resolved.ip().is_loopback() && !bound.is_empty() => {
                log::info!("not listening on {resolved}: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(bound)
}

async fn serve(
    node: Node,
    listeners: Vec<smol::net::TcpListener>,
    stopped: Receiver<()>,
    servers: Vec<Task<()>>,
) {
    let shutdown = async {
        let _ = stopped.recv().await;
    };
    node.serve(listeners, shutdown).await;
    drop(servers);
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// A node that runs. Dropped, it stops in the background; [`stop`](Self::stop) waits for it.
#[must_use = "dropping it stops the node"]
pub struct RunningNode {
    node: Node,
    addresses: Vec<SocketAddr>,
    stop: Sender<()>,
    running: Option<Running>,
}

enum Running {
    Thread(JoinHandle<()>),
    Task(Task<()>),
}

impl RunningNode {
    /// Returns the addresses on which it listens, in the order of [`NodeBuilder::listen`]; several for a name such as
    /// `localhost`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Stops accepting connections, answers the calls in flight, for up to [`Limits::drain`], and ends.
    pub async fn stop(mut self) {
        self.stop.close();
        match self.running.take() {
            Some(Running::Thread(thread)) => {
                let _ = smol::unblock(move || thread.join()).await;
            }
            Some(Running::Task(task)) => task.await,
            None => {}
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.stop.close();
        if let Some(Running::Task(task)) = self.running.take() {
            task.detach();
        }
    }
}

impl fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningNode").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// The reason why a node did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum NodeError {
    /// A function cannot be registered.
    Register(RegistryError),
    /// An address cannot be bound.
    Bind {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The system cannot start a thread.
    Thread(io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(error) => error.fmt(f),
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for NodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Register(error) => Some(error),
            Self::Bind { source, .. } => Some(source),
            Self::Thread(error) => Some(error),
        }
    }
}
