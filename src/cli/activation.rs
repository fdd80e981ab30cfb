//! Sockets that the service manager listens on, and passes to the node (`LISTEN_FDS`).

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::SockRef;

use crate::address::Address;
use crate::config::ListenerConfig;

/// The sockets that were passed to this process. They are never closed, so that a later configuration can use those that
/// an earlier one does not.
#[derive(Default)]
pub(super) struct Passed(Vec<(TcpListener, SocketAddr)>);

impl Passed {
    /// Takes the sockets. To be called once, before the first thread.
    ///
    /// # Errors
    /// If one is not a TCP socket that listens.
    pub(super) fn take() -> Result<Self, String> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..passed.len() {
            let taken = passed.take_tcp_listener(number).ok().flatten();
            let taken = taken.filter(|socket| SockRef::from(socket).peer_addr().is_err());
            let found = taken.and_then(|socket| Some((socket.local_addr().ok()?, socket)));
            let Some((address, socket)) = found else {
                return Err(format!(
                    "socket {} of the service manager (LISTEN_FDS) is not one that listens for TCP connections; \
                     its unit needs ListenStream=ADDRESS:PORT and Accept=no",
                    number + 1
                ));
            };
            sockets.push((socket, address));
        }
        Ok(Self(sockets))
    }

    /// Returns their addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(|(_, address)| *address)
    }

    /// Returns the socket of an address, if one was passed.
    pub(super) fn socket(&self, address: SocketAddr) -> Option<&TcpListener> {
        self.0.iter().find(|(_, other)| *other == address).map(|(socket, _)| socket)
    }

    /// Returns a text about the first that no listener has: connections to it are never accepted.
    pub(super) fn unused(&self, listens: &[ListenerConfig]) -> Option<String> {
        let has = |listen: &ListenerConfig, address: SocketAddr| {
            listen.address.parse().is_ok_and(|listen: Address| listen.may_be(address))
        };
        let mut unused = self.addresses().filter(|found| !listens.iter().any(|listen| has(listen, *found)));
        unused.next().map(|address| {
            format!(
                "the service manager listens on {address} for this node, which no [[listen]] has: set \
                 address = \"{address}\" there, or ListenStream= of the socket's unit to the address that it has"
            )
        })
    }
}
