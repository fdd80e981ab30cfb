//! What is known of the nodes that a function is forwarded to.

use std::fmt;
use std::sync::Arc;

use crate::message::Signature;
use crate::metrics::TargetStats;

/// The nodes that a function, or a family, is forwarded to.
pub(crate) trait OtherNodes: fmt::Debug + Send + Sync {
    /// Returns what they have told of the function, or of those of the family. Asks again, for later callers, if that
    /// was a while ago.
    fn report(&self) -> Report;

    /// Returns the state of each node.
    fn targets(&self) -> Vec<TargetStats>;
}

/// What another node has told of its functions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) functions: Arc<[Reported]>,
    /// No node is connected that could tell.
    pub(crate) is_stale: bool,
}

/// A function of another node.
#[derive(Debug)]
pub(crate) struct Reported {
    pub(crate) name: Box<str>,
    pub(crate) signature: Signature,
    /// How many nodes forward a call of it.
    pub(crate) hops: u32,
    /// A node behind the other one is gone.
    pub(crate) is_stale: bool,
}
