//! A node with its own listeners, for programs that have no executor of theirs.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use smol::{Async, Executor, Task};

use super::Node;
use super::from_config::registry_from_config;
use super::listener::Listener;
use super::offers::{RemoteOffer, offers_from_config};
use super::secrets::ProviderConfigError;
use super::sessions::Observer;
use super::shared::Shared;
use crate::address::Address;
use crate::chan::{CallError, Client, Server, Takes};
use crate::config::{Config, Limits};
use crate::remote::RemoteBuilder;
use crate::route::{Access, Caller, Exports, RegistryBuilder, RegistryError, TopicHub, Topics};
use crate::web;

/// Builds a node that serves tables of functions. Created by [`Node::builder`] or [`Node::from_config`].
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
    config: Config,
    /// The addresses at which everybody may call everything.
    open: Vec<String>,
    exports: Vec<Export>,
    executor: Option<Arc<Executor<'static>>>,
    servers: Vec<Spawn>,
    observers: Vec<Observer>,
    pages: Vec<(&'static str, web::File)>,
    offers: Vec<RemoteOffer>,
    topics: Arc<TopicHub>,
}

/// Exports a table of functions.
type Export = Box<dyn FnOnce(&mut RegistryBuilder) -> Result<(), RegistryError>>;
/// Spawns the loop of a server.
type Spawn = Box<dyn FnOnce(&Executor<'static>) -> Task<()>>;

impl Node {
    /// Returns a builder of a node with this name.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// assert_ne!(node.addresses()[0].port(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(name: &str) -> NodeBuilder {
        Self::from_config(Config { name: name.to_owned(), ..Config::default() })
    }

    /// Returns a builder of the node of a configuration, with its name, limits, functions, and listeners with access
    /// rules and TLS. A listener without rules, if other machines can reach it, allows nothing.
    ///
    /// ```
    /// use chanrpc::config::Config;
    /// use chanrpc::{Id1, Node, Remote};
    ///
    /// let text = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['rpc.echo']";
    /// let node = Node::from_config(Config::parse(text, "node.toml")?).start()?;
    ///
    /// let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.call(Id1::<Vec<u8>, Vec<u8>>::new("rpc.echo"), vec![7]).wait()?, [7]);
    /// assert!(remote.call(Id1::<(), Vec<String>>::new("rpc.list"), ()).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_config(config: Config) -> NodeBuilder {
        let topics = Arc::new(TopicHub::new(Arc::default()));
        // `start` reports an error.
        let _ = topics.configure(&config.topics);
        NodeBuilder {
            topics,
            config,
            open: Vec::new(),
            exports: Vec::new(),
            executor: None,
            servers: Vec::new(),
            observers: Vec::new(),
            pages: Vec::new(),
            offers: Vec::new(),
        }
    }
}

impl NodeBuilder {
    /// Serves the functions of a table by a server that owns `state`.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
    /// assert_eq!(Remote::connect(node.addresses()[0].to_string()).call(ADD, 5).wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote, Server};
    /// # const ADD: Id1<i64, i64> = Id1::new("add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
    /// let server = Server::new(0, functions.clone());
    /// let client = server.client();
    /// std::thread::spawn(|| smol::block_on(server.run()));
    /// let node = Node::builder("example").export(&functions, &client).listen("127.0.0.1:0").start()?;
    ///
    /// let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.call(ADD, 5).wait()?, client.call(ADD, 0).wait()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn export<S: 'static>(mut self, functions: &Exports<S>, client: &Client) -> Self {
        let (functions, client) = (functions.clone(), client.clone());
        self.exports.push(Box::new(move |registry| registry.export(&functions, &client).map(drop)));
        self
    }

    /// Tells a server or scheduler of connections, of which `client` is a client: calls `opened` in go mode before the
    /// first call of a new connection, and `closed` after its last call, once and however the connection has ended. Both
    /// are given the [`Caller`], whose [number](Caller::connection) is the key for what the server keeps about it. A
    /// table of [`Functions::exported`](crate::Functions::exported) may contain them; they are not called over the network.
    ///
    /// The calls of a connection take the same queue, so that a server gets `opened`, the calls and `closed` in this order.
    /// While the queue is full, what a new connection sends is not read; others are accepted nevertheless. Single
    /// requests over HTTP are no connections in this sense; those that become a WebSocket are. The caller's rules are
    /// those that apply when the connection opens. Only a notification that waits for a worker when its connection ends
    /// (`workers` in the configuration) may run after `closed`.
    ///
    /// ```
    /// use chanrpc::route::Caller;
    /// use chanrpc::{Functions, Id0, Id1, Node, Remote, Server};
    ///
    /// const OPENED: Id0<Caller> = Id0::new("opened");
    /// const CLOSED: Id0<Caller> = Id0::new("closed");
    /// const ONLINE: Id1<(), usize> = Id1::new("online");
    ///
    /// let mut functions = Functions::exported();
    /// functions
    ///     .register(OPENED, |online: &mut Vec<Caller>, caller| online.push(caller))?
    ///     .register(CLOSED, |online, caller| online.retain(|one| one.connection() != caller.connection()))?
    ///     .register(ONLINE, |online, ()| online.len())?;
    /// let server = Server::new(Vec::new(), functions.clone());
    /// let client = server.client();
    /// std::thread::spawn(|| smol::block_on(server.run()));
    /// let builder = Node::builder("example").export(&functions, &client).sessions(&client, OPENED, CLOSED);
    /// let node = builder.listen("127.0.0.1:0").start()?;
    ///
    /// let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.call(ONLINE, ()).wait()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sessions(
        mut self,
        client: &Client,
        opened: impl Takes<Caller>,
        closed: impl Takes<Caller>,
    ) -> Self {
        let (opened, closed) = (opened.into_function_id(), closed.into_function_id());
        self.observers.push(Observer::new(client.clone(), opened, closed));
        self
    }

    /// Returns the topics of the node, for the state of its servers and schedulers. They have the limits that are set so
    /// far.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id0, Node, Remote};
    /// # const SAY: Id0<String> = Id0::new("say");
    /// # let mut functions = Functions::exported();
    /// # functions.register(SAY, |topics: &mut chanrpc::route::Topics, text: String| {
    /// #     topics.publish("chat.lobby", &text).map(drop)
    /// # })?;
    /// let builder = Node::builder("example");
    /// let topics = builder.topics();
    /// let node = builder.serve(functions, topics).listen("127.0.0.1:0").start()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topics(&self) -> Topics {
        self.topics.set_limits(&Arc::new(self.config.limits.clone()));
        Topics::new(&self.topics)
    }

    /// Serves a file to browsers at a path such as `/` or `/game.js`, in place of the node's own page. Browsers are told
    /// to load only files of this node, without scripts and styles inside of HTML, and to connect only to this node. A
    /// path that the node answers itself (`/rpc`, `/healthz`, `/metrics`) stays its own.
    ///
    /// ```
    /// # use std::io::{Read, Write};
    /// # use chanrpc::Node;
    /// let page = "<!doctype html><title>Game</title><script src=game.js></script>";
    /// let node = Node::builder("game")
    ///     .page("/", "text/html; charset=utf-8", page)
    ///     .page("/game.js", "text/javascript; charset=utf-8", "console.log('hello')")
    ///     .listen("127.0.0.1:0")
    ///     .start()?;
    /// # let mut stream = std::net::TcpStream::connect(node.addresses()[0])?;
    /// # write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    /// # let mut response = String::new();
    /// # stream.read_to_string(&mut response)?;
    /// # assert!(response.ends_with(page), "{response}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn page(mut self, path: &'static str, content_type: &'static str, text: &'static str) -> Self {
        self.pages.push((path, web::File { content_type, text }));
        self
    }

    /// Listens on a `host:port`; port 0 takes a free one. A name is listened on at each of its addresses. Every caller
    /// may call every function.
    ///
    /// ```
    /// # use chanrpc::{Node, Remote};
    /// let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// let remote = Remote::connect(node.addresses()[0].to_string());
    /// assert_eq!(remote.call1::<_, Vec<i32>>("rpc.echo", [7]).wait()?, [7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.open.push(address.into());
        self
    }

    /// Offers functions at another node, to which this one connects, as long as it runs. That node, and its callers, may
    /// call the functions that match one of the patterns in `functions`, such as `disk.*`, and no others. It calls them by
    /// their names after `prefix`.
    ///
    /// ```
    /// # use chanrpc::{Functions, Id1, Node, Remote};
    /// # const ADD: Id1<i64, i64> = Id1::new("board-a.add");
    /// # let mut functions = Functions::exported();
    /// # functions.register(Id1::<i64, i64>::new("add"), |total: &mut i64, n| { *total += n; *total })?;
    /// let hub = Node::builder("hub").listen("127.0.0.1:0").start()?;
    /// let address = hub.addresses()[0].to_string();
    ///
    /// // It need not listen itself, and may be behind NAT.
    /// let board = Node::builder("board-a").serve(functions, 0);
    /// let board = board.offer(Remote::builder(&address), "board-a.", ["add"]).start()?;
    ///
    /// let caller = Remote::connect(address);
    /// # while caller.call1::<_, Vec<String>>("rpc.list", ["board-a.add"]).wait()?.is_empty() {}
    /// assert_eq!(caller.call(ADD, 5).wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offer<'a>(
        mut self,
        at: RemoteBuilder,
        prefix: impl Into<String>,
        functions: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let functions = functions.into_iter().map(str::to_owned).collect();
        let (prefix, is_shared) = (prefix.into(), false);
        self.offers.push(RemoteOffer { remote: at, functions, prefix, is_shared, in_flight: None });
        self
    }

    /// Sets the limits of connections and calls.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// # use chanrpc::config::Limits;
    /// let limits = Limits::default().connections(16).message(64 << 10);
    /// let node = Node::builder("example").limits(limits).listen("127.0.0.1:0").start()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If [`topics`](Self::topics) was called before, since topics have the limits of that moment.
    pub fn limits(mut self, limits: Limits) -> Self {
        assert!(!self.topics.has_limits(), "call NodeBuilder::limits before NodeBuilder::topics");
        self.config.limits = limits;
        self
    }

    /// Runs the node on an executor. By default it runs on a thread of its own.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::Node;
    /// let executor = Arc::new(smol::Executor::new());
    /// let node = Node::builder("example").executor(&executor).listen("127.0.0.1:0").start()?;
    /// smol::block_on(executor.run(node.stop()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn executor(mut self, executor: &Arc<Executor<'static>>) -> Self {
        self.executor = Some(executor.clone());
        self
    }

    /// Binds the addresses, and starts the node.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// drop(node); // stops it
    ///
    /// let error = Node::builder("example").listen("127.0.0.1:99999").start().unwrap_err();
    /// assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:99999: "));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NodeError`] if a function cannot be registered or does not fit, a file of the configuration cannot be used, an address cannot
    /// be bound, or the thread cannot be started.
    pub fn start(self) -> Result<RunningNode, NodeError> {
        let Self { config, open, exports, executor, servers, observers, pages, mut offers, topics } = self;
        observers.iter().try_for_each(Observer::check).map_err(NodeError::Sessions)?;
        let own = executor.is_none();
        let executor = executor.unwrap_or_default();
        let config = Arc::new(config);
        let (mut registry, _) = registry_from_config(&config, &executor, &topics)?;
        exports.into_iter().try_for_each(|export| export(&mut registry))?;
        let mut offered = offers_from_config(&config)?;
        offered.nodes.append(&mut offers);
        let (mut listeners, mut bound) = (Vec::new(), Vec::new());
        let access = Arc::new(Access::new(&config));
        for listen in &config.listen {
            #[cfg(feature = "grpc")]
            Listener::check(listen).map_err(|error| NodeError::Config(error.into()))?;
            let unusable = |error| NodeError::Config(format!("tls of {}: {error}", listen.address).into());
            let tls = Listener::tls(listen).map_err(unusable)?;
            for (socket, local) in bind(&listen.address)? {
                listeners.push(Listener::with_tls(socket, listen, &access, tls.clone()));
                bound.push(local);
            }
        }
        for address in open {
            for (socket, local) in bind(&address)? {
                listeners.push(socket.into());
                bound.push(local);
            }
        }
        let (stop, stopped) = async_channel::bounded::<()>(1);
        #[cfg(feature = "grpc")]
        let services = config.grpc.as_ref().map(super::Services::load).transpose();
        let mut shared = Shared::new(executor.clone(), registry.build(), config.limits.clone());
        (shared.observers, shared.pages) = (observers.into(), pages);
        #[cfg(feature = "grpc")]
        if let Some(services) = services.map_err(|error| NodeError::Config(error.into()))? {
            shared.set_services(services);
        }
        let node = Node { shared: Arc::new(shared) };
        let servers: Vec<_> = servers.into_iter().map(|spawn| spawn(&executor)).collect();
        node.offer(offered);
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
fn bind(address: &str) -> Result<Vec<(smol::net::TcpListener, SocketAddr)>, NodeError> {
    try_bind(address).map_err(|source| NodeError::Bind { address: address.to_owned(), source })
}

fn try_bind(address: &str) -> io::Result<Vec<(smol::net::TcpListener, SocketAddr)>> {
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

async fn serve(node: Node, listeners: Vec<Listener>, stopped: Receiver<()>, servers: Vec<Task<()>>) {
    let shutdown = async {
        let _ = stopped.recv().await;
    };
    node.serve(listeners, shutdown).await;
    drop(servers);
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder").field("config", &self.config).finish_non_exhaustive()
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
    ///
    /// ```
    /// # use chanrpc::Node;
    /// let node = Node::builder("example").listen("127.0.0.1:0").listen("127.0.0.1:0").start()?;
    /// let [first, second] = node.addresses() else { panic!("one for each `listen`") };
    /// assert_ne!(first.port(), second.port());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the node.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// let running = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// assert_eq!(&**running.node().registry().name(), "example");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Stops accepting connections, answers the calls in flight, for up to [`Limits::drain`], and ends.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// smol::block_on(node.stop());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    /// A token file or TLS file of the configuration cannot be used.
    Config(Box<dyn std::error::Error + Send + Sync>),
    /// An address cannot be bound.
    Bind {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The functions given to [`NodeBuilder::sessions`] do not exist or do not take a [`Caller`].
    Sessions(CallError),
    /// The system cannot start a thread.
    Thread(io::Error),
}

impl From<RegistryError> for NodeError {
    fn from(error: RegistryError) -> Self {
        Self::Register(error)
    }
}

impl From<ProviderConfigError> for NodeError {
    fn from(error: ProviderConfigError) -> Self {
        match error {
            ProviderConfigError::Registry(error) => Self::Register(error),
            error => Self::Config(error.into()),
        }
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Sessions(error) => write!(f, "the functions for sessions: {error}"),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for NodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Register(error) => Some(error),
            Self::Config(error) => error.source(),
            Self::Bind { source, .. } => Some(source),
            Self::Sessions(error) => Some(error),
            Self::Thread(error) => Some(error),
        }
    }
}
