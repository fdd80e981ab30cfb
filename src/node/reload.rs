//! Replaces what a node has of its configuration, while it serves.

use std::sync::Arc;

use super::Node;
use super::from_config::Parts;
use crate::config::Limits;
use crate::route::{Access, FunctionSet};

/// What a node has of a configuration.
pub(crate) struct Generation {
    pub(crate) functions: FunctionSet,
    pub(crate) access: Arc<Access>,
    pub(crate) limits: Limits,
}

impl Node {
    /// Replaces the functions, access rules and limits, whose `parts` were those of `earlier` ones. Connections stay, and
    /// keep their limits; the calls in flight are answered by what they have been passed to.
    pub(crate) fn replace(&self, next: Generation, earlier: &Parts, parts: &Parts) {
        let Generation { functions, access, limits } = next;
        let (registry, limits) = (self.registry(), Arc::new(limits));
        registry.install(functions);
        earlier.withdraw_all_but(parts);
        registry.table().set_limits(&limits);
        self.shared.set_limits(&limits);
        access.set_token_delay(limits.token_delay);
        registry.table().set_access(&access);
    }
}
