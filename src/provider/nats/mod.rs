//! Functions and topics over NATS.

mod naming;
mod service;
mod topics;

pub use naming::Naming;
pub(crate) use service::{NatsService, ServiceSettings};
pub(crate) use topics::NatsTopics;
