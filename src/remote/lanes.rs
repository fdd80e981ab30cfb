//! Calls to another node in order by key.

use std::sync::Arc;

use serde_json::value::RawValue;
use smol::Executor;

use super::{Remote, RemoteError};
use crate::config::Limits;
use crate::lanes::{Keyed, LaneCall, LaneClient, LaneSettings, Lanes};
use crate::message::RawJson;

/// A client without a connection is dead. Lanes then dial, and their calls wait instead of failing at once.
impl LaneClient for Remote {
    type Error = RemoteError;

    fn is_fatal(error: &RemoteError) -> bool {
        matches!(error, RemoteError::Unreachable { .. } | RemoteError::Lost { .. })
    }

    fn is_dead(&self) -> bool {
        !self.is_connected()
    }
}

/// Calls to another node, with a connection for each lane.
impl Lanes<Remote> {
    /// Creates a pool of connections to the node at `address`, a `host:port`. Connects when
    /// calls need it.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use chanrpc::config::Limits;
    /// use chanrpc::node::Node;
    /// use chanrpc::route::Registry;
    /// use chanrpc::lanes::{LaneSettings, Lanes};
    /// use serde_json::value::RawValue;
    /// use smol::{Executor, net::TcpListener};
    ///
    /// let executor = Arc::new(Executor::new());
    /// smol::block_on(executor.run(async {
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     let address = listener.local_addr()?;
    ///     let node = Node::new(executor.clone(), Registry::builder("example").build(), Limits::default());
    ///     let _node = executor.spawn(async move { node.serve(vec![listener], std::future::pending()).await });
    ///
    ///     let lanes =
    ///         Lanes::to_node(&executor, address.to_string(), Limits::default(), LaneSettings::default());
    ///     let params = RawValue::from_string("[\"hello\"]".into())?;
    ///     let echoed = lanes.keyed("player 7").call("rpc.echo", Some(&params)).await?;
    ///     assert_eq!(echoed.get(), "[\"hello\"]");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// }))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_node(
        executor: &Arc<Executor<'static>>,
        address: impl Into<String>,
        limits: Limits,
        settings: LaneSettings,
    ) -> Self {
        let (address, remote_executor) = (address.into(), executor.clone());
        Self::over(executor, settings, move || {
            Remote::new(&remote_executor, address.as_str(), limits.clone())
        })
    }

    /// Creates a pool of connections that `remote` creates, one for each lane. For example to a node that requires a
    /// token ([`Remote::with_token`]) or TLS ([`Remote::over_tls`]).
    pub fn over(
        executor: &Arc<Executor<'static>>,
        settings: LaneSettings,
        remote: impl Fn() -> Remote + Send + Sync + 'static,
    ) -> Self {
        Self::new(executor, settings, move |_| {
            let remote = remote();
            async move {
                remote.connected().await?;
                Ok(remote)
            }
        })
    }

    /// Calls a function in the lane of its name, and waits for its result. See [`Keyed::call`].
    pub fn call(&self, method: &str, params: Option<&RawValue>) -> LaneCall<Remote, RawJson<'static>> {
        self.keyed(method).call(method, params)
    }
}

impl Keyed<'_, Remote> {
    /// Calls a function and waits for its result. The other node receives the remaining time, and a cancellation if the
    /// returned future is dropped.
    pub fn call(&self, method: &str, params: Option<&RawValue>) -> LaneCall<Remote, RawJson<'static>> {
        let (method, params) = (method.to_owned(), params.map(ToOwned::to_owned));
        self.run(
            move |remote| async move { remote.call(&method, params.as_deref(), remote.deadline(), 0).await },
        )
    }
}
