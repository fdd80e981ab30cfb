//! Names → providers: who answers a call.

mod access;
mod admission;
mod arguments;
mod audit;
mod builtin;
mod call;
mod configured;
mod exec;
mod forward;
mod guesses;
mod native;
mod program;
mod registry;
mod stop;
mod table;

pub(crate) use access::PEER;
pub use access::{Access, Decision, Pass, Reason, Sight, token_hash};
pub(crate) use audit::PeerName;
pub use call::{Ask, Asker, Call, Inbox, Reply, Token};
pub use configured::{ProvidersError, providers};
pub use exec::Exec;
pub use forward::Forward;
pub use native::{Json, Native, Wire};
pub use program::keep_from_programs;
pub use registry::{Builder, Registry, RegistryError};
pub(crate) use stop::{Stop, Stopper};

use std::time::Duration;

use smol::future::Boxed;

use crate::config::Workers;
use crate::message::{Fault, RawJson};

/// Answers the calls of one name, or of one family of names.
pub trait Provider: Send + Sync + 'static {
    /// Takes a call. Returns soon: what takes time is done elsewhere, and answered through `call.reply`.
    fn call(&self, call: Call<'_>);

    /// Answers without waiting, if it can, by appending the result as JSON to `out`. Otherwise it does nothing, and
    /// [`call`](Self::call) gets the call; what was appended by then is dropped. By default it never can.
    fn prompt(&self, ask: &Ask<'_>, out: &mut Vec<u8>) -> Option<Result<(), Fault>> {
        let _ = (ask, out);
        None
    }

    /// Tells what is wrong with the parameters of a call that would have to wait, so that it is told at once. By
    /// default nothing is known before the call is taken.
    ///
    /// # Errors
    /// The fault that the caller gets.
    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        let _ = params;
        Ok(())
    }

    /// Says how many calls it takes at once, unless the [`Builder`] is told otherwise. By default as many as come.
    fn workers(&self) -> Option<Workers> {
        None
    }

    /// Says how long a call may take, if that is configured for this function. A caller may ask for more time than
    /// `limits.deadline`, but not for more than this.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Says what it is, for `rpc.list`.
    fn describe(&self) -> Description;

    /// Ends what is still running; nobody waits for it any more. By default nothing is.
    fn stop(&self) -> Boxed<()> {
        Box::pin(std::future::ready(()))
    }
}

/// What `rpc.list` tells of a function beside its name.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Description {
    /// What sort of provider answers: `native`, `exec`, `forward` or `builtin`.
    pub provider: &'static str,
    /// How many results it gives, where that is known: `"0"`, `"1"` or `"n"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// The parameters as `[name, type]`, where they are declared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<(String, &'static str)>,
    /// Which node or program it is passed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// A sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
