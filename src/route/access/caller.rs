//! Who calls.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::super::mailbox::Peer;
use super::super::send_error::SendError;
use super::peer::PeerName;
use super::rights::{Rights, TokenHash, label};
use crate::config::host_key;
use crate::message::{Fault, RawJson};

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
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Sends a notification to the caller's connection, at any time: `{"method": …, "params": data}`, as the dialect
    /// writes it. In Leaf's, it is the message `{"METHOD": data}`. `data` becomes the parameters; in dialects whose
    /// parameters are an array or an object, another value becomes the only one of them. Never waits.
    ///
    /// Messages arrive in the order in which they are sent. One that is sent may be lost with the connection.
    ///
    /// ```
    /// use std::io::{BufRead, BufReader, Write};
    /// use std::net::TcpStream;
    ///
    /// use chanrpc::route::WithCaller;
    /// use chanrpc::{Functions, Id0, Node};
    ///
    /// const JOIN: Id0<WithCaller<String>> = Id0::new("join");
    ///
    /// let mut functions = Functions::exported();
    /// functions.register(JOIN, |_: &mut (), WithCaller(caller, name)| {
    ///     caller.send("welcome", &[format!("hello, {name}")])
    /// })?;
    /// let node = Node::builder("example").serve(functions, ()).listen("127.0.0.1:0").start()?;
    ///
    /// let mut stream = TcpStream::connect(node.addresses()[0])?;
    /// writeln!(stream, r#"{{"jsonrpc":"2.0","method":"join","params":["Ann"]}}"#)?;
    /// let mut line = String::new();
    /// BufReader::new(stream).read_line(&mut line)?;
    /// assert_eq!(line.trim_end(), r#"{"jsonrpc":"2.0","method":"welcome","params":["hello, Ann"]}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError`]; then nothing is sent.
    pub fn send(&self, method: &str, data: &(impl Serialize + ?Sized)) -> Result<(), SendError> {
        let peer = self.peer.as_ref().ok_or(SendError::Unreachable)?;
        let data = RawJson::of(data)
            .map_err(|error| SendError::Invalid(Fault::invalid_params(error.to_string())))?;
        peer.notify(method, &data)
    }

    /// Closes the connection when everything sent so far is written; what is sent later is refused. Does nothing if the
    /// caller has no connection of its own.
    pub fn close(&self) {
        if let Some(peer) = &self.peer {
            peer.close();
        }
    }

    /// Returns who answers for what the connection offers.
    pub(crate) fn owner(&self) -> Owner {
        let rights = self.rights.as_ref().filter(|rights| !rights.presented.is_empty());
        match (rights, self.address()) {
            (Some(rights), _) => Owner::Tokens(rights.presented_tokens(), rights.presented_names()),
            (_, Some(address)) => Owner::Host(host_key(address.ip())),
            (_, None) => Owner::Connection(self.connection),
        }
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

/// Who answers for what a connection offers: all who have its tokens or, without any, its host.
#[derive(Clone, Debug)]
pub(crate) enum Owner {
    /// The hashes of the tokens; and, for people, the names of all their rules, or else their locations.
    Tokens(Vec<TokenHash>, Vec<String>),
    Host(IpAddr),
    /// No other connection.
    Connection(u64),
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tokens(own, _), Self::Tokens(other, _)) => {
                own.len() == other.len() && own.iter().all(|token| other.contains(token))
            }
            (Self::Host(own), Self::Host(other)) => own == other,
            (Self::Connection(own), Self::Connection(other)) => own == other,
            _ => false,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(_, names) => {
                for (index, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Host(host) => host.fmt(f),
            Self::Connection(number) => write!(f, "connection {number}"),
        }
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
