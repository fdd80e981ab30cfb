//! A node: accepts connections, detects their dialects, enforces limits, and drains on shutdown.

mod accept;
mod app;
mod builder;
pub(crate) mod from_config;
mod host_policy;
#[cfg(feature = "grpc")]
mod leaf;
mod listener;
#[cfg(feature = "nats")]
mod nats;
mod offers;
#[cfg(feature = "cli")]
mod reload;
mod secrets;
mod serve;
#[cfg(feature = "grpc")]
mod services;
mod sessions;
mod shared;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite};
use smol::{Executor, Timer};

use crate::config::Limits;
use crate::route::{Registry, Topics};
pub use crate::transport::tls::TlsError;
pub use builder::{NodeBuilder, NodeError, RunningNode};
#[cfg(feature = "cli")]
pub(crate) use from_config::{OtherNodes, Parts, registry_from_config, unusable_file};
pub use listener::Listener;
#[cfg(feature = "cli")]
pub(crate) use listener::ListenerSettings;
#[cfg(feature = "cli")]
pub(crate) use offers::{RemoteOffer, offers_from_config};
#[cfg(feature = "cli")]
pub(crate) use reload::Generation;
#[cfg(feature = "grpc")]
pub(crate) use services::Services;
use shared::Shared;

/// How long peers may take to read the error that ends their calls, before their connections are closed by force.
const FORCE_CLOSE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a stopping node waits for the first bytes of connections that it has accepted, whose peers may be about to
/// call.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_millis(100);
/// How long connections that are closed by force may take to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which a draining node checks for unfinished notifications.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// One running node. Cheap to clone; all clones refer to the same node.
///
/// The caller provides the executor, bound listeners and a shutdown future.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
}

impl Node {
    /// Creates a node whose connections run on `executor` and call the functions of `registry`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::Node;
    /// # use chanrpc::config::Limits;
    /// # use chanrpc::route::Registry;
    /// # fn main() -> std::io::Result<()> {
    /// let executor = Arc::new(smol::Executor::new());
    /// let registry = Registry::builder("example").build();
    /// let node = Node::new(executor.clone(), registry, Limits::default());
    /// smol::block_on(executor.run(async {
    ///     let socket = smol::net::TcpListener::bind("127.0.0.1:0").await?;
    ///     node.serve(vec![socket], async {}).await; // Ctrl-C, usually
    ///     Ok(())
    /// }))
    /// # }
    /// ```
    pub fn new(executor: Arc<Executor<'static>>, registry: Arc<Registry>, limits: Limits) -> Self {
        Self { shared: Arc::new(Shared::new(executor, registry, limits)) }
    }

    /// Replaces the gRPC services besides the node's own.
    #[cfg(all(feature = "cli", feature = "grpc"))]
    pub(crate) fn set_services(&self, services: Services) {
        self.shared.set_services(services);
    }

    /// Returns the registry of functions.
    ///
    /// ```
    /// # use chanrpc::Node;
    /// let running = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// let registry = running.node().registry();
    /// assert_eq!((&**registry.name(), registry.in_flight()), ("example", 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// Returns the topics, for code in this process.
    ///
    /// ```
    /// # use chanrpc::{Node, Remote};
    /// let running = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// assert_eq!(running.node().topics().publish("chat.lobby", "is anybody here?")?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topics(&self) -> Topics {
        Topics::new(self.registry().topics())
    }

    /// Accepts connections until `shutdown` completes, then drains: answers the calls in flight and closes idle
    /// connections. Closes what has not finished within [`Limits::drain`].
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Node, Remote};
    /// # use chanrpc::config::Limits;
    /// # use chanrpc::route::Registry;
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let node = Node::new(executor.clone(), Registry::builder("example").build(), Limits::default());
    /// # smol::block_on(executor.run(async {
    /// let socket = smol::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let remote = Remote::builder(socket.local_addr()?.to_string()).executor(&executor).connect();
    /// let shutdown = async {
    ///     assert_eq!(remote.call1::<_, Vec<i32>>("rpc.echo", [7]).await.unwrap(), [7]);
    /// };
    /// node.serve(vec![socket], shutdown).await; // ends after that call
    /// # Ok::<(), std::io::Error>(())
    /// # }))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn serve(&self, listeners: Vec<impl Into<Listener>>, shutdown: impl Future<Output = ()>) {
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| self.shared.executor.spawn(accept::run(self.shared.clone(), listener.into())))
            .collect();
        shutdown.await;
        for task in accepting {
            task.cancel().await;
        }
        let timeout = async {
            Timer::after(FIRST_BYTES_TIMEOUT.min(self.shared.limits().drain)).await;
        };
        self.shared.all_heard().or(timeout).await;
        self.shared.shutdown.begin();
        self.registry().topics().stop();
        let drained = async {
            self.shared.connections_closed().await;
            self.shared.offers_ended().await;
            // Notifications outlive the connections that sent them.
            while self.shared.registry.in_flight() > 0 {
                Timer::after(DRAIN_POLL_INTERVAL).await;
            }
            true
        };
        let timeout = async {
            Timer::after(self.shared.limits().drain).await;
            false
        };
        if !drained.or(timeout).await {
            // Gives peers a chance to read the error that ends their calls.
            self.shared.shutdown.force();
            let timeout = async {
                Timer::after(FORCE_CLOSE_TIMEOUT).await;
            };
            self.shared.connections_closed().or(timeout).await;
            let tasks = std::mem::take(&mut self.shared.connections().tasks);
            log::warn!("not all calls finished in time (limits.drain); closing {} connections", tasks.len());
            drop(tasks);
            // The executor may be gone afterwards. Each ends now, unless it runs a function that does not return.
            let timeout = async {
                Timer::after(CANCEL_TIMEOUT).await;
            };
            self.shared.connections_closed().or(timeout).await;
        }
        self.shared.registry.stop().await;
    }

    /// Accepts connections of one more listener until the node stops. For an address that becomes available only while
    /// the node serves.
    ///
    /// ```
    /// # use chanrpc::{Node, Remote};
    /// # let running = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// let node = running.node().clone();
    /// let late = smol::block_on(smol::net::TcpListener::bind("127.0.0.1:0"))?;
    /// let remote = Remote::connect(late.local_addr()?.to_string());
    /// let accepting = std::thread::spawn(move || smol::block_on(node.accept(late)));
    /// assert_eq!(remote.call1::<_, Vec<i32>>("rpc.echo", [7]).wait()?, [7]);
    /// # smol::block_on(running.stop());
    /// # accepting.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn accept(&self, listener: impl Into<Listener>) {
        accept::run(self.shared.clone(), listener.into()).or(self.shared.shutdown.signal()).await;
    }

    /// Serves one connection over any byte stream, such as an in-memory one, until it ends.
    ///
    /// The node does not count, limit or drain this connection, which may call every function.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::{Node, Remote};
    /// # use chanrpc::config::Limits;
    /// # use chanrpc::route::Registry;
    /// # let executor = Arc::new(smol::Executor::new());
    /// # let node = Node::new(executor.clone(), Registry::builder("example").build(), Limits::default());
    /// # smol::block_on(executor.run(async {
    /// # let listener = smol::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let remote = Remote::builder(listener.local_addr()?.to_string()).executor(&executor).connect();
    /// let (stream, _) = listener.accept().await?;
    /// let connection = executor.spawn(async move { node.serve_connection(stream).await });
    /// assert_eq!(remote.call1::<_, Vec<i32>>("rpc.echo", [7]).await?, [7]);
    /// drop(remote);
    /// connection.await;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn serve_connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let limits = self.shared.limits();
        let stream = serve::with_stall_timeout(&limits, stream);
        serve::serve(&self.shared, &limits, &Default::default(), None, stream, Arc::default()).await;
    }
}
