//! Name → provider: finds the provider that answers a call, after access rules and admission.

pub(crate) mod access;
mod admission;
mod arguments;
mod builder;
mod builtin;
mod call;
mod description;
pub(crate) mod exec;
mod forward;
mod from_config;
mod name;
mod native;
mod program;
mod registry;
pub(crate) mod reply_queue;
mod result;
mod shutdown;
mod table;

pub use access::Access;
#[cfg(feature = "cli")]
pub(crate) use access::{Decision, token_hash};
pub(crate) use access::{Grants, PEER, PeerName};
pub use builder::{RegistryBuilder, RegistryError};
pub use call::{Call, CallRef, Responder};
pub use description::{Description, ProviderKind};
pub(crate) use exec::Exec;
pub use forward::Forward;
pub use from_config::{ProviderConfigError, registry_from_config};
pub use native::{Exports, Network};
#[cfg(feature = "cli")]
pub(crate) use program::set_inherited_cloexec;
pub use registry::Registry;
pub(crate) use reply_queue::{CallId, ReplyQueue};
pub(crate) use shutdown::{Shutdown, ShutdownSignal};

use std::time::Duration;

use smol::future::Boxed;

use crate::config::Workers;
use crate::message::{Fault, RawJson};

/// Answers the calls of one function, or of one family of functions.
pub trait Provider: Send + Sync + 'static {
    /// Starts a call. Must return soon: longer work runs elsewhere and answers through `call.responder`.
    fn call(&self, call: Call<'_>);

    /// Answers a call immediately, if that is possible without waiting, by appending the result as JSON to `out`.
    ///
    /// Returns `None` if it is not; the call then goes to [`call`](Self::call), and the caller discards what was
    /// appended. The default implementation returns `None`.
    fn try_call(&self, call: &CallRef<'_>, out: &mut Vec<u8>) -> Option<Result<(), Fault>> {
        let _ = (call, out);
        None
    }

    /// Validates the parameters of a call before it is queued for a worker, so that the caller learns of a mistake
    /// immediately. The default implementation accepts everything.
    ///
    /// # Errors
    /// The fault that the caller receives.
    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        let _ = params;
        Ok(())
    }

    /// Returns the limit on concurrent calls. [`RegistryBuilder::function_workers`] overrides it. Unlimited by
    /// default.
    fn workers(&self) -> Option<Workers> {
        None
    }

    /// Returns the timeout configured for this function, if any. It replaces `limits.deadline` as the longest time
    /// that a caller may ask for.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Describes the function for `rpc.list`.
    fn describe(&self) -> Description;

    /// Aborts the calls that are still running, and completes once they have ended. By default there is nothing to
    /// abort.
    fn stop(&self) -> Boxed<()> {
        Box::pin(std::future::ready(()))
    }
}
