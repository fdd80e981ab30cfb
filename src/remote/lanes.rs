//! Calls to another node in order by key.

use std::sync::Arc;

use smol::Executor;

use super::{Balanced, Remote, RemoteBuilder};
use crate::chan::CallError;
use crate::lanes::{Keyed, LaneCall, LaneClient, LaneSettings, Lanes};
use crate::message::RawJson;

/// A client without a connection is dead. Lanes then dial, and their calls wait instead of failing at once.
impl LaneClient for Remote {
    type Error = CallError;

    fn is_fatal(error: &CallError) -> bool {
        matches!(error, CallError::Unreachable { .. } | CallError::Lost { .. })
    }

    fn is_dead(&self) -> bool {
        !self.is_connected()
    }
}

/// Calls to several nodes, in order by key.
impl LaneClient for Balanced {
    type Error = CallError;

    /// Its connections are established again by themselves.
    fn is_fatal(_: &CallError) -> bool {
        false
    }
}

impl Lanes<Balanced> {
    /// Creates lanes to several nodes, which share their connections. Calls of one key run in order, whichever nodes they
    /// go to.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chanrpc::lanes::{LaneSettings, Lanes};
    /// # use chanrpc::remote::{Balanced, Policy};
    /// # use chanrpc::{Id1, Node, Remote};
    /// # const ECHO: Id1<Vec<String>, Vec<String>> = Id1::new("rpc.echo");
    /// # let nodes = [(); 2].map(|()| Node::builder("board").listen("127.0.0.1:0").start().unwrap());
    /// let executor = Arc::new(smol::Executor::new());
    /// let remotes = nodes.each_ref().map(|node| {
    ///     Remote::builder(node.addresses()[0].to_string()).executor(&executor)
    /// });
    /// let balanced = Balanced::connect(remotes, Policy::default());
    /// let lanes = Lanes::to_nodes(&executor, LaneSettings::default(), &balanced);
    /// let echoed = smol::block_on(executor.run(lanes.keyed("player 7").call(ECHO, vec!["hello".into()])))?;
    /// assert_eq!(echoed, ["hello"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_nodes(executor: &Arc<Executor<'static>>, settings: LaneSettings, nodes: &Balanced) -> Self {
        let nodes = nodes.clone();
        Self::new(executor, settings, move |_| std::future::ready(Ok(nodes.clone())))
    }
}

/// Calls to another node, with a connection for each lane.
impl Lanes<Remote> {
    /// Creates lanes to one node. Each lane dials its own connection when a call needs it.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use chanrpc::chan::Id1;
    /// use chanrpc::lanes::{LaneSettings, Lanes};
    /// use chanrpc::node::Node;
    /// use chanrpc::remote::Remote;
    ///
    /// const ECHO: Id1<Vec<String>, Vec<String>> = Id1::new("rpc.echo");
    ///
    /// let node = Node::builder("example").listen("127.0.0.1:0").start()?;
    /// let address = node.addresses()[0].to_string();
    ///
    /// let executor = Arc::new(smol::Executor::new());
    /// let lanes = Lanes::to_node(&executor, LaneSettings::default(), Remote::builder(address));
    /// let echoed = smol::block_on(executor.run(lanes.keyed("player 7").call(ECHO, vec!["hello".into()])))?;
    /// assert_eq!(echoed, ["hello"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_node(executor: &Arc<Executor<'static>>, settings: LaneSettings, remote: RemoteBuilder) -> Self {
        let remote = remote.executor(executor);
        Self::new(executor, settings, move |_| {
            let remote = remote.clone().connect();
            async move {
                remote.connected().await?;
                Ok(remote)
            }
        })
    }

    /// Calls a function in the lane of its name, with parameters and result in JSON.
    pub fn call_raw(&self, method: &str, params: Option<RawJson<'_>>) -> LaneCall<Remote, RawJson<'static>> {
        self.keyed(method).call_raw(method, params)
    }
}

impl Keyed<'_, Remote> {
    /// Calls a function with parameters and result in JSON.
    pub fn call_raw(&self, method: &str, params: Option<RawJson<'_>>) -> LaneCall<Remote, RawJson<'static>> {
        let (method, params) = (method.to_owned(), params.map(RawJson::into_owned));
        self.run(move |remote| remote.call_raw(method, params).deadline(remote.deadline()))
    }
}
