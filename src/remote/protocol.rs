//! Protocols in which this node is only a client: their connections have no session, but take calls from a mailbox.

use std::fmt;
use std::io;

use crate::chan::BoxFuture;
use crate::config::Limits;
use crate::route::Mailbox;
use crate::transport::Stream;

/// Carries calls to a server that is no node.
pub(super) trait Protocol: fmt::Debug + Send + Sync {
    /// Serves a connection that is established, until it ends: makes [it known](Link::connected) when calls may be posted,
    /// takes them from the [mailbox](Link::mailbox) and answers them.
    ///
    /// # Errors
    /// Why it ended, unless the server has closed it with nothing left to do.
    fn serve<'a>(&'a self, stream: Box<dyn Stream>, link: &'a dyn Link) -> BoxFuture<'a, io::Result<()>>;
}

/// A connection, as its protocol sees it.
pub(super) trait Link: Send + Sync {
    /// Returns the server, and the settings of connections to it.
    fn server(&self) -> Server<'_>;
    /// Returns where the calls are posted.
    fn mailbox(&self) -> &Mailbox;
    /// Lets callers post their calls.
    fn connected(&self);
    /// Notes that the server takes no further call.
    fn stopping(&self, reason: &str);
    /// Fails the calls that were not taken, and those that follow.
    fn end(&self, reason: &str);
}

/// The server of a connection.
pub(super) struct Server<'a> {
    /// As it was given.
    pub(super) address: &'a str,
    pub(super) limits: &'a Limits,
    pub(super) token: Option<&'a str>,
    pub(super) is_encrypted: bool,
}
