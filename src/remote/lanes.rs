//! Calls of another node's functions in the order of their keys.

use std::sync::Arc;

use serde_json::value::RawValue;
use smol::Executor;

use super::{Remote, RemoteError};
use crate::config::Limits;
use crate::lanes::{Keyed, LaneCall, LaneClient, LaneSettings, Lanes};
use crate::message::RawJson;

/// Dead while it has no connection. Lanes then dial, and their calls wait, instead of failing at once.
impl LaneClient for Remote {
    type Error = RemoteError;

    fn is_fatal(error: &RemoteError) -> bool {
        matches!(error, RemoteError::Unreachable { .. } | RemoteError::Lost { .. })
    }

    fn is_dead(&self) -> bool {
        !self.is_connected()
    }
}

/// Calls of another node's functions, each lane over a connection of its own.
impl Lanes<Remote> {
    /// Creates a pool of connections to the node at `address`, a `host:port`. None is made yet.
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
        let (address, executor_of_remotes) = (address.into(), executor.clone());
        Self::over(executor, settings, move || {
            Remote::new(&executor_of_remotes, address.as_str(), limits.clone())
        })
    }

    /// Creates a pool of connections that `remote` begins, one for each lane: to a node that asks for a token, say
    /// ([`Remote::with_token`]), or that speaks TLS ([`Remote::over_tls`]).
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

    /// Calls a function in the function's lane and waits for its result. See [`Keyed::call`].
    pub fn call(&self, method: &str, params: Option<&RawValue>) -> LaneCall<Remote, RawJson<'static>> {
        self.keyed(method).call(method, params)
    }
}

impl Keyed<'_, Remote> {
    /// Calls a function and waits for its result. The other node gets to know how much time is left, and when
    /// the call is given up.
    pub fn call(&self, method: &str, params: Option<&RawValue>) -> LaneCall<Remote, RawJson<'static>> {
        let (method, params) = (method.to_owned(), params.map(ToOwned::to_owned));
        self.run(
            move |remote| async move { remote.call(&method, params.as_deref(), remote.deadline(), 0).await },
        )
    }
}
