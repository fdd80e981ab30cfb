//! Listeners: bound sockets, and the settings of the connections they accept.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use smol::Async;
use smol::net::{TcpListener, TcpStream};
use socket2::SockRef;

use super::host_policy::HostPolicy;
#[cfg(feature = "grpc")]
use super::leaf;
use crate::address::Address;
#[cfg(feature = "grpc")]
use crate::codec::leaf::LeafMessages;
use crate::codec::leaf::{ByteOrder, LeafFraming, LengthBytes};
use crate::config::{self, ListenerConfig, ListenerTlsConfig};
use crate::route::{Access, Grants};
use crate::transport::tls::{Acceptor, TlsError};

/// The maximum number of connections waiting to be accepted. The system caps it (Linux: `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// A bound socket, and the settings of the connections it accepts.
///
/// Made from a socket alone, it lets every caller call every function.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<Async<std::net::TcpListener>>,
    settings: Arc<ListenerSettings>,
}

/// The settings of the connections that a listener accepts from now on.
#[derive(Debug, Default)]
pub(crate) struct ListenerSettings(Mutex<Arc<ListenerContext>>);

impl ListenerSettings {
    fn new(context: ListenerContext) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(context))))
    }

    /// Returns the configured address, and when the certificate expires, if it has one.
    pub(super) fn expiry(&self) -> Option<(String, SystemTime)> {
        let context = self.context().clone();
        Some((context.grants.listener()?.to_owned(), context.tls.as_ref()?.expires()?))
    }

    fn context(&self) -> MutexGuard<'_, Arc<ListenerContext>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the settings. Returns `true` if the certificate is another one.
    #[cfg(feature = "cli")]
    pub(crate) fn replace(
        &self,
        configured: &ListenerConfig,
        access: &Arc<Access>,
        tls: Option<Acceptor>,
    ) -> bool {
        let next = Arc::new(ListenerContext::new(configured, access, tls));
        let earlier = std::mem::replace(&mut *self.context(), next.clone());
        match (&earlier.tls, &next.tls) {
            (Some(earlier), Some(next)) => !next.is_like(earlier),
            _ => false,
        }
    }
}

/// The settings of all connections of a listener.
#[derive(Debug)]
pub(super) struct ListenerContext {
    pub(super) grants: Grants,
    pub(super) host_policy: HostPolicy,
    /// Set on a listener for Leaf messages only.
    pub(super) leaf: Option<LeafFraming>,
    pub(super) tls: Option<Acceptor>,
}

impl Listener {
    /// Creates a listener with the settings of `configured`, and loads its TLS files if it has any.
    ///
    /// # Errors
    /// [`TlsError`] if a file is missing or invalid, or if this build has no TLS (feature `tls`).
    pub fn new(
        socket: TcpListener,
        configured: &ListenerConfig,
        access: &Arc<Access>,
    ) -> Result<Self, TlsError> {
        Ok(Self::with_tls(socket, configured, access, Self::tls(configured)?))
    }

    /// Creates a listener whose TLS files are loaded.
    pub(crate) fn with_tls(
        socket: TcpListener,
        configured: &ListenerConfig,
        access: &Arc<Access>,
        tls: Option<Acceptor>,
    ) -> Self {
        let settings = ListenerSettings::new(ListenerContext::new(configured, access, tls));
        Self { socket: with_backlog(socket), settings }
    }

    /// Returns the settings, which can be replaced.
    pub(crate) fn settings(&self) -> &Arc<ListenerSettings> {
        &self.settings
    }

    /// Returns the settings of a connection that is accepted now.
    pub(super) fn context(&self) -> Arc<ListenerContext> {
        self.settings.context().clone()
    }

    /// Waits for a connection.
    ///
    /// Uses socket2, whose sockets child processes do not inherit: they would keep the connection open. (The standard
    /// library does not ensure this on Windows. A process spawned at the same moment may still inherit the socket.)
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.socket.read_with(|socket| SockRef::from(socket).accept()).await?;
        let peer = peer.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((TcpStream::try_from(std::net::TcpStream::from(stream))?, peer))
    }

    /// Checks the files of a listener, other than those of TLS.
    ///
    /// # Errors
    /// What is wrong with them.
    #[cfg(feature = "grpc")]
    pub(crate) fn check(configured: &ListenerConfig) -> Result<(), String> {
        let leaf = configured.leaf.as_ref();
        leaf.map_or(Ok(()), |leaf| leaf::messages(leaf, byte_order(leaf)).map(drop))
    }

    /// Loads the certificate and key of a listener. Returns `None` if it is configured without TLS.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn tls(configured: &ListenerConfig) -> Result<Option<Acceptor>, TlsError> {
        let load =
            |tls: &ListenerTlsConfig| Acceptor::load(&tls.certificate, &tls.key, tls.client_ca.as_deref());
        configured.tls.as_ref().map(load).transpose()
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket: with_backlog(socket), settings: Arc::default() }
    }
}

/// Raises the backlog of a listening socket from the 128 of the standard library. In a burst beyond the backlog, a
/// connection waits for its SYN to be retransmitted, a second or more. No effect where a listening socket keeps its
/// first backlog (Windows).
fn with_backlog(socket: TcpListener) -> Arc<Async<std::net::TcpListener>> {
    let socket: Arc<Async<std::net::TcpListener>> = socket.into();
    if let Err(error) = SockRef::from(socket.get_ref()).listen(BACKLOG) {
        log::debug!("failed to set a backlog of {BACKLOG} connections: {error}");
    }
    socket
}

impl ListenerContext {
    fn new(configured: &ListenerConfig, access: &Arc<Access>, tls: Option<Acceptor>) -> Self {
        let mut hosts = configured.hosts.clone();
        hosts.extend(configured.address.parse().map(|address: Address| address.host()));
        let host_policy = HostPolicy::new(hosts, configured.origins.clone(), &configured.address.to_string());
        let host_policy = host_policy.with_tls(tls.is_some());
        let leaf = configured.leaf.as_ref().map(leaf_framing);
        Self { grants: access.grants_for(&configured.address), host_policy, leaf, tls }
    }

    /// Returns the rights of a new connection, whose number they hold.
    pub(super) fn grants_for(&self, peer: Option<SocketAddr>) -> Grants {
        self.grants.clone().for_connection(peer)
    }

    /// Returns `true` if the listener speaks Leaf messages over WebSocket only.
    pub(super) fn is_websocket_only(&self) -> bool {
        self.leaf.is_some_and(|leaf| !leaf.length_prefixed)
    }
}

impl Default for ListenerContext {
    fn default() -> Self {
        Self { grants: Grants::all(), host_policy: HostPolicy::default(), leaf: None, tls: None }
    }
}

fn byte_order(configured: &config::LeafConfig) -> ByteOrder {
    match configured.order {
        config::ByteOrder::Big => ByteOrder::Big,
        config::ByteOrder::Little => ByteOrder::Little,
    }
}

/// Returns the messages of a listener for Leaf clients. [`Listener::check`] has found nothing wrong with them.
#[cfg(feature = "grpc")]
fn messages(configured: &config::LeafConfig) -> Option<&'static LeafMessages> {
    leaf::messages(configured, byte_order(configured)).unwrap_or_else(|error| {
        log::error!("{error}");
        None
    })
}

fn leaf_framing(configured: &config::LeafConfig) -> LeafFraming {
    let length = match configured.length {
        1 => LengthBytes::One,
        2 => LengthBytes::Two,
        _ => LengthBytes::Four,
    };
    LeafFraming {
        length_bytes: length,
        byte_order: byte_order(configured),
        min: configured.min,
        max: configured.max,
        length_prefixed: !configured.websocket,
        #[cfg(feature = "grpc")]
        messages: messages(configured),
    }
}
