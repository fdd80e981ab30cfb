//! What is known of a function before it is called.

use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::other_nodes::OtherNodes;
use crate::config::Workers;
use crate::message::Signature;
use crate::setters::setters;

/// What is known of a function besides its name. `rpc.list` reports it, without its limits.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Description {
    /// The kind of provider that answers.
    pub provider: ProviderKind,
    /// What it takes and returns.
    pub signature: Signature,
    /// The server, program or node that runs the function.
    pub target: Option<String>,
    /// The limit on concurrent calls, unless [`RegistryBuilder::function_workers`](super::RegistryBuilder) sets
    /// another. Unlimited by default.
    pub workers: Option<Workers>,
    /// The longest time that a caller may ask for, in place of `limits.deadline` if that is shorter.
    pub timeout: Option<Duration>,
    /// The nodes that it is forwarded to, which describe it.
    pub(crate) nodes: Option<Arc<dyn OtherNodes>>,
    /// What another node has told of it, if one has.
    pub(crate) told: Option<Told>,
}

/// In what a function that another node has described differs from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// How many nodes forward a call of it.
    pub(crate) hops: u32,
    /// A node is gone, and so the description may be out of date.
    pub(crate) is_stale: bool,
    /// It belongs to a family that is forwarded.
    pub(crate) is_member: bool,
}

setters!(Description { provider: ProviderKind, signature: Signature });

impl Description {
    /// Sets [`target`](Self#structfield.target).
    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Sets [`workers`](Self#structfield.workers).
    #[must_use]
    pub fn workers(mut self, workers: Workers) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Sets [`timeout`](Self#structfield.timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// The kind of a [`Provider`](super::Provider). Serialized as its [name](Self::as_str).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProviderKind {
    /// `builtin`: a function that every node has (`rpc.*`).
    Builtin,
    /// `exec`: a program, started for each call.
    Exec,
    /// `forward`: another node.
    Forward,
    /// `native`: a function of a server in this process.
    Native,
    /// `peer`: a connection that offers the function.
    Peer,
    /// `process`: a program that stays.
    Process,
    /// A provider defined outside of this crate, by its name. The default is an empty name.
    Custom(&'static str),
}

impl ProviderKind {
    /// Returns the name used in `rpc.list`, in metrics and in `[workers.NAME]`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Exec => "exec",
            Self::Forward => "forward",
            Self::Native => "native",
            Self::Peer => "peer",
            Self::Process => "process",
            Self::Custom(name) => name,
        }
    }
}

impl Default for ProviderKind {
    fn default() -> Self {
        Self::Custom("")
    }
}

impl Serialize for ProviderKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
