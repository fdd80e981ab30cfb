//! What answers a name: one file for each kind of provider.

mod arguments;
mod builtin;
mod builtin_support;
mod discover;
pub(crate) mod exec;
pub(crate) mod forward;
mod infer;
mod native;
#[cfg(feature = "nats")]
pub(crate) mod nats;
mod peer;
pub(crate) mod process;
mod program;
mod relay;
mod result;
mod topic_forward;
mod topics;

#[cfg(feature = "cli")]
pub(crate) use builtin::names as builtin_names;
pub(crate) use exec::Exec;
#[cfg(feature = "grpc")]
pub(crate) use forward::MethodName;
pub(crate) use forward::{Forward, ForwardSettings, ReportLimit};
pub(crate) use process::Process;
#[cfg(feature = "cli")]
pub(crate) use program::{mode, set_inherited_cloexec};
pub(crate) use relay::Relay;
pub(crate) use topic_forward::upstream;
