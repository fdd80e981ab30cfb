//! What a node does with its configuration at its start, and again when it is reloaded.

use std::net::SocketAddr;
use std::path::Path;

use super::activation::Passed;
use super::bind::missing_rule;
use super::{DEFAULT_ADDRESS, print};
use crate::config::{Config, ConfigError, ListenerConfig};
use crate::node::Listener;
use crate::route::Access;
use crate::transport::tls::Acceptor;

/// Loads the configuration. The addresses in `listen`, if any, replace the configured ones. If there are neither, those of
/// the sockets that the service manager has passed are listened on.
pub(super) fn configuration(
    file: Option<&Path>,
    listen: Vec<String>,
    passed: &Passed,
) -> Result<Config, ConfigError> {
    let mut config = file.map_or_else(|| Ok(Config::default()), Config::load)?;
    if !listen.is_empty() {
        let configured = std::mem::take(&mut config.listen);
        let listen = listen.into_iter().map(|address| {
            let same =
                configured.iter().find(|listen| address.parse().is_ok_and(|address| listen.is_at(&address)));
            same.cloned().unwrap_or_else(|| ListenerConfig::new(address))
        });
        config.listen = listen.collect();
    }
    if config.listen.is_empty() {
        config.listen.extend(passed.addresses().map(|address| ListenerConfig::new(address.to_string())));
    }
    if config.listen.is_empty() {
        config.listen.push(ListenerConfig::new(DEFAULT_ADDRESS));
    }
    Ok(config)
}

/// Loads the TLS files of the listeners, and checks their others.
pub(super) fn load_tls(addresses: &[ListenerConfig]) -> Result<Vec<Option<Acceptor>>, String> {
    #[cfg(feature = "grpc")]
    addresses.iter().try_for_each(Listener::check)?;
    let tls = |listen| Listener::tls(listen).map_err(|error| format!("tls of {}: {error}", listen.address));
    addresses.iter().map(tls).collect()
}

/// Returns the error if an address is reachable from other machines and no access rule applies to it.
pub(super) fn open_address(config: &Config, file: Option<&Path>) -> Option<String> {
    let access = Access::new(config);
    let is_open = |listen: &&ListenerConfig| !listen.is_local() && !access.has_rule_for(&listen.address);
    config.listen.iter().find(is_open).map(|listen| missing_rule(&listen.address, file))
}

/// Tells of addresses that the node listens on.
pub(super) fn announce(addresses: impl IntoIterator<Item = SocketAddr>) {
    for address in addresses {
        print(&format!("listening on {address}"));
        log::info!("listening on {address}");
    }
}

/// Raises the system's limit on open files so that it covers all connections, programs and other nodes, or else lowers
/// the connection limit to fit, and returns a warning.
pub(super) fn lower_connections(config: &mut Config) -> Option<String> {
    let connections = config.limits.connections;
    let (reserved, all) =
        (config.worst_case_descriptors() as u64, (config.worst_case_descriptors() + connections) as u64);
    // A process that may not raise the limit can still read it. Windows has none.
    let allowed = rlimit::increase_nofile_limit(all).or_else(|_| rlimit::increase_nofile_limit(0));
    let allowed = allowed.ok()?.min(all);
    (allowed < all).then(|| {
        let fitting = allowed.saturating_sub(reserved).max(allowed / 4).max(1);
        let fitting = usize::try_from(fitting).unwrap_or(connections).min(connections);
        config.limits.connections = fitting;
        // A quarter of the limit may be enough for all of them.
        let lowered = match fitting {
            _ if fitting == connections => String::new(),
            _ => format!(": accepting {fitting} connections instead of {connections} (limits.connections)"),
        };
        format!(
            "the system allows {allowed} open files, but up to {all} are needed{lowered}; raise the limit to {all} with \
             ulimit -n, systemd's LimitNOFILE or OpenRC's rc_ulimit"
        )
    })
}
