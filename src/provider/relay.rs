//! The relay: answers what another node may call of this one, under other names.

use std::sync::{Arc, Weak};

use crate::message::{Fault, RawJson, code};
use crate::route::{Call, PING, Provider, Registry, RegistryBuilder, matches};

/// Notifies this node that another connection has taken over a function.
const WITHDRAWN: &str = "rpc.withdrawn";

/// Answers the calls of functions that this node offers at another node, and nothing else.
pub(crate) struct Relay {
    registry: Weak<Registry>,
    prefix: String,
    /// Patterns of this node's names.
    functions: Vec<String>,
    withdrawn: Box<dyn Fn(&str) + Send + Sync>,
}

impl Relay {
    /// Returns a registry of which only those functions of `registry` can be called that match one of the patterns in
    /// `functions`, under their name after `prefix`. `withdrawn` is called when one of them is taken over.
    pub(crate) fn registry(
        registry: &Arc<Registry>,
        prefix: String,
        functions: Vec<String>,
        withdrawn: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Arc<Registry> {
        let relay = Self { registry: Arc::downgrade(registry), prefix, functions, withdrawn };
        RegistryBuilder::new(registry.name().clone(), &[])
            .max_hops(registry.table().max_hops())
            .fallback(Arc::new(relay))
            .build()
    }
}

impl Provider for Relay {
    fn call(&self, call: Call<'_>) {
        let method = call.method();
        if method == PING {
            return call.reply(Ok(RawJson::checked("\"pong\"")));
        }
        if method == WITHDRAWN {
            (self.withdrawn)(call.params().map_or("", RawJson::get));
            return call.reply(Ok(RawJson::NULL));
        }
        let is_offered = |name: &&str| self.functions.iter().any(|pattern| matches(pattern, name));
        match (method.strip_prefix(&*self.prefix).filter(is_offered), self.registry.upgrade()) {
            (_, None) => call.reply(Err(Fault::new(code::CLOSED, "the node is stopping"))),
            (Some(name), Some(registry)) => registry.relay(name, call),
            (None, Some(_)) => {
                let message =
                    "this connection serves only what the node offers, under the names that it offers";
                call.reply(Err(Fault::new(code::UNKNOWN_FUNCTION, message)));
            }
        }
    }
}
