//! Name → provider: finds the provider that answers a call, after access rules and admission.

pub(crate) mod access;
mod admission;
mod builder;
mod call;
mod caught;
mod description;
mod entry;
mod error;
mod events;
mod exports;
mod functions;
mod generation;
mod listing;
pub(crate) mod mailbox;
mod name;
mod names;
mod offers;
mod other_nodes;
mod permit;
pub(crate) mod registered;
mod registry;
mod send_error;
mod shutdown;
mod subscription;
mod table;
pub(crate) mod topics;

pub use access::{Access, Caller};
pub(crate) use access::{Action, Grants, PEER, PING, PeerName, RELOAD};
#[cfg(feature = "cli")]
pub(crate) use access::{Decision, token_hash};
pub use builder::RegistryBuilder;
pub use call::{Call, Responder};
pub(crate) use call::{CallHead, remaining};
pub(crate) use description::Told;
pub use description::{Description, ProviderKind};
pub use error::RegistryError;
pub(crate) use events::Notice;
pub use exports::{Exports, Network, WithCaller};
pub(crate) use functions::FunctionSet;
pub(crate) use generation::FunctionCache;
pub(crate) use mailbox::{CallId, Mailbox, Peer, PeerCall, PeerError, Post, Posts, SESSION};
pub(crate) use name::matches;
pub(crate) use names::is_valid;
pub(crate) use offers::{Members, Offer, Share};
pub(crate) use other_nodes::{OtherNodes, Report, Reported};
pub use registry::Registry;
pub use send_error::SendError;
pub(crate) use shutdown::{Shutdown, ShutdownSignal};
pub use subscription::{Subscription, TopicEvent};
pub(crate) use table::{Builtin, BuiltinCall, Table};
pub use topics::Topics;
#[cfg(feature = "grpc")]
pub(crate) use topics::{EXPIRED, Subscribed, WITHDRAWN};
pub(crate) use topics::{Follow, Subscribe, TopicHub, Upstream, Way, covers};

use std::time::Duration;

use smol::future::Boxed;

use crate::message::{Fault, RawJson};

/// How long after a function was withdrawn a call may still come to its provider, from a thread that has found it before.
pub(crate) const LAST_CALLS: Duration = Duration::from_secs(1);

/// Answers the calls of one function, or of one family of functions. What is known of the function before it is called
/// is its [`Description`].
pub trait Provider: Send + Sync + 'static {
    /// Answers a call by [`Call::reply`] if that is possible without waiting, and otherwise starts it and takes its
    /// responder by [`Call::defer`]. Must return soon: longer work runs elsewhere.
    fn call(&self, call: Call<'_>);

    /// Validates the parameters of a call before it is queued for a worker, so that the caller learns of a mistake
    /// immediately. The default implementation accepts everything.
    ///
    /// # Errors
    /// The fault that the caller receives.
    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        let _ = params;
        Ok(())
    }

    /// Aborts the calls that are still running, and completes once they have ended. By default there is nothing to
    /// abort.
    fn stop(&self) -> Boxed<()> {
        Box::pin(std::future::ready(()))
    }

    /// Called from time to time once the configuration of the node no longer has the function, so that no further call
    /// comes. Returns `true` if no call runs, and nothing else is left that [`stop`](Self::stop) would end. By default
    /// nothing is.
    fn retire(&self) -> bool {
        true
    }
}
