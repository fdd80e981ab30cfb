//! The network client: calls the functions of another node over connections that all callers share.

mod backoff;
mod balanced;
mod builder;
mod call;
mod calling;
mod client;
mod connection;
mod dial;
mod driver;
mod endpoint;
mod error;
mod follow;
#[cfg(feature = "grpc")]
mod grpc;
mod io_thread;
mod lanes;
#[cfg(feature = "grpc")]
mod link;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod nats_driver;
mod node_endpoint;
mod offering;
mod pool;
#[cfg(feature = "grpc")]
mod protocol;
mod submit;
mod target;
mod tcp;

pub use crate::transport::tls::{Connector, TlsError};
pub use balanced::{Balanced, Policy};
pub(crate) use balanced::{BalancedRequest, Balancer, BalancerSettings, Failures, key_of};
pub use builder::RemoteBuilder;
pub use call::RemoteCall;
pub use client::Remote;
#[cfg(feature = "cli")]
pub(crate) use connection::Connection;
pub(crate) use connection::ConnectionLease;
pub(crate) use endpoint::Mode;
pub(crate) use error::RemoteError;
pub(crate) use follow::{Follower, News};
#[cfg(feature = "grpc")]
pub(crate) use grpc::unblocked;
#[cfg(feature = "nats")]
pub use nats::Naming;
#[cfg(all(feature = "cli", feature = "nats"))]
pub(crate) use nats::NatsAddress;
#[cfg(feature = "nats")]
pub(crate) use nats::{NatsCredentials, NatsRole, NatsSettings, Survey, control};
pub(crate) use offering::{OfferEvent, Offering};
