//! Providers as the configuration names them.

use std::collections::HashMap;
use std::sync::Arc;

use smol::Executor;

use super::registry::{Builder, RegistryError};
use super::{Exec, Forward, Registry};
use crate::config::{Config, Provider};
use crate::remote::Remote;

/// Starts a registry with the functions of a configuration. Functions that are forwarded to the same node
/// share one connection.
///
/// # Errors
/// [`RegistryError`] if a name is taken twice or unfit.
pub fn providers(config: &Config, executor: &Arc<Executor<'static>>) -> Result<Builder, RegistryError> {
    let name: Arc<str> = config.name.as_str().into();
    let hops = config.limits.hops;
    let mut builder = Registry::builder(name.clone()).max_hops(hops);
    let mut remotes: HashMap<&str, Arc<Remote>> = HashMap::new();
    for function in &config.functions {
        let description = function.description.clone();
        match &function.provider {
            Provider::Exec(exec) => {
                builder.provide(&function.name, description, Exec::new(executor.clone(), exec.clone()))?;
            }
            Provider::Forward(forward) => {
                let remote = remotes.entry(&forward.to).or_insert_with(|| {
                    Arc::new(Remote::new(executor, forward.to.as_str(), config.limits.clone()))
                });
                let forward =
                    Forward::new(executor.clone(), remote.clone(), name.clone(), hops, forward.timeout);
                builder.provide(&function.name, description, forward)?;
            }
        }
    }
    Ok(builder)
}
