//! Functions live in servers; a server owns its state and runs its functions one at a time; callers call them
//! sync, async or fire-and-forget, in this process or over one small port.

pub mod chan;

#[cfg(feature = "node")]
pub mod codec;
#[cfg(feature = "node")]
pub mod config;
#[cfg(feature = "cli")]
pub mod log;
#[cfg(feature = "node")]
pub mod message;
#[cfg(feature = "node")]
pub mod metrics;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod remote;
#[cfg(feature = "node")]
pub mod route;
#[cfg(feature = "node")]
pub mod session;
#[cfg(feature = "node")]
pub mod transport;

#[cfg(feature = "cli")]
pub mod cli;
