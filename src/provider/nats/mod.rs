//! Functions and topics over NATS.

mod service;
mod topics;

pub use crate::remote::Naming;
pub(crate) use service::{NatsService, ServiceSettings};
pub(crate) use topics::NatsTopics;
