//! The builder of a network client.

use std::sync::Arc;

use smol::{Executor, Task};

use super::client::Remote;
use super::connection::Connection;
use super::driver;
#[cfg(feature = "grpc")]
use super::grpc::Grpc;
use super::io_thread::IoThread;
#[cfg(feature = "nats")]
use super::nats::{CallsOnly, NatsAddress, NatsClient, NatsCredentials, NatsSettings};
use super::node_endpoint::NodeEndpoint;
use super::offering::Offering;
use super::pool::Pool;
#[cfg(feature = "grpc")]
use super::protocol::Protocol;
use super::target::{Secret, Target, Watchers};
#[cfg(feature = "grpc")]
use crate::address::{NodeAddress, NodeDialect};
#[cfg(feature = "grpc")]
use crate::codec::protobuf::Schema;
use crate::config::Limits;
use crate::route::Registry;
use crate::transport::tls::Connector;

/// What a client tells servers of NATS: its name, and where replies arrive.
#[cfg(feature = "nats")]
const CLIENT: &str = "chanrpc";
#[cfg(feature = "nats")]
const INBOX: &str = "_INBOX";

impl Remote {
    /// Starts to connect to `address`, a `host:port`, on a thread of its own. [`builder`](Self::builder) takes more
    /// settings.
    ///
    /// ```
    /// # use chanrpc::Remote;
    /// let remote = Remote::connect("127.0.0.1:7300"); // returns at once
    /// assert_eq!(remote.address(), "127.0.0.1:7300");
    /// ```
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn connect(address: impl Into<String>) -> Self {
        Self::builder(address).connect()
    }

    /// Returns a builder of a client of the node at `address`, a `host:port`. A dialect may come first:
    /// `msgpack://board-a:7300` speaks MessagePack-RPC, `headers://board-a:7300` JSON-RPC with `Content-Length`, and
    /// `lines://`, the default, JSON-RPC in lines.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use chanrpc::Remote;
    /// # use chanrpc::config::Limits;
    /// let limits = Limits::default().deadline(Duration::from_secs(1));
    /// let remote = Remote::builder("board-a:7300").token("a secret").limits(limits).connect();
    /// ```
    pub fn builder(address: impl Into<String>) -> RemoteBuilder {
        RemoteBuilder::new(address)
    }
}

/// Builds a [`Remote`].
///
/// ```
/// # use std::sync::Arc;
/// # use chanrpc::{Functions, Id1, Node, Remote};
/// # const ADD: Id1<i64, i64> = Id1::new("add");
/// # let mut functions = Functions::exported();
/// # functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?;
/// # let node = Node::builder("example").serve(functions, 0).listen("127.0.0.1:0").start()?;
/// let executor = Arc::new(smol::Executor::new());
/// let remote = Remote::builder(node.addresses()[0].to_string()).executor(&executor).connect();
/// assert_eq!(smol::block_on(executor.run(remote.call(ADD, 5)))?, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is connected before `connect`"]
pub struct RemoteBuilder {
    address: String,
    limits: Limits,
    token: Option<Secret>,
    tls: Option<Connector>,
    is_watched: bool,
    registry: Option<Arc<Registry>>,
    executor: Option<Arc<Executor<'static>>>,
    #[cfg(feature = "grpc")]
    schema: Option<Arc<Schema>>,
    #[cfg(feature = "nats")]
    credentials: Option<NatsCredentials>,
}

impl RemoteBuilder {
    pub(super) fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            limits: Limits::default(),
            token: None,
            tls: None,
            is_watched: false,
            registry: None,
            executor: None,
            #[cfg(feature = "grpc")]
            schema: None,
            #[cfg(feature = "nats")]
            credentials: None,
        }
    }

    /// Asks the node for a sign of life while it is silent and has calls to answer ([`Limits::forward_silence`]), if it
    /// answers pings.
    pub(crate) fn watched(mut self) -> Self {
        self.is_watched = true;
        self
    }

    /// Presents a token at the start of each connection. If the other node rejects it, calls fail with its error.
    ///
    /// ```
    /// # use chanrpc::config::Config;
    /// # use chanrpc::{Node, Remote};
    /// # let text = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['rpc.echo']\n\
    /// #     token = 'sha256:984ca5162200734c592148f1820b71057f098573d138666b48663e4e30cd8d3a'";
    /// # let node = Node::from_config(Config::parse(text, "node.toml")?).start()?;
    /// # let address = node.addresses()[0].to_string();
    /// let remote = Remote::builder(&address).token("a secret").connect();
    /// assert_eq!(remote.call1::<_, Vec<i32>>("rpc.echo", [7]).wait()?, [7]);
    ///
    /// let stranger = Remote::connect(&address);
    /// assert!(stranger.call1::<_, Vec<i32>>("rpc.echo", [7]).wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn token(mut self, token: impl AsRef<str>) -> Self {
        self.token = Some(Secret(token.as_ref().into()));
        self
    }

    /// Connects over TLS. The other node must present a certificate for the host of the address that `tls` trusts.
    ///
    /// ```no_run
    /// # use std::path::Path;
    /// # use chanrpc::Remote;
    /// # use chanrpc::remote::Connector;
    /// let tls = Connector::load(Path::new("ca.pem"), None)?;
    /// let remote = Remote::builder("board-a:7300").tls(tls).connect();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tls(mut self, tls: Connector) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the limits of connections and calls.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use chanrpc::config::Limits;
    /// # use chanrpc::{Functions, Id0, Node, Remote, Responder};
    /// # const SLEEP: Id0<()> = Id0::new("sleep");
    /// # let mut functions = Functions::exported();
    /// # let sleep = |waiting: &mut Vec<Responder<()>>, (), responder| waiting.push(responder);
    /// # functions.register_deferred(SLEEP, sleep)?;
    /// # let node = Node::builder("example").serve(functions, Vec::new()).listen("127.0.0.1:0").start()?;
    /// # let address = node.addresses()[0].to_string();
    /// let limits = Limits::default().deadline(Duration::from_millis(1));
    /// let remote = Remote::builder(address).limits(limits).connect();
    /// # smol::block_on(remote.connected())?;
    /// assert!(remote.call(SLEEP, ()).wait().is_err_and(|error| error.is_deadline()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs the connections on an executor, which must outlive the client's calls. By default they run on their own
    /// thread.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Node, Remote};
    /// # let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// # let address = node.addresses()[0].to_string();
    /// let executor = Arc::new(smol::Executor::new());
    /// let remote = Remote::builder(address).executor(&executor).connect();
    /// smol::block_on(executor.run(remote.connected()))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn executor(mut self, executor: &Arc<Executor<'static>>) -> Self {
        self.executor = Some(executor.clone());
        self
    }

    /// Describes the services of a gRPC server, at an address such as `grpc://board-a:50051`, by a
    /// `google.protobuf.FileDescriptorSet`: what `protoc --include_imports --descriptor_set_out=FILE` writes. By default the
    /// server is asked for them ([reflection](https://grpc.io/docs/guides/reflection/)).
    ///
    /// # Errors
    /// If the descriptors cannot be used.
    #[cfg(feature = "grpc")]
    pub fn descriptors(mut self, set: &[u8]) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut schema = Schema::default();
        schema.add(set)?;
        self.schema = Some(Arc::new(schema));
        Ok(self)
    }

    /// Shows the text of a `.creds` file, as `nsc` writes it, to servers of NATS, at an address such as
    /// `nats://10.0.0.1:4222`. A [`token`](Self::token) is shown to them too.
    ///
    /// # Errors
    /// What is wrong with it.
    #[cfg(feature = "nats")]
    pub fn creds(mut self, text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        self.credentials = Some(NatsCredentials::creds(text)?);
        Ok(self)
    }

    /// Starts to connect and returns the client.
    ///
    /// ```
    /// # use chanrpc::{Node, Remote};
    /// # let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// # let address = node.addresses()[0].to_string();
    /// let remote = Remote::builder(address).connect();
    /// assert_eq!(remote.call1::<_, Vec<i32>>("rpc.echo", [7]).wait()?, [7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If no executor is set and the system cannot start a thread.
    pub fn connect(self) -> Remote {
        let (target, executor) = self.target(None);
        let (executor, thread) = match executor {
            Some(executor) => (executor, None),
            None => {
                let (executor, thread) = IoThread::start().expect("the system starts a thread");
                (executor, Some(thread))
            }
        };
        Remote(Arc::new(NodeEndpoint::new(Pool::new(&executor, target), thread)))
    }
}

impl RemoteBuilder {
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Shows these to servers of NATS.
    #[cfg(all(feature = "cli", feature = "nats"))]
    pub(crate) fn credentials(mut self, credentials: NatsCredentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    pub(super) fn has_executor(&self) -> bool {
        self.executor.is_some()
    }

    /// Lets the other node call the functions of `registry`.
    pub(crate) fn registry(mut self, registry: Arc<Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Returns connections to servers of NATS.
    #[cfg(feature = "nats")]
    pub(crate) fn nats(limits: &Limits, settings: NatsSettings) -> NatsTarget {
        let client = NatsClient::new(settings);
        // One connection serves all calls.
        let limits = Limits { in_flight: usize::MAX, ..limits.clone() };
        let builder = Self::new(client.address()).limits(limits).watched().registry(client.registry());
        let (mut target, _) = builder.node_target(None);
        target.nats = Some(client);
        NatsTarget(target)
    }

    /// Returns how to connect to servers of NATS, if the address is theirs.
    #[cfg(feature = "nats")]
    fn nats_settings(&self) -> Option<NatsSettings> {
        let NatsAddress { servers, prefix } = NatsAddress::parse(&self.address)?;
        let token = self.token.as_ref().map(|Secret(token)| NatsCredentials::token(token));
        Some(NatsSettings {
            servers,
            tls: self.tls.clone(),
            credentials: self.credentials.clone().or(token).unwrap_or_default(),
            name: CLIENT.to_owned(),
            prefix,
            are_names: true,
            inbox: INBOX.to_owned(),
            max_hops: self.limits.hops,
            in_flight: self.limits.in_flight,
            metrics: Arc::default(),
            role: Arc::new(CallsOnly),
        })
    }

    /// Returns what to connect to, and the executor, if one is set.
    fn target(self, offering: Option<Offering>) -> (Target, Option<Arc<Executor<'static>>>) {
        #[cfg(feature = "nats")]
        if let Some(settings) = self.nats_settings() {
            let executor = self.executor.clone();
            return (Self::nats(&self.limits, settings).0, executor);
        }
        self.node_target(offering)
    }

    /// As [`target`](Self::target), if it is a node or a gRPC server.
    fn node_target(self, offering: Option<Offering>) -> (Target, Option<Arc<Executor<'static>>>) {
        #[cfg(feature = "grpc")]
        let protocol = match self.address.parse() {
            Ok(NodeAddress { dialect: NodeDialect::Grpc { .. }, .. }) => {
                Some(Grpc::new(self.schema) as Arc<dyn Protocol>)
            }
            _ => None,
        };
        let Self { address, limits, token, tls, is_watched, registry, executor, .. } = self;
        let target = Target {
            #[cfg(feature = "grpc")]
            protocol,
            address,
            limits: Arc::new(limits),
            token,
            tls,
            is_watched,
            answers_pings: Arc::default(),
            watchers: Watchers::default(),
            registry: registry.unwrap_or_else(|| Registry::builder("").build()),
            offering,
            #[cfg(feature = "nats")]
            nats: None,
        };
        (target, executor)
    }

    /// Starts to connect, for the other node to call the functions of `registry` that are offered there. Dropping the
    /// task closes the connection.
    pub(crate) fn offer(
        self,
        executor: &Executor<'static>,
        registry: Arc<Registry>,
        offering: Offering,
    ) -> Task<()> {
        let (target, own) = self.registry(registry).target(Some(offering));
        let connection = Connection::new(Arc::new(target));
        own.as_deref().unwrap_or(executor).spawn(driver::run(connection, true))
    }
}

/// Servers of NATS, and what connections to them are for.
#[cfg(feature = "nats")]
pub(crate) struct NatsTarget(Target);

#[cfg(feature = "nats")]
impl NatsTarget {
    /// Starts to connect, to call others.
    pub(crate) fn connect(self, executor: &Arc<Executor<'static>>) -> Remote {
        let pool = Pool::new(executor, self.0);
        Remote(Arc::new(NodeEndpoint::new(pool, None)))
    }

    /// Starts to connect, to answer others. The task ends after the signal to stop.
    pub(crate) fn serve(self, executor: &Executor<'static>) -> Task<()> {
        executor.spawn(driver::run(Connection::new(Arc::new(self.0)), true))
    }
}
