//! A connection without a session, as its protocol sees it.

use std::sync::Arc;

use super::connection::{Connection, Status};
use super::protocol::{Link, Server};
use super::target::Secret;
use crate::route::{Mailbox, Peer, PeerError};

/// A connection and its mailbox. Dropped, it fails the calls that are left.
pub(super) struct MailboxLink {
    connection: Arc<Connection>,
    mailbox: Arc<Mailbox>,
    is_persistent: bool,
}

impl MailboxLink {
    pub(super) fn new(connection: &Arc<Connection>, is_persistent: bool) -> Self {
        let mailbox = Arc::<Mailbox>::default();
        mailbox.accept_calls(connection.target().limits.output, None);
        Self { connection: connection.clone(), mailbox, is_persistent }
    }
}

impl Link for MailboxLink {
    fn server(&self) -> Server<'_> {
        let target = self.connection.target();
        Server {
            address: &target.address,
            limits: &target.limits,
            token: target.token.as_ref().map(|Secret(token)| &**token),
            is_encrypted: target.tls.is_some(),
        }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    fn connected(&self) {
        self.connection.set_status(Status::Connected(Peer::new(&self.mailbox)));
        if self.is_persistent {
            self.connection.target().watchers().retain(|watcher| watcher());
        }
    }

    fn stopping(&self, reason: &str) {
        log::info!("{} is stopping: {reason}", self.connection.target().address);
        self.connection.set_status(Status::Stopping);
        self.mailbox.refuse_calls(&PeerError::Unsent("the server is stopping".into()));
    }

    fn end(&self, reason: &str) {
        self.mailbox.close_outbox(&PeerError::Unsent(reason.to_owned().into()));
    }
}

impl Drop for MailboxLink {
    fn drop(&mut self) {
        self.end("the connection has ended");
    }
}
