//! Where connections come in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use smol::Async;
use smol::net::{TcpListener, TcpStream};
use socket2::SockRef;

use crate::address::Address;
use crate::codec::leaf::{ByteOrder, LeafFraming, LengthBytes};
use crate::config::{self, ListenerConfig, ListenerTlsConfig};
use crate::route::{Access, Grants};
use crate::transport::http::HostPolicy;
use crate::transport::tls::{Acceptor, TlsError};

/// Connections that may wait to be accepted. The system caps it (Linux: `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// A bound socket, and what holds for whoever comes in by it.
///
/// Made of nothing but a socket, it lets everybody call everything.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<Async<std::net::TcpListener>>,
    pub(super) entrance: Arc<Entrance>,
}

/// What holds for whoever comes in.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) pass: Grants,
    pub(super) host_policy: HostPolicy,
    /// Nothing but Leaf's messages is spoken here.
    pub(super) leaf: Option<LeafFraming>,
    pub(super) tls: Option<Acceptor>,
}

impl Listener {
    /// Listens on `socket` as a configuration says, but for TLS, which [`Self::tls`] and [`Self::with_tls`] add.
    pub fn new(socket: TcpListener, configured: &ListenerConfig, access: &Arc<Access>) -> Self {
        let mut hosts = configured.hosts.clone();
        hosts.extend(configured.address.parse().map(|address: Address| address.host()));
        let host_policy = HostPolicy::new(hosts, configured.origins.clone(), &configured.address.to_string());
        let leaf = configured.leaf.as_ref().map(leaf);
        let pass = access.grants_for(&configured.address);
        Self {
            socket: listening(socket),
            entrance: Arc::new(Entrance { pass, host_policy, leaf, tls: None }),
        }
    }

    /// Listens for peers that shake hands first.
    #[must_use]
    pub fn with_tls(self, tls: Option<Acceptor>) -> Self {
        let Entrance { pass, host_policy, leaf, .. } = &*self.entrance;
        let entrance = Entrance {
            pass: pass.clone(),
            host_policy: host_policy.clone().with_tls(tls.is_some()),
            leaf: *leaf,
            tls,
        };
        Self { entrance: Arc::new(entrance), ..self }
    }

    /// Waits for a connection. A program that inherited it would keep it open, so none does but one that starts in this very
    /// moment; on Windows the standard library does not see to that.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.socket.read_with(|socket| SockRef::from(socket).accept()).await?;
        let peer = peer.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((TcpStream::try_from(std::net::TcpStream::from(stream))?, peer))
    }

    /// Reads the files that a listener with TLS needs. None, if it is configured without.
    ///
    /// # Errors
    /// If one is not what it should be, or this build has no TLS (feature `tls`).
    pub fn tls(configured: &ListenerConfig) -> Result<Option<Acceptor>, TlsError> {
        let load =
            |tls: &ListenerTlsConfig| Acceptor::load(&tls.certificate, &tls.key, tls.client_ca.as_deref());
        configured.tls.as_ref().map(load).transpose()
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket: listening(socket), entrance: Arc::default() }
    }
}

/// Has the system keep more connections that wait to be accepted than the standard library asks for, which is 128: of a
/// burst beyond that each waits for its SYN to be sent again, a second or more. Where a socket that listens already keeps
/// to its first backlog (Windows), nothing changes.
fn listening(socket: TcpListener) -> Arc<Async<std::net::TcpListener>> {
    let socket: Arc<Async<std::net::TcpListener>> = socket.into();
    if let Err(error) = SockRef::from(socket.get_ref()).listen(BACKLOG) {
        log::debug!("a backlog of {BACKLOG} connections: {error}");
    }
    socket
}

impl Entrance {
    /// Returns the rights of whoever comes in from an address.
    pub(super) fn pass_of(&self, peer: Option<SocketAddr>) -> Grants {
        let pass = self.pass.clone();
        match peer {
            Some(peer) => pass.with_peer(peer),
            None => pass,
        }
    }

    /// Tells whether Leaf's messages are spoken here, in WebSocket frames.
    pub(super) fn speaks_only_websocket(&self) -> bool {
        self.leaf.is_some_and(|leaf| !leaf.length_prefixed)
    }
}

impl Default for Entrance {
    fn default() -> Self {
        Self { pass: Grants::all(), host_policy: HostPolicy::default(), leaf: None, tls: None }
    }
}

fn leaf(configured: &config::LeafConfig) -> LeafFraming {
    let length = match configured.length {
        1 => LengthBytes::One,
        2 => LengthBytes::Two,
        _ => LengthBytes::Four,
    };
    let order = match configured.order {
        config::ByteOrder::Big => ByteOrder::Big,
        config::ByteOrder::Little => ByteOrder::Little,
    };
    LeafFraming {
        length_bytes: length,
        byte_order: order,
        min: configured.min,
        max: configured.max,
        length_prefixed: !configured.websocket,
    }
}
