//! Who calls.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::mailbox::Peer;
use super::peer::PeerName;
use super::rights::{Rights, label};

/// The number of the last connection.
static LAST_CONNECTION: AtomicU64 = AtomicU64::new(0);

/// Who calls a function: a connection to a node, and what is known of it. A provider finds it in its
/// [`Call`](crate::route::Call), and a native function if it asks for it by [`WithCaller`](crate::route::WithCaller).
#[derive(Clone)]
pub struct Caller {
    connection: u64,
    pub(super) address: PeerName,
    /// `None` if the connection is for its own calls only.
    peer: Option<Peer>,
    dialect: &'static str,
    /// `None` if everything is allowed.
    pub(super) rights: Option<Arc<Rights>>,
}

impl Caller {
    /// Returns a caller in this process, which may call everything.
    pub fn local() -> Self {
        Self { connection: 0, address: PeerName::default(), peer: None, dialect: "local", rights: None }
    }

    pub(super) fn new(rights: Option<Arc<Rights>>) -> Self {
        Self { rights, ..Self::local() }
    }

    /// Makes it the caller of a new connection.
    pub(super) fn connect(&mut self, address: Option<SocketAddr>) {
        self.connection = LAST_CONNECTION.fetch_add(1, Ordering::Relaxed) + 1;
        self.address = PeerName(address);
    }

    pub(super) fn set_dialect(&mut self, dialect: &'static str) {
        self.dialect = dialect;
    }

    pub(super) fn set_peer(&mut self, peer: Peer) {
        self.peer = Some(peer);
    }

    /// Returns the other end of the connection, which can be called, unless this is a single request over HTTP or a call
    /// in this process.
    #[allow(dead_code)]
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Returns the number of the connection, which no other connection in this process has; 0 for a caller in this
    /// process. All requests over one HTTP connection have the same.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Returns the address of the connection's other end, unless the connection is no socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.0
    }

    /// Returns how the peer speaks: `lines`, `headers` (Content-Length), `msgpack`, `http`, `websocket` or `leaf`;
    /// `local` for a caller in this process.
    pub fn dialect(&self) -> &'static str {
        self.dialect
    }

    /// Returns the access rules that apply to the caller at this moment: those for everybody, and those of the tokens
    /// that it has presented. Each is its name, or else its location in the configuration. A caller that may call
    /// everything without a rule has none.
    pub fn rules(&self) -> Vec<&str> {
        self.rights.iter().flat_map(|rights| rights.in_force()).map(label).collect()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("connection", &self.connection)
            .field("address", &self.address.0)
            .field("dialect", &self.dialect)
            .field("rules", &self.rules())
            .finish()
    }
}
