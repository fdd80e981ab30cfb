//! Where connections come in.

use std::sync::Arc;

use smol::net::TcpListener;

use crate::config::Listen;
use crate::route::{Access, Pass};
use crate::transport::Site;

/// A bound socket, and what holds for whoever comes in by it.
///
/// Made of nothing but a socket, it lets everybody call everything.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: TcpListener,
    pub(super) entrance: Arc<Entrance>,
}

/// What holds for whoever comes in.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) pass: Pass,
    pub(super) site: Site,
}

impl Listener {
    /// Listens on `socket` as a configuration says.
    pub fn new(socket: TcpListener, configured: &Listen, access: &Arc<Access>) -> Self {
        let mut hosts = configured.hosts.clone();
        hosts.extend(configured.address.rsplit_once(':').map(|(host, _)| host.to_ascii_lowercase()));
        let site = Site::new(hosts, configured.origins.clone());
        let pass = access.visitor(&configured.address);
        Self { socket, entrance: Arc::new(Entrance { pass, site }) }
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, entrance: Arc::default() }
    }
}

impl Default for Entrance {
    fn default() -> Self {
        Self { pass: Pass::open(), site: Site::default() }
    }
}
